//! Whoever signs releases: a key in a file (PKCS#8 PEM, or encrypted as cosign does), or a program that signs a digest, for keys that never leave a token or a key service.
//!
//! Release keys are of ECDSA on P-256 with SHA-256: every log takes them, every token has them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use envelope::{Envelope, pre_authentication_encoding};
use sha2::{Digest, Sha256};
use sigstore::crypto::SigningScheme;
use sigstore::crypto::signing_key::{SigStoreKeyPair, SigStoreSigner};
use transparency::key::Key;
use transparency::statement::PAYLOAD_TYPE;
use zeroize::Zeroizing;

use crate::files;

/// The scheme of release keys.
pub const SCHEME: SigningScheme = SigningScheme::ECDSA_P256_SHA256_ASN1;
/// By which cosign is given passwords, too.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// Which key signs.
#[derive(Args, Clone, Debug)]
pub struct SignerArgs {
    /// Release key: PKCS#8 in PEM, or encrypted by cosign or `cargo xtask keygen`
    #[arg(long, value_name = "FILE", required_unless_present = "signer")]
    key: Option<PathBuf>,
    /// File with the password of an encrypted key; else COSIGN_PASSWORD has it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Program that signs: it gets a SHA-256 digest (32 bytes) on standard input and writes an ECDSA signature (DER)
    #[arg(long, value_name = "COMMAND", requires = "public_key", conflicts_with = "key")]
    signer: Option<String>,
    /// Public key of --signer, PEM
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

/// Who signs.
pub struct Signer {
    /// The public key.
    pub key: Key,
    how: How,
}

enum How {
    Key(Box<SigStoreSigner>),
    Program(String),
}

impl Signer {
    /// Reads the key, or the public key of the program.
    pub fn open(args: &SignerArgs) -> Result<Self> {
        if let (Some(command), Some(public)) = (&args.signer, &args.public_key) {
            let key = public_key(&files::read(public)?).with_context(|| format!("{}", public.display()))?;
            return Ok(Self { key, how: How::Program(command.clone()) });
        }
        let path = args.key.as_deref().context("No key is given: --key FILE, or --signer COMMAND")?;
        let pair = read_key(path, args.password_file.as_deref())?;
        let failed = || format!("{} is no key of ECDSA on P-256, as release keys are", path.display());
        let signer = pair.to_sigstore_signer(&SCHEME).with_context(failed)?;
        let spki = pair.public_key_to_der().with_context(failed)?;
        Ok(Self { key: Key::from_spki(&spki).with_context(failed)?, how: How::Key(Box::new(signer)) })
    }

    /// Signs a statement, and makes sure that the signature is good.
    pub fn sign(&self, statement: &[u8]) -> Result<Envelope> {
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, statement);
        let signature = match &self.how {
            How::Key(signer) => signer.sign(&signed).context("Failed to sign")?,
            How::Program(command) => run(command, &Sha256::digest(&signed))?,
        };
        ensure!(
            self.key.public().has_signed(&signed, &signature),
            "What the signer wrote is no signature by the public key: it must be ECDSA in DER, of the digest itself"
        );
        // Without a name of the key, which the bundle has: cosign refuses every name but its own kind.
        Ok(Envelope::with_signature(PAYLOAD_TYPE, statement, "", &signature))
    }
}

/// Opens a private key, encrypted or not.
pub fn read_key(path: &Path, password_file: Option<&Path>) -> Result<SigStoreKeyPair> {
    let pem = Zeroizing::new(files::read(path)?);
    if !pem.windows(9).any(|window| window == b"ENCRYPTED") {
        return SigStoreKeyPair::from_pem(&pem).with_context(|| format!("{} is no private key", path.display()));
    }
    let password = match password_file {
        Some(file) => read_password(file)?,
        None => match std::env::var(PASSWORD) {
            Ok(text) => Zeroizing::new(text.into_bytes()),
            Err(_) => bail!("{} is encrypted: give --password-file, or set {PASSWORD}", path.display()),
        },
    };
    SigStoreKeyPair::from_encrypted_pem(&pem, &password)
        .with_context(|| format!("{} cannot be opened: is the password right?", path.display()))
}

/// The first line of a file.
pub fn read_password(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let text = Zeroizing::new(files::read(path)?);
    let password = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    ensure!(!password.is_empty(), "{} has no password in its first line", path.display());
    Ok(Zeroizing::new(password.to_vec()))
}

/// A public key in PEM.
pub fn public_key(pem: &[u8]) -> Result<Key> {
    use base64::Engine as _;
    let text = String::from_utf8_lossy(pem);
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let spki = base64::engine::general_purpose::STANDARD.decode(body).context("it is no public key in PEM")?;
    Key::from_spki(&spki).context("it is no key of ECDSA on P-256")
}

/// A public key as PEM, which Rekor v1 keeps.
pub fn public_pem(key: &Key) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(key.spki());
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn run(command: &str, digest: &[u8]) -> Result<Vec<u8>> {
    let mut words = command.split_whitespace();
    let program = words.next().context("The signer is an empty command")?;
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("Failed to start the signer {program}"))?;
    if let Some(mut input) = child.stdin.take() {
        // Whether it has read is seen by what it writes.
        let _ = input.write_all(digest);
    }
    let output = child.wait_with_output().with_context(|| format!("Failed to wait for the signer {program}"))?;
    ensure!(output.status.success(), "The signer {program} ended with {}: nothing was published", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(key: &Path, password: Option<&Path>) -> SignerArgs {
        let password_file = password.map(Path::to_owned);
        SignerArgs { key: Some(key.to_owned()), password_file, signer: None, public_key: None }
    }

    #[test]
    fn a_key_signs_whether_or_not_it_is_encrypted() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "a password\n").unwrap();
        for (name, password) in [("plain", None), ("encrypted", Some(password.as_path()))] {
            let path = folder.path().join(name);
            crate::keygen::make(&path, password, SCHEME).unwrap();
            let signer = Signer::open(&args(&path, password)).unwrap();
            let envelope = signer.sign(b"{}").unwrap();
            let payload = envelope.verify(PAYLOAD_TYPE, std::slice::from_ref(signer.key.public()), 1).unwrap();
            assert_eq!(payload, b"{}");
            let public = files::read(&path.with_extension("pub")).unwrap();
            assert_eq!(public_key(&public).unwrap(), signer.key);
            assert_eq!(public_pem(&signer.key).as_bytes(), public);
        }
        let wrong = folder.path().join("wrong");
        std::fs::write(&wrong, "another").unwrap();
        assert!(Signer::open(&args(&folder.path().join("encrypted"), Some(&wrong))).is_err());
    }

    #[test]
    fn a_program_that_signs_something_else_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        crate::keygen::make(&path, None, SCHEME).unwrap();
        for (command, words) in [("cat", "no signature"), ("false", "nothing was published"), ("", "empty command")] {
            let public_key = Some(path.with_extension("pub"));
            let args = SignerArgs { key: None, password_file: None, signer: Some(command.into()), public_key };
            let error = format!("{:#}", Signer::open(&args).unwrap().sign(b"{}").unwrap_err());
            assert!(error.contains(words), "{command}: {error}");
        }
    }
}
