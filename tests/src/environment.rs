//! What `cargo xtask test` tells the tests: where the build root, the images and the `xtask` program are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::neighbours::PROGRAMS_VARIABLE;
use xtask::sandbox::{LAUNCHER_VARIABLE, Sandbox};

/// A variable that `cargo xtask test` sets.
pub fn variable(name: &str) -> Result<PathBuf> {
    let value = std::env::var_os(name).map(PathBuf::from);
    value.with_context(|| format!("{name} is not set: run these tests by `cargo xtask test`"))
}

/// The `xtask` program under test.
pub fn xtask() -> Result<PathBuf> {
    variable(LAUNCHER_VARIABLE)
}

/// A program of the workspace, compiled for the tests.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(variable(PROGRAMS_VARIABLE)?.join(name))
}

/// Runs programs of the build root.
pub fn sandbox() -> Result<Sandbox> {
    xtask()?;
    Ok(Sandbox::new(&variable("CAIRN_BUILD_ROOT")?))
}

/// Runs a command that must succeed; its standard output.
pub fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("Failed to start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
