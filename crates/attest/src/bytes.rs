//! Bytes in documents: lower-case hexadecimal. Upper-case digits are refused, because the same bytes would have two spellings.

use hex::{decode_to_slice, encode_to_slice};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// As many bytes as there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

/// 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes32(pub [u8; 32]);

/// Into one buffer of the right size: the logs in evidence are long, and `hex` makes strings one character at a time.
fn write<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut digits = vec![0; bytes.len() * 2];
    encode_to_slice(bytes, &mut digits).map_err(S::Error::custom)?;
    serializer.serialize_str(std::str::from_utf8(&digits).map_err(S::Error::custom)?)
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(D::Error::custom("bytes are written in lower-case hexadecimal"));
        }
        let mut bytes = vec![0; text.len() / 2];
        decode_to_slice(&text, &mut bytes).map_err(D::Error::custom)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Bytes32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        write(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Bytes32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Hex(bytes) = Hex::deserialize(deserializer)?;
        bytes.try_into().map(Self).map_err(|_| D::Error::custom("32 bytes are expected"))
    }
}
