//! The sealed box: the broker's keys under a passphrase (Argon2id, RFC 9106, and AES-256-GCM). What is beside it, database and TLS key, opens no disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use attest::bytes::{Bytes32, Hex};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::Ed25519KeyPair;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::engine::{Keys, sha256};
use crate::inputs;

const SCHEMA: &str = "cairn.sealed-keys/1";
/// 64 MiB, three passes: half a second.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;

/// The box, as it is on the disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    schema: String,
    memory_kib: u32,
    passes: u32,
    salt: Hex,
    nonce: Hex,
    sealed: Hex,
}

/// What is in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// PKCS#8 of the key that signs messages.
    pub message: Hex,
    /// PKCS#8 of the key that signs the audit log.
    pub audit: Hex,
    /// Keys that wrap shares, by their epochs.
    pub epochs: BTreeMap<u64, Hex>,
    /// SHA-256 of cluster.json; boxes of version 4 of the database and older have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Bytes32>,
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.message.0.zeroize();
        self.audit.0.zeroize();
        self.epochs.values_mut().for_each(|key| key.0.zeroize());
    }
}

impl Contents {
    /// As the engine takes them, with the bytes of the box that they were in.
    pub fn keys(&self, sealed: &[u8], certificate: Vec<u8>) -> Result<Keys> {
        let pair = |bytes: &Hex| {
            Ed25519KeyPair::from_pkcs8(&bytes.0).map_err(|error| anyhow!("a key of the sealed box is damaged: {error}"))
        };
        let mut epochs = BTreeMap::new();
        for (epoch, key) in &self.epochs {
            let key: [u8; 32] = key.0.clone().try_into().map_err(|_| anyhow!("the key of epoch {epoch} is damaged"))?;
            epochs.insert(*epoch, Zeroizing::new(key));
        }
        let (message, audit) = (pair(&self.message)?, pair(&self.audit)?);
        let sealed = Bytes32(sha256(sealed));
        Ok(Keys { message, audit, epochs, cluster: self.cluster, sealed, certificate })
    }
}

fn key(passphrase: &[u8], salt: &[u8], memory_kib: u32, passes: u32) -> Result<LessSafeKey> {
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(|error| anyhow!("Argon2id: {error}"))?;
    let mut bytes = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut bytes[..])
        .map_err(|error| anyhow!("Argon2id: {error}"))?;
    let key = UnboundKey::new(&AES_256_GCM, &bytes[..]).map_err(|_| anyhow!("a key of a wrong length"))?;
    Ok(LessSafeKey::new(key))
}

/// Seals keys into a new file.
pub fn write(path: &Path, contents: &Contents, passphrase: &[u8]) -> Result<()> {
    let (mut salt, mut nonce) = ([0; 16], [0; 12]);
    let random = SystemRandom::new();
    random.fill(&mut salt).and_then(|()| random.fill(&mut nonce)).map_err(|_| anyhow!("no random bytes"))?;
    let mut bytes = Zeroizing::new(serde_json::to_vec(contents)?);
    key(passphrase, &salt, MEMORY_KIB, PASSES)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(SCHEMA.as_bytes()), &mut *bytes)
        .map_err(|_| anyhow!("sealing failed"))?;
    let sealed = Sealed {
        schema: SCHEMA.into(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        salt: Hex(salt.to_vec()),
        nonce: Hex(nonce.to_vec()),
        sealed: Hex(bytes.to_vec()),
    };
    secret_file(path, &serde_json::to_vec(&sealed)?)
}

/// Reads the box.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    inputs::configuration(path)
}

/// Opens the bytes of the box, which `path` names in errors.
pub fn open(bytes: &[u8], path: &Path, passphrase: &[u8]) -> Result<Contents> {
    let damaged = || format!("{} is damaged: restore it", path.display());
    let sealed: Sealed = serde_json::from_slice(bytes).with_context(damaged)?;
    ensure!(sealed.schema == SCHEMA, "{} is of another version: {}", path.display(), sealed.schema);
    // Somebody else's numbers must not take all memory.
    ensure!(sealed.memory_kib <= 1 << 20 && sealed.passes <= 16, damaged());
    let nonce: [u8; 12] = sealed.nonce.0.try_into().map_err(|_| anyhow!(damaged()))?;
    let mut bytes = Zeroizing::new(sealed.sealed.0);
    let opened = key(passphrase, &sealed.salt.0, sealed.memory_kib, sealed.passes)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(SCHEMA.as_bytes()), &mut bytes)
        .map_err(|_| anyhow!("The passphrase does not open {}: try again", path.display()))?;
    serde_json::from_slice(opened).with_context(damaged)
}

/// Writes a new file that only its owner reads.
pub fn secret_file(path: &Path, bytes: &[u8]) -> Result<()> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .with_context(|| format!("Failed to write {}", path.display()))
}

/// The text of a document that only its owner reads.
pub fn secret_text_of(path: &Path) -> Result<String> {
    check_mode(path)?;
    inputs::configuration_text(path)
}

fn check_mode(path: &Path) -> Result<()> {
    let data = fs::metadata(path).with_context(|| format!("Failed to read {}", path.display()))?;
    if data.mode() & 0o077 != 0 {
        bail!("{} can be read by others: chmod 600 {}", path.display(), path.display());
    }
    Ok(())
}

/// Bytes of the shortest passphrase that a broker is made with.
pub const SHORTEST: usize = 8;

/// A passphrase out of a file that only its owner reads.
pub fn passphrase_of(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    check_mode(path)?;
    let mut bytes = Zeroizing::new(inputs::configuration(path)?);
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    ensure!(
        bytes.len() >= SHORTEST,
        "The passphrase in {} has fewer than {SHORTEST} characters: choose a longer one for a new broker; it is that of no broker",
        path.display()
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_passphrase_opens_the_box() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealed.json");
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let contents = Contents {
            message: Hex(pkcs8.as_ref().to_vec()),
            audit: Hex(pkcs8.as_ref().to_vec()),
            epochs: BTreeMap::from([(1, Hex(vec![7; 32]))]),
            cluster: None,
        };
        write(&path, &contents, b"a passphrase").unwrap();
        let open = |passphrase: &[u8]| open(&read(&path).unwrap(), &path, passphrase);
        let opened = open(b"a passphrase").unwrap().keys(b"", vec![]).unwrap();
        assert_eq!(*opened.epochs[&1], [7; 32]);
        let error = open(b"another").err().unwrap().to_string();
        assert!(error.contains("does not open"), "{error}");
        assert!(write(&path, &contents, b"x").is_err(), "never over another one");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&"07".repeat(32)));
        fs::write(&path, text.replacen("sealed\":\"", "sealed\":\"00", 1)).unwrap();
        assert!(open(b"a passphrase").is_err());
    }

    #[test]
    fn a_passphrase_is_read_from_a_file_that_nobody_else_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        secret_file(&path, b"correct horse\n").unwrap();
        assert_eq!(passphrase_of(&path).unwrap().as_slice(), b"correct horse");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(passphrase_of(&path).unwrap_err().to_string().contains("chmod 600"));
    }
}
