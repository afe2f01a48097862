//! Heads of the audit log for witnesses (C2SP tlog-witness): what is sent, and what was signed last. A witness signs a head only if the log has grown from the one that it signed before, so it knows of a log that was cut or replaced.

use std::fmt::Write as _;

use attest::bytes::Bytes32;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use transparency::checkpoint::Note;
use transparency::proof::{consistency_ranges, is_consistent};
use transparency::tree::{self, Frontier, Hash};
use transparency::verifier_key::VerifierKey;

use super::bundles::Bundles;
use super::leaves::{Leaves, Problem};
use super::{Head, KeptHead, get, head_of, put};
use crate::store::{Error, Store, Table, Transaction};

/// The head that a witness has signed last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cosigned {
    /// Number of leaves.
    pub size: u64,
    /// When, by the witness's clock, in seconds since 1970.
    pub time: u64,
    /// The checkpoint with the signatures of broker and witness (C2SP tlog-checkpoint).
    pub checkpoint: String,
    roots: Vec<Bytes32>,
}

impl Cosigned {
    /// Its size and root.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn head(&self) -> Result<KeptHead, Error> {
        Ok(KeptHead { size: self.size, root: Bytes32(frontier_of(self.size, &self.roots)?.root()) })
    }
}

/// A request to a witness.
pub struct Submission {
    /// Number of leaves that the witness must know already.
    pub old: u64,
    /// Body of `POST /add-checkpoint`.
    pub body: String,
    head: Head,
}

#[cfg(test)]
impl Submission {
    /// One of no log.
    pub fn fake(old: u64, body: &str) -> Self {
        Self { old, body: body.into(), head: Head::default() }
    }
}

/// What is to be done for a witness.
pub enum Next {
    /// It has signed the newest head.
    Nothing,
    /// Send this.
    Submit(Submission),
    /// It has signed a larger log than this one.
    Ahead {
        /// Number of leaves of this log.
        size: u64,
    },
}

fn key_of(witness: &VerifierKey) -> Vec<u8> {
    [b"witness ", witness.to_string().as_bytes()].concat()
}

fn frontier_of(size: u64, roots: &[Bytes32]) -> Result<Frontier, Error> {
    Frontier::new(size, roots.iter().map(|root| root.0).collect()).ok_or(Error::Damaged("audit head"))
}

/// What this witness has signed last.
///
/// # Errors
/// [`Error`].
pub fn cosigned(open: &dyn Transaction, witness: &VerifierKey) -> Result<Cosigned, Error> {
    Ok(get(open, Table::State, &key_of(witness))?.unwrap_or_default())
}

/// The next request to a witness. `has` is the size that the witness says it has, where that is not what was kept of it. A witness that `must_be_asked` gets one also where it has signed the newest head: the database may
/// be an older one, and the witness knows more.
///
/// # Errors
/// [`Problem`].
pub fn next(
    store: &dyn Store,
    bundles: &Bundles,
    witness: &VerifierKey,
    has: Option<u64>,
    must_be_asked: bool,
) -> Result<Next, Problem> {
    let (mut head, mut last) = (Head::default(), Cosigned::default());
    store.look(&mut |open| {
        (head, last) = (head_of(open)?, cosigned(open, witness)?);
        Ok(())
    })?;
    let old = has.unwrap_or(last.size);
    if old > head.size {
        return Ok(Next::Ahead { size: head.size });
    }
    if head.size == 0 || (has.is_none() && old == head.size && !must_be_asked) {
        return Ok(Next::Nothing);
    }
    let mut leaves = Leaves::of(store, bundles)?.limited(head.size);
    let known = if last.size <= old { frontier_of(last.size, &last.roots)? } else { Frontier::default() };
    let known = grown(&mut leaves, known, old)?;
    let proof = proof(&mut leaves, &known, head.size)?;
    let root = frontier_of(head.size, &head.roots)?.root();
    if !is_consistent((old, known.root()), (head.size, root), &proof) {
        return Err(Problem::Changed(format!(
            "its {} leaves do not begin with the {old} leaves that witness {} has signed",
            head.size, witness.name
        )));
    }
    let mut body = format!("old {old}\n");
    for hash in &proof {
        let _ = writeln!(body, "{}", STANDARD.encode(hash));
    }
    body += "\n";
    body += &head.checkpoint;
    Ok(Next::Submit(Submission { old, body, head }))
}

/// The tree after it has grown to so many leaves.
fn grown(leaves: &mut Leaves, mut tree: Frontier, size: u64) -> Result<Frontier, Problem> {
    while tree.size() < size {
        let page = leaves.page(tree.size())?;
        let missing = size - tree.size();
        page.iter().zip(0..missing).for_each(|(leaf, _)| tree.append(tree::leaf(leaf)));
    }
    Ok(tree)
}

/// That a tree of `size` leaves begins with the known one (RFC 6962, section 2.1.2): its hashes are roots of the known tree, or of leaves behind it.
fn proof(leaves: &mut Leaves, known: &Frontier, size: u64) -> Result<Vec<Hash>, Problem> {
    let mut end = 0;
    let bits = (0..u64::BITS).rev().map(|bit| 1_u64 << bit).filter(|subtree| known.size() & subtree != 0);
    let subtrees: Vec<(u64, Hash)> = bits
        .zip(known.roots())
        .map(|(subtree, root)| {
            end += subtree;
            (end, *root)
        })
        .collect();
    let mut hashes = Vec::new();
    for (first, end) in consistency_ranges(known.size(), size) {
        if end <= known.size() {
            let known = subtrees.iter().find(|(known, _)| *known == end).map(|(_, root)| *root);
            hashes.push(known.ok_or(Error::Damaged("audit head"))?);
            continue;
        }
        let (mut tree, mut number) = (Frontier::default(), first);
        while number < end {
            let page = leaves.page(number)?;
            for leaf in page.iter().take(usize::try_from(end - number).unwrap_or(usize::MAX)) {
                tree.append(tree::leaf(leaf));
                number += 1;
            }
        }
        hashes.push(tree.root());
    }
    Ok(hashes)
}

/// Keeps what a witness has answered: lines with signatures, one of which must be its own on the head that was sent.
///
/// # Errors
/// What is wrong with the answer, or the database.
pub fn keep(
    store: &dyn Store,
    witness: &VerifierKey,
    submission: &Submission,
    answer: &str,
) -> Result<Result<(), &'static str>, Error> {
    let Head { size, roots, checkpoint, .. } = &submission.head;
    let signed = answer.lines().find_map(|line| {
        let note = format!("{checkpoint}{line}\n");
        let time = Note::parse(&note).ok()?.seen_by(&witness.name, witness.key)?;
        Some(Cosigned { size: *size, time, roots: roots.clone(), checkpoint: note })
    });
    let Some(signed) = signed else { return Ok(Err("its answer has no signature of its key on this head")) };
    store.transact(&mut |open| {
        // Another broker on this database may have sent a later head.
        if cosigned(open, witness)?.size > signed.size {
            return Ok(());
        }
        put(open, Table::State, &key_of(witness), &signed)
    })?;
    Ok(Ok(()))
}
