//! What the real log wrote goes over an air gap in one file; on the other side there is no network, and nothing else.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::{output_of, program};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Row;
use crate::channel::{channel, must};
use crate::scene::{MEASURED_BOOT, PROVENANCE, Scene, said};

const FILE: &str = "release.air-gap.json";
const REFUSED: i32 = 3;

pub fn rows() -> Vec<Row> {
    vec![Row::new("behind_an_air_gap_one_file_and_one_digest_are_enough", one_file)]
}

fn one_file(scene: &Scene, row: &str) -> Result<()> {
    let (site, release) = (scene.site(row)?, scene.release(row)?);
    site.must_publish(&release.folder, &[])?;
    let measured_boot = release.of(MEASURED_BOOT, "sigstore.json");
    must(&channel(&site, &["init", "stable", &measured_boot.display().to_string()])?)?;
    let root = site.folder.join("trust-root.json");
    let gap = tempfile::tempdir().context("Failed to make a folder")?;
    let mut pack = Command::new(program("cairn")?);
    pack.arg("pack").arg(gap.path().join(FILE)).arg("--trust-root").arg(&root).arg("--bundle").arg(&measured_boot);
    pack.arg(release.of(PROVENANCE, "sigstore.json")).arg("--channel");
    pack.arg(site.folder.join("channels/stable-v000001.channel.sigstore.json"));
    let digest = hex::encode(Sha256::digest(fs::read(&root)?));
    ensure!(output_of(&mut pack)?.contains(&digest), "the digest of the trust root is not shown");

    let statement: Value = serde_json::from_slice(&fs::read(release.of(MEASURED_BOOT, "json"))?)?;
    let subjects = statement["subject"].as_array().context("a statement without subjects")?;
    let register = subjects.iter().find(|subject| subject["name"] == "tpm:pcr11@initrd");
    let register = register.and_then(|subject| subject["digest"]["sha384"].as_str()).context("PCR 11 is no subject")?;
    let (raw, reference) =
        (release.file("raw").display().to_string(), release.file("reference.json").display().to_string());
    for (about, words) in [
        (&[&*raw][..], "channel        stable, version 1"),
        (&[&reference], "statement      measured-boot"),
        (&["--algorithm", "sha384", "--digest", register], "about          tpm:pcr11@initrd"),
        (&[&raw, "--kind", "provenance"], "statement      provenance"),
        (&["--kind", "channel"], "statement      channel"),
    ] {
        let output = verify(gap.path(), &[about, &["--trust-root-digest", &digest]].concat())?;
        ensure!(output.status.success() && said(&output).contains(words), "{about:?}: {}", said(&output));
    }
    for (about, code) in [
        (&[&*raw][..], "TRUST_ROOT_UNKNOWN"),
        (&[&raw, "--trust-root-digest", register.get(..64).unwrap_or_default()], "TRUST_ROOT_UNKNOWN"),
        (&[FILE, "--trust-root-digest", &digest], "SUBJECT"),
    ] {
        let output = verify(gap.path(), about)?;
        let refused = output.status.code() == Some(REFUSED) && said(&output).contains(&format!("REFUSED {code}"));
        ensure!(refused, "{about:?} is not refused with {code}: {}", said(&output));
    }
    Ok(())
}

/// Our verifier, without any network and with nothing in its environment, in the folder with the one file.
fn verify(folder: &Path, about: &[&str]) -> Result<Output> {
    let mut command = Command::new("/usr/bin/unshare");
    command.env_clear().current_dir(folder).args(["--map-root-user", "--net", "--"]).arg(program("cairn")?);
    command.arg("verify").args(about).args(["--air-gap", FILE]).output().context("Failed to start unshare")
}
