//! The audit log: one leaf for each decision, in a Merkle tree whose head is signed with each of them (RFC 6962; C2SP tlog-checkpoint). Nodes keep the heads that they are given as receipts.

use attest::bytes::Bytes32;
use attest::message::Receipt;
use ring::signature::Ed25519KeyPair;
use serde::{Deserialize, Serialize};
use transparency::checkpoint::Checkpoint;
use transparency::tree::{self, Frontier};

use super::records::{bytes, get, put};
use crate::store::{Error, MAX_INDEXED_LEAVES, Store, Table, Transaction};

const HEAD: &[u8] = b"audit head";
/// Leaves that are read in one look.
const PAGE: usize = 512;

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
    let head: Head = get(open, Table::State, HEAD)?.unwrap_or_default();
    let roots = head.roots.iter().map(|root| root.0).collect();
    let mut frontier = Frontier::new(head.size, roots).ok_or(Error::Damaged("audit head"))?;
    leaf.number = frontier.size();
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
    Ok(get::<Head>(open, Table::State, HEAD)?.unwrap_or_default().time)
}

/// It is at least this late: witnesses or authorities have signed it.
///
/// # Errors
/// [`Error`].
pub fn at_least(open: &mut dyn Transaction, proved: u64) -> Result<(), Error> {
    let head: Head = get(open, Table::State, HEAD)?.unwrap_or_default();
    let time = head.time.max(proved);
    put(open, Table::State, HEAD, &Head { time, ..head })
}

/// The last leaves.
///
/// # Errors
/// [`Error`].
pub fn tail(open: &dyn Transaction, count: usize) -> Result<Vec<Leaf>, Error> {
    let rows = open.last(Table::Audit, count)?;
    let read = |(_, bytes): (Vec<u8>, Vec<u8>)| serde_json::from_slice(&bytes).map_err(|_| Error::Damaged("audit log"));
    rows.into_iter().map(read).collect()
}

/// The leaf of a request: by the index, or, if it is older than that, searched in the whole log page by page.
///
/// # Errors
/// [`Error`].
pub fn of_request(store: &dyn Store, request: &str) -> Result<Option<Leaf>, Error> {
    let mut found = None;
    store.look(&mut |open| {
        if let Some(number) = open.get(Table::Requests, request.as_bytes())? {
            found = get(open, Table::Audit, &number)?;
        }
        Ok(())
    })?;
    let mut last = None::<Vec<u8>>;
    while found.is_none() {
        let mut page = Vec::new();
        store.look(&mut |open| {
            page = open.after(Table::Audit, last.as_deref(), PAGE)?;
            Ok(())
        })?;
        for (_, bytes) in &page {
            let leaf: Leaf = serde_json::from_slice(bytes).map_err(|_| Error::Damaged("audit log"))?;
            found = found.or((leaf.request == request).then_some(leaf));
        }
        last = match page.pop() {
            Some((number, _)) => Some(number),
            None => break,
        };
    }
    Ok(found)
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
    Ok(get::<Head>(open, Table::State, HEAD)?.unwrap_or_default().checkpoint)
}

/// Computes the tree anew from its leaves, and compares it with the signed head and with heads that were kept elsewhere: how many leaves there are, or what is wrong. It reads page by page, each in a look of its own, so that memory stays and nodes do
/// not wait; leaves that are appended meanwhile are left out.
///
/// # Errors
/// [`Error`].
pub fn verify(
    store: &dyn Store,
    origin: &str,
    key: &[u8; 32],
    kept: &[KeptHead],
) -> Result<Result<u64, String>, Error> {
    let mut head = Head::default();
    store.look(&mut |open| {
        head = get(open, Table::State, HEAD)?.unwrap_or_default();
        Ok(())
    })?;
    if let Some(longer) = kept.iter().find(|kept| kept.size > head.size) {
        return Ok(Err(format!(
            "a head of {} leaves was given out, the log has {}: it was cut",
            longer.size, head.size
        )));
    }
    let (mut frontier, mut last) = (Frontier::default(), None::<Vec<u8>>);
    loop {
        let mut page = Vec::new();
        store.look(&mut |open| {
            page = open.after(Table::Audit, last.as_deref(), PAGE)?;
            Ok(())
        })?;
        for (number, bytes) in &page {
            if frontier.size() == head.size {
                break;
            }
            if *number != frontier.size().to_be_bytes() {
                return Ok(Err(format!("leaf {} is missing", frontier.size())));
            }
            frontier.append(tree::leaf(bytes));
            let size = frontier.size();
            if kept.iter().any(|kept| kept.size == size && kept.root.0 != frontier.root()) {
                return Ok(Err(format!("the first {size} leaves are not those of the head that was given out")));
            }
        }
        last = page.last().map(|(number, _)| number.clone());
        if page.len() < PAGE || frontier.size() == head.size {
            break;
        }
    }
    if frontier.size() == 0 && head.size == 0 {
        return Ok(Ok(0));
    }
    Ok(match Checkpoint::open(&head.checkpoint, origin, key) {
        Err(error) => Err(error.to_string()),
        Ok(checkpoint) if (checkpoint.size, checkpoint.root) != (frontier.size(), frontier.root()) => Err(format!(
            "the signed head is of {} leaves with the root {}, the log has {} with the root {}",
            checkpoint.size,
            hex::encode(checkpoint.root),
            frontier.size(),
            hex::encode(frontier.root())
        )),
        Ok(checkpoint) => Ok(checkpoint.size),
    })
}

#[cfg(test)]
mod tests {
    use ring::signature::KeyPair as _;

    use super::*;
    use crate::store::Sqlite;

    #[test]
    fn a_log_that_was_changed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("database")).unwrap();
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let public: [u8; 32] = key.public_key().as_ref().try_into().unwrap();
        let signer = Signer { origin: "cairn/test/audit", key: &key, now: 7 };
        let leaf = |request: &str| Leaf {
            number: 0,
            time: "now".into(),
            request: request.into(),
            node: "node".into(),
            code: "RELEASED".into(),
            found: String::new(),
        };
        let check = || verify(&store, signer.origin, &public, &[]).unwrap();
        assert_eq!(check(), Ok(0));
        store
            .transact(&mut |open| {
                for request in ["a", "b", "c"] {
                    append(open, leaf(request), &signer)?;
                }
                assert_eq!(tail(open, 2)?.len(), 2);
                Ok(())
            })
            .unwrap();
        assert_eq!(check(), Ok(3));
        assert_eq!(of_request(&store, "b").unwrap().map(|leaf| leaf.number), Some(1));
        assert_eq!(of_request(&store, "x").unwrap(), None);
        let mut changed = leaf("b");
        (changed.number, changed.code) = (1, "COMMITTED".into());
        store.transact(&mut |open| put(open, Table::Audit, &1_u64.to_be_bytes(), &changed)).unwrap();
        assert!(check().unwrap_err().contains("signed head"));
        store.transact(&mut |open| open.remove(Table::Audit, &1_u64.to_be_bytes())).unwrap();
        assert!(check().unwrap_err().contains("leaf 1 is missing"));
    }

    /// The last leaves are deleted, and the head that was signed before them is put back.
    #[test]
    fn log_that_was_cut_is_found_by_a_head_that_was_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("database")).unwrap();
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let public: [u8; 32] = key.public_key().as_ref().try_into().unwrap();
        let signer = Signer { origin: "cairn/test/audit", key: &key, now: 7 };
        let mut heads = Vec::new();
        for number in 0..1200 {
            let leaf = Leaf {
                number: 0,
                time: "now".into(),
                request: format!("request {number}"),
                node: String::new(),
                code: "RELEASED".into(),
                found: String::new(),
            };
            store
                .transact(&mut |open| {
                    let receipt = append(open, leaf.clone(), &signer)?;
                    heads.push(KeptHead { size: receipt.size, root: receipt.root });
                    Ok(())
                })
                .unwrap();
        }
        let check = |kept: &[KeptHead]| verify(&store, signer.origin, &public, kept).unwrap();
        assert_eq!(check(&heads), Ok(1200));
        let other = KeptHead { root: Bytes32([9; 32]), ..heads[600] };
        assert!(check(&[other]).unwrap_err().contains("the first 601 leaves"));
        // A saved head of 700 leaves, and what came after it deleted.
        let root = Checkpoint { origin: signer.origin.into(), size: 700, root: heads[699].root.0 }.sign(&key);
        store
            .transact(&mut |open| {
                let head: Head = get(open, Table::State, HEAD)?.unwrap();
                put(open, Table::State, HEAD, &Head { size: 700, checkpoint: root.clone(), ..head })?;
                (700..1200_u64).try_for_each(|number| open.remove(Table::Audit, &number.to_be_bytes()))
            })
            .unwrap();
        assert_eq!(check(&[]), Ok(700), "the log alone does not tell");
        assert_eq!(check(&heads[..700]), Ok(700));
        assert!(check(&heads[999..1000]).unwrap_err().contains("it was cut"));
    }

    #[test]
    fn index_has_the_newest_requests_and_older_ones_are_found_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("database")).unwrap();
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let signer = Signer { origin: "cairn/test/audit", key: &key, now: 7 };
        let size = MAX_INDEXED_LEAVES + 5;
        store
            .transact(&mut |open| {
                for number in 0..size {
                    // Each third leaf is a change by an operator, which has no request.
                    let request = if number % 3 == 2 { String::new() } else { format!("request {number}") };
                    append(open, Leaf { request, ..empty() }, &signer)?;
                }
                Ok(())
            })
            .unwrap();
        store
            .look(&mut |open| {
                let newest = (5..size).filter(|number| number % 3 != 2).count() as u64;
                assert_eq!((open.count(Table::Requests)?, open.count(Table::RecentRequests)?), (newest, newest));
                assert_eq!(open.get(Table::Requests, b"request 4")?, None);
                Ok(())
            })
            .unwrap();
        for number in [0, 4, 6, 600, size - 1] {
            let leaf = of_request(&store, &format!("request {number}")).unwrap();
            assert_eq!(leaf.map(|leaf| leaf.number), (number % 3 != 2).then_some(number), "{number}");
        }
    }

    fn empty() -> Leaf {
        Leaf {
            number: 0,
            time: "now".into(),
            request: String::new(),
            node: String::new(),
            code: "RELEASED".into(),
            found: String::new(),
        }
    }
}
