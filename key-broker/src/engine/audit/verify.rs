//! Computes the tree of the audit log again from its leaves, and compares it with the signed head and with heads that were kept elsewhere.

use std::collections::BTreeMap;

use transparency::checkpoint::Checkpoint;
use transparency::tree::{self, Frontier, Hash};

use super::bundles::{Bundles, WIDTH};
use super::leaves::{Leaves, Problem};
use super::{Head, KeptHead, head_of};
use crate::store::{Error, Store};

/// Returns how many leaves there are. It reads page by page, each in a look of its own, so that memory is bounded and nodes do not wait; leaves that are appended meanwhile are left out.
///
/// # Errors
/// [`Problem`].
pub fn verify(
    store: &dyn Store,
    bundles: &Bundles,
    origin: &str,
    key: &[u8; 32],
    kept: &[KeptHead],
) -> Result<u64, Problem> {
    let changed = |text: String| Err(Problem::Changed(text));
    let mut head = Head::default();
    // Read before the head: leaves that move to files meanwhile are in the head that is read then.
    let last = bundles.numbers()?.last().copied();
    store.look(&mut |open| {
        head = head_of(open)?;
        Ok(())
    })?;
    if let Some(longer) = kept.iter().find(|kept| kept.size > head.size) {
        return changed(format!(
            "a head of {} leaves was given out, the log has {}: it was cut",
            longer.size, head.size
        ));
    }
    if let Some(last) = last.filter(|last| *last >= head.size / WIDTH) {
        return changed(format!(
            "{} has leaves up to leaf {}, the log has {} leaves: it was cut, or an older database was put back without `key-broker restore`",
            bundles.entries(last).display(),
            last.saturating_add(1).saturating_mul(WIDTH) - 1,
            head.size
        ));
    }
    let mut expected: BTreeMap<u64, Vec<Hash>> = BTreeMap::new();
    for kept in kept {
        expected.entry(kept.size).or_default().push(kept.root.0);
    }
    let mut subtrees = subtrees(&head)?;
    let (mut leaves, mut frontier) = (Leaves::of(store, bundles)?.limited(head.size), Frontier::default());
    while frontier.size() < head.size {
        for leaf in leaves.page(frontier.size())? {
            frontier.append(tree::leaf(&leaf));
            let size = frontier.size();
            if let Some((first, root)) = subtrees.remove(&size)
                && frontier.roots().last() != Some(&root)
            {
                return changed(format!("leaves {first} to {} are not those of the signed head{}", size - 1, {
                    files(bundles, first, size)
                }));
            }
            if expected.get(&size).is_some_and(|roots| roots.iter().any(|root| *root != frontier.root())) {
                return changed(format!("the first {size} leaves are not those of the head that was given out"));
            }
        }
    }
    if head.size == 0 {
        return Ok(0);
    }
    match Checkpoint::open(&head.checkpoint, origin, key) {
        Err(error) => changed(error.to_string()),
        Ok(checkpoint) if (checkpoint.size, checkpoint.root) != (frontier.size(), frontier.root()) => changed(format!(
            "the signed head is of {} leaves with the root {}, the log has {} with the root {}",
            checkpoint.size,
            hex::encode(checkpoint.root),
            frontier.size(),
            hex::encode(frontier.root())
        )),
        Ok(checkpoint) => Ok(checkpoint.size),
    }
}

/// The perfect subtrees of the head, by the number of leaves up to their ends: their first leaves and their roots.
fn subtrees(head: &Head) -> Result<BTreeMap<u64, (u64, Hash)>, Error> {
    let (mut first, mut found) = (0, BTreeMap::new());
    let sizes = (0..u64::BITS).rev().map(|bit| 1 << bit).filter(|size| head.size & size != 0);
    if head.roots.len() != head.size.count_ones() as usize {
        return Err(Error::Damaged("audit head"));
    }
    for (size, root) in sizes.zip(&head.roots) {
        found.insert(first + size, (first, root.0));
        first += size;
    }
    Ok(found)
}

/// The bundles that hold these leaves, for a message.
fn files(bundles: &Bundles, first: u64, end: u64) -> String {
    let (first, last) = (first / WIDTH, (end - 1) / WIDTH);
    if !bundles.has(first) {
        return String::new();
    }
    let last = (first..=last).rev().find(|number| bundles.has(*number)).unwrap_or(first);
    format!(" (files {} to {})", bundles.entries(first).display(), bundles.entries(last).display())
}
