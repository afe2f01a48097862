//! The messages of KRP/1, the protocol by which a node gets the share of its disk's key. Each is one canonical JSON document ([`measurements::canonical`]), and has a bound of its own; those of the broker travel as the payload of a
//! signed [envelope](envelope).
//!
//! A message is named in transcripts by the SHA-256 of its bytes as they were sent, never of something that was written again.

use envelope::{Envelope, PublicKey};
use measurements::canonical::{self, Document};
use ring::signature::Ed25519KeyPair;
use sha2::{Digest, Sha256};

use crate::bytes::Bytes32;
use crate::{Code, Refusal};

mod reply;
mod request;

pub use reply::{Ack, DiskGrant, Hold, NodeCertificate, Receipt, Refused, Release, Sealed};
pub use request::{Challenge, Commit, CommitResult, Credential, DiskState, Evidence, Hello, Purpose, Resume};

/// The version of the protocol that is spoken.
pub const VERSION: u32 = 1;
/// What a message without logs may have.
const SMALL: usize = 16 << 10;
/// What evidence may have, with its logs.
const LARGE: usize = 1 << 20;

/// Bytes of a message, and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// As they are sent.
    pub bytes: Vec<u8>,
    /// Their SHA-256.
    pub digest: [u8; 32],
}

/// Reads a message; its digest comes with it.
///
/// # Errors
/// [`Code::Malformed`].
pub fn read<M: Document>(bytes: &[u8]) -> Result<(M, [u8; 32]), Refusal> {
    let message = canonical::read(bytes).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
    Ok((message, Sha256::digest(bytes).into()))
}

/// Writes a message.
///
/// # Errors
/// [`Code::Malformed`] where a number is too large, or the message longer than its bound.
pub fn write<M: Document>(message: &M) -> Result<Sent, Refusal> {
    let bytes = canonical::write(message).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
    let digest = Sha256::digest(&bytes).into();
    Ok(Sent { bytes, digest })
}

/// Payload type of a signed message.
pub fn payload_type<M: Document>() -> String {
    format!("application/vnd.{}+json", M::SCHEMA.replace('/', ".v"))
}

/// Writes and signs a message; gives the envelope's bytes, and the digest of the payload.
///
/// # Errors
/// As [`write`].
pub fn sign<M: Document>(message: &M, key_id: &str, key: &Ed25519KeyPair) -> Result<Sent, Refusal> {
    let Sent { bytes, digest } = write(message)?;
    let envelope = Envelope::sign(&payload_type::<M>(), &bytes, key_id, key);
    let bytes = serde_json::to_vec(&envelope).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
    Ok(Sent { bytes, digest })
}

/// Reads a message that this key signed; its digest comes with it.
///
/// # Errors
/// [`Code::Malformed`], [`Code::EnvelopeSignature`].
pub fn open<M: Document>(envelope: &[u8], key: &Bytes32) -> Result<(M, [u8; 32]), Refusal> {
    let key = PublicKey::Ed25519(key.0);
    read(&Envelope::parse(envelope)?.verify(&payload_type::<M>(), &[key], 1)?)
}

macro_rules! documents {
    ($($type:ident, $name:literal, $schema:literal, $largest:expr;)*) => {$(
        impl Document for $type {
            const NAME: &'static str = $name;
            const SCHEMA: &'static str = $schema;
            const LARGEST: usize = $largest;
        }
    )*};
}

documents! {
    Hello, "hello", "cairn.krp.hello/1", SMALL;
    Challenge, "challenge", "cairn.krp.challenge/1", SMALL;
    Evidence, "evidence", "cairn.krp.evidence/1", LARGE;
    Release, "release", "cairn.krp.release/1", SMALL;
    Hold, "hold", "cairn.krp.hold/2", SMALL;
    Refused, "refusal", "cairn.krp.refused/2", SMALL;
    Resume, "resumption", "cairn.krp.resume/1", SMALL;
    Commit, "commit", "cairn.krp.commit/1", SMALL;
    Ack, "acknowledgement", "cairn.krp.ack/2", SMALL;
    NodeCertificate, "node certificate", "cairn.node-certificate/2", SMALL;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Hex;

    fn hello() -> Hello {
        Hello {
            ak: Hex(vec![1, 2]),
            disk: DiskState::Luks { uuid: "0b5f6c6e-0000-4000-8000-000000000001".into(), digest: Bytes32([3; 32]) },
            ek: Hex(vec![4]),
            hpke_key: Bytes32([5; 32]),
            nonce: Bytes32([6; 32]),
            purpose: Purpose::Unlock,
            schema: Hello::SCHEMA.into(),
            slot: "state".into(),
            versions: [1, 1],
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_named_by_its_bytes() {
        let sent = write(&hello()).unwrap();
        let (message, digest): (Hello, _) = read(&sent.bytes).unwrap();
        assert_eq!((message, digest), (hello(), sent.digest));
        assert!(sent.bytes.ends_with(b"}\n"));
        let blank = Hello { disk: DiskState::Blank, ..hello() };
        assert_ne!(write(&blank).unwrap().digest, sent.digest);
    }

    #[test]
    fn other_bytes_are_malformed() {
        let good = String::from_utf8(write(&hello()).unwrap().bytes).unwrap();
        let nonce = "06".repeat(32);
        for (from, to) in [
            ("hello/1", "hello/2"),
            ("\"slot\"", "\"slot\":\"\",\"slot\""),
            ("\"slot\"", "\"more\":1,\"slot\""),
            (&*nonce, "06"),
            (&*nonce, &*"0G".repeat(32)),
            ("\"ak\":\"0102\"", "\"ak\":\"0A02\""),
            ("\"unlock\"", "\"probe\""),
            (":[1,1]", ":[1,1,1]"),
            (":[1,1]", ":[1, 1]"),
            ("\"luks\"", "\"plain\""),
        ] {
            assert!(good.contains(from), "{from}");
            let refusal = read::<Hello>(good.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert_eq!(refusal.code, Code::Malformed, "{to}");
        }
        for length in 0..good.len() {
            assert!(read::<Hello>(&good.as_bytes()[..length]).is_err());
        }
    }

    #[test]
    fn messages_have_bounds() {
        let long = Hello { ek: Hex(vec![0; SMALL]), ..hello() };
        assert_eq!(write(&long).unwrap_err().code, Code::Malformed);
        let bytes = [write(&hello()).unwrap().bytes, vec![b' '; SMALL]].concat();
        assert!(read::<Hello>(&bytes).unwrap_err().found.contains("16384"));
    }

    #[test]
    fn a_commit_with_all_that_it_may_have_fits() {
        let commit = Commit {
            generation: 1 << 52,
            quote: Hex(vec![0xff; 400]),
            registers: vec![Hex(vec![0xff; 64]); 16],
            release: Bytes32([0xff; 32]),
            result: CommitResult::Opened { header: Bytes32([0xff; 32]), volume: Bytes32([0xff; 32]) },
            schema: Commit::SCHEMA.into(),
            session: Hex(vec![0xff; 64]),
            signature: Hex(vec![0xff; 600]),
            stages: (0..100).map(|stage| (format!("a stage with a long name {stage}"), u32::MAX)).collect(),
        };
        let sent = write(&commit).unwrap();
        assert_eq!(read(&sent.bytes), Ok((commit, sent.digest)));
    }

    #[test]
    fn more_registers_than_are_quoted_are_refused_while_they_are_read() {
        use crate::runtime::Answer;
        fn refused<M: Document>() {
            let too_many = ["\"\""; 17].join(",");
            let document = format!("{{\"registers\":[{too_many}],\"schema\":\"{}\"}}", M::SCHEMA);
            let refusal = read::<M>(document.as_bytes()).err().unwrap();
            assert!(refusal.found.contains("more than 16"), "{refusal}");
        }
        refused::<Evidence>();
        refused::<Commit>();
        refused::<Answer>();
    }

    #[test]
    fn a_signed_message_is_read_by_its_key_and_as_what_it_is() {
        use ring::signature::KeyPair as _;
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let public = Bytes32(key.public_key().as_ref().try_into().unwrap());
        let sent = sign(&hello(), "broker", &key).unwrap();
        assert_eq!(open::<Hello>(&sent.bytes, &public).unwrap(), (hello(), write(&hello()).unwrap().digest));
        assert_eq!(sent.digest, write(&hello()).unwrap().digest);
        assert_eq!(open::<Hello>(&sent.bytes, &Bytes32([1; 32])).unwrap_err().code, Code::EnvelopeSignature);
        assert_eq!(open::<Evidence>(&sent.bytes, &public).unwrap_err().code, Code::EnvelopeSignature);
    }
}
