//! The entry of a release in a log (Rekor v2, hashedrekord 0.0.2): SHA-256 of what was signed, the signature, the key. The log keeps nothing else, so the entry is not read but made again from the envelope.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::key::Key;

/// Kind of the entry.
pub const KIND: &str = "hashedrekord";
/// Version of the kind.
pub const VERSION: &str = "0.0.2";

/// The entry's canonical body for these signed bytes: RFC 8785, without a final newline. `key` is of P-256.
pub fn body(signed: &[u8], signature: &[u8], key: &Key) -> Vec<u8> {
    let body = json!({
        "apiVersion": VERSION,
        "kind": KIND,
        "spec": {"hashedRekordV002": {
            "data": {"algorithm": "SHA2_256", "digest": STANDARD.encode(Sha256::digest(signed))},
            "signature": {
                "content": STANDARD.encode(signature),
                "verifier": {
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "publicKey": {"rawBytes": STANDARD.encode(key.spki())},
                },
            },
        }},
    });
    // The maps of a value are sorted.
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_canonical() {
        let body = String::from_utf8(body(b"abc", &[1], &Key::ed25519([0; 32]))).unwrap();
        assert!(body.starts_with(
            r#"{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="},"signature":{"content":"AQ==","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","publicKey":{"rawBytes":""#
        ));
    }
}
