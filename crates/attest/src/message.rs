//! The messages of KRP/1, the protocol by which a node gets the share of its disk's key. Each is one canonical JSON document ([`measurements::canonical`]), and has a bound of its own; those of the broker travel as the payload of a
//! signed [envelope](crate::dsse).
//!
//! A message is named in transcripts by the SHA-256 of its bytes as they were sent, never of something that was written again.

use measurements::canonical::{self, Document};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bytes::{Bytes32, Hex};
use crate::{Code, Refusal};

/// The version of the protocol that is spoken.
pub const VERSION: u32 = 1;
/// What a hello may have.
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
    let refuse = |found: String| Refusal::new(Code::Malformed, found);
    let bytes = canonical::write(message).map_err(|error| refuse(error.to_string()))?;
    if bytes.len() > M::LARGEST {
        return Err(refuse(format!(
            "the {} would have {} bytes, at most {} are read",
            M::NAME,
            bytes.len(),
            M::LARGEST
        )));
    }
    let digest = Sha256::digest(&bytes).into();
    Ok(Sent { bytes, digest })
}

/// What a disk is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// It is made.
    Provision,
    /// It is opened.
    Unlock,
}

impl From<Purpose> for crate::binding::Purpose {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Provision => Self::Provision,
            Purpose::Unlock => Self::Unlock,
        }
    }
}

/// What a node finds on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "state")]
pub enum DiskState {
    /// Nothing, at both ends.
    Blank,
    /// Something that is not ours.
    Foreign,
    /// A header of LUKS2: what it says is not believed, only compared.
    Luks {
        /// Its UUID.
        uuid: String,
        /// SHA-256 of its whole area.
        digest: Bytes32,
    },
}

/// M1, from the node: who it is, what it wants, and the key of this boot that a secret may be sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The attestation key's public area (TPMT_PUBLIC).
    pub ak: Hex,
    /// The disk.
    pub disk: DiskState,
    /// The endorsement key's public area.
    pub ek: Hex,
    /// Public key of HPKE, made in this boot and kept in memory alone.
    pub hpke_key: Bytes32,
    /// The node's nonce.
    pub nonce: Bytes32,
    /// What is asked for.
    pub purpose: Purpose,
    /// Its schema.
    pub schema: String,
    /// Which of the node's disks it is.
    pub slot: String,
    /// Versions of the protocol that the node speaks, least and most.
    pub versions: [u32; 2],
}

/// M2, from the broker, signed: what the evidence must be bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// The bank that is quoted.
    pub bank: measurements::Bank,
    /// For an attestation key that is not known: what its TPM must activate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// Epoch of the broker's keys: nodes refuse lower ones than they know.
    pub epoch: u64,
    /// SHA-256 of the hello that this answers.
    pub hello: Bytes32,
    /// The broker's nonce.
    pub nonce: Bytes32,
    /// Its schema.
    pub schema: String,
    /// The session, opaque to the node.
    pub session: Hex,
    /// Seconds that the node has to answer.
    pub ttl: u32,
    /// The version that is spoken.
    pub version: u32,
}

/// What TPM2_ActivateCredential takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// TPM2B_ID_OBJECT, without its length.
    pub blob: Hex,
    /// TPM2B_ENCRYPTED_SECRET, without its length.
    pub seed: Hex,
}

/// M3, from the node: the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// HMAC under the activated credential over the transcript, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Bytes32>,
    /// The firmware's log.
    pub event_log: Hex,
    /// TPMS_ATTEST.
    pub quote: Hex,
    /// PCR 0 to 15 of the quoted bank, in order.
    pub registers: Vec<Hex>,
    /// Its schema.
    pub schema: String,
    /// The session.
    pub session: Hex,
    /// TPMT_SIGNATURE.
    pub signature: Hex,
    /// systemd's log, with the agent's measurements.
    pub user_space_log: String,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            ak: Hex(vec![1, 2]),
            disk: DiskState::Luks { uuid: "0b5f6c6e".into(), digest: Bytes32([3; 32]) },
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
        let bytes = canonical::write(&long).unwrap();
        assert!(read::<Hello>(&bytes).unwrap_err().found.contains("16384"));
    }
}
