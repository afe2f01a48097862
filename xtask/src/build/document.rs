//! The documents beside an image: `.image.json` says what was made of what, `.packages.json` which packages are in it.
//!
//! Both are canonical JSON (RFC 8785: sorted keys, no blanks, integers only) and end with a newline. They hold nothing
//! that differs between two builds of the same commit and lock; how long stages took goes to a file apart.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::digest::Sha256Digest;
use crate::lock::Package;

/// Schema of `.image.json`.
pub const IMAGE_SCHEMA: &str = "cairn.image/1";
/// Schema of `.packages.json`.
pub const PACKAGES_SCHEMA: &str = "cairn.packages/1";

/// `.image.json`.
#[derive(Clone, Debug, Serialize)]
pub struct ImageDocument {
    /// [`IMAGE_SCHEMA`].
    pub schema: &'static str,
    /// Image id.
    pub id: String,
    /// Version.
    pub version: String,
    /// `production`, or the profile's name.
    pub variant: String,
    /// Whether the image has a way in.
    pub debug: bool,
    /// Security epoch.
    pub epoch: u64,
    /// Commit of the sources.
    pub revision: String,
    /// Whether the sources differ from that commit.
    pub dirty: bool,
    /// SHA-256 of the lock.
    pub lock: Sha256Digest,
    /// Whether the lock is the committed one.
    pub locked: bool,
    /// Every time stamp in the image, seconds since 1970.
    pub source_date: u64,
    /// Compiler of the agent.
    pub toolchain: ToolchainDocument,
    /// Release of the kernel.
    pub kernel: String,
    /// Kernel command line.
    pub command_line: String,
    /// Root hash of the verity tree.
    pub root_hash: String,
    /// Partition table.
    pub partitions: Vec<PartitionDocument>,
    /// Every output by its file name.
    pub outputs: BTreeMap<String, OutputDocument>,
}

/// The compiler.
#[derive(Clone, Debug, Serialize)]
pub struct ToolchainDocument {
    /// Version of rustc.
    pub rustc: String,
    /// Its commit.
    pub commit: String,
}

/// One partition.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionDocument {
    /// Number, from 1.
    pub index: u32,
    /// Name in the table.
    pub name: String,
    /// Type GUID.
    #[serde(rename = "type")]
    pub type_guid: String,
    /// Unique GUID.
    pub uuid: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// One output.
#[derive(Clone, Debug, Serialize)]
pub struct OutputDocument {
    /// Bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: Sha256Digest,
}

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
