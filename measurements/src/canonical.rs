//! Canonical JSON: RFC 8785 with ASCII keys, no fractions, integers below 2^53, and a final newline.
//!
//! A reader looks at the schema first, and writes again what it understood: it refuses a document with other bytes. So unknown fields, fields that stand twice at any depth, blanks and other orders are refused, too.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::text::printable;

/// For documents that do not say otherwise.
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
pub trait Document: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const NAME: &'static str;
    /// The schema that is understood.
    const SCHEMA: &'static str;
    /// Larger documents are neither read nor written, in bytes as written.
    const LARGEST: usize = LARGEST;
}

#[derive(Deserialize)]
struct Header {
    // Statements of in-toto call it so. A document with both has a field twice.
    #[serde(alias = "_type")]
    schema: String,
}

/// Reads a document: its schema first.
///
/// # Errors
/// [`Error`].
pub fn read<D: Document>(bytes: &[u8]) -> Result<D, Error> {
    let unreadable = |error: serde_json::Error| Error::Json(D::NAME, printable(&error.to_string()));
    check_size::<D>(bytes)?;
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
///
/// # Errors
/// [`Error`] where a value cannot be written, or [`read`] would refuse the bytes.
pub fn write<D: Document>(document: &D) -> Result<Vec<u8>, Error> {
    let error = |error: serde_json::Error| Error::Json(D::NAME, error.to_string());
    // The maps of a value are sorted, by bytes.
    let value = serde_json::to_value(document).map_err(error)?;
    if !is_plain(&value) {
        return Err(Error::Field(D::NAME, "number: only integers from 0 to 2^53 are"));
    }
    let mut bytes = serde_json::to_vec(&value).map_err(error)?;
    bytes.push(b'\n');
    check_size::<D>(&bytes)?;
    Ok(bytes)
}

fn check_size<D: Document>(bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > D::LARGEST {
        return Err(Error::Json(D::NAME, format!("it has {} bytes, at most {} are read", bytes.len(), D::LARGEST)));
    }
    Ok(())
}

fn is_plain(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => number.as_u64().is_some_and(|number| number < MOST),
        serde_json::Value::Array(all) => all.iter().all(is_plain),
        serde_json::Value::Object(all) => all.iter().all(|(key, value)| key.is_ascii() && is_plain(value)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Small {
        schema: String,
        text: String,
    }

    impl Document for Small {
        const NAME: &'static str = "small document";
        const SCHEMA: &'static str = "small/1";
        const LARGEST: usize = 64;
    }

    #[test]
    fn document_that_could_not_be_read_again_is_not_written() {
        let small = |text: String| Small { schema: Small::SCHEMA.into(), text };
        let fits = small("\u{1}".repeat(5));
        assert_eq!(read::<Small>(&write(&fits).unwrap()), Ok(fits));
        // As many characters as would fit, but each is written as six.
        let error = write(&small("\u{1}".repeat(20))).unwrap_err();
        assert!(error.to_string().contains("at most 64 are read"), "{error}");
    }
}
