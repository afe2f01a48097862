//! The audit log: one leaf for each decision, in a Merkle tree whose head is signed with each of them (RFC 6962; C2SP tlog-checkpoint). Nodes keep the heads that they are given as receipts. The newest leaves are in the database; older ones move to files
//! beside it.

mod bundles;
mod leaves;
mod moving;
mod verify;
pub mod witness;

use attest::bytes::Bytes32;
use attest::message::Receipt;
use ring::signature::Ed25519KeyPair;
use serde::{Deserialize, Serialize};
use transparency::checkpoint::Checkpoint;
use transparency::tree::{self, Frontier};

pub use bundles::{Bundles, Problem as BundleProblem, WIDTH};
pub use leaves::{Problem, first_in_database, of_request, tail};
#[cfg(test)]
pub use moving::MIN_IN_DATABASE;
pub use moving::move_leaves;
pub use verify::verify;

use super::records::{bytes, get, put};
use crate::store::{Error, MAX_INDEXED_LEAVES, Table, Transaction};

const HEAD: &[u8] = b"audit head";
/// Longest text of a leaf, so that the leaf is not longer than an entry of a bundle may be.
const MAX_FOUND_BYTES: usize = 8 << 10;

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Number of the leaf, from 0.
    pub number: u64,
    /// When, by the broker's clock.
    pub time: String,
    /// The request.
    pub request: String,
    /// The node, if it is known.
    pub node: String,
    /// The code.
    pub code: String,
    /// What was found, or what was done.
    pub found: String,
}

/// The head of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    size: u64,
    roots: Vec<Bytes32>,
    checkpoint: String,
    /// The latest time at which a leaf was appended, in seconds since 1970.
    #[serde(default)]
    time: u64,
}

/// Who signs, and which log it is.
pub struct Signer<'a> {
    /// `cairn/<cluster>/audit`.
    pub origin: &'a str,
    /// The key.
    pub key: &'a Ed25519KeyPair,
    /// Now, in seconds since 1970.
    pub now: u64,
}

/// Appends a leaf; its number is set here. Gives the new head.
///
/// # Errors
/// [`Error`].
pub fn append(open: &mut dyn Transaction, mut leaf: Leaf, signer: &Signer) -> Result<Receipt, Error> {
    let head = head_of(open)?;
    let roots = head.roots.iter().map(|root| root.0).collect();
    let mut frontier = Frontier::new(head.size, roots).ok_or(Error::Damaged("audit head"))?;
    leaf.number = frontier.size();
    let end = leaf.found.floor_char_boundary(MAX_FOUND_BYTES);
    leaf.found.truncate(end);
    let content = bytes(&leaf)?;
    frontier.append(tree::leaf(&content));
    let key = leaf.number.to_be_bytes();
    if !open.insert(Table::Audit, &key, &content)? {
        return Err(Error::Damaged("audit log"));
    }
    index(open, &leaf)?;
    let (size, root) = (frontier.size(), frontier.root());
    let checkpoint = Checkpoint { origin: signer.origin.to_owned(), size, root }.sign(signer.key);
    let roots = frontier.roots().iter().copied().map(Bytes32).collect();
    let time = head.time.max(signer.now);
    put(open, Table::State, HEAD, &Head { size, roots, checkpoint: checkpoint.clone(), time })?;
    Ok(Receipt { checkpoint, root: Bytes32(root), size })
}

/// Enters the leaf into the index by request, in the place of the leaf that is older by [`MAX_INDEXED_LEAVES`].
fn index(open: &mut dyn Transaction, leaf: &Leaf) -> Result<(), Error> {
    let place = (leaf.number % MAX_INDEXED_LEAVES).to_be_bytes();
    if let Some(oldest) = open.get(Table::RecentRequests, &place)? {
        open.remove(Table::Requests, &oldest)?;
        open.remove(Table::RecentRequests, &place)?;
    }
    if leaf.request.is_empty() {
        return Ok(());
    }
    open.put(Table::Requests, leaf.request.as_bytes(), &leaf.number.to_be_bytes())?;
    open.put(Table::RecentRequests, &place, leaf.request.as_bytes())
}

/// The latest time at which a leaf was appended, in seconds since 1970.
///
/// # Errors
/// [`Error`].
pub fn latest_time(open: &dyn Transaction) -> Result<u64, Error> {
    Ok(head_of(open)?.time)
}

/// It is at least this late: witnesses or authorities have signed it, or a broker has used it.
///
/// # Errors
/// [`Error`].
pub fn at_least(open: &mut dyn Transaction, proved: u64) -> Result<(), Error> {
    let head = head_of(open)?;
    if proved <= head.time {
        return Ok(());
    }
    put(open, Table::State, HEAD, &Head { time: proved, ..head })
}

/// A head of the log that was kept elsewhere: how many leaves it is of, and its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptHead {
    /// How many leaves.
    pub size: u64,
    /// The root of their tree.
    pub root: Bytes32,
}

/// The signed head, as text (C2SP tlog-checkpoint); empty where nothing was decided yet.
///
/// # Errors
/// [`Error`].
pub fn head(open: &dyn Transaction) -> Result<String, Error> {
    Ok(head_of(open)?.checkpoint)
}

/// Number of leaves of the log.
///
/// # Errors
/// [`Error`].
pub fn size(open: &dyn Transaction) -> Result<u64, Error> {
    Ok(head_of(open)?.size)
}

fn head_of(open: &dyn Transaction) -> Result<Head, Error> {
    Ok(get(open, Table::State, HEAD)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
