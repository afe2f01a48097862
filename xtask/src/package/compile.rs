//! Stage `programs`: `cairn` and `key-broker`, compiled in the build root with the pinned toolchain, without network.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::debian::PACKAGES;
use crate::build::agent::{Compiler, fetch_sources};
use crate::build::mkosi::tail;
use crate::build::stage::{Key, Made, Stages};

/// What of a checkout they are made of.
const INPUTS: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "clippy.toml", ".cargo", "cairn", "crates", "key-broker", "measurements"];

/// Compiles the programs, with the features that are on by default.
pub(super) fn make(compiler: &Compiler, stages: &Stages) -> Result<Made> {
    let mut key = Key::new("programs", 1)
        .digest("build-root", &compiler.build_root.key)
        .text("rustc", &compiler.toolchain.commit);
    for input in INPUTS {
        key = key.path(input, &compiler.checkout.join(input))?;
    }
    stages.run("programs", key, |output| {
        fetch_sources(compiler.checkout)?;
        let programs = PACKAGES.iter().flat_map(|package| ["--package", package.program]);
        let arguments: Vec<&str> =
            ["build", "--release", "--locked", "--offline"].into_iter().chain(programs).collect();
        let target = compiler.checkout.target().join("programs");
        let log_path = output.join("cargo.log");
        let log = fs::File::create(&log_path).with_context(|| format!("Failed to write {}", log_path.display()))?;
        let mut cargo = compiler.cargo(&target, &arguments)?;
        let status = cargo.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).status();
        let status = status.context("Failed to start cargo in the build root")?;
        ensure!(status.success(), "the programs do not compile:\n{}", tail(&log_path, 40));
        fs::remove_file(&log_path).with_context(|| format!("Failed to remove {}", log_path.display()))?;
        for package in &PACKAGES {
            let binary = target.join("release").join(package.program);
            fs::copy(&binary, output.join(package.program))
                .with_context(|| format!("Failed to copy {}", binary.display()))?;
        }
        Ok(())
    })
}
