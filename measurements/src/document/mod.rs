//! The documents that predictions are made of: what follows from an image (`cairn.image-reference/1`) and what follows from a machine (`cairn.machine/1`).
//!
//! All are canonical JSON (RFC 8785 with ASCII keys, no fractions, integers below 2^53) and a final newline. A reader writes again what it understood and refuses a document with other bytes: so unknown
//! fields, fields that stand twice, blanks and other orders are refused, too. JSON schemas are in `docs/formats`.

pub mod image;
pub mod machine;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::Digests;
use crate::{Bank, Event, Source};

/// Larger documents are not read.
const LARGEST: usize = 16 << 20;
/// Integers that every reader of JSON keeps.
const MOST: u64 = 1 << 53;

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not the JSON that is expected.
    #[error("the {0} cannot be read: {1}")]
    Json(&'static str, String),
    /// It has another schema.
    #[error("the {what} has the schema {found:?}, {expected:?} is understood: use the version of Cairn that made it")]
    Schema {
        /// Which document.
        what: &'static str,
        /// What it says.
        found: String,
        /// What is understood.
        expected: &'static str,
    },
    /// Its bytes are not those that this document has.
    #[error("the {0} is not canonical: it was edited or reformatted; use the file as its maker wrote it")]
    NotCanonical(&'static str),
    /// An event cannot be.
    #[error("event {1} of the {0} {2}")]
    Event(&'static str, usize, &'static str),
    /// A field cannot be.
    #[error("the {0} has a wrong {1}")]
    Field(&'static str, &'static str),
}

/// A document with a schema of its own.
pub(crate) trait Document: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const NAME: &'static str;
    /// The schema that is understood.
    const SCHEMA: &'static str;
}

#[derive(Deserialize)]
struct Header {
    schema: String,
}

/// Reads a document: its schema first.
pub(crate) fn read<D: Document>(bytes: &[u8]) -> Result<D, Error> {
    let unreadable = |error: serde_json::Error| Error::Json(D::NAME, error.to_string());
    if bytes.len() > LARGEST {
        return Err(Error::Json(D::NAME, format!("it has {} bytes, at most {LARGEST} are read", bytes.len())));
    }
    let header: Header = serde_json::from_slice(bytes).map_err(unreadable)?;
    if header.schema != D::SCHEMA {
        return Err(Error::Schema { what: D::NAME, found: header.schema, expected: D::SCHEMA });
    }
    let document: D = serde_json::from_slice(bytes).map_err(unreadable)?;
    if write(&document)? != bytes {
        return Err(Error::NotCanonical(D::NAME));
    }
    Ok(document)
}

/// The bytes of a document.
pub(crate) fn write<D: Document>(document: &D) -> Result<Vec<u8>, Error> {
    let error = |error: serde_json::Error| Error::Json(D::NAME, error.to_string());
    // The maps of a value are sorted, by bytes.
    let value = serde_json::to_value(document).map_err(error)?;
    if !is_plain(&value) {
        return Err(Error::Field(D::NAME, "number: only integers from 0 to 2^53 are"));
    }
    let mut bytes = serde_json::to_vec(&value).map_err(error)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn is_plain(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => number.as_u64().is_some_and(|number| number < MOST),
        serde_json::Value::Array(all) => all.iter().all(is_plain),
        serde_json::Value::Object(all) => all.iter().all(|(key, value)| key.is_ascii() && is_plain(value)),
        _ => true,
    }
}

/// How a measurement is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// From the bytes of a file.
    Calculated,
    /// From the log of a machine of this shape.
    Recorded,
    /// It is not.
    Unknown,
}

/// One measurement as a document has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRecord {
    /// The event's data in the log, hexadecimal, where every byte of it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// All legal digests, each by name of the bank, hexadecimal: one where the digest is exact, none where it is not known.
    pub digests: Vec<BTreeMap<Bank, String>>,
    /// The input behind it, in words.
    pub input: String,
    /// How it is known.
    pub known: Known,
    /// Register.
    pub pcr: u8,
    /// Why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Type of the event (TCG_EVENTTYPE); 0 for what user space measures.
    #[serde(rename = "type")]
    pub kind: u32,
}

impl EventRecord {
    /// A measurement, known in this way if it is known at all. Data of more than `most` bytes are left out.
    pub fn new(event: &Event, known: Known, most: usize) -> Self {
        let (known, reason) = match &event.digests {
            Digests::Unknown(reason) => (Known::Unknown, Some(reason.clone())),
            Digests::Exact(_) | Digests::OneOf(_) => (known, None),
        };
        let digests = event.digests.legal().iter();
        let data = event.data.as_ref().filter(|data| data.len() <= most);
        Self {
            data: data.map(hex::encode),
            digests: digests
                .map(|all| all.iter().map(|(bank, digest)| (*bank, hex::encode(digest))).collect())
                .collect(),
            input: event.input.clone(),
            known,
            pcr: event.register,
            reason,
            kind: event.kind,
        }
    }

    /// The measurement.
    fn event(&self, source: Source) -> Result<Event, &'static str> {
        if self.pcr > 15 {
            return Err("is of no register that is predicted");
        }
        let legal: Vec<_> = self.digests.iter().map(by_bank).collect::<Result<_, _>>()?;
        let digests = match (self.known, legal.len(), &self.reason) {
            (Known::Unknown, 0, Some(reason)) => Digests::Unknown(reason.clone()),
            (Known::Calculated | Known::Recorded, 2.., None) => Digests::OneOf(legal),
            (Known::Calculated | Known::Recorded, 1, None) => {
                Digests::Exact(legal.into_iter().next().unwrap_or_default())
            }
            _ => return Err("must have a digest, or a reason why it is unknown"),
        };
        let data = self.data.as_ref().map(hex::decode).transpose().map_err(|_| "has data that are not hexadecimal")?;
        let (register, kind, input) = (self.pcr, self.kind, self.input.clone());
        Ok(Event { register, kind, digests, data, source, input })
    }
}

fn by_bank(texts: &BTreeMap<Bank, String>) -> Result<BTreeMap<Bank, Vec<u8>>, &'static str> {
    let mut digests = BTreeMap::new();
    for (bank, text) in texts {
        let digest = hex::decode(text).map_err(|_| "has a digest that is not hexadecimal")?;
        if digest.len() != bank.length() {
            return Err("has a digest of a wrong length");
        }
        digests.insert(*bank, digest);
    }
    if digests.len() != Bank::ALL.len() {
        return Err("does not have a digest for every bank");
    }
    Ok(digests)
}

/// The measurements of a list in a document.
fn events<D: Document>(records: &[EventRecord], source: Source) -> Result<Vec<Event>, Error> {
    let event = |(index, record): (usize, &EventRecord)| {
        record.event(source).map_err(|problem| Error::Event(D::NAME, index, problem))
    };
    records.iter().enumerate().map(event).collect()
}

/// A digest of SHA-256 in a document.
fn sha256<D: Document>(text: &str, field: &'static str) -> Result<[u8; 32], Error> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).map_err(|_| Error::Field(D::NAME, field))?;
    Ok(digest)
}
