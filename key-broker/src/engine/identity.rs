//! The files that identify the broker, as it has read them: cluster.json at its start, sealed box and certificate when it was unsealed, key and certificate of its connections at its start. A backup with other bytes would be of another broker, or of none.

use attest::bytes::Bytes32;

use super::{Engine, sha256};
use crate::backup::members::IDENTITY;

impl Engine {
    /// Notes the files of the broker's connections.
    pub fn note_tls(&self, key: &[u8], certificate: &[u8]) {
        // A broker reads them once.
        let _ = self.tls.set([sha256(key), sha256(certificate)]);
    }

    /// SHA-256 of each file of [`IDENTITY`] as the broker has read it; none while it is sealed.
    pub fn identity(&self) -> Option<[(&'static str, Bytes32); IDENTITY.len()]> {
        let (open, [tls_key, tls_certificate]) = (self.keys()?, self.tls.get()?);
        let certificate = sha256(&open.keys.certificate);
        let digests = [self.cluster_digest, certificate, open.keys.sealed.0, *tls_key, *tls_certificate];
        Some(std::array::from_fn(|number| (IDENTITY[number], Bytes32(digests[number]))))
    }
}
