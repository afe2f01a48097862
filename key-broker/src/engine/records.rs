//! What is kept of nodes, releases, disks and boots, as JSON values of the store.

use std::collections::BTreeMap;

use attest::bytes::{Bytes32, Hex};
use attest::message::Purpose;
use attest::recovery::Recovery;
use measurements::Bank;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use state_disk::record::{HeaderDigests, Record, State};

use super::audit::KeptHead;
use crate::store::{Error, Table, Transaction};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// SHA-256 of its endorsement key's public area.
    pub ek: Bytes32,
    /// SHA-256 of its machine reference.
    pub machine: Bytes32,
    /// What the machine is called.
    pub machine_name: String,
    /// The bank that it quotes.
    pub bank: Bank,
    /// Whether an operator must approve it first.
    pub held: bool,
    /// Whether it is gone.
    pub retired: bool,
    /// Its attestation key's public area, once it was activated.
    pub ak: Option<Hex>,
    /// Release of its last boot.
    pub release: Option<String>,
    /// The highest security epoch of a logged release for which it was given a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// When it was last given a share.
    pub seen: Option<String>,
    /// Why it waits, and the request under which that is in the audit log: asked again for the same reason, it gets the same request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// Why a node waits, or why its report was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// The code.
    pub code: String,
    /// The request.
    pub request: String,
}

/// A release that nodes may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// What it is called.
    pub name: String,
    /// Its image reference.
    pub reference: String,
    /// Whether nobody signed it.
    pub unsigned: bool,
    /// How it is shown to be signed and logged (a Sigstore bundle).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// That it was built again, and came out the same (Sigstore bundles).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuilds: Vec<String>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Schema of this record: [`Disk::SCHEMA`], or 1 where the share is wrapped without the endorsement key of its node.
    pub schema: u32,
    /// Its id, which is the UUID of its header.
    pub id: String,
    /// The node that it belongs to.
    pub node: String,
    /// Its slot there.
    pub slot: String,
    /// pending, active, quarantine or retired.
    pub state: String,
    /// The boot in which it is being made.
    pub pending: Option<Hex>,
    /// How often it was committed.
    pub generation: u64,
    /// Digest of its header, current.
    pub header: Option<Bytes32>,
    /// Digest of its header, announced.
    pub next_header: Option<Bytes32>,
    /// The boot of the last release.
    pub released: Option<Hex>,
    /// Whether that boot has reported.
    pub committed: bool,
    /// The head of the audit log that its node got with the last release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<KeptHead>,
    /// Releases in a row, to unlock it, after which no report came.
    #[serde(default)]
    pub unreported: u32,
    /// How it is laid out.
    pub layout: String,
    /// Epoch of the key that wraps its share.
    pub epoch: u64,
    /// Nonce and share, wrapped; none once it is destroyed.
    pub share: Option<Hex>,
    /// The share, sealed to the recovery keys.
    pub recovery: Option<Recovery>,
}

/// What an operator has granted for a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// A disk may be overwritten, once.
    pub overwrite: bool,
}

/// The last boot of a node that was given a release. A node has one latch, which a later boot replaces: its TPM's counts only grow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latch {
    /// SHA-256 of the endorsement key's public area.
    pub ek: Bytes32,
    /// How often the node's TPM had been reset (Part 2, section 10.11.1).
    pub reset: u32,
    /// How often it had been restarted since.
    pub restart: u32,
    /// Lowest counts, below these, of a boot that has attested since: the TPM was cleared, or an older state of it restored. Every boot is held until an operator approves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleared: Option<(u32, u32)>,
    /// The counts are those of a boot that was held as one of a cleared TPM, and approved: nothing was released in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approved: bool,
    /// The session; empty once the counts are those of an approved boot.
    pub session: Hex,
    /// The request.
    pub request: String,
    /// The node.
    pub node: String,
    /// The slot.
    pub slot: String,
    /// What was asked for.
    pub purpose: Purpose,
    /// What the evidence is worth.
    pub assurance: String,
    /// The bank that was quoted.
    pub bank: Bank,
    /// The attestation key's public area.
    pub ak: Hex,
    /// Security epoch of the release that it runs, if that is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The registers of the release quote.
    pub registers: BTreeMap<u8, Hex>,
    /// SHA-256 of the release's payload.
    pub release: Bytes32,
    /// The reply as it was sent; empty once it was destroyed.
    pub reply: String,
    /// Until when it may report, in seconds since 1970.
    pub deadline: u64,
    /// SHA-256 of its report, and what was acknowledged.
    pub acknowledged: Option<(Bytes32, String)>,
    /// SHA-256 of what the quote of the acknowledged report covers; not in records of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<Bytes32>,
    /// The first refusal of a report on this release, which is in the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Waiting>,
}

/// Names the boot of a machine: its TPM, and the counts of resets and restarts, which do not depend on the attestation key.
pub fn boot_of(ek: &Bytes32, reset: u32, restart: u32) -> Vec<u8> {
    [&ek.0[..], &reset.to_be_bytes(), &restart.to_be_bytes()].concat()
}

impl Latch {
    /// The boot, as the disk's record names it.
    pub fn boot(&self) -> Vec<u8> {
        boot_of(&self.ek, self.reset, self.restart)
    }

    /// Resets and restarts.
    pub const fn counts(&self) -> (u32, u32) {
        (self.reset, self.restart)
    }
}

impl Disk {
    /// Schema of the records that are written.
    pub const SCHEMA: u32 = 2;

    /// As the rules of records have it.
    pub fn record(&self) -> Record {
        let boot = |hex: &Option<Hex>| hex.as_ref().map(|boot| boot.0.clone());
        let state = match self.state.as_str() {
            "pending" => State::Pending(boot(&self.pending).unwrap_or_default()),
            "active" => State::Active,
            "retired" => State::Retired,
            // Whatever else it says, a person must look.
            _ => State::Quarantine,
        };
        let header = self
            .header
            .map(|current| HeaderDigests { current: current.0, pending: self.next_header.map(|digest| digest.0) });
        Record {
            node: self.node.clone(),
            state,
            generation: self.generation,
            header,
            released: boot(&self.released),
            committed: self.committed,
        }
    }

    /// Takes over what the rules have changed.
    pub fn take(&mut self, record: &Record) {
        let hex = |boot: &Vec<u8>| Hex(boot.clone());
        (self.state, self.pending) = match &record.state {
            State::Pending(boot) => ("pending".into(), Some(hex(boot))),
            State::Active => ("active".into(), None),
            State::Quarantine => ("quarantine".into(), None),
            State::Retired => ("retired".into(), None),
        };
        self.generation = record.generation;
        self.header = record.header.map(|header| Bytes32(header.current));
        self.next_header = record.header.and_then(|header| header.pending).map(Bytes32);
        self.released = record.released.as_ref().map(hex);
        self.committed = record.committed;
    }

    /// The key of its record.
    pub fn key(node: &str, slot: &str) -> Vec<u8> {
        format!("{node}/{slot}").into_bytes()
    }
}

/// Reads a value.
///
/// # Errors
/// [`Error`].
pub fn get<T: DeserializeOwned>(open: &dyn Transaction, table: Table, key: &[u8]) -> Result<Option<T>, Error> {
    let Some(bytes) = open.get(table, key)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|_| Error::Damaged(table.name()))
}

/// The bytes of a value.
///
/// # Errors
/// [`Error`].
pub fn bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Work(error.to_string()))
}

/// Writes a value.
///
/// # Errors
/// [`Error`].
pub fn put<T: Serialize>(open: &mut dyn Transaction, table: Table, key: &[u8], value: &T) -> Result<(), Error> {
    open.put(table, key, &bytes(value)?)
}

/// All values of a table.
///
/// # Errors
/// [`Error`].
pub fn all<T: DeserializeOwned>(open: &dyn Transaction, table: Table) -> Result<Vec<(Vec<u8>, T)>, Error> {
    let rows = open.last(table, usize::MAX)?;
    let read = |(key, bytes): (Vec<u8>, Vec<u8>)| {
        serde_json::from_slice(&bytes).map(|value| (key, value)).map_err(|_| Error::Damaged(table.name()))
    };
    rows.into_iter().map(read).collect()
}
