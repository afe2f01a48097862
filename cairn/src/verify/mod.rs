//! `cairn verify`: whether a release is signed, logged, seen by witnesses, and about this file or value; without a network. Our own verifier judges first, two of others after it, and who disagrees is named.

#[cfg(test)]
#[path = "../../../crates/transparency/tests/fake/mod.rs"]
mod fake;
mod judge;
mod show;
mod told;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use measurements::bytes::Bytes32;
use ring::digest::{Context as Hash, SHA256};
use transparency::trust_root::TrustRoot;

use crate::inputs::read;
use judge::{Inputs, Outcome, Subject};

const REFUSED: u8 = 3;

/// Arguments of `verify`.
#[derive(Args)]
#[command(after_help = "\
In this order, ending at the first that fails: bundle, key, signature, entry, inclusion, the log's signature, origin, witnesses, time, kind of
statement, subject, freshness, rollback, channel; then sigstore-verify and sigstore judge the bundle once more (DISAGREEMENT if they refuse it).

Exit codes: 0 verified; 3 refused, with a code, what was found, and what to do; 1 a file cannot be used.

Example: cairn verify cairn_0.1.0.raw --trust-root trust-root.json --bundle cairn_0.1.0.measured-boot.sigstore.json --channel stable.sigstore.json
A value of a quote: cairn verify --algorithm sha384 --digest 5b1c... --trust-root trust-root.json --bundle cairn_0.1.0.measured-boot.sigstore.json")]
pub struct VerifyArgs {
    /// What the statement should be about: an image, a reference, or any other file of a release
    file: Option<PathBuf>,
    /// A value instead of a file, such as a register of a quote, hexadecimal
    #[arg(long, value_name = "HEX", conflicts_with = "file")]
    digest: Option<String>,
    /// The value's algorithm: sha256, sha384, snpLaunchMeasurement
    #[arg(long, value_name = "NAME", default_value = "sha256", requires = "digest")]
    algorithm: String,
    /// The signed statement and its proof (`*.sigstore.json`)
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// Whom to believe; of several, the first is believed, and each must allow the next
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    trust_root: Vec<PathBuf>,
    /// The channel's state (`*.sigstore.json`): whether the release is still good
    #[arg(long, value_name = "FILE")]
    channel: Option<PathBuf>,
    /// The least version of the channel's state: a lower one was seen before
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "channel")]
    channel_version: u64,
    /// SHA-256 of the newest statement that is known: this one must be it, or follow it
    #[arg(long, value_name = "SHA256")]
    newest: Option<String>,
    /// What the statement must say
    #[arg(long, default_value = "measured-boot")]
    kind: Kind,
    /// Print the commands of openssl and cosign that check the same
    #[arg(long)]
    show: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What a statement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// What an image or a machine measures
    MeasuredBoot,
    /// How an image was made
    Provenance,
    /// Which releases are good
    Channel,
    /// That an image was built again, and came out the same
    Rebuild,
}

/// Verifies; the text to print and the exit code.
pub fn run(args: &VerifyArgs) -> Result<(String, ExitCode)> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.context("The clock of this machine is before 1970")?.as_secs();
    let inputs = Inputs::read(args)?;
    let outcome = judge::judge(&inputs, now);
    let code = if matches!(outcome, Outcome::Verified(_)) { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) };
    let commands = if args.show { show::commands(&inputs, &args.bundle, args.file.as_deref()) } else { String::new() };
    Ok((told::told(&outcome, &commands, args.json), code))
}

impl Inputs {
    fn read(args: &VerifyArgs) -> Result<Self> {
        let subject = match (&args.file, &args.digest) {
            (Some(path), _) => Subject::File(sha256_of(path)?),
            (None, Some(digest)) => {
                let digest = hex::decode(digest).context("--digest is not hexadecimal")?;
                ensure!(!digest.is_empty(), "--digest is empty");
                Subject::Value { algorithm: args.algorithm.clone(), digest }
            }
            (None, None) => Subject::Anything,
        };
        let newest = args.newest.as_deref().map(|text| {
            let bytes = hex::decode(text.strip_prefix("sha256:").unwrap_or(text)).ok();
            let digest = bytes.and_then(|bytes| bytes.try_into().ok()).map(Bytes32);
            digest.with_context(|| format!("{text:?} is no SHA-256: give 64 hexadecimal digits"))
        });
        Ok(Self {
            bundle: read(&args.bundle)?,
            roots: args.trust_root.iter().map(|path| read(path)).collect::<Result<_>>()?,
            channel: args.channel.as_deref().map(read).transpose()?,
            channel_version: args.channel_version,
            newest: newest.transpose()?,
            subject,
            kind: args.kind,
        })
    }
}

/// The newest of these trust roots: the first is believed, and each must allow the next.
pub fn trust_root(paths: &[PathBuf]) -> Result<TrustRoot> {
    let roots = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    judge::trust_root(&roots).map_err(|refusal| anyhow!("The trust root: {refusal} (next: {})", refusal.code.next()))
}

/// Images are larger than memory should be.
fn sha256_of(path: &Path) -> Result<[u8; 32]> {
    let failed = || format!("Failed to read {}", path.display());
    let (mut file, mut hash, mut buffer) =
        (File::open(path).with_context(failed)?, Hash::new(&SHA256), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).with_context(failed)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    Ok(digest)
}
