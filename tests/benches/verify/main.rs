//! Releases and their log, for `cargo xtask bench --only verify`, which starts this and prints its numbers: bundles that the real log made, verified by programs, ours beside others; what publishing and watching cost.
//!
//! Arguments: the interpreter of Python in whose environment `sigstore` is, or nothing; the variables are those of `cargo xtask test`, with programs that are compiled as a release is.

#[path = "../../../crates/transparency/tests/fake/mod.rs"]
mod fake;
mod log;
mod programs;
#[allow(dead_code)]
#[path = "../../tests/log/scene.rs"]
mod scene;
#[allow(dead_code)]
#[path = "../../tests/log/trust.rs"]
mod trust;

use std::path::PathBuf;

use anyhow::{Context, Result};
use xtask::bench::report::Found;

use scene::Scene;

fn main() -> Result<()> {
    // Cargo adds an option of its own.
    let python = std::env::args().skip(1).find(|argument| argument != "--bench").map(PathBuf::from);
    let (scene, mut found) = (Scene::open()?, Found::default());
    let (site, release) = (scene.site("bench")?, scene.release("release")?);
    site.must_publish(&release.folder, &[])?;
    programs::measure(&scene, &site, &release, python.as_deref(), &mut found)?;
    programs::sizes(&site, &release, &mut found)?;
    log::measure(&site, &release, &mut found)?;
    println!("{}", serde_json::to_string(&found).context("Failed to write JSON")?);
    Ok(())
}
