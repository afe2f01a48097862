//! What a node sends, and the challenge that it answers.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::bytes::{Bytes32, Hex, at_most};

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
        /// Its UUID, in lower case.
        #[serde(deserialize_with = "uuid")]
        uuid: String,
        /// SHA-256 of its whole area.
        digest: Bytes32,
    },
}

/// A UUID as headers of ours have it, and no other text: whoever writes headers would else write into the operator's log.
fn uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match state_disk::id::parse(&text) {
        Some(_) => Ok(text),
        None => Err(D::Error::custom("the UUID of the disk is not one in lower case")),
    }
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
    #[serde(deserialize_with = "at_most::<16, _, _>")]
    pub registers: Vec<Hex>,
    /// SHA-256 of the bundle of the release that the node was given, as its hints say; believed by nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Bytes32>,
    /// Its schema.
    pub schema: String,
    /// The session.
    pub session: Hex,
    /// TPMT_SIGNATURE.
    pub signature: Hex,
    /// systemd's log, with the agent's measurements.
    pub user_space_log: String,
}

/// M5, from the node: what became of the release, and a second quote that shows that the boot was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// How often the disk was released, which the generation block now says; 0 where nothing was opened.
    pub generation: u64,
    /// TPMS_ATTEST over PCR 0 to 15, bound by [`crate::binding::Commitment`].
    pub quote: Hex,
    /// PCR 0 to 15 of the quoted bank, in order.
    #[serde(deserialize_with = "at_most::<16, _, _>")]
    pub registers: Vec<Hex>,
    /// SHA-256 of the release's payload.
    pub release: Bytes32,
    /// What became of it.
    pub result: CommitResult,
    /// Its schema.
    pub schema: String,
    /// The session of the release.
    pub session: Hex,
    /// TPMT_SIGNATURE.
    pub signature: Hex,
    /// Milliseconds since PID 1 began, by stage.
    pub stages: std::collections::BTreeMap<String, u32>,
}

/// What became of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "state")]
pub enum CommitResult {
    /// The disk was made.
    Formatted {
        /// SHA-256 of its header's whole area.
        header: Bytes32,
        /// HMAC that PCR 15 was extended with: names the volume key.
        volume: Bytes32,
    },
    /// The disk was opened.
    Opened {
        /// SHA-256 of its header's whole area.
        header: Bytes32,
        /// HMAC that PCR 15 was extended with: names the volume key.
        volume: Bytes32,
    },
    /// It was not: the agent's code.
    Failed {
        /// As `docs/agent-codes.md` has it.
        code: String,
    },
}

/// Asks for the stored reply of a session again, after a lost one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Its schema.
    pub schema: String,
    /// The session.
    pub session: Hex,
}
