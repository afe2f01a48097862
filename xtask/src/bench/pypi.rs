//! Peers that are written in Python: each is installed for itself, in a folder that goes away.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Installs a package into the folder; where its programs are, `python` among them. That it cannot be had is no failure of ours, but a reason to skip what needs it.
pub fn install(folder: &Path, package: &str, version: &str) -> Result<PathBuf> {
    let run = |command: &mut Command, what: &str| -> Result<()> {
        let output = command.output().with_context(|| format!("{what}: it cannot be started"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{what}: {}", errors.trim().lines().last().unwrap_or("it failed"));
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(folder), "python3 -m venv")?;
    let package = format!("{package}=={version}");
    let pip = ["install", "--quiet", "--disable-pip-version-check", &package];
    run(Command::new(folder.join("bin/pip")).args(pip), "pip install")?;
    Ok(folder.join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_cannot_be_installed_is_a_reason_and_not_a_failure() {
        let error = install(Path::new("/proc/none"), "x", "1").unwrap_err().to_string();
        assert!(error.starts_with("python3 -m venv: "), "{error}");
    }
}
