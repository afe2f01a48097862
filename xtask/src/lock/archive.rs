//! The signature of an archive's index, checked by the host's OpenPGP verifier: gpgv, or sqv where that is Debian's.
//!
//! apt has checked it already; this second look is for the lock's header: which keys signed, and when. Only the text
//! that the verifier wrote out is read, because both tools accept text outside the signed part of the file.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::apt::KEYRINGS;
use crate::digest::Sha256Digest;
use crate::time;

/// What a verified InRelease file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// `Date`, seconds since 1970.
    pub date: u64,
    /// SHA-256 of the file.
    pub sha256: Sha256Digest,
    /// Fingerprints of the keys with good signatures, sorted.
    pub signers: Vec<String>,
}

/// Verifies the InRelease file at `path`; `scratch` is a folder for the verifier's output.
pub fn verify(path: &Path, scratch: &Path) -> Result<Release> {
    let keyring = KEYRINGS
        .iter()
        .find(|keyring| Path::new(keyring).exists())
        .context("The archive's keyring is missing on this host: apt-get install debian-archive-keyring")?;
    let signed = scratch.join("InRelease.signed");
    let signers = match run("gpgv", &["--status-fd", "1", "--keyring", keyring, "--output"], &signed, path)? {
        Some(text) => parse_gpgv(&text),
        None => match run("sqv", &["--keyring", keyring, "--cleartext", "--output"], &signed, path)? {
            Some(text) => parse_sqv(&text),
            None => bail!("Neither gpgv nor sqv is on this host: apt-get install gpgv"),
        },
    };
    ensure!(!signers.is_empty(), "{} carries no signature that could be verified", path.display());
    let text = std::fs::read_to_string(&signed).with_context(|| format!("Failed to read {}", signed.display()))?;
    let date = field(&text, "Date").with_context(|| format!("{} names no date", path.display()))?;
    let (sha256, _) = Sha256Digest::of_file(path)?;
    Ok(Release { date: time::parse_rfc5322(date)?, sha256, signers })
}

/// Runs a verifier; `None` if it is not installed.
fn run(program: &str, arguments: &[&str], signed: &Path, path: &Path) -> Result<Option<String>> {
    if signed.exists() {
        std::fs::remove_file(signed).with_context(|| format!("Failed to remove {}", signed.display()))?;
    }
    let output = match Command::new(program).args(arguments).arg(signed).arg(path).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("Failed to run {program}")),
    };
    ensure!(
        output.status.success(),
        "{program} refuses the signature of {}: the mirror is lying or the keyring is old (package debian-archive-keyring).\n{}",
        path.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The last field of `[GNUPG:] VALIDSIG` is the primary key's fingerprint.
fn parse_gpgv(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("[GNUPG:] VALIDSIG "));
    sorted(lines.filter_map(|line| line.split(' ').next_back()).map(str::to_owned))
}

/// sqv prints one fingerprint a line.
fn parse_sqv(text: &str) -> Vec<String> {
    sorted(text.lines().map(str::trim).filter(|line| line.len() == 40).map(str::to_owned))
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_are_the_primary_keys_sorted_and_once() {
        let text = "[GNUPG:] NEWSIG\n\
                    [GNUPG:] VALIDSIG BB 2026-01-01 1 0 4 0 1 8 01 B1\n\
                    [GNUPG:] VALIDSIG AA 2026-01-01 1 0 4 0 1 8 01 A1\n\
                    [GNUPG:] VALIDSIG CC 2026-01-01 1 0 4 0 1 8 01 A1\n";
        assert_eq!(parse_gpgv(text), ["A1", "B1"]);
        assert!(parse_gpgv("[GNUPG:] BADSIG AA nobody\n").is_empty());
        let fingerprint = "4CB50190207B4758A3F73A796ED0E7B82643E131";
        assert_eq!(parse_sqv(&format!("{fingerprint}\nnoise\n")), [fingerprint]);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "Origin: Debian\nDated: no\nDate: Sat, 14 Nov 2026 10:11:12 UTC\n";
        assert_eq!(field(text, "Date"), Some("Sat, 14 Nov 2026 10:11:12 UTC"));
        assert_eq!(field(text, "Suite"), None);
    }
}
