//! Whom a verifier believes (`cairn.trust-root/1`): keys and what they may sign, logs by key and origin, witnesses and how many of them, timestamp authorities. One numbered document, signed by k of n root keys (Ed25519).
//!
//! The first is believed because somebody was handed it; each later one because enough root keys of the one before have signed it, too, and its number is higher.

use std::collections::BTreeSet;

use envelope::{Envelope, PublicKey};
use measurements::bytes::{Bytes32, Hex, at_most};
use measurements::canonical::{self, Document};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::key::Key;
use crate::timestamp::Authority;
use crate::{Code, Refusal};

/// Payload type of a signed trust root.
pub const PAYLOAD_TYPE: &str = "application/vnd.cairn.trust-root+json";
/// Most entries of each list.
const MOST: usize = 64;

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// The state of a channel.
    Channel,
    /// What an image measures, and how it was made.
    Image,
    /// What a machine measures.
    Machine,
    /// That an image was built again, and came out the same.
    Rebuild,
}

/// The document. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRootDocument {
    /// Keys that sign statements.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    pub keys: Vec<SigningKey>,
    /// Logs.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    pub logs: Vec<Log>,
    /// Keys that sign trust roots.
    pub root: RootKeys,
    /// `cairn.trust-root/1`.
    pub schema: String,
    /// Certificates of the timestamp authorities themselves (X.509, DER, hexadecimal), not of who issued those. With one, every statement needs a token; without any, keys must be valid when a statement is verified.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    pub timestamp_authorities: Vec<Hex>,
    /// When keys of logs and certificates of timestamp authorities are trusted; always where one is not listed.
    #[serde(default, deserialize_with = "at_most::<MOST, _, _>", skip_serializing_if = "Vec::is_empty")]
    pub validity: Vec<Validity>,
    /// A later trust root has a higher number.
    pub version: u64,
    /// Who must have seen a log's head.
    pub witnesses: Witnesses,
}

/// A key that signs statements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// SubjectPublicKeyInfo of ECDSA on P-256, DER, hexadecimal.
    pub key: Hex,
    /// Statements signed from then on are not believed, seconds since 1970.
    pub not_after: u64,
    /// Statements signed before that are not believed, seconds since 1970.
    pub not_before: u64,
    /// What it may sign.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    pub uses: Vec<Use>,
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// SubjectPublicKeyInfo of Ed25519 or of ECDSA on P-256, DER, hexadecimal.
    pub key: Hex,
    /// First line of its heads.
    pub origin: String,
}

/// When the key of a log or the certificate of a timestamp authority is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// Statements logged or stamped from then on are refused, seconds since 1970.
    pub not_after: u64,
    /// Statements logged or stamped before that are refused, seconds since 1970.
    pub not_before: u64,
    /// SHA-256 of the log's SubjectPublicKeyInfo, or of the authority's certificate.
    pub of: Bytes32,
}

/// Keys that sign trust roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootKeys {
    /// Keys of Ed25519.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    pub keys: Vec<Bytes32>,
    /// How many of them must sign.
    pub threshold: u64,
}

/// Who must have seen a log's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnesses {
    /// All of them.
    #[serde(deserialize_with = "at_most::<MOST, _, _>")]
    pub keys: Vec<Witness>,
    /// How many of them must have: 0 only where there are none.
    pub threshold: u64,
}

/// A witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Its key of Ed25519.
    pub key: Bytes32,
    /// Its name in heads.
    pub name: String,
}

impl Document for TrustRootDocument {
    const NAME: &'static str = "trust root";
    const SCHEMA: &'static str = "cairn.trust-root/1";
    const LARGEST: usize = 256 << 10;
}

/// A trust root that enough root keys have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    document: TrustRootDocument,
    pub(crate) keys: Vec<(Key, SigningKey)>,
    pub(crate) logs: Vec<(Key, String)>,
    pub(crate) authorities: Vec<Authority>,
}

impl TrustRootDocument {
    /// The document's bytes, which root keys sign in an envelope of type [`PAYLOAD_TYPE`].
    ///
    /// # Errors
    /// [`Code::TrustRoot`] where it contradicts itself.
    pub fn write(&self) -> Result<Vec<u8>, Refusal> {
        TrustRoot::of(self.clone())?;
        canonical::write(self).map_err(|error| refuse(error.to_string()))
    }
}

impl TrustRoot {
    /// The first trust root, which somebody was handed: its own root keys have signed it.
    ///
    /// # Errors
    /// [`Code::TrustRoot`], [`Code::TrustRootSignature`].
    pub fn first(envelope: &[u8]) -> Result<Self, Refusal> {
        let envelope = Envelope::parse(envelope).map_err(|error| refuse(error.to_string()))?;
        let payload = envelope.unverified_payload().map_err(|error| refuse(error.to_string()))?;
        let root = Self::of(canonical::read(&payload).map_err(|error| refuse(error.to_string()))?)?;
        root.has_signed(&envelope)?;
        Ok(root)
    }

    /// The trust root that follows this one.
    ///
    /// # Errors
    /// [`Code::TrustRoot`], [`Code::TrustRootSignature`], [`Code::TrustRootVersion`].
    pub fn next(&self, envelope: &[u8]) -> Result<Self, Refusal> {
        let next = Self::first(envelope)?;
        self.has_signed(&Envelope::parse(envelope).map_err(|error| refuse(error.to_string()))?)?;
        let (old, new) = (self.document.version, next.document.version);
        if new <= old {
            return Err(Refusal::new(Code::TrustRootVersion, format!("it has version {new}, version {old} is known")));
        }
        Ok(next)
    }

    /// What it says.
    pub fn document(&self) -> &TrustRootDocument {
        &self.document
    }

    /// The key with this hint, and what it may do.
    pub fn key(&self, hint: &str) -> Option<(&Key, &SigningKey)> {
        self.keys.iter().find(|(key, _)| key.hint() == hint).map(|(key, rights)| (key, rights))
    }

    /// The logs: their keys and origins.
    pub fn logs(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.logs.iter().map(|(key, origin)| (key, origin.as_str()))
    }

    /// Refuses a time at which this key of a log, or certificate of an authority, is not trusted: from when and until when it is.
    pub(crate) fn check_validity(&self, of: &[u8], time: u64) -> Result<(), String> {
        let digest = Bytes32(Sha256::digest(of).into());
        match self.document.validity.iter().find(|validity| validity.of == digest) {
            Some(Validity { not_after, not_before, .. }) if time < *not_before || time >= *not_after => {
                Err(format!("is valid from {not_before} to {not_after}, the statement is of {time}"))
            }
            _ => Ok(()),
        }
    }

    fn has_signed(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let RootKeys { keys, threshold } = &self.document.root;
        let keys: Vec<PublicKey> = keys.iter().map(|key| PublicKey::Ed25519(key.0)).collect();
        let least = usize::try_from(*threshold).unwrap_or(usize::MAX);
        match envelope.verify(PAYLOAD_TYPE, &keys, least) {
            Ok(_) => Ok(()),
            Err(error) => Err(Refusal::new(Code::TrustRootSignature, format!("the trust root: {error}"))),
        }
    }

    fn of(document: TrustRootDocument) -> Result<Self, Refusal> {
        let distinct = |keys: BTreeSet<&[u8]>, all: usize| keys.len() == all;
        let root = &document.root;
        let quorum = |threshold: u64, all: usize| threshold >= 1 && threshold <= all as u64;
        if !quorum(root.threshold, root.keys.len())
            || !distinct(root.keys.iter().map(|key| &key.0[..]).collect(), root.keys.len())
        {
            return Err(refuse("its root keys are too few for their threshold, or one is there twice"));
        }
        let witnesses = &document.witnesses;
        let all = witnesses.keys.len();
        if !(quorum(witnesses.threshold, all) || (witnesses.threshold, all) == (0, 0))
            || !distinct(witnesses.keys.iter().map(|witness| &witness.key.0[..]).collect(), all)
            || !distinct(witnesses.keys.iter().map(|witness| witness.name.as_bytes()).collect(), all)
        {
            return Err(refuse("its witnesses are too few for their threshold, or one is there twice"));
        }
        if document.version == 0 {
            return Err(refuse("its first version is not 1"));
        }
        let key =
            |bytes: &Hex, what| Key::from_spki(&bytes.0).ok_or_else(|| refuse(format!("a key of its {what} is none")));
        let mut keys = Vec::new();
        for signing in &document.keys {
            let key = key(&signing.key, "signers")?;
            let uses: BTreeSet<Use> = signing.uses.iter().copied().collect();
            if !matches!(key.public(), PublicKey::P256(_)) || uses.is_empty() || uses.len() != signing.uses.len() {
                return Err(refuse("a key of its signers is not of P-256, or its uses are none or one twice"));
            }
            if signing.not_before >= signing.not_after {
                return Err(refuse("a key of its signers is never valid"));
            }
            keys.push((key, signing.clone()));
        }
        let logs = document.logs.iter().map(|log| Ok((key(&log.key, "logs")?, log.origin.clone())));
        let logs: Vec<(Key, String)> = logs.collect::<Result<_, Refusal>>()?;
        // One key for two logs would let one pass for the other.
        let owned = |keys: Vec<Vec<u8>>| keys.iter().collect::<BTreeSet<_>>().len() == keys.len();
        if !owned(keys.iter().map(|(key, _)| key.spki()).collect())
            || !owned(logs.iter().map(|(key, _)| key.spki()).collect())
        {
            return Err(refuse("a key is there twice"));
        }
        if logs.iter().any(|(_, origin)| origin.is_empty() || origin.contains(char::is_whitespace)) {
            return Err(refuse("a log has no origin"));
        }
        let authorities = document.timestamp_authorities.iter().map(|certificate| Authority::parse(&certificate.0));
        let authorities = authorities.collect::<Option<_>>();
        let authorities = authorities.ok_or_else(|| refuse("a certificate of a timestamp authority is none"))?;
        check_validities(&document)?;
        Ok(Self { document, keys, logs, authorities })
    }
}

/// Each is of a log or an authority that is listed, once, and for some time.
fn check_validities(document: &TrustRootDocument) -> Result<(), Refusal> {
    let listed = document.logs.iter().map(|log| &log.key).chain(&document.timestamp_authorities);
    let listed: BTreeSet<Bytes32> = listed.map(|bytes| Bytes32(Sha256::digest(&bytes.0).into())).collect();
    let mut found = BTreeSet::new();
    for Validity { not_after, not_before, of } in &document.validity {
        if !listed.contains(of) || !found.insert(*of) {
            return Err(refuse("a time of validity is of no log and no timestamp authority, or is there twice"));
        }
        if not_before >= not_after {
            return Err(refuse("a log or a timestamp authority is never valid"));
        }
    }
    Ok(())
}

fn refuse(found: impl Into<String>) -> Refusal {
    Refusal::new(Code::TrustRoot, format!("the trust root: {}", found.into()))
}
