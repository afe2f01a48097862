//! `/etc/cairn/boot.json`, the image's description of itself (design section 4). It is part of the measured initrd,
//! the same bytes for everybody, and holds no key. Anything but the exact document stops the boot: an unknown, missing
//! or repeated field, another type, a value out of its range, a byte after the end.

use std::fmt;
use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Deserializer, de::Error};

use crate::code::Code;
use crate::failure::Failure;
use crate::gpt::Guid;

const PATH: &str = "/etc/cairn/boot.json";
const SCHEMA: &str = "cairn.boot/1";
const LARGEST: u64 = 16 * 1024;

/// Block size of data and hash tree, in bytes; the only one that images use.
pub const BLOCK: u64 = 4096;
/// 2^53: integers below it are the same number to every JSON reader.
const INTEGER_LIMIT: u64 = 1 << 53;
/// So that offsets in bytes stay below 2^53 as well.
const BLOCKS_LIMIT: u64 = INTEGER_LIMIT / BLOCK;

/// The whole document. What this version only checks, later versions send in their attestation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootDocument {
    #[serde(rename = "schema", deserialize_with = "schema")]
    _schema: (),
    /// Which image this is.
    pub image: Image,
    /// How its root is verified.
    pub root: Root,
    /// Least version of the key release protocol.
    #[serde(deserialize_with = "counter")]
    pub protocol_min: u64,
    /// Seconds since 1970 before which no certificate of ours was made.
    #[serde(rename = "time_floor", deserialize_with = "integer")]
    _time_floor: u64,
}

/// The image's identity.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Name of the image.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// Its version.
    #[serde(deserialize_with = "name")]
    pub version: String,
    /// Its variant, such as `debug`.
    #[serde(deserialize_with = "name")]
    pub variant: String,
    /// Security epoch.
    #[serde(rename = "epoch", deserialize_with = "counter")]
    _epoch: u64,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.id, self.version, self.variant)
    }
}

/// Parameters of dm-verity and where its two partitions are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The root hash.
    #[serde(deserialize_with = "bytes32")]
    pub hash: Bytes32,
    /// Hashed before every block.
    #[serde(deserialize_with = "bytes32")]
    pub salt: Bytes32,
    /// Number of data blocks, at least one.
    #[serde(deserialize_with = "data_blocks")]
    pub data_blocks: u64,
    #[serde(rename = "block_size", deserialize_with = "block_size")]
    _block_size: (),
    /// Partition UUID of the data.
    #[serde(deserialize_with = "guid")]
    pub data_partuuid: Guid,
    /// Partition UUID of the hash tree.
    #[serde(deserialize_with = "guid")]
    pub hash_partuuid: Guid,
    /// Where the tree's top block is in its partition, in bytes.
    #[serde(deserialize_with = "hash_offset")]
    pub hash_offset: u64,
}

/// A SHA-256 digest or a salt; written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes32(pub [u8; 32]);

impl fmt::Display for Bytes32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl BootDocument {
    /// Reads the initrd's document.
    ///
    /// # Errors
    /// `BOOT_JSON_INVALID`, with the place in the document.
    pub fn load() -> Result<Self, Failure> {
        let invalid = |what: &dyn fmt::Display| Failure::new(Code::BootDocumentInvalid, format!("{PATH}: {what}"));
        let mut bytes = Vec::new();
        let file = File::open(PATH).map_err(|error| invalid(&error))?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| invalid(&error))?;
        if bytes.len() as u64 > LARGEST {
            return Err(invalid(&format!("larger than {LARGEST} bytes")));
        }
        Self::parse(&bytes).map_err(|error| invalid(&error))
    }

    /// Parses the document's bytes.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

fn schema<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    match String::deserialize(from)?.as_str() {
        SCHEMA => Ok(()),
        other => Err(D::Error::custom(format!("schema is \"{other}\", not \"{SCHEMA}\""))),
    }
}

fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(from, 0, INTEGER_LIMIT)
}

fn counter<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(from, 1, INTEGER_LIMIT)
}

fn data_blocks<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(from, 1, BLOCKS_LIMIT)
}

fn block_size<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    bounded(from, BLOCK, BLOCK + 1).map(drop)
}

fn hash_offset<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let offset = bounded(from, 0, INTEGER_LIMIT)?;
    if offset % BLOCK != 0 {
        return Err(D::Error::custom(format!("{offset} is not a multiple of {BLOCK}")));
    }
    Ok(offset)
}

fn bounded<'de, D: Deserializer<'de>>(from: D, least: u64, limit: u64) -> Result<u64, D::Error> {
    let value = u64::deserialize(from)?;
    if value < least || value >= limit {
        return Err(D::Error::custom(format!("{value} is not in {least}..{limit}")));
    }
    Ok(value)
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return Err(D::Error::custom(format!("\"{text}\" is not 1 to 64 of A-Z a-z 0-9 . _ + ~ -")));
    }
    Ok(text)
}

fn bytes32<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes32, D::Error> {
    let text = String::deserialize(from)?;
    let mut bytes = [0; 32];
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    if !lower || hex::decode_to_slice(&text, &mut bytes).is_err() {
        return Err(D::Error::custom(format!("\"{text}\" is not 64 lower-case hexadecimal digits")));
    }
    Ok(Bytes32(bytes))
}

fn guid<'de, D: Deserializer<'de>>(from: D) -> Result<Guid, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const GOOD: &str = r#"{"image":{"epoch":1,"id":"cairn","variant":"production","version":"0.1.0"},
"protocol_min":1,"root":{"block_size":4096,"data_blocks":512,"data_partuuid":"00112233-4455-6677-8899-aabbccddeeff",
"hash":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","hash_offset":4096,
"hash_partuuid":"ffeeddcc-bbaa-9988-7766-554433221100",
"salt":"f0112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},"schema":"cairn.boot/1",
"time_floor":1763900000}
"#;

    #[test]
    fn the_documented_example_is_read() {
        let document = BootDocument::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(document.image.to_string(), "cairn 0.1.0 (production)");
        assert_eq!(document.root.data_blocks, 512);
        assert_eq!(document.root.hash.to_string(), "00112233445566778899aabbccddeeff".repeat(2));
        assert_eq!(document.root.hash_partuuid.to_string(), "ffeeddcc-bbaa-9988-7766-554433221100");
    }

    #[test]
    fn anything_but_the_exact_document_is_refused() {
        let rows: [(&str, &str, &str); 22] = [
            ("unknown field", r#""protocol_min":1"#, r#""protocol_min":1,"debug":true"#),
            ("unknown inner field", r#""epoch":1"#, r#""epoch":1,"key":"x""#),
            ("missing field", r#","schema":"cairn.boot/1""#, ""),
            ("repeated field", r#""protocol_min":1"#, r#""protocol_min":1,"protocol_min":1"#),
            ("repeated inner field", r#""epoch":1"#, r#""epoch":1,"epoch":2"#),
            ("other schema", "cairn.boot/1", "cairn.boot/2"),
            ("number as text", r#""data_blocks":512"#, r#""data_blocks":"512""#),
            ("fraction", r#""data_blocks":512"#, r#""data_blocks":512.0"#),
            ("negative", r#""data_blocks":512"#, r#""data_blocks":-1"#),
            ("no blocks", r#""data_blocks":512"#, r#""data_blocks":0"#),
            ("too many blocks", r#""data_blocks":512"#, r#""data_blocks":2199023255552"#),
            ("beyond 2^53", "1763900000", "9007199254740992"),
            ("other block size", r#""block_size":4096"#, r#""block_size":512"#),
            ("odd hash offset", r#""hash_offset":4096"#, r#""hash_offset":4097"#),
            ("epoch zero", r#""epoch":1"#, r#""epoch":0"#),
            ("upper-case salt", "f0112233", "F0112233"),
            ("short hash", r#""hash":"00"#, r#""hash":""#),
            ("upper-case uuid", "ffeeddcc-", "FFEEDDCC-"),
            ("uuid without hyphens", "00112233-4455-6677-8899-aabbccddeeff", "00112233445566778899aabbccddeeff"),
            ("blank name", r#""id":"cairn""#, r#""id":"""#),
            ("line break in a name", r#""id":"cairn""#, r#""id":"cai\nrn""#),
            ("null", r#""protocol_min":1"#, r#""protocol_min":null"#),
        ];
        for (case, from, to) in rows {
            let changed = GOOD.replacen(from, to, 1);
            assert_ne!(changed, GOOD, "{case}: the row changes nothing");
            assert!(BootDocument::parse(changed.as_bytes()).is_err(), "{case} was accepted");
        }
        assert!(BootDocument::parse(format!("{GOOD}{{}}").as_bytes()).is_err(), "a second document was accepted");
        assert!(BootDocument::parse(b"").is_err(), "an empty file was accepted");
        assert!(BootDocument::parse(&[0xff, 0xfe]).is_err(), "bytes that are no UTF-8 were accepted");
    }
}
