//! The key broker under load: what it can do on this machine, and what a node waits. The load is a bench of the package `cairn-tests`, compiled as a release is, against the program as it is released; both share this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::report::Found;
use super::{Bench, output_of};
use crate::machine::config::FOLDER;
use crate::neighbours::PROGRAMS_VARIABLE;
use crate::sandbox::LAUNCHER_VARIABLE;

/// The machine that all nodes are.
const MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib-node";
/// Each node of the storm, beside `bench.json`.
const STORM: &str = "broker-storm.csv";

pub(super) fn measure(bench: &Bench, out: &Path) -> Result<Found> {
    bench.progress.note("bench: the key broker under load, compiled as a release ...");
    let out = std::path::absolute(out).context("Failed to read the current folder")?;
    std::fs::create_dir_all(&out).with_context(|| format!("Failed to make {}", out.display()))?;
    output_of(&mut bench.cargo(&["build", "--quiet", "--release", "-p", "key-broker"]))?;
    let programs: PathBuf = bench.checkout.target().join("release");
    let mut load =
        bench.cargo(&["bench", "--quiet", "-p", "cairn-tests", "--features", "end-to-end", "--bench", "load", "--"]);
    load.arg(bench.first.path("reference.json"));
    load.arg(bench.checkout.join(FOLDER).join(format!("{MACHINE}.machine.json"))).arg(out.join(STORM));
    // The database lies where a disk is: below the target folder, not in a file system of memory.
    load.env("TMPDIR", bench.scratch.path());
    let xtask = std::env::current_exe().context("Failed to find this program")?;
    let images = &bench.first.folder;
    load.env(LAUNCHER_VARIABLE, xtask).env("CAIRN_BUILD_ROOT", &bench.tools.tree).env(PROGRAMS_VARIABLE, programs);
    load.env("CAIRN_IMAGE_DIR", images).env("CAIRN_DEBUG_IMAGE_DIR", images);
    serde_json::from_str(&output_of(&mut load)?).context("Failed to read what the load says")
}
