//! What a broker answers.

use serde::{Deserialize, Serialize};

use crate::bytes::{Bytes32, Hex};

/// M4, from the broker, signed: the share of a disk's key, sealed to the key of this boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// What the evidence is worth, in the words of `cluster.json`.
    pub assurance: String,
    /// Seconds that the node has to report what became of it.
    pub commit_within: u32,
    /// The disk.
    pub disk: DiskGrant,
    /// Head of the broker's audit log, with this release in it.
    pub receipt: Receipt,
    /// What the operator asks for, to see what happened: `key-broker explain REQUEST`.
    pub request: String,
    /// Its schema.
    pub schema: String,
    /// The share.
    pub share: Sealed,
    /// The conversation that this answers ([`crate::binding::Transcript`]).
    pub transcript: Bytes32,
}

/// What the broker knows of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskGrant {
    /// How often it was committed.
    pub generation: u64,
    /// SHA-256 of its header's whole area, current and, if one was announced, pending; none where it is to be made.
    pub headers: Vec<Bytes32>,
    /// Its id, which is the UUID of its header.
    pub id: String,
    /// Whether what is on it may be overwritten, by an operator's grant.
    pub overwrite: bool,
    /// For a disk that is to be made: the share sealed to the recovery keys, which is written beside the header ([`crate::recovery`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<crate::recovery::Recovery>,
    /// The slot.
    pub slot: String,
}

/// Something sealed by HPKE ([`crate::hpke`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Ciphertext and tag.
    pub ciphertext: Hex,
    /// The encapsulated key.
    pub encapsulated: Bytes32,
}

/// The head of a broker's audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The signed checkpoint (C2SP tlog-checkpoint).
    pub checkpoint: String,
    /// The root of the tree.
    pub root: Bytes32,
    /// How many leaves it has.
    pub size: u64,
}

/// Signed by the broker: the evidence is good, operator approval is required. The node waits and begins again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The request that this answers ([`crate::binding::answered`]).
    pub answers: Bytes32,
    /// What the operator asks for.
    pub request: String,
    /// Seconds to wait.
    pub retry_after: u32,
    /// Its schema.
    pub schema: String,
}

/// Signed by the broker: nothing is released. All refusals have the same size and fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The request that this answers ([`crate::binding::answered`]).
    pub answers: Bytes32,
    /// What the operator asks for: 32 hexadecimal digits.
    pub request: String,
    /// Its schema.
    pub schema: String,
}

/// M6, from the broker, signed: the record is as the node said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// The node's certificate: an envelope with a [`NodeCertificate`], as a string. Only for a disk that was made or opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// SHA-256 of the commit.
    pub commit: Bytes32,
    /// What the broker says of the disk, which is written beside its header: an envelope with a [`crate::recovery::DiskStatement`], as a string. Only for a disk that was made or opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// How often the disk was committed, with this one.
    pub generation: u64,
    /// Head of the broker's audit log, with this commit in it.
    pub receipt: Receipt,
    /// Its schema.
    pub schema: String,
}

/// What a broker says of one boot of a node that has shown what it is, closed its boot and opened its disk. Signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeCertificate {
    /// Name of the attestation key, 34 bytes.
    pub ak_name: Hex,
    /// What the evidence was worth.
    pub assurance: String,
    /// Id of the cluster.
    pub cluster: String,
    /// Epoch of the broker's keys.
    pub epoch: u64,
    /// Name of the node.
    pub node: String,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
    /// SHA-256 of the payload of the release, as in PCR 15.
    pub release: Bytes32,
    /// How often the TPM had been reset.
    pub reset: u32,
    /// How often it had been restarted since.
    pub restart: u32,
    /// Its schema.
    pub schema: String,
    /// Name of the volume key, as in PCR 15.
    pub volume: Bytes32,
}
