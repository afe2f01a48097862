//! `.packages.json`, which says which packages are in an image; `.image.json`, which says what was made of what, is [`ImageDocument`](measurements::document::build::ImageDocument).
//!
//! Both are canonical JSON (RFC 8785: sorted keys, no blanks, integers only) and end with a newline. They hold nothing
//! that differs between two builds of the same commit and lock; how long stages took goes to a file apart.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::digest::Sha256Digest;
use crate::lock::Package;

/// Schema of `.packages.json`.
pub const PACKAGES_SCHEMA: &str = "cairn.packages/1";

/// `.packages.json`.
#[derive(Clone, Debug, Serialize)]
pub struct PackagesDocument<'a> {
    schema: &'static str,
    packages: Vec<PackageDocument<'a>>,
}

#[derive(Clone, Debug, Serialize)]
struct PackageDocument<'a> {
    name: &'a str,
    version: &'a str,
    architecture: &'a str,
    source: &'a str,
    sha256: Sha256Digest,
}

impl<'a> PackagesDocument<'a> {
    /// The document of these packages.
    pub fn new(packages: impl Iterator<Item = &'a Package>) -> Self {
        let packages = packages.map(|package| PackageDocument {
            name: &package.name,
            version: &package.version,
            architecture: &package.architecture,
            source: &package.source,
            sha256: package.sha256,
        });
        Self { schema: PACKAGES_SCHEMA, packages: packages.collect() }
    }
}

/// Canonical bytes of a document whose keys are ASCII and whose numbers are integers.
pub fn canonical(document: &impl Serialize) -> Result<Vec<u8>> {
    // A value's maps are sorted; ASCII keys sort the same by bytes and by UTF-16 units.
    let value = serde_json::to_value(document).context("Failed to write a document as JSON")?;
    let mut bytes = serde_json::to_vec(&value).context("Failed to write a document as JSON")?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn canonical_bytes_are_sorted_and_end_with_a_newline() {
        #[derive(Serialize)]
        struct Sample {
            zebra: u64,
            #[serde(rename = "Ant")]
            ant: Vec<&'static str>,
            middle: BTreeMap<&'static str, bool>,
        }
        let sample = Sample { zebra: 1, ant: vec!["é", "\"\n"], middle: BTreeMap::from([("b", true), ("a", false)]) };
        let expected = "{\"Ant\":[\"é\",\"\\\"\\n\"],\"middle\":{\"a\":false,\"b\":true},\"zebra\":1}\n";
        assert_eq!(canonical(&sample).unwrap(), expected.as_bytes());
    }
}
