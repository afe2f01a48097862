//! What a trust root says, of what somebody wrote on a command line and of the one before.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use measurements::bytes::{Bytes32, Hex};
use measurements::canonical::Document;
use sha2::{Digest, Sha256};
use transparency::trust_root::{RootKeys, SigningKey, TrustRootDocument, Use, Validity, Witness, Witnesses};
use transparency::verify::SKEW;

use super::{ed25519, is_private, of_ed25519};
use crate::certificate::certificate;
use crate::known::{known_log, known_witness};
use crate::{files, key_file};

const DAY: u64 = 86_400;

/// What a trust root says.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask trust-root make signing/trust-root.json --root-key signing/root.key --release-key signing/release.pub --log-key log.cairn.invalid+... --witness-key witness.cairn.invalid+...\n\
                  The next one: cargo xtask trust-root make signing/next.json --after signing/trust-root.json --root-key signing/root.key --release-key new.pub --end-key old.pub"
)]
pub struct MakeArgs {
    /// Where it goes; a file that is there is not replaced
    #[arg(value_name = "FILE")]
    pub(super) out: PathBuf,
    /// The trust root before: this one gets the next number, and what is given is added to what is there
    #[arg(long, value_name = "FILE")]
    pub(super) after: Option<PathBuf>,
    /// Root keys, PEM: a private one signs at once, a public one is named only
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "after")]
    pub(super) root_key: Vec<PathBuf>,
    /// How many of them must sign [default: more than half, or as before]
    #[arg(long, value_name = "NUMBER")]
    pub(super) threshold: Option<u64>,
    /// File with the password of encrypted root keys
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// Public keys that may sign releases, machine references and channels, PEM
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "after")]
    pub(super) release_key: Vec<PathBuf>,
    /// Public keys that may say that a release was built again, PEM
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(super) rebuilder_key: Vec<PathBuf>,
    /// Days for which the keys that are given may sign; a key that is there gets so many from now
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    pub(super) valid_days: u64,
    /// Public keys that may sign no more from now on: what has a timestamp before stays good
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "after")]
    pub(super) end_key: Vec<PathBuf>,
    /// Logs and timestamp authorities to trust up to now, as `show` prints them
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "after")]
    pub(super) end: Vec<String>,
    /// What is taken out: root keys, SHA-256 of keys or certificates, origins of logs, names of witnesses, as `show` prints them
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "after")]
    pub(super) without: Vec<String>,
    /// Logs, as they make themselves known (NAME+ID+KEY)
    #[arg(long, value_name = "KEY", num_args = 1.., required_unless_present = "after")]
    pub(super) log_key: Vec<String>,
    /// Witnesses, as they make themselves known (NAME+ID+KEY)
    #[arg(long, value_name = "KEY", num_args = 1..)]
    pub(super) witness_key: Vec<String>,
    /// How many of them must have seen a log's head [default: more than half, or as before]
    #[arg(long, value_name = "NUMBER")]
    pub(super) least_witnesses: Option<u64>,
    /// Certificates of timestamp authorities, PEM or DER: with one, every statement needs a token
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(super) timestamp_authority: Vec<PathBuf>,
}

/// The document of these arguments, which follows `old` if that is given.
pub(super) fn make(args: &MakeArgs, old: Option<&TrustRootDocument>) -> Result<TrustRootDocument> {
    let majority = |all: usize| all as u64 / 2 + 1;
    let mut document = old.cloned().unwrap_or(TrustRootDocument {
        keys: vec![],
        logs: vec![],
        root: RootKeys { keys: vec![], threshold: 0 },
        schema: TrustRootDocument::SCHEMA.into(),
        timestamp_authorities: vec![],
        validity: vec![],
        version: 0,
        witnesses: Witnesses { keys: vec![], threshold: 0 },
    });
    document.version += 1;
    for name in &args.without {
        take_out(&mut document, name)?;
    }
    for name in &args.end {
        end(&mut document, name)?;
    }
    for path in &args.root_key {
        add(&mut document.root.keys, Bytes32(root_public(path, args.password_file.as_deref())?));
    }
    for text in &args.log_key {
        add(&mut document.logs, known_log(text)?);
    }
    for text in &args.witness_key {
        let (name, key) = known_witness(text)?;
        add(&mut document.witnesses.keys, Witness { key: Bytes32(key), name });
    }
    for path in &args.timestamp_authority {
        add(&mut document.timestamp_authorities, Hex(certificate(path)?));
    }
    let RootKeys { keys, threshold } = &mut document.root;
    *threshold = args.threshold.unwrap_or(if old.is_none() { majority(keys.len()) } else { *threshold });
    let Witnesses { keys, threshold } = &mut document.witnesses;
    // Where there were none, none were needed.
    let first = *threshold == 0 && !keys.is_empty();
    *threshold = args.least_witnesses.unwrap_or(if first { majority(keys.len()) } else { *threshold });
    signing_keys(args, &mut document.keys)?;
    Ok(document)
}

fn add<T: PartialEq>(list: &mut Vec<T>, new: T) {
    if !list.contains(&new) {
        list.push(new);
    }
}

/// Takes out whatever has this name.
fn take_out(document: &mut TrustRootDocument, name: &str) -> Result<()> {
    let fingerprint = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let name = name.strip_prefix("sha256:").unwrap_or(name);
    let count = |document: &TrustRootDocument| {
        let TrustRootDocument { keys, logs, root, timestamp_authorities, witnesses, .. } = document;
        keys.len() + logs.len() + root.keys.len() + timestamp_authorities.len() + witnesses.keys.len()
    };
    let before = count(document);
    document.keys.retain(|key| fingerprint(&key.key.0) != name);
    document.logs.retain(|log| log.origin != name);
    document.root.keys.retain(|key| hex::encode(key.0) != name);
    document.timestamp_authorities.retain(|certificate| fingerprint(&certificate.0) != name);
    document.witnesses.keys.retain(|witness| witness.name != name);
    let TrustRootDocument { logs, timestamp_authorities, validity, .. } = document;
    let is_listed =
        |of: &Bytes32| logs.iter().map(|log| &log.key).chain(&*timestamp_authorities).any(|key| sha256(key) == *of);
    validity.retain(|validity| is_listed(&validity.of));
    ensure!(
        count(document) < before,
        "{name:?} is not in the trust root: `cargo xtask trust-root show` prints the names"
    );
    Ok(())
}

fn sha256(bytes: &Hex) -> Bytes32 {
    Bytes32(Sha256::digest(&bytes.0).into())
}

/// From now on, this log or timestamp authority is not trusted; what has a timestamp before stays good.
fn end(document: &mut TrustRootDocument, name: &str) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("The clock is before 1970")?.as_secs();
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let log = document.logs.iter().find(|log| log.origin == name).map(|log| &log.key);
    let authority = || document.timestamp_authorities.iter().find(|found| hex::encode(sha256(found).0) == digits);
    let of = log.or_else(authority).map(sha256);
    let of = of.with_context(|| format!("{name:?} is no log or timestamp authority of the trust root"))?;
    match document.validity.iter_mut().find(|validity| validity.of == of) {
        Some(known) => known.not_after = known.not_after.min(now),
        None => document.validity.push(Validity { not_after: now, not_before: 0, of }),
    }
    Ok(())
}

/// Adds keys, prolongs those that are there, and ends some.
fn signing_keys(args: &MakeArgs, keys: &mut Vec<SigningKey>) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("The clock is before 1970")?.as_secs();
    let not_after = now.saturating_add(args.valid_days.saturating_mul(DAY));
    let read = |path: &PathBuf| -> Result<Hex> {
        let key = key_file::public_key(&files::read(path)?).with_context(|| path.display().to_string())?;
        Ok(Hex(key.spki()))
    };
    for (paths, uses) in
        [(&args.release_key, vec![Use::Channel, Use::Image, Use::Machine]), (&args.rebuilder_key, vec![Use::Rebuild])]
    {
        for path in paths {
            let key = read(path)?;
            match keys.iter_mut().find(|known| known.key == key) {
                Some(known) => {
                    ensure!(known.uses == uses, "{} is there for other uses: each key has one task", path.display());
                    known.not_after = not_after;
                }
                // Clocks of those who verify may be behind.
                None => {
                    keys.push(SigningKey { key, not_after, not_before: now.saturating_sub(SKEW), uses: uses.clone() })
                }
            }
        }
    }
    for path in &args.end_key {
        let key = read(path)?;
        let known = keys.iter_mut().find(|known| known.key == key);
        let known = known.with_context(|| format!("{} is not in the trust root", path.display()))?;
        known.not_after = known.not_after.min(now);
    }
    Ok(())
}

fn root_public(path: &Path, password_file: Option<&Path>) -> Result<[u8; 32]> {
    let failed = || format!("{} is no key of Ed25519, as root keys are", path.display());
    if !is_private(path) {
        return ed25519(&files::read(path)?).with_context(failed);
    }
    let key = key_file::read_key(path, password_file)?.public().with_context(failed)?;
    of_ed25519(&key).with_context(failed)
}
