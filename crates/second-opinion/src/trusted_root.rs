//! A trust root as Sigstore's tools read it (`trusted_root.json`, protobuf-specs): its logs, and nothing else, for the other fields are of certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::PublicKey;
use serde_json::{Value, json};
use transparency::trust_root::TrustRoot;

/// The document, for `cosign --trusted-root` and for `sigstore-verify`. All four lists must be there for some of the tools.
pub fn trusted_root(root: &TrustRoot) -> Value {
    let logs = root.logs().map(|(key, origin)| {
        let details = match key.public() {
            PublicKey::Ed25519(_) => "PKIX_ED25519",
            PublicKey::P256(_) => "PKIX_ECDSA_P256_SHA_256",
        };
        json!({
            "baseUrl": format!("https://{origin}"),
            "hashAlgorithm": "SHA2_256",
            "logId": {"keyId": STANDARD.encode(key.note_id(origin))},
            "publicKey": {
                "keyDetails": details,
                "rawBytes": STANDARD.encode(key.spki()),
                "validFor": {"start": "1970-01-01T00:00:00Z"},
            },
        })
    });
    json!({
        "certificateAuthorities": [],
        "ctlogs": [],
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "timestampAuthorities": [],
        "tlogs": logs.collect::<Vec<_>>(),
    })
}
