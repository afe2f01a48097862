//! Whom a verifier of the tests believes: every trust root of these rows is made here.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::Envelope;
use measurements::bytes::{Bytes32, Hex};
use measurements::canonical::Document;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use transparency::trust_root::{
    Log, PAYLOAD_TYPE, RootKeys, SigningKey, TrustRoot, TrustRootDocument, Use, Witness, Witnesses,
};
use xtask::log_server::{ORIGIN, WITNESS};

use crate::scene::{Site, now};

impl Site {
    /// The release key, this log and its witness; no timestamp authority.
    pub fn trust_document(&self) -> Result<TrustRootDocument> {
        Ok(TrustRootDocument {
            keys: vec![SigningKey {
                key: Hex(self.release_key()?),
                not_after: now()? + (365 << 17),
                not_before: 0,
                uses: vec![Use::Channel, Use::Image, Use::Machine],
            }],
            logs: vec![Log { key: Hex(self.witnessed.log.key.public_der()), origin: ORIGIN.into() }],
            root: RootKeys { keys: vec![Bytes32(root_public()?)], threshold: 1 },
            schema: TrustRootDocument::SCHEMA.into(),
            timestamp_authorities: vec![],
            validity: vec![],
            version: 1,
            witnesses: Witnesses {
                keys: vec![Witness { key: Bytes32(self.witness_key()?), name: WITNESS.into() }],
                threshold: 1,
            },
        })
    }

    /// The same, and one timestamp authority.
    pub fn trust_document_with(&self, authority: &[u8]) -> Result<TrustRootDocument> {
        Ok(TrustRootDocument { timestamp_authorities: vec![Hex(authority.to_vec())], ..self.trust_document()? })
    }

    /// Writes a trust root beside the log; its path.
    pub fn write_trust(&self, name: &str, document: &TrustRootDocument) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, signed(document)?).with_context(|| format!("Failed to write {name}"))?;
        Ok(path)
    }

    /// Whom a verifier believes.
    pub fn trust(&self) -> Result<TrustRoot> {
        believed(&self.trust_document()?)
    }

    /// SubjectPublicKeyInfo of the release key.
    fn release_key(&self) -> Result<Vec<u8>> {
        let pem = fs::read_to_string(self.folder.join("release.pub")).context("Failed to read the release key")?;
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(body).context("The release key is no PEM")
    }

    fn witness_key(&self) -> Result<[u8; 32]> {
        let text = self.witnessed.witness.verifier_key();
        let key = text.splitn(3, '+').nth(2).and_then(|key| STANDARD.decode(key).ok());
        key.and_then(|key| key[1..].try_into().ok()).context("The witness has no key of Ed25519")
    }
}

/// The trust root of a document.
pub fn believed(document: &TrustRootDocument) -> Result<TrustRoot> {
    TrustRoot::first(&signed(document)?).map_err(|refusal| anyhow!("{refusal}"))
}

/// Signed by a root key that nobody keeps.
fn signed(document: &TrustRootDocument) -> Result<Vec<u8>> {
    let bytes = document.write().map_err(|refusal| anyhow!("{refusal}"))?;
    serde_json::to_vec(&Envelope::sign(PAYLOAD_TYPE, &bytes, "", &root()?)).context("Failed to write a trust root")
}

fn root() -> Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).map_err(|error| anyhow!("{error}"))
}

fn root_public() -> Result<[u8; 32]> {
    root()?.public_key().as_ref().try_into().context("a key of another length")
}
