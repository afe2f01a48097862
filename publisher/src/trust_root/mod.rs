//! `cargo xtask trust-root`: whom verifiers believe, as one numbered document that k of n root keys sign. Each holder of a root key signs where the key is; the file goes from one to the next.

mod document;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use envelope::{Envelope, PublicKey, pre_authentication_encoding};
use measurements::bytes::Bytes32;
use measurements::canonical;
use sha2::{Digest, Sha256};
use transparency::key::Key;
use transparency::time::shown;
use transparency::trust_root::{PAYLOAD_TYPE, TrustRoot, TrustRootDocument};

use crate::known::refused;
use crate::private_key::Scheme;
use crate::{files, key_file, keygen};
use document::MakeArgs;

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
    #[arg(value_name = "FILE", default_value = "signing/root.key")]
    path: PathBuf,
    /// File with a password: the key is encrypted, as cosign does
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
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
            keygen::make(&args.path, args.password_file.as_deref(), Scheme::Ed25519)?;
            let public = args.path.with_extension("pub");
            let key = ed25519(&files::read(&public)?).with_context(|| public.display().to_string())?;
            Ok(format!(
                "private key  {} ({})\npublic key   {}\nroot key     {}\n",
                args.path.display(),
                keygen::protection(args.password_file.as_deref()),
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
    let document = document::make(args, old.as_ref().map(TrustRoot::document))?;
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
    let key = key_file::read_key(path, password_file)?;
    ensure!(key.scheme() == Scheme::Ed25519, "{} is no key of Ed25519, as root keys are", path.display());
    let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload)).context("Failed to sign")?;
    Ok(Envelope::with_signature(PAYLOAD_TYPE, payload, "", &signature))
}

/// A root key's public half, PEM.
fn ed25519(pem: &[u8]) -> Result<[u8; 32]> {
    of_ed25519(&key_file::public_key(pem)?).context("it is no public key of Ed25519 in PEM")
}

fn of_ed25519(key: &Key) -> Option<[u8; 32]> {
    match key.public() {
        PublicKey::Ed25519(key) => Some(*key),
        PublicKey::P256(_) => None,
    }
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
    let others = signatures.len() as u64 - count;
    if others > 0 {
        let _ = writeln!(
            text,
            "others       {others} signatures by none of these root keys: of the version before, or of nobody"
        );
    }
    for key in &document.keys {
        let fingerprint = hex::encode(Sha256::digest(&key.key.0));
        let uses = key.uses.iter().map(|what| format!("{what:?}").to_lowercase()).collect::<Vec<_>>().join(", ");
        let (from, to) = (shown(key.not_before), shown(key.not_after));
        let _ = writeln!(text, "key          sha256:{fingerprint}  {uses}  from {from} to {to}");
    }
    let validity = |of: &[u8]| {
        let of = Bytes32(Sha256::digest(of).into());
        let found = document.validity.iter().find(|validity| validity.of == of);
        found
            .map(|found| format!("  from {} to {}", shown(found.not_before), shown(found.not_after)))
            .unwrap_or_default()
    };
    for log in &document.logs {
        let _ = writeln!(text, "log          {}{}", log.origin, validity(&log.key.0));
    }
    for witness in &document.witnesses.keys {
        let _ = writeln!(text, "witness      {} ({} are needed)", witness.name, document.witnesses.threshold);
    }
    for certificate in &document.timestamp_authorities {
        let fingerprint = hex::encode(Sha256::digest(&certificate.0));
        let _ = writeln!(text, "timestamps   sha256:{fingerprint}{}", validity(&certificate.0));
    }
    if document.timestamp_authorities.is_empty() && document.keys.is_empty() {
        bail!("{text}It names nobody who may sign");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use transparency::trust_root::Use;

    use super::*;

    const DAY: u64 = 86_400;

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
        keygen::make(&folder.join("release.key"), None, key_file::SCHEME).unwrap();
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
            keygen::make(&folder.join(name), None, key_file::SCHEME).unwrap();
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
        let line = "make ended.json --after third.json --root-key one.key --end log.cairn.invalid";
        let shown = run_in(folder, line).unwrap();
        assert!(shown.contains("log          log.cairn.invalid  from "), "{shown}");
        let ended = third.next(&files::read(&folder.join("ended.json")).unwrap()).unwrap();
        assert_eq!(ended.document().validity.len(), 1);
        for (line, words) in [
            ("--end nothing", "is no log or timestamp authority"),
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
        keygen::make(&folder.join("release.key"), None, key_file::SCHEME).unwrap();
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
