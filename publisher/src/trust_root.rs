//! `cargo xtask trust-root`: whom verifiers believe, as one numbered document that k of n root keys sign. Each holder of a root key signs where the key is; the file goes from one to the next.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use envelope::{Envelope, PublicKey, pre_authentication_encoding};
use measurements::bytes::{Bytes32, Hex};
use measurements::canonical::{self, Document};
use sha2::{Digest, Sha256};
use sigstore::crypto::SigningScheme;
use transparency::key::Key;
use transparency::time::shown;
use transparency::trust_root::{
    PAYLOAD_TYPE, RootKeys, SigningKey, TrustRoot, TrustRootDocument, Use, Witness, Witnesses,
};
use transparency::verify::SKEW;

use crate::trust::{known_log, known_witness, refused};
use crate::{files, keygen, signer};

const DAY: u64 = 86_400;

/// What becomes of a trust root.
#[derive(Subcommand, Clone, Debug)]
pub enum TrustRootCommand {
    /// Make a root key: Ed25519
    Keygen(KeygenArgs),
    /// Write a trust root, signed by the root keys that are here
    Make(Box<MakeArgs>),
    /// Sign a trust root with a further root key
    Sign(SignArgs),
    /// What a trust root says, and who has signed it
    Show {
        /// The trust root
        file: PathBuf,
    },
}

/// Where a root key goes.
#[derive(Args, Clone, Debug)]
pub struct KeygenArgs {
    /// Where the private key goes; the public one goes beside it, with the ending .pub
    #[arg(value_name = "FILE", default_value = "root.key")]
    path: PathBuf,
    /// File with a password: the key is encrypted, as cosign does
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What a trust root says.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask trust-root make trust-root.json --root-key root.key --release-key release.pub --log-key log.cairn.invalid+... --witness-key witness.cairn.invalid+...\n\
                  The next one: cargo xtask trust-root make next.json --after trust-root.json --root-key root.key --release-key new.pub --end-key old.pub"
)]
pub struct MakeArgs {
    /// Where it goes; a file that is there is not replaced
    #[arg(value_name = "FILE")]
    out: PathBuf,
    /// The trust root before: this one gets the next number, and what is given is added to what is there
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,
    /// Root keys, PEM: a private one signs at once, a public one is named only
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "after")]
    root_key: Vec<PathBuf>,
    /// How many of them must sign [default: more than half, or as before]
    #[arg(long, value_name = "NUMBER")]
    threshold: Option<u64>,
    /// File with the password of encrypted root keys
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Public keys that may sign releases, machine references and channels, PEM
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "after")]
    release_key: Vec<PathBuf>,
    /// Public keys that may say that a release was built again, PEM
    #[arg(long, value_name = "FILE", num_args = 1..)]
    rebuilder_key: Vec<PathBuf>,
    /// Days for which the keys that are given may sign; a key that is there gets so many from now
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    valid_days: u64,
    /// Public keys that may sign no more from now on: what has a timestamp before stays good
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "after")]
    end_key: Vec<PathBuf>,
    /// What is taken out: root keys, SHA-256 of keys or certificates, origins of logs, names of witnesses, as `show` prints them
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "after")]
    without: Vec<String>,
    /// Logs, as they make themselves known (NAME+ID+KEY)
    #[arg(long, value_name = "KEY", num_args = 1.., required_unless_present = "after")]
    log_key: Vec<String>,
    /// Witnesses, as they make themselves known (NAME+ID+KEY)
    #[arg(long, value_name = "KEY", num_args = 1..)]
    witness_key: Vec<String>,
    /// How many of them must have seen a log's head [default: more than half, or as before]
    #[arg(long, value_name = "NUMBER")]
    least_witnesses: Option<u64>,
    /// Certificates of timestamp authorities, PEM or DER: with one, every statement needs a token
    #[arg(long, value_name = "FILE", num_args = 1..)]
    timestamp_authority: Vec<PathBuf>,
}

/// Who signs.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: cargo xtask trust-root sign trust-root.json --root-key second.key")]
pub struct SignArgs {
    /// The trust root; it is replaced by itself with one signature more
    file: PathBuf,
    /// The root key
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// File with its password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: &TrustRootCommand) -> Result<String> {
    match command {
        TrustRootCommand::Keygen(args) => {
            keygen::make(&args.path, args.password_file.as_deref(), SigningScheme::ED25519)?;
            let public = args.path.with_extension("pub");
            let key = ed25519(&files::read(&public)?).with_context(|| public.display().to_string())?;
            Ok(format!(
                "private key  {}\npublic key   {}\nroot key     {}\n",
                args.path.display(),
                public.display(),
                hex::encode(key)
            ))
        }
        TrustRootCommand::Make(args) => make(args),
        TrustRootCommand::Sign(args) => sign(args),
        TrustRootCommand::Show { file } => show(file),
    }
}

fn make(args: &MakeArgs) -> Result<String> {
    let old = args.after.as_deref().map(|path| TrustRoot::first(&files::read(path)?).map_err(refused)).transpose()?;
    let document = document(args, old.as_ref().map(TrustRoot::document))?;
    let payload = document.write().map_err(refused)?;
    let mut envelope: Option<Envelope> = None;
    for path in args.root_key.iter().filter(|path| is_private(path)) {
        let signed = signed_by(path, args.password_file.as_deref(), &payload)?;
        match &mut envelope {
            Some(envelope) => envelope.join(signed)?,
            None => envelope = Some(signed),
        }
    }
    let envelope = envelope.context("No root key signs it: give at least one private one with --root-key")?;
    files::create(&args.out, &bytes_of(&envelope)?, false)?;
    show(&args.out)
}

fn document(args: &MakeArgs, old: Option<&TrustRootDocument>) -> Result<TrustRootDocument> {
    let majority = |all: usize| all as u64 / 2 + 1;
    let mut document = old.cloned().unwrap_or(TrustRootDocument {
        keys: vec![],
        logs: vec![],
        root: RootKeys { keys: vec![], threshold: 0 },
        schema: TrustRootDocument::SCHEMA.into(),
        timestamp_authorities: vec![],
        version: 0,
        witnesses: Witnesses { keys: vec![], threshold: 0 },
    });
    document.version += 1;
    for name in &args.without {
        take_out(&mut document, name)?;
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
        add(&mut document.timestamp_authorities, Hex(der_of(&files::read(path)?)));
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
    ensure!(
        count(document) < before,
        "{name:?} is not in the trust root: `cargo xtask trust-root show` prints the names"
    );
    Ok(())
}

/// Adds keys, prolongs those that are there, and ends some.
fn signing_keys(args: &MakeArgs, keys: &mut Vec<SigningKey>) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("The clock is before 1970")?.as_secs();
    let not_after = now.saturating_add(args.valid_days.saturating_mul(DAY));
    let read = |path: &PathBuf| -> Result<Hex> {
        let key = signer::public_key(&files::read(path)?).with_context(|| path.display().to_string())?;
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

fn sign(args: &SignArgs) -> Result<String> {
    let mut envelope = Envelope::parse(&files::read(&args.file)?)
        .with_context(|| format!("{} is no signed trust root", args.file.display()))?;
    ensure!(envelope.payload_type() == PAYLOAD_TYPE, "{} is a {:?}", args.file.display(), envelope.payload_type());
    let payload = envelope.unverified_payload()?;
    // Nobody signs what no verifier would read.
    read(&payload)?;
    envelope.join(signed_by(&args.root_key, args.password_file.as_deref(), &payload)?)?;
    files::write(&args.file, &bytes_of(&envelope)?)?;
    show(&args.file)
}

fn bytes_of(envelope: &Envelope) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(envelope).context("Failed to write a trust root")?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn read(payload: &[u8]) -> Result<TrustRootDocument> {
    let document: TrustRootDocument = canonical::read(payload).context("The trust root cannot be read")?;
    document.write().map_err(refused)?;
    Ok(document)
}

fn is_private(path: &Path) -> bool {
    files::read(path).is_ok_and(|pem| String::from_utf8_lossy(&pem).contains("PRIVATE KEY"))
}

fn signed_by(path: &Path, password_file: Option<&Path>, payload: &[u8]) -> Result<Envelope> {
    let pair = signer::read_key(path, password_file)?;
    let signer = pair.to_sigstore_signer(&SigningScheme::ED25519);
    let signer = signer.with_context(|| format!("{} is no key of Ed25519, as root keys are", path.display()))?;
    let signature = signer.sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload)).context("Failed to sign")?;
    Ok(Envelope::with_signature(PAYLOAD_TYPE, payload, "", &signature))
}

fn root_public(path: &Path, password_file: Option<&Path>) -> Result<[u8; 32]> {
    let failed = || format!("{} is no key of Ed25519, as root keys are", path.display());
    if !is_private(path) {
        return ed25519(&files::read(path)?).with_context(failed);
    }
    let spki = signer::read_key(path, password_file)?.public_key_to_der().with_context(failed)?;
    of_ed25519(&spki).with_context(failed)
}

fn ed25519(pem: &[u8]) -> Result<[u8; 32]> {
    of_ed25519(&der_of(pem)).context("it is no public key of Ed25519 in PEM")
}

fn of_ed25519(spki: &[u8]) -> Option<[u8; 32]> {
    match Key::from_spki(spki)?.public() {
        PublicKey::Ed25519(key) => Some(*key),
        PublicKey::P256(_) => None,
    }
}

/// What PEM holds; DER stays as it is.
fn der_of(bytes: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_vec() };
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap_or_else(|_| bytes.to_vec())
}

fn show(path: &Path) -> Result<String> {
    let bytes = files::read(path)?;
    let envelope = Envelope::parse(&bytes).with_context(|| format!("{} is no signed trust root", path.display()))?;
    let payload = envelope.unverified_payload()?;
    let document = read(&payload)?;
    let signed = pre_authentication_encoding(PAYLOAD_TYPE, &payload);
    let signatures = envelope.signatures()?;
    let has_signed = |key: &Bytes32| {
        signatures.iter().any(|(_, signature)| PublicKey::Ed25519(key.0).has_signed(&signed, signature))
    };
    let count = document.root.keys.iter().filter(|key| has_signed(key)).count() as u64;
    let threshold = document.root.threshold;
    let state = match count.checked_sub(threshold) {
        Some(_) => "complete".to_owned(),
        None => format!("{} more must sign: cargo xtask trust-root sign", threshold - count),
    };
    let mut text = format!("{}\nversion      {}\n", path.display(), document.version);
    let _ = writeln!(text, "sha256       {} (of this file)", hex::encode(Sha256::digest(&bytes)));
    let _ = writeln!(text, "signatures   {count} of {threshold} ({state})");
    for key in &document.root.keys {
        let has = if has_signed(key) { "has signed" } else { "has not signed" };
        let _ = writeln!(text, "root key     {}  {has}", hex::encode(key.0));
    }
    for key in &document.keys {
        let fingerprint = hex::encode(Sha256::digest(&key.key.0));
        let uses = key.uses.iter().map(|what| format!("{what:?}").to_lowercase()).collect::<Vec<_>>().join(", ");
        let (from, to) = (shown(key.not_before), shown(key.not_after));
        let _ = writeln!(text, "key          sha256:{fingerprint}  {uses}  from {from} to {to}");
    }
    for log in &document.logs {
        let _ = writeln!(text, "log          {}", log.origin);
    }
    for witness in &document.witnesses.keys {
        let _ = writeln!(text, "witness      {} ({} are needed)", witness.name, document.witnesses.threshold);
    }
    for certificate in &document.timestamp_authorities {
        let _ = writeln!(text, "timestamps   sha256:{}", hex::encode(Sha256::digest(&certificate.0)));
    }
    if document.timestamp_authorities.is_empty() && document.keys.is_empty() {
        bail!("{text}It names nobody who may sign");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const LOG: &str = "log.cairn.invalid+11d33fc1+AZIa7syODAeiqqp2GpIOpgi5q5VS6TRDov2J1VHr2wyO";

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: TrustRootCommand,
    }

    /// Runs a command whose words are files of the folder where they name one.
    fn run_in(folder: &Path, line: &str) -> Result<String> {
        let path = |word: &str| {
            let is_file = word.ends_with(".key") || word.ends_with(".pub") || word.ends_with(".json");
            if is_file { folder.join(word).display().to_string() } else { word.to_owned() }
        };
        run(&Cli::try_parse_from(std::iter::once("x".to_owned()).chain(line.split(' ').map(path)))?.command)
    }

    fn root(folder: &Path, name: &str) -> Result<TrustRoot> {
        TrustRoot::first(&files::read(&folder.join(name))?).map_err(refused)
    }

    #[test]
    fn holders_sign_one_after_the_other_until_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for name in ["one", "two", "three"] {
            run_in(folder, &format!("keygen {name}.key")).unwrap();
        }
        keygen::make(&folder.join("release.key"), None, signer::SCHEME).unwrap();
        let common = format!("--release-key release.pub --log-key {LOG}");
        let shown = run_in(folder, &format!("make first.json --root-key one.key two.pub three.pub {common}")).unwrap();
        assert!(shown.contains("signatures   1 of 2 (1 more must sign"), "{shown}");
        assert!(root(folder, "first.json").is_err());
        let again = run_in(folder, "sign first.json --root-key one.key").unwrap();
        assert!(again.contains("1 of 2"), "{again}");
        let shown = run_in(folder, "sign first.json --root-key two.key").unwrap();
        assert!(shown.contains("2 of 2 (complete)"), "{shown}");
        let first = root(folder, "first.json").unwrap();
        assert_eq!((first.document().version, first.document().root.threshold), (1, 2));

        // What is there is not replaced, and a key that is no root key signs nothing.
        let line = format!("make first.json --root-key one.key two.key three.pub {common}");
        assert!(run_in(folder, &line).is_err());
        assert!(run_in(folder, "sign first.json --root-key release.key").is_err());
    }

    #[test]
    fn the_next_one_adds_ends_and_takes_out() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run_in(folder, "keygen one.key").unwrap();
        for name in ["release.key", "new.key", "rebuilder.key"] {
            keygen::make(&folder.join(name), None, signer::SCHEME).unwrap();
        }
        let common = format!("--release-key release.pub --log-key {LOG}");
        run_in(folder, &format!("make first.json --root-key one.key {common} --valid-days 9")).unwrap();
        let line = "make next.json --after first.json --root-key one.key --release-key new.pub --end-key release.pub \
                    --rebuilder-key rebuilder.pub";
        run_in(folder, line).unwrap();
        let first = root(folder, "first.json").unwrap();
        let next = first.next(&files::read(&folder.join("next.json")).unwrap()).unwrap();
        let document = next.document();
        assert_eq!((document.version, document.keys.len(), document.root.keys.len()), (2, 3, 1));
        assert_eq!(document.logs, first.document().logs);
        let [old, new, rebuilder] = &document.keys[..] else { panic!("three keys") };
        assert!(
            old.not_after < first.document().keys[0].not_after && old.not_before == first.document().keys[0].not_before
        );
        assert!(new.not_after > old.not_after + 300 * DAY);
        assert_eq!(rebuilder.uses, [Use::Rebuild]);

        let fingerprint = hex::encode(Sha256::digest(&old.key.0));
        let line = format!("make third.json --after next.json --root-key one.key --without sha256:{fingerprint}");
        run_in(folder, &line).unwrap();
        let third = next.next(&files::read(&folder.join("third.json")).unwrap()).unwrap();
        assert_eq!(third.document().keys.len(), 2);
        for (line, words) in [
            ("--without nothing", "is not in the trust root"),
            ("--end-key release.pub", "is not in the trust root"),
            ("--release-key rebuilder.pub", "other uses"),
            ("--without log.cairn.invalid --threshold 2", "too few"),
        ] {
            let line = format!("make fourth.json --after third.json --root-key one.key {line}");
            let error = format!("{:#}", run_in(folder, &line).unwrap_err());
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn what_nobody_could_believe_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run_in(folder, "keygen one.key").unwrap();
        keygen::make(&folder.join("release.key"), None, signer::SCHEME).unwrap();
        for (line, words) in [
            (format!("--root-key one.pub --release-key release.pub --log-key {LOG}"), "private"),
            (format!("--root-key one.key --threshold 2 --release-key release.pub --log-key {LOG}"), "too few"),
            (format!("--root-key one.key --release-key one.pub --log-key {LOG}"), "P-256"),
            (format!("--root-key release.key --release-key release.pub --log-key {LOG}"), "Ed25519"),
            ("--root-key one.key --release-key release.pub --log-key x+y+z".into(), "Ed25519"),
            (format!("--root-key one.key --release-key release.pub --log-key {LOG} --least-witnesses 1"), "witnesses"),
        ] {
            let error = format!("{:#}", run_in(folder, &format!("make out.json {line}")).unwrap_err());
            assert!(error.contains(words), "{line}: {error}");
            assert!(!folder.join("out.json").exists(), "{line}");
        }
    }
}
