//! The verifier that npm has for Sigstore bundles (`@sigstore/verify`): neither Rust nor Go. Its packages are locked in `tests/npm-verifier` by their digests, and installed into the cache once for each lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use xtask::build::stage::{Key, Stages};
use xtask::progress::{Progress, Style};
use xtask::store::Store;

use crate::harness::Skipped;
use crate::machine::checkout;

const STAGE: &str = "npm-verifier";
/// Files of `tests/npm-verifier`.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "verify.js"];
/// An older Node does not run the packages; they ask for a newer one, and do without it.
const LEAST_NODE: u32 = 20;
/// npm's codes of what is this checkout's fault: another digest than the lock has, a lock that is none.
const OUR_FAULT: [&str; 3] = ["EINTEGRITY", "EUSAGE", "EJSONPARSE"];

/// The verifier, installed.
pub struct NpmVerifier {
    folder: PathBuf,
}

/// What it says of a bundle.
#[derive(Debug, Deserialize)]
pub struct Verdict {
    /// Its code for why the bundle is refused; none if it is verified.
    pub refused: Option<String>,
    /// Its words.
    pub found: Option<String>,
}

impl NpmVerifier {
    /// Installs it, or takes it from the cache.
    ///
    /// # Errors
    /// Among others [`Skipped`], where this host has no Node, no npm, or no way to the packages.
    pub fn get() -> Result<Self> {
        let node = version_of("node")?;
        let major = node.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < LEAST_NODE) {
            return Err(Skipped(format!("node is {node}, {LEAST_NODE} or newer is needed")).into());
        }
        version_of("npm")?;
        let (from, store, progress) =
            (checkout()?.join("tests/npm-verifier"), Store::open()?, Progress::new(Style::Human));
        let key = FILES.iter().try_fold(Key::new(STAGE, 1), |key, name| key.path(name, &from.join(name)))?;
        let made = Stages::new(&store, &progress).run(STAGE, key, |output| {
            for name in FILES {
                fs::copy(from.join(name), output.join(name)).with_context(|| format!("Failed to copy {name}"))?;
            }
            install(output)
        });
        let made = made.map_err(|error| error.downcast::<Skipped>().map_or_else(|error| error, Into::into))?;
        Ok(Self { folder: made.folder })
    }

    /// What it says of some bundles, without any network, when it believes this log (`trusted_root.json`) and this key.
    pub fn verify(&self, trusted_root: &Path, key: &Path, bundles: &[PathBuf]) -> Result<Vec<Verdict>> {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--", "node"]).arg(self.folder.join("verify.js"));
        let output = command.arg(trusted_root).arg(key).args(bundles).output().context("Failed to start unshare")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "npm's verifier broke: {said}{}", String::from_utf8_lossy(&output.stderr));
        let verdicts = said.lines().map(|line| serde_json::from_str(line).context("npm's verifier says no JSON"));
        let verdicts: Vec<Verdict> = verdicts.collect::<Result<_>>()?;
        ensure!(verdicts.len() == bundles.len(), "npm's verifier was asked about {} bundles: {said}", bundles.len());
        Ok(verdicts)
    }
}

fn version_of(program: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    match output.ok().filter(|output| output.status.success()) {
        Some(output) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        None => Err(Skipped(format!("{program} is not on this host")).into()),
    }
}

fn install(folder: &Path) -> Result<()> {
    let mut npm = Command::new("npm");
    npm.current_dir(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
    npm.args(["--omit-lockfile-registry-resolved", "--fetch-retries=1", "--fetch-timeout=30000"]);
    let output = npm.output().context("Failed to start npm")?;
    if output.status.success() {
        return Ok(());
    }
    Err(failure(&output))
}

/// Nobody's fault here is a reason to skip.
fn failure(output: &Output) -> anyhow::Error {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("npm error ")).collect();
    let reason = if errors.is_empty() { said.trim().to_owned() } else { errors[..errors.len().min(2)].join(", ") };
    if OUR_FAULT.iter().any(|code| said.contains(code)) {
        anyhow::anyhow!("npm ci does not install tests/npm-verifier: {reason}")
    } else {
        Skipped(format!("npm has no way to the packages: {reason}")).into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_registry_that_is_away_is_a_reason_to_skip_and_another_digest_is_not() {
        let of =
            |words: &str| failure(&Output { status: ExitStatus::from_raw(256), stdout: vec![], stderr: words.into() });
        let away = of("npm warn x\nnpm error code ENOTFOUND\nnpm error errno ENOTFOUND\nnpm error more\n");
        assert!(away.is::<Skipped>() && away.to_string().ends_with("code ENOTFOUND, errno ENOTFOUND"), "{away}");
        let other = of("npm error code EINTEGRITY\nnpm error sha512-... integrity checksum failed\n");
        assert!(!other.is::<Skipped>(), "{other}");
        assert!(version_of("no-such-program").unwrap_err().is::<Skipped>());
    }

    #[test]
    fn the_lock_names_digests_and_no_host() {
        let lock = include_str!("../npm-verifier/package-lock.json");
        let value: serde_json::Value = serde_json::from_str(lock).unwrap();
        let packages = value["packages"].as_object().unwrap();
        assert!(packages["node_modules/@sigstore/verify"]["version"].is_string());
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            assert!(package["integrity"].as_str().is_some_and(|digest| digest.starts_with("sha512-")), "{name}");
        }
        assert!(!lock.contains("\"resolved\"") && !lock.contains("://"), "the lock names a host");
    }
}
