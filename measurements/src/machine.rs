//! Machine references: what follows from firmware, VMM and shape of a machine, as a document (`cairn.machine/1`, canonical JSON: RFC 8785 with ASCII keys, and a final newline).
//!
//! The document says of every measurement whether it was calculated from a file or recorded from a machine of that shape. A reader refuses unknown fields and bytes that are not canonical.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Bank, Event, Source};

/// The schema that is read and written.
pub const SCHEMA: &str = "cairn.machine/1";

/// A machine reference. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineReference {
    /// What is measured before the first image is loaded: registers 0, 1 and 7, in order.
    pub events: Vec<MachineEvent>,
    /// The firmware.
    pub firmware: FirmwareReference,
    /// Name, as the file is called.
    pub name: String,
    /// [`SCHEMA`].
    pub schema: String,
    /// What the VMM was told.
    pub shape: Shape,
    /// The VMM and its version.
    pub vmm: String,
}

/// The firmware of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareReference {
    /// SHA-256 of its code part.
    pub sha256: String,
    /// What it calls itself.
    pub version: String,
}

/// The shape of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// `crb` or `tis`.
    pub tpm: String,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineEvent {
    /// Digests by name of the bank, hexadecimal.
    pub digests: BTreeMap<Bank, String>,
    /// The input behind it, in words.
    pub input: String,
    /// How it is known.
    pub known: Known,
    /// Register.
    pub pcr: u8,
    /// Type of the event (TCG_EVENTTYPE).
    #[serde(rename = "type")]
    pub kind: u32,
}

/// How a measurement is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// From the bytes of a file.
    Calculated,
    /// From the log of a machine of this shape.
    Recorded,
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not the JSON that is expected.
    #[error("the machine reference cannot be read: {0}")]
    Json(String),
    /// It has another schema.
    #[error("the machine reference has the schema {0:?}, {SCHEMA:?} is understood")]
    Schema(String),
    /// Its bytes are not those that this document has.
    #[error("the machine reference is not canonical: write it again with the tool that made it")]
    NotCanonical,
    /// An event cannot be.
    #[error("event {0} of the machine reference {1}")]
    Event(usize, &'static str),
}

impl MachineReference {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let reference: Self = serde_json::from_slice(bytes).map_err(|error| Error::Json(error.to_string()))?;
        if reference.schema != SCHEMA {
            return Err(Error::Schema(reference.schema));
        }
        if reference.to_bytes()? != bytes {
            return Err(Error::NotCanonical);
        }
        reference.events()?;
        Ok(reference)
    }

    /// The document.
    ///
    /// # Errors
    /// [`Error::Json`] where a value cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let error = |error: serde_json::Error| Error::Json(error.to_string());
        // The maps of a value are sorted.
        let value = serde_json::to_value(self).map_err(error)?;
        let mut bytes = serde_json::to_vec(&value).map_err(error)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The measurements.
    ///
    /// # Errors
    /// [`Error::Event`].
    pub fn events(&self) -> Result<Vec<Event>, Error> {
        let event = |(index, event): (usize, &MachineEvent)| {
            let refuse = |problem| Error::Event(index, problem);
            if !matches!(event.pcr, 0 | 1 | 7) {
                return Err(refuse("is not of register 0, 1 or 7"));
            }
            let mut digests = BTreeMap::new();
            for (bank, text) in &event.digests {
                let digest = hex::decode(text).map_err(|_| refuse("has a digest that is not hexadecimal"))?;
                if digest.len() != bank.length() {
                    return Err(refuse("has a digest of a wrong length"));
                }
                digests.insert(*bank, digest);
            }
            if digests.len() != Bank::ALL.len() {
                return Err(refuse("does not have a digest for every bank"));
            }
            let (register, kind, source, input) = (event.pcr, event.kind, Source::Machine, event.input.clone());
            Ok(Event { register, kind, digests: Ok(digests), data: None, source, input })
        };
        self.events.iter().enumerate().map(event).collect()
    }
}

impl MachineEvent {
    /// A measurement as a document has it; `None` where it is not known in every bank.
    pub fn new(event: &Event, known: Known) -> Option<Self> {
        let digests = event.digests.as_ref().ok()?;
        let digests = digests.iter().map(|(bank, digest)| (*bank, hex::encode(digest))).collect();
        Some(Self { digests, input: event.input.clone(), known, pcr: event.register, kind: event.kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::kind;

    fn reference() -> MachineReference {
        let event = Event::of(1, kind::CONFIG_FLAGS, Source::Machine, "ACPI DATA", b"x");
        MachineReference {
            events: vec![MachineEvent::new(&event, Known::Recorded).unwrap()],
            firmware: FirmwareReference { sha256: "00".repeat(32), version: "1".into() },
            name: "test".into(),
            schema: SCHEMA.into(),
            shape: Shape { cpus: 2, memory_mib: 1024, tpm: "crb".into() },
            vmm: "QEMU 10".into(),
        }
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let bytes = reference().to_bytes().unwrap();
        assert!(bytes.starts_with(b"{\"events\":[{\"digests\":{\"sha1\":") && bytes.ends_with(b"}\n"));
        let read = MachineReference::parse(&bytes).unwrap();
        assert_eq!(read, reference());
        assert_eq!(read.events().unwrap()[0].digest(Bank::Sha256).unwrap(), Bank::Sha256.digest(b"x"));
    }

    #[test]
    fn other_documents_are_refused() {
        let good = String::from_utf8(reference().to_bytes().unwrap()).unwrap();
        assert_eq!(
            MachineReference::parse(good.replace("machine/1", "machine/2").as_bytes()),
            Err(Error::Schema("cairn.machine/2".into()))
        );
        assert_eq!(MachineReference::parse(good.replace(",\"pcr\"", ", \"pcr\"").as_bytes()), Err(Error::NotCanonical));
        assert_eq!(MachineReference::parse(good.trim_end().as_bytes()), Err(Error::NotCanonical));
        for (from, to) in
            [("\"pcr\":1", "\"pcr\":4"), ("\"sha256\":\"2d", "\"sha256\":\"zz"), ("\"sha1\":\"", "\"sha1\":\"00")]
        {
            assert!(
                matches!(MachineReference::parse(good.replacen(from, to, 1).as_bytes()), Err(Error::Event(0, _))),
                "{from}"
            );
        }
        for (from, to) in [("\"vmm\"", "\"unknown\":1,\"vmm\""), ("{", "[")] {
            assert!(
                matches!(MachineReference::parse(good.replacen(from, to, 1).as_bytes()), Err(Error::Json(_))),
                "{from}"
            );
        }
    }
}
