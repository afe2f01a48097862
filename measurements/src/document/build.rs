//! What was made of what (`cairn.image/1`): inputs and outputs of a build, as `.image.json` has them. It holds nothing that differs between two builds of the same commit and lock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Error;
use super::image::Toolchain;
use crate::bytes::Bytes32;
use crate::canonical::{Document, read, write};

/// `.image.json`. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDocument {
    /// Kernel command line.
    pub command_line: String,
    /// Whether the image has a way in.
    pub debug: bool,
    /// Whether the sources differ from their commit.
    pub dirty: bool,
    /// Security epoch.
    pub epoch: u64,
    /// Image id.
    pub id: String,
    /// Release of the kernel.
    pub kernel: String,
    /// SHA-256 of the lock.
    pub lock: Bytes32,
    /// Whether the lock is the committed one.
    pub locked: bool,
    /// Every output by its file name.
    pub outputs: BTreeMap<String, OutputDocument>,
    /// Partition table.
    pub partitions: Vec<PartitionDocument>,
    /// Commit of the sources.
    pub revision: String,
    /// Root hash of the verity tree.
    pub root_hash: String,
    /// `cairn.image/1`.
    pub schema: String,
    /// Every time stamp in the image, seconds since 1970.
    pub source_date: u64,
    /// Compiler of the agent.
    pub toolchain: Toolchain,
    /// `production`, or the profile's name.
    pub variant: String,
    /// Version.
    pub version: String,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionDocument {
    /// Number, from 1.
    pub index: u32,
    /// Name in the table.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// First byte.
    pub start: u64,
    /// Type GUID.
    #[serde(rename = "type")]
    pub type_guid: String,
    /// Unique GUID.
    pub uuid: String,
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputDocument {
    /// SHA-256.
    pub sha256: Bytes32,
    /// Bytes.
    pub size: u64,
}

impl Document for ImageDocument {
    const NAME: &'static str = "image document";
    const SCHEMA: &'static str = "cairn.image/1";
}

impl ImageDocument {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        read(bytes)
    }

    /// The document.
    ///
    /// # Errors
    /// [`Error`] where a value cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        write(self)
    }
}
