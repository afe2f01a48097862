//! The JSON of a LUKS2 header (LUKS2 On-Disk Format Specification 1.1, section 3), as strictly as it can be read: fields that are not listed here, or stand twice, are errors.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A map whose keys stand once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unique<V>(pub BTreeMap<String, V>);

impl<V> Unique<V> {
    /// The one entry, which must be called `0`.
    pub fn only(&self) -> Option<&V> {
        if self.0.len() == 1 { self.0.get("0") } else { None }
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Map<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                /// More entries than any header of ours has.
                const MOST: usize = 32;
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, V>()? {
                    if map.insert(key, value).is_some() || map.len() > MOST {
                        return Err(A::Error::custom("a key stands twice, or there are more than 32"));
                    }
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub keyslots: Unique<Keyslot>,
    pub tokens: Unique<serde::de::IgnoredAny>,
    pub segments: Unique<Segment>,
    pub digests: Unique<Digest>,
    pub config: Config,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keyslot {
    #[serde(rename = "type")]
    pub kind: String,
    pub key_size: u64,
    pub af: Af,
    pub area: Area,
    pub kdf: Kdf,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Af {
    #[serde(rename = "type")]
    pub kind: String,
    pub stripes: u64,
    pub hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Area {
    #[serde(rename = "type")]
    pub kind: String,
    pub offset: String,
    pub size: String,
    pub encryption: String,
    pub key_size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kdf {
    #[serde(rename = "type")]
    pub kind: String,
    pub hash: String,
    pub iterations: u64,
    pub salt: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Segment {
    #[serde(rename = "type")]
    pub kind: String,
    pub offset: String,
    pub size: String,
    pub iv_tweak: String,
    pub encryption: String,
    pub sector_size: u64,
    #[serde(default, deserialize_with = "present")]
    pub integrity: Option<Integrity>,
}

/// A field that may be missing, and is not `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Integrity>, D::Error> {
    Integrity::deserialize(deserializer).map(Some)
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Integrity {
    #[serde(rename = "type")]
    pub kind: String,
    pub journal_encryption: String,
    pub journal_integrity: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Digest {
    #[serde(rename = "type")]
    pub kind: String,
    pub keyslots: Vec<String>,
    pub segments: Vec<String>,
    pub hash: String,
    pub iterations: u64,
    pub salt: String,
    pub digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub json_size: String,
    pub keyslots_size: String,
}
