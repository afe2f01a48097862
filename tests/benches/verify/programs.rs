//! One bundle, verified by programs that know no network: ours, cosign, and what Python's `sigstore` can do of it. None reads the image: all get its digest.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use cairn_tests::environment::{output_of, program};
use sha2::{Digest, Sha256};
use xtask::bench::report::{Found, Measure};
use xtask::bench::rounds::alternate;

use crate::scene::{MEASURED_BOOT, MEASURED_BOOT_TYPE, PROVENANCE, Release, Scene, Site};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/verify/of_parts.py");
/// Ours may take a third of what a peer takes.
const GOAL: f64 = 1.0 / 3.0;

pub fn measure(scene: &Scene, site: &Site, release: &Release, python: Option<&Path>, found: &mut Found) -> Result<()> {
    let bundle = release.of(MEASURED_BOOT, "sigstore.json");
    let digest = hex::encode(Sha256::digest(fs::read(release.file("raw")).context("Failed to read the image")?));
    let path = |name: &str| site.folder.join(name);
    let ours = || {
        let mut command = Command::new(program("cairn")?);
        command.args(["verify", "--digest", &digest, "--bundle"]).arg(&bundle);
        output_of(command.arg("--trust-root").arg(path("trust-root.json"))).map(drop)
    };
    let cosign = || {
        let mut command = Command::new(&scene.programs.cosign);
        command.arg("verify-blob-attestation").arg("--key").arg(path("release.pub")).arg("--trusted-root");
        command.arg(path("trusted_root.json")).arg("--bundle").arg(&bundle).args(["--type", MEASURED_BOOT_TYPE]);
        command.args(["--digest", &digest, "--digestAlg", "sha256"]).env("HOME", &site.folder);
        output_of(&mut command).map(drop)
    };
    found.measures.push(row("cosign", alternate(ours, cosign)?));
    if let Some(python) = python {
        let sigstore = || {
            let mut command = Command::new(python);
            command.arg(SCRIPT).arg(path("trusted_root.json")).arg(path("release.pub")).arg(&bundle);
            output_of(&mut command).map(drop)
        };
        found.measures.push(row("parts of Python's sigstore", alternate(ours, sigstore)?));
    }
    Ok(())
}

/// What goes over an air gap, and over the network of those who have one.
pub fn sizes(site: &Site, release: &Release, found: &mut Found) -> Result<()> {
    let bundles = [MEASURED_BOOT, PROVENANCE].map(|statement| (statement, release.of(statement, "sigstore.json")));
    let out = release.file("air-gap.json");
    let mut pack = Command::new(program("cairn")?);
    pack.arg("pack").arg(&out).arg("--trust-root").arg(site.folder.join("trust-root.json")).arg("--bundle");
    output_of(pack.args(bundles.iter().map(|(_, path)| path)))?;
    let sizes = bundles.iter().map(|(statement, path)| (format!("size of a bundle, {statement} of an image"), path));
    for (what, path) in sizes.chain([("size of an air-gap file with both".to_owned(), &out)]) {
        let size = fs::metadata(path).with_context(|| format!("Failed to read {}", path.display()))?.len();
        found.figure(&what, "bytes", size as f64);
    }
    Ok(())
}

fn row(against: &str, (ours, theirs): (f64, f64)) -> Measure {
    let what = "bundle verified offline".to_owned();
    Measure { what, against: against.into(), unit: "ms".into(), ours, theirs, goal: GOAL }
}
