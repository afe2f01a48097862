//! The manifest of a backup: length and digest of all members before it, signed with the broker's message key. Only the sealed box in the same backup has that key, so a backup that was changed, or put together from two, is refused.

use attest::bytes::Bytes32;
use measurements::canonical::Document;
use serde::{Deserialize, Serialize};

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Bytes of the archive before the manifest's own header.
    pub bytes: u64,
    /// Id of the cluster.
    pub cluster: String,
    /// RFC 3339, by the broker's clock.
    pub created: String,
    /// SHA-256 of these bytes.
    pub digest: Bytes32,
    /// The first leaf of the audit log that the backup has: not 0 where the broker had lost files of its log.
    pub first_leaf: u64,
    /// Its schema.
    pub schema: String,
}

impl Document for Manifest {
    const NAME: &'static str = "manifest of the backup";
    const SCHEMA: &'static str = "cairn.broker-backup/1";
    const LARGEST: usize = 4 << 10;
}
