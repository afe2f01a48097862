//! Keys of logs and witnesses: Ed25519, because only such a log can be witnessed. They are made anew for each log, and live as long as it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::{Digest, Sha256};

/// PKCS#8 (RFC 8410) before the seed of a private key.
const PRIVATE: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// SubjectPublicKeyInfo (RFC 8410) before a public key.
const PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// SSH's name of the algorithm (RFC 8709).
const SSH: &[u8] = b"ssh-ed25519";

/// Whose signatures a verifier key (C2SP signed-note) is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Of a log, on its own checkpoints.
    Log = 1,
    /// Of a witness, on checkpoints of logs (C2SP tlog-cosignature).
    Witness = 4,
}

/// A key with its private half.
pub struct Key {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl Key {
    /// A new one.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| anyhow!("The system has no random numbers"))?;
        Self::from_seed(seed)
    }

    /// The key that [`private_pem`](Self::private_pem) wrote to a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("Failed to read {}", path.display()))?;
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).ok();
        let seed = der.as_deref().and_then(|der| der.strip_prefix(&PRIVATE)).and_then(|seed| seed.try_into().ok());
        Self::from_seed(seed.with_context(|| format!("{} has no Ed25519 key", path.display()))?)
    }

    fn from_seed(seed: [u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| anyhow!("No key of a seed: {error}"))?;
        Ok(Self { pair, seed })
    }

    /// A signature.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    /// The private key, PKCS#8 in PEM.
    pub fn private_pem(&self) -> String {
        pem("PRIVATE KEY", &[&PRIVATE[..], &self.seed].concat())
    }

    /// The public key, SubjectPublicKeyInfo in DER.
    pub fn public_der(&self) -> Vec<u8> {
        [&PUBLIC[..], self.pair.public_key().as_ref()].concat()
    }

    /// The same in PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der())
    }

    /// Digest of a verifier key, whose beginning is its id.
    fn note_digest(&self, name: &str, role: Role) -> [u8; 32] {
        note_digest(name, role, self.pair.public_key().as_ref())
    }

    /// The id by which a log of this name is known in trust roots: all of the digest whose first four bytes are in notes.
    pub fn log_id(&self, name: &str) -> [u8; 32] {
        self.note_digest(name, Role::Log)
    }

    /// `name+id+key`, as tools of transparency logs take it.
    pub fn verifier_key(&self, name: &str, role: Role) -> String {
        let id = &self.note_digest(name, role)[..4];
        let key = [&[role as u8], self.pair.public_key().as_ref()].concat();
        format!("{name}+{}+{}", hex::encode(id), STANDARD.encode(key))
    }

    /// The public key as SSH writes it (RFC 8709).
    pub fn ssh_public(&self) -> Vec<u8> {
        [ssh_string(SSH), ssh_string(self.pair.public_key().as_ref())].concat()
    }

    /// A signature as SSH writes it.
    pub fn ssh_sign(&self, bytes: &[u8]) -> Vec<u8> {
        [ssh_string(SSH), ssh_string(&self.sign(bytes))].concat()
    }

    /// `SHA256:...`, as ssh-keygen prints it.
    pub fn ssh_fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(self.ssh_public())))
    }
}

fn note_digest(name: &str, role: Role, public: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(name).chain_update([b'\n', role as u8]).chain_update(public).finalize().into()
}

/// Writes a private key to a new file, which only its owner reads.
pub(super) fn write_private(path: &Path, pem: &str) -> Result<()> {
    let failed = || format!("Failed to write {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(failed)?;
    file.write_all(pem.as_bytes()).with_context(failed)
}

/// A string with its length before it (RFC 4251, section 5).
pub(super) fn ssh_string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// DER as PEM (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test 1 of RFC 8032, section 7.1; the fingerprint is what ssh-keygen prints for it.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    fn key() -> Key {
        Key::from_seed(hex::decode(SEED).unwrap().try_into().unwrap()).unwrap()
    }

    #[test]
    fn a_key_is_written_as_openssl_writes_it() {
        // openssl pkey -in key.pem -pubout
        assert_eq!(
            key().private_pem(),
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n"
        );
        assert_eq!(
            key().public_pem(),
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"
        );
    }

    #[test]
    fn the_id_of_a_log_is_the_one_that_cosign_computes() {
        // cosign trusted-root create --rekor="...,public-key=log.pub,origin=rekor.test.invalid"
        let public = STANDARD.decode("MCowBQYDK2VwAyEAKy/TepBaFVIcxC4Twv/9udGM0W4l9Z/+B8MD1wGFbwA=").unwrap();
        let id = note_digest("rekor.test.invalid", Role::Log, &public[PUBLIC.len()..]);
        assert_eq!(STANDARD.encode(id), "8VGs700Hfwtxzz57awO4nZRGJyCxZsGxJ8a1g7oweYI=");
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), key().private_pem()).unwrap();
        assert_eq!(Key::read(file.path()).unwrap().public_der(), key().public_der());
        std::fs::write(file.path(), key().public_pem()).unwrap();
        assert!(Key::read(file.path()).is_err());
    }

    #[test]
    fn a_verifier_key_names_its_role() {
        let (log, witness) = (key().verifier_key("log.test", Role::Log), key().verifier_key("log.test", Role::Witness));
        assert_ne!(log, witness);
        for (text, role) in [(log, 1), (witness, 4)] {
            let parts: Vec<&str> = text.splitn(3, '+').collect();
            assert_eq!((parts[0], parts[1].len()), ("log.test", 8));
            assert_eq!(STANDARD.decode(parts[2]).unwrap()[0], role);
        }
        assert_eq!(hex::encode(&key().log_id("log.test")[..4]), key().verifier_key("log.test", Role::Log)[9..17]);
    }
}
