//! Sigstore bundles (`application/vnd.dev.sigstore.bundle.v0.3+json`) of the one shape that Cairn publishes: the hint of a public key, one DSSE envelope with one signature, one entry of a Rekor v2 log with its proof
//! and the log's signed head, and timestamps (RFC 3161).
//!
//! The reader takes what protobuf's JSON may leave out (zeros, empty lists), and refuses every field and every value that a bundle of this shape does not have. Nothing of a bundle is believed before [`crate::verify`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::Envelope;
use measurements::bytes::at_most;
use serde::de::{IgnoredAny, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::entry::{KIND, VERSION};
use crate::proof::LONGEST;
use crate::statement::PAYLOAD_TYPE;
use crate::tree::Hash;
use crate::{Code, Refusal};

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Larger bundles are not read.
pub const LARGEST: usize = 1 << 20;
/// Bundles with more timestamps are not read.
const MOST_TIMESTAMPS: usize = 8;

/// A bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// How the bundle names the key: base64 of SHA-256 of its SubjectPublicKeyInfo, as [`Key::hint`](crate::key::Key::hint).
    pub hint: String,
    /// The signed statement.
    pub envelope: Envelope,
    /// What the log has of it.
    pub entry: Entry,
    /// Responses of timestamp authorities (RFC 3161, TimeStampResp in DER), over the envelope's signature.
    pub timestamps: Vec<Vec<u8>>,
}

/// An entry of a log, and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the entry, from 0.
    pub index: u64,
    /// Id of the log: that of its key for notes with its origin.
    pub log_id: [u8; 32],
    /// Canonical body, which is the leaf.
    pub body: Vec<u8>,
    /// Size of the tree in which the entry is proved.
    pub size: u64,
    /// Root of that tree.
    pub root: Hash,
    /// Hashes from the leaf to the root.
    pub path: Vec<Hash>,
    /// Signed head of that tree.
    pub checkpoint: String,
}

impl Bundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// [`Code::Schema`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > LARGEST {
            return Err(refuse(format!("it has {} bytes, at most {LARGEST} are read", bytes.len())));
        }
        // First of all, so that a bundle of another shape is named and not one of its fields.
        let shape: Shape = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        shape.check()?;
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        let envelope = wire.dsse_envelope;
        if envelope.payload_type() != PAYLOAD_TYPE {
            return Err(refuse(format!("its payload is a {:?}, no statement", envelope.payload_type())));
        }
        if envelope.signatures().map_err(|error| refuse(error.to_string()))?.len() != 1 {
            return Err(refuse("its envelope does not have one signature"));
        }
        envelope.unverified_payload().map_err(|error| refuse(error.to_string()))?;
        let material = wire.verification_material;
        let [entry] = <[TlogEntry; 1]>::try_from(material.tlog_entries)
            .map_err(|_| refuse("it does not have one entry of a log"))?;
        let timestamps = material.timestamp_verification_data.unwrap_or_default().rfc3161_timestamps;
        Ok(Self {
            hint: material.public_key.hint,
            envelope,
            entry: entry.read()?,
            timestamps: timestamps.into_iter().map(|timestamp| timestamp.signed_timestamp.0).collect(),
        })
    }

    /// The bundle's bytes, with a final newline.
    ///
    /// # Errors
    /// [`Code::Schema`] where it would not be read.
    pub fn write(&self) -> Result<Vec<u8>, Refusal> {
        let timestamps: Vec<_> =
            self.timestamps.iter().map(|bytes| Timestamp { signed_timestamp: Base64(bytes.clone()) }).collect();
        let data = (!timestamps.is_empty()).then_some(TimestampData { rfc3161_timestamps: timestamps });
        let wire = Wire {
            media_type: MEDIA_TYPE.into(),
            verification_material: Material {
                public_key: PublicKey { hint: self.hint.clone() },
                tlog_entries: vec![TlogEntry::write(&self.entry)],
                timestamp_verification_data: data,
            },
            dsse_envelope: self.envelope.clone(),
        };
        let mut bytes = serde_json::to_vec(&wire).map_err(|error| refuse(error.to_string()))?;
        bytes.push(b'\n');
        Self::parse(&bytes)?;
        Ok(bytes)
    }

    /// The one signature.
    ///
    /// # Errors
    /// [`Code::Schema`].
    pub fn signature(&self) -> Result<Vec<u8>, Refusal> {
        let signatures = self.envelope.signatures().map_err(|error| refuse(error.to_string()))?;
        signatures.into_iter().next().map(|(_, signature)| signature).ok_or_else(|| refuse("it has no signature"))
    }
}

fn refuse(found: impl Into<String>) -> Refusal {
    Refusal::new(Code::Schema, format!("the bundle: {}", found.into()))
}

/// Bytes in base64, of one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What tells a bundle of this shape from others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    message_signature: Option<IgnoredAny>,
}

impl Shape {
    fn check(&self) -> Result<(), Refusal> {
        if self.media_type != MEDIA_TYPE {
            let shown: String = self.media_type.chars().take(100).collect();
            let hint = "verify a bundle of another version with the program that wrote it; `cosign` writes this one with --new-bundle-format";
            return Err(refuse(format!("its media type is {shown:?}, {MEDIA_TYPE:?} is expected")).with_hint(hint));
        }
        if self.message_signature.is_some() {
            let hint = "verify it with `cosign verify-blob --bundle`";
            return Err(refuse("it has the signature of a file and not of a statement").with_hint(hint));
        }
        Ok(())
    }
}

/// 64-bit numbers are texts in protobuf's JSON, which readers also take as numbers (ProtoJSON format, "int64, uint64").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Number(u64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number below 2^63, as text or as a number")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<u64, E> {
                Ok(number)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
                let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
                number.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        let number = deserializer.deserialize_any(Either)?;
        if number > i64::MAX as u64 {
            return Err(serde::de::Error::invalid_value(Unexpected::Unsigned(number), &Either));
        }
        Ok(Self(number))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Material {
    public_key: PublicKey,
    #[serde(deserialize_with = "at_most::<1, _, _>")]
    tlog_entries: Vec<TlogEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_verification_data: Option<TimestampData>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicKey {
    hint: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TimestampData {
    #[serde(default, deserialize_with = "at_most::<MOST_TIMESTAMPS, _, _>")]
    rfc3161_timestamps: Vec<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Timestamp {
    signed_timestamp: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TlogEntry {
    #[serde(default)]
    log_index: Number,
    log_id: LogId,
    kind_version: KindVersion,
    #[serde(default)]
    integrated_time: Number,
    inclusion_proof: InclusionProof,
    canonicalized_body: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogId {
    key_id: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindVersion {
    kind: String,
    version: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InclusionProof {
    #[serde(default)]
    log_index: Number,
    root_hash: Base64,
    tree_size: Number,
    #[serde(default, deserialize_with = "at_most::<LONGEST, _, _>")]
    hashes: Vec<Base64>,
    checkpoint: CheckpointText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointText {
    envelope: String,
}

impl TlogEntry {
    fn read(self) -> Result<Entry, Refusal> {
        let hash =
            |bytes: Base64, what| bytes.0.try_into().map_err(|_| refuse(format!("its {what} does not have 32 bytes")));
        if (self.kind_version.kind.as_str(), self.kind_version.version.as_str()) != (KIND, VERSION) {
            let KindVersion { kind, version } = self.kind_version;
            return Err(refuse(format!("its entry is a {kind} {version}, {KIND} {VERSION} is expected")));
        }
        if self.integrated_time != Number(0) {
            return Err(refuse("its entry has a time, which such a log does not vouch for"));
        }
        let proof = self.inclusion_proof;
        if proof.log_index != self.log_index {
            return Err(refuse("its entry and the proof have different numbers"));
        }
        Ok(Entry {
            index: self.log_index.0,
            log_id: hash(self.log_id.key_id, "log id")?,
            body: self.canonicalized_body.0,
            size: proof.tree_size.0,
            root: hash(proof.root_hash, "root")?,
            path: proof.hashes.into_iter().map(|bytes| hash(bytes, "proof")).collect::<Result<_, _>>()?,
            checkpoint: proof.checkpoint.envelope,
        })
    }

    fn write(entry: &Entry) -> Self {
        Self {
            log_index: Number(entry.index),
            log_id: LogId { key_id: Base64(entry.log_id.into()) },
            kind_version: KindVersion { kind: KIND.into(), version: VERSION.into() },
            integrated_time: Number(0),
            inclusion_proof: InclusionProof {
                log_index: Number(entry.index),
                root_hash: Base64(entry.root.into()),
                tree_size: Number(entry.size),
                hashes: entry.path.iter().map(|hash| Base64(hash.to_vec())).collect(),
                checkpoint: CheckpointText { envelope: entry.checkpoint.clone() },
            },
            canonicalized_body: Base64(entry.body.clone()),
        }
    }
}
