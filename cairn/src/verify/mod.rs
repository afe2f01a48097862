//! `cairn verify`: whether a release is signed, logged, seen by witnesses, and about this file or value; without a network. Our own verifier judges first, two of others after it, and who disagrees is named.

mod air_gap;
#[cfg(test)]
#[path = "../../../crates/transparency/tests/fake/mod.rs"]
mod fake;
mod foreign;
mod judge;
mod show;
mod told;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use measurements::bytes::Bytes32;
use ring::digest::{Context as Hash, SHA256};
use transparency::Code;
use transparency::statement::Predicate;
use transparency::statement::channel::Channel;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::statement::provenance::Provenance;
use transparency::statement::rebuild::Rebuild;
use transparency::trust_root::TrustRoot;

use crate::inputs::read;
pub use air_gap::kind_of;
pub use judge::{Inputs, Outcome, Subject, judge};
pub use told::told;

/// Exit code of a refusal.
pub const REFUSED: u8 = 3;

/// Arguments of `verify`.
#[derive(Args)]
#[command(after_help = "\
In this order, ending at the first that fails: bundle, key, signature, entry, inclusion, the log's signature, origin, witnesses, time, kind of
statement, subject, freshness, rollback, channel; then sigstore-verify and sigstore judge the bundle once more (DISAGREEMENT if they refuse it).

Exit codes: 0 verified; 3 refused, with a code, what was found, and what to do; 1 a file cannot be used.

Example: cairn verify cairn_0.1.0.raw --trust-root trust-root.json --bundle cairn_0.1.0.measured-boot.sigstore.json --channel stable.sigstore.json
Where there is no network: cairn verify cairn_0.1.0.raw --air-gap cairn_0.1.0.air-gap.json --trust-root-digest 91c2...
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
    #[arg(long, value_name = "FILE", required_unless_present = "air_gap", conflicts_with = "air_gap")]
    bundle: Option<PathBuf>,
    /// Whom to believe; of several, the first is believed, and each must allow the next
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "air_gap")]
    trust_root: Vec<PathBuf>,
    /// Bundles, trust roots and the channel's state in one file, as `cairn pack` made it; it needs --trust-root-digest or --trust-root
    #[arg(long, value_name = "FILE")]
    air_gap: Option<PathBuf>,
    /// SHA-256 of the first trust root of the air-gap file, as its publisher told you by another way
    #[arg(long, value_name = "SHA256", requires = "air_gap", conflicts_with = "trust_root")]
    trust_root_digest: Option<String>,
    /// The channel's state (`*.sigstore.json`): whether the release is still good; for images alone
    #[arg(long, value_name = "FILE")]
    channel: Option<PathBuf>,
    /// The least version of the channel's state: a lower one was seen before
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    channel_version: u64,
    /// SHA-256 of the newest measured-boot statement that is known: this one must be it, or follow it
    #[arg(long, value_name = "SHA256")]
    newest: Option<String>,
    /// What the statement must say
    #[arg(long, default_value = "measured-boot")]
    kind: Kind,
    /// Print the commands of openssl and cosign that check the same
    #[arg(long)]
    show: bool,
    /// JSON instead of text
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

impl Kind {
    fn predicate_type(self) -> &'static str {
        match self {
            Self::MeasuredBoot => MeasuredBoot::TYPE,
            Self::Provenance => Provenance::TYPE,
            Self::Channel => Channel::TYPE,
            Self::Rebuild => Rebuild::TYPE,
        }
    }
}

/// Verifies; the text to print and the exit code.
pub fn run(args: &VerifyArgs) -> Result<(String, ExitCode)> {
    check_options(args)?;
    let (outcome, commands) = match cases(args) {
        Ok(cases) => judged(args, cases)?,
        // An air-gap file that is not believed is refused, not unusable.
        Err(error) => (Outcome::Refused(error.downcast()?), String::new()),
    };
    Ok((told(&outcome, &commands, args.json), exit_code(&outcome)))
}

/// Refuses an option by which a statement of this kind is not judged: its user would believe that it was.
fn check_options(args: &VerifyArgs) -> Result<()> {
    let options = [
        ("--channel", args.channel.is_some(), &[Kind::MeasuredBoot][..]),
        ("--channel-version", args.channel_version != 0, &[Kind::MeasuredBoot, Kind::Channel]),
        ("--newest", args.newest.is_some(), &[Kind::MeasuredBoot]),
    ];
    let of_others = options.into_iter().find(|(_, is_given, kinds)| *is_given && !kinds.contains(&args.kind));
    if let Some((option, ..)) = of_others {
        let kind = args.kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let cause = "no statement of this kind is judged by it";
        bail!(
            "cannot use {option} with --kind {kind}: {cause}\nhint: omit {option}; to verify that a release is still good, use it with the measured-boot bundle of the release"
        );
    }
    ensure!(
        args.channel_version == 0 || args.kind == Kind::Channel || args.channel.is_some() || args.air_gap.is_some(),
        "cannot use --channel-version: no state of the channel is given\nhint: add --channel FILE"
    );
    Ok(())
}

/// The exit code that says the same.
pub fn exit_code(outcome: &Outcome) -> ExitCode {
    if matches!(outcome, Outcome::Verified(_)) { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
}

/// Seconds since 1970.
pub fn now() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(now.context("The clock of this machine is before 1970")?.as_secs())
}

/// What is judged, under the name of its bundle.
struct Case {
    bundle: String,
    inputs: Inputs,
}

/// One that is verified is enough; if none is, the first that is about the subject says why. A disagreement is always told.
fn judged(args: &VerifyArgs, cases: Vec<Case>) -> Result<(Outcome, String)> {
    let now = now()?;
    let mut decisive: Option<(Outcome, Case)> = None;
    for case in cases {
        let outcome = judge(&case.inputs, now);
        let is_last = !matches!(outcome, Outcome::Refused(_));
        if is_last || decisive.as_ref().is_none_or(|(before, _)| is_of_another(before)) {
            decisive = Some((outcome, case));
        }
        if is_last {
            break;
        }
    }
    let (outcome, case) = decisive.context("There is no bundle")?;
    let mut commands = String::new();
    if args.show {
        let unpacked = args.air_gap.is_some().then_some(&case.inputs.bundle);
        commands += &unpacked.map_or_else(String::new, |bytes| show::unpacked(&case.bundle, bytes));
        commands += &show::commands(&case.inputs, Path::new(&case.bundle), args.file.as_deref());
    }
    Ok((outcome, commands))
}

fn is_of_another(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(refusal) if refusal.code == Code::Subject)
}

/// One bundle, or those of an air-gap file that may be meant.
fn cases(args: &VerifyArgs) -> Result<Vec<Case>> {
    let inputs = Inputs::of(args)?;
    match (&args.air_gap, &args.bundle) {
        (Some(path), _) => air_gap::cases(path, args.trust_root_digest.as_deref(), &inputs),
        (None, Some(path)) => {
            let inputs = Inputs { bundle: read(path)?, ..inputs };
            Ok(vec![Case { bundle: path.display().to_string(), inputs }])
        }
        (None, None) => Ok(Vec::new()),
    }
}

/// Algorithms of values, and how many bytes they have.
const ALGORITHMS: [(&str, usize); 3] = [("sha256", 32), ("sha384", 48), ("snpLaunchMeasurement", 48)];

/// A value of another length than its algorithm has is in no statement.
fn check_length(algorithm: &str, found: usize) -> Result<()> {
    let names = ALGORITHMS.map(|(name, bytes)| format!("{name} ({bytes} bytes)")).join(", ");
    let known = ALGORITHMS.into_iter().find(|(name, _)| *name == algorithm);
    let (_, expected) = known.with_context(|| format!("cannot use --algorithm {algorithm:?}: expected {names}"))?;
    ensure!(
        found == expected,
        "cannot use --digest: it has {found} bytes, and --algorithm {algorithm} has {expected}\nhint: name the algorithm of the value: {names}"
    );
    Ok(())
}

impl Inputs {
    /// All but the bundle.
    fn of(args: &VerifyArgs) -> Result<Self> {
        let subject = match (&args.file, &args.digest) {
            (Some(path), _) => Subject::File(sha256_of(path)?),
            (None, Some(digest)) => {
                let digest = hex::decode(digest).context("--digest is not hexadecimal")?;
                check_length(&args.algorithm, digest.len())?;
                Subject::Value { algorithm: args.algorithm.clone(), digest }
            }
            (None, None) => Subject::Anything,
        };
        Ok(Self {
            bundle: Vec::new(),
            roots: read_all(&args.trust_root)?,
            channel: args.channel.as_deref().map(read).transpose()?,
            channel_version: args.channel_version,
            newest: args.newest.as_deref().map(digest).transpose()?,
            subject,
            kind: args.kind,
        })
    }
}

/// A SHA-256 that somebody has typed.
fn digest(text: &str) -> Result<Bytes32> {
    let bytes = hex::decode(text.strip_prefix("sha256:").unwrap_or(text)).ok();
    let digest = bytes.and_then(|bytes| bytes.try_into().ok()).map(Bytes32);
    digest.with_context(|| format!("{text:?} is no SHA-256: give 64 hexadecimal digits"))
}

/// Reads files.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    paths.iter().map(|path| read(path)).collect()
}

/// The newest of these trust roots: the first is believed, and each must allow the next.
pub fn trust_root(paths: &[PathBuf]) -> Result<TrustRoot> {
    judge::trust_root(&read_all(paths)?)
        .map_err(|refusal| anyhow!("The trust root: {refusal} (next: {})", refusal.code.next()))
}

/// Images are larger than memory should be.
fn sha256_of(path: &Path) -> Result<[u8; 32]> {
    let failed = || format!("Failed to read {}", path.display());
    let (mut file, mut hash, mut buffer) = (input_file::open(path)?, Hash::new(&SHA256), vec![0; 1 << 20]);
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
