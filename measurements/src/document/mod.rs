//! The documents that predictions are made of: what follows from an image (`cairn.image-reference/1`) and what follows from a machine (`cairn.machine/1`), and the record of a build (`cairn.image/1`), as [canonical JSON](crate::canonical). JSON schemas are in `docs/formats`.

pub mod build;
pub mod image;
pub mod machine;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical::Document;
pub use crate::canonical::Error;
use crate::event::{Digests, UnderSecureBoot};
use crate::{Bank, Event, Source};

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
                Digests::Exact(legal.into_iter().next().unwrap_or_default().into())
            }
            _ => return Err("must have a digest, or a reason why it is unknown"),
        };
        let data = self.data.as_ref().map(hex::decode).transpose().map_err(|_| "has data that are not hexadecimal")?;
        let (register, kind, input) = (self.pcr, self.kind, self.input.clone());
        Ok(Event { register, kind, digests, data, source, input, under_secure_boot: UnderSecureBoot::Same })
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
