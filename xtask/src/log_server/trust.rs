//! `trusted_root.json` of Sigstore (protobuf-specs, sigstore_trustroot.proto): which logs and timestamp authorities a verifier believes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::rekor::Log;
use super::timestamps::{ORGANIZATION, SUBJECT, TimestampAuthority};

/// Logs and authorities of this kind are believed from the beginning: they exist for one test, or one afternoon.
const START: &str = "2024-01-01T00:00:00Z";

/// The trust root that names this log, and this authority if there is one. Readers of Sigstore's own libraries want all four lists.
pub fn trusted_root(log: &Log, timestamps: Option<&TimestampAuthority>) -> String {
    let authorities = timestamps.map(|authority| {
        let certificates = authority.chain.iter().map(|certificate| json!({"rawBytes": STANDARD.encode(certificate)}));
        json!({
            "certChain": {"certificates": certificates.collect::<Vec<_>>()},
            "subject": {"commonName": SUBJECT, "organization": ORGANIZATION},
            "uri": authority.address,
            "validFor": {"start": START},
        })
    });
    let root = json!({
        "certificateAuthorities": [],
        "ctlogs": [],
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "timestampAuthorities": authorities.into_iter().collect::<Vec<_>>(),
        "tlogs": [{
            "baseUrl": format!("http://{}", log.origin),
            "hashAlgorithm": "SHA2_256",
            "logId": {"keyId": STANDARD.encode(log.key.log_id(&log.origin))},
            "publicKey": {
                "keyDetails": "PKIX_ED25519",
                "rawBytes": STANDARD.encode(log.key.public_der()),
                "validFor": {"start": START},
            },
        }],
    });
    format!("{root}\n")
}
