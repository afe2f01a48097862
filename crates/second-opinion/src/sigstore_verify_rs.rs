//! `sigstore-verify` (sigstore-rust): the whole bundle, with a key of our own.

use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::{Bundle, DerPublicKey, Sha256Hash};
use sigstore_verify::{PublicKeyVerificationPolicy, Verifier as Other};

use crate::{Case, Verifier, trusted_root};

pub struct SigstoreVerify;

impl Verifier for SigstoreVerify {
    const NAME: &'static str = "sigstore-verify 0.15.1";

    fn judge(case: &Case) -> Result<(), String> {
        let mut bundle = case.bundle.clone();
        bundle.timestamps.clear();
        let bytes = bundle.write().map_err(|refusal| refusal.found)?;
        let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
        let bundle = Bundle::from_json(&text).map_err(|error| error.to_string())?;
        let root = TrustedRoot::from_json(&trusted_root(case.root).to_string()).map_err(|error| error.to_string())?;
        let other = Other::new(&root).map_err(|error| error.to_string())?;
        let policy = PublicKeyVerificationPolicy::new(DerPublicKey::new(case.key.spki()));
        // It wants a file: every statement of ours is about at least one.
        let file = Sha256Hash::new(a_file_of(case)?);
        other.verify(file, &bundle, &policy).map(drop).map_err(|error| error.to_string())
    }
}

/// SHA-256 of a subject, read from the statement as plain JSON.
fn a_file_of(case: &Case) -> Result<[u8; 32], String> {
    let statement: serde_json::Value = serde_json::from_slice(&case.payload).map_err(|error| error.to_string())?;
    let subjects = statement["subject"].as_array().ok_or("the statement has no subjects")?;
    let digest = subjects.iter().find_map(|subject| subject["digest"]["sha256"].as_str());
    let digest = digest.and_then(|digest| Sha256Hash::from_hex(digest).ok());
    digest.map(|digest| *digest.as_bytes()).ok_or_else(|| "no subject has a SHA-256".into())
}
