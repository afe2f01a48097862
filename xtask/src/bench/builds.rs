//! Builds, against mkosi making a bootable verity disk of the same packages with the same tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use super::Bench;
use super::report::Measure;
use crate::build::mkosi::{Format, Mkosi};
use crate::build::outputs::Built;
use crate::build::{BuildArgs, run_in};
use crate::checkout::Checkout;
use crate::lock::sets;

/// What a build from locked packages makes when build root and agent are there.
const STAGES: [&str; 5] = ["kernel", "packages", "root", "verity", "initrd"];
/// The disk says where it hangs, so that the peer need not guess; it reports its times on the console.
const COMMAND_LINE: &str = "console=ttyS0,115200 loglevel=5 systemd.log_target=console systemd.log_level=info \
                            systemd.firstboot=no systemd.mask=systemd-firstboot.service";

/// The images that were built.
pub(super) struct Images {
    pub ours: PathBuf,
    pub theirs: PathBuf,
}

pub(super) fn measure(bench: &Bench) -> Result<(Images, Vec<Measure>)> {
    bench.progress.note("bench: our builds ...");
    let folder = bench.scratch.path();
    let checkout = Checkout::at(&folder.join("checkout"));
    bench.checkout.copy_to(checkout.root())?;
    let store = bench.store.linked(&folder.join("cache"), &STAGES)?;
    let build = |name: &str| -> Result<(f64, Built)> {
        let args = BuildArgs { out: Some(folder.join(name)), locked: true, ..BuildArgs::default() };
        let start = Instant::now();
        let built = run_in(&checkout, &store, &args, &bench.progress)?;
        Ok((start.elapsed().as_secs_f64(), built))
    };
    let (whole, built) = build("ours")?;
    append(&checkout.join("os/root/etc/hosts"), "# A comment.\n")?;
    let (root_only, _) = build("root-only")?;
    append(&checkout.join("initrd-agent/src/main.rs"), "// A comment.\n")?;
    let (agent_only, changed) = build("agent-only")?;
    let compile: f64 =
        changed.timings.iter().filter(|timing| timing.stage == "agent").map(|timing| timing.seconds).sum();

    bench.progress.note("bench: the peer's build ...");
    let start = Instant::now();
    let theirs = peer(bench)?;
    let peer = start.elapsed().as_secs_f64();
    let size = |path: &Path| -> Result<f64> {
        Ok(fs::metadata(path).with_context(|| format!("Failed to inspect {}", path.display()))?.len() as f64 / 1e6)
    };
    let row = |what: &str, unit: &str, ours, theirs, goal| Measure {
        what: what.into(),
        against: "mkosi".into(),
        unit: unit.into(),
        ours,
        theirs,
        goal,
    };
    let mut measures = vec![
        row("image from locked packages", "s", whole, peer, 0.8),
        row("change below os/root", "s", root_only, peer, 0.25),
        Measure {
            what: "change of the agent, beside its compile".into(),
            against: "bound".into(),
            unit: "s".into(),
            ours: agent_only - compile,
            theirs: 10.0,
            goal: 1.0,
        },
    ];
    for (what, suffix, goal) in [("initrd", "initrd", 0.2), ("UKI", "efi", 1.0 / 3.0), ("raw image", "raw", 0.6)] {
        let (ours, theirs) = (size(&built.path(suffix))?, size(&theirs.with_extension(suffix))?);
        measures.push(row(what, "MB", ours, theirs, goal));
    }
    Ok((Images { ours: built.path("raw"), theirs }, measures))
}

fn append(path: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(path).with_context(|| format!("Failed to read {}", path.display()))?;
    fs::write(path, old + text).with_context(|| format!("Failed to write {}", path.display()))
}

/// Builds the peer's image; its disk.
fn peer(bench: &Bench) -> Result<PathBuf> {
    let folder = bench.scratch.path().join("theirs");
    fs::create_dir(&folder).context("Failed to make a folder")?;
    let command_line = format!("--kernel-command-line={COMMAND_LINE}");
    let mkosi = Mkosi {
        tools: &bench.tools.tree,
        suite: &bench.image.packages.suite,
        configurations: &[&bench.checkout.join("mkosi.conf"), &bench.checkout.join("xtask/bench/mkosi.conf")],
        skeleton: None,
        source_date: bench.sources.lock.source_date()?,
        repart: Some(&bench.checkout.join("xtask/bench/mkosi.repart")),
        extra: &[
            "--bootable=yes",
            "--bootloader=uki",
            "--split-artifacts=uki,initrd",
            "--sector-size=512",
            "--hostname=peer",
            &command_line,
        ],
    };
    mkosi.run(&folder, &bench.sources.set(sets::BENCH)?, &bench.sources.files, Format::Disk)?;
    Ok(folder.join(Format::Disk.output()))
}
