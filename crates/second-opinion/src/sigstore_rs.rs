//! `sigstore` (sigstore-rs): the signature, the proof of the entry, and the log's signature under its head.

use sigstore::crypto::{CosignVerificationKey, Signature};
use sigstore::rekor::models::InclusionProof;
use sigstore::rekor::models::checkpoint::SignedCheckpoint;
use transparency::key::Key;

use crate::{Case, Verifier};

pub struct Sigstore;

impl Verifier for Sigstore {
    const NAME: &'static str = "sigstore 0.15.0";

    fn judge(case: &Case) -> Result<(), String> {
        let signed = key(case.key)?.verify_signature(Signature::Raw(&case.signature), &case.signed);
        signed.map_err(|error| format!("the signature: {error}"))?;
        let entry = &case.bundle.entry;
        let (log, origin) = case.log;
        let proof = InclusionProof::new(
            i64::try_from(entry.index).map_err(|error| error.to_string())?,
            entry.root,
            entry.size,
            entry.path.clone(),
            Some(head(&entry.checkpoint, origin)?),
        );
        proof.verify(&entry.body, &key(log)?).map_err(|error| format!("the proof: {error}"))
    }
}

fn key(key: &Key) -> Result<CosignVerificationKey, String> {
    CosignVerificationKey::try_from_der(&key.spki()).map_err(|error| error.to_string())
}

/// The head with the log's own signature alone: sigstore 0.15.0 takes the lines behind it for one, and so reads no head that a witness has signed.
fn head(note: &str, origin: &str) -> Result<SignedCheckpoint, String> {
    let (body, signatures) = note.split_once("\n\n").ok_or("the head has no signatures")?;
    let is_own = |line: &&str| line.split(' ').nth(1) == Some(origin);
    let own = signatures.lines().find(is_own).ok_or("the head has no signature of its log")?;
    serde_json::from_value(format!("{body}\n\n{own}\n").into()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "log.test.invalid\n1\nAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n\n\u{2014} log.test.invalid AAAAAAAA\n";

    #[test]
    fn heads_with_witnesses_still_need_the_detour() {
        let witnessed = format!("{HEAD}\u{2014} witness.test.invalid AAAAAAAA\n");
        assert!(head(HEAD, "log.test.invalid").is_ok() && head(&witnessed, "log.test.invalid").is_ok());
        let read = |note: &str| serde_json::from_value::<SignedCheckpoint>(note.into());
        assert!(read(HEAD).is_ok());
        assert!(read(&witnessed).is_err(), "sigstore reads witnessed heads now: give them to it whole");
    }
}
