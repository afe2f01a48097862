//! Whoever signs releases: a key in a file (PKCS#8 PEM, or encrypted as cosign does), or a program that signs a digest, for keys that never leave a token or a key service.
//!
//! Release keys are of ECDSA on P-256 with SHA-256: every log takes them, every token has them.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use envelope::{Envelope, pre_authentication_encoding};
use sha2::{Digest, Sha256};
use transparency::key::Key;
use transparency::statement::PAYLOAD_TYPE;

use crate::files;
use crate::key_file::{SCHEME, public_key, read_key};
use crate::private_key::{PrivateKey, write_pem};

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
    Key(Box<PrivateKey>),
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
        let private = read_key(path, args.password_file.as_deref())?;
        let failed = || format!("{} is no key of ECDSA on P-256, as release keys are", path.display());
        ensure!(private.scheme() == SCHEME, "{}", failed());
        Ok(Self { key: private.public().with_context(failed)?, how: How::Key(Box::new(private)) })
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

/// A public key as PEM, which Rekor v1 keeps.
pub fn public_pem(key: &Key) -> String {
    write_pem("PUBLIC KEY", &key.spki())
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
    use std::path::Path;

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
