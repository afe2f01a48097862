//! The manifest of a backup: length and digest of all members before it, signed with the broker's message key. Only the sealed box in the same backup has that key, so a backup that was changed, or put together from two, is refused.

use anyhow::{Result, anyhow, ensure};
use attest::bytes::Bytes32;
use attest::cluster::Cluster;
use attest::message;
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

impl Manifest {
    /// The manifest, if the broker of this certificate has signed it for this cluster. The sealed box must have the key that the certificate names, which unsealing verifies.
    ///
    /// # Errors
    /// The manifest has another signature or schema, or the certificate is not of this cluster.
    pub fn verify(envelope: &[u8], cluster: &[u8], certificate: &[u8]) -> Result<Self> {
        let cluster = Cluster::read(cluster).map_err(|refusal| anyhow!(refusal.found))?;
        let certificate = cluster.certificate(certificate).map_err(|refusal| anyhow!(refusal.found))?;
        let (manifest, _): (Self, _) = message::open(envelope, &certificate.message_key)
            .map_err(|refusal| anyhow!("the manifest is not signed by the broker of this backup: {}", refusal.found))?;
        let id = hex::encode(&cluster.id.0);
        ensure!(manifest.cluster == id, "the manifest is of cluster {}, cluster.json of {id}", manifest.cluster);
        Ok(manifest)
    }
}

impl Document for Manifest {
    const NAME: &'static str = "manifest of the backup";
    const SCHEMA: &'static str = "cairn.broker-backup/1";
    const LARGEST: usize = 4 << 10;
}
