//! Proofs of Merkle trees: that a leaf is in a tree, and that a larger tree begins with a smaller one (RFC 6962, section 2.1; verified as in RFC 9162, sections 2.1.3.2 and 2.1.4.2).

use sha2::{Digest, Sha256};

use crate::tree::{Hash, node};

/// No tree with 64-bit sizes has longer proofs.
pub const LONGEST: usize = 64;

/// Leaves from the first number up to, not including, the second: their root is one hash of a proof.
pub type Range = (u64, u64);

/// The root that a leaf and its proof lead to; none if the proof is of another length.
pub fn root_of(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut own, mut last, mut root) = (index, size - 1, leaf);
    for hash in path {
        if last == 0 {
            return None;
        }
        if own & 1 == 1 || own == last {
            root = node(hash, &root);
            while own & 1 == 0 && own != 0 {
                (own, last) = (own >> 1, last >> 1);
            }
        } else {
            root = node(&root, hash);
        }
        (own, last) = (own >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// Whether the tree with the second head begins with the tree of the first. Heads are size and root.
pub fn is_consistent((old_size, old_root): (u64, Hash), (new_size, new_root): (u64, Hash), path: &[Hash]) -> bool {
    if old_size > new_size {
        return false;
    }
    if old_size == 0 {
        return path.is_empty() && old_root == Hash::from(Sha256::digest([]));
    }
    if old_size == new_size {
        return path.is_empty() && old_root == new_root;
    }
    let (mut old, mut last) = (old_size - 1, new_size - 1);
    let shift = old.trailing_ones();
    (old, last) = (old >> shift, last >> shift);
    // A perfect tree is itself the first hash.
    let (first, rest) = match path.split_first() {
        _ if old_size.is_power_of_two() => (old_root, path),
        Some((first, rest)) => (*first, rest),
        None => return false,
    };
    let (mut old_found, mut new_found) = (first, first);
    for hash in rest {
        if last == 0 {
            return false;
        }
        if old & 1 == 1 || old == last {
            (old_found, new_found) = (node(hash, &old_found), node(hash, &new_found));
            while old & 1 == 0 && old != 0 {
                (old, last) = (old >> 1, last >> 1);
            }
        } else {
            new_found = node(&new_found, hash);
        }
        (old, last) = (old >> 1, last >> 1);
    }
    last == 0 && old_found == old_root && new_found == new_root
}

/// What the proof of a leaf consists of, in order: who has the tree makes the proof of these.
pub fn inclusion_ranges(index: u64, size: u64) -> Vec<Range> {
    let (mut ranges, mut tree) = (Vec::new(), (0, size));
    while index >= tree.0 && index < tree.1 && tree.1 - tree.0 > 1 {
        let middle = tree.0 + split(tree.1 - tree.0);
        let (own, other) =
            if index < middle { ((tree.0, middle), (middle, tree.1)) } else { ((middle, tree.1), (tree.0, middle)) };
        ranges.push(other);
        tree = own;
    }
    ranges.reverse();
    ranges
}

/// What the proof that a tree begins with its first `old` leaves consists of, in order.
pub fn consistency_ranges(old: u64, size: u64) -> Vec<Range> {
    if old == 0 || old >= size {
        return Vec::new();
    }
    let (mut ranges, mut tree) = (Vec::new(), (0, size));
    while tree.1 != old {
        let middle = tree.0 + split(tree.1 - tree.0);
        if old <= middle {
            ranges.push((middle, tree.1));
            tree.1 = middle;
        } else {
            ranges.push((tree.0, middle));
            tree.0 = middle;
        }
    }
    if tree.0 != 0 {
        ranges.push(tree);
    }
    ranges.reverse();
    ranges
}

/// The largest power of two below a number of leaves, which is at least 2.
fn split(leaves: u64) -> u64 {
    1 << (u64::BITS - 1 - (leaves - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Frontier, leaf};

    fn root(range: Range) -> Hash {
        let mut tree = Frontier::default();
        (range.0..range.1).for_each(|number| tree.append(leaf(&number.to_be_bytes())));
        tree.root()
    }

    fn changed(path: &[Hash]) -> Vec<Vec<Hash>> {
        let mut all: Vec<Vec<Hash>> = (0..path.len())
            .flat_map(|at| {
                let (mut other, mut fewer) = (path.to_vec(), path.to_vec());
                other[at][31] ^= 1;
                fewer.remove(at);
                [other, fewer]
            })
            .collect();
        all.push([path, &[[0; 32]]].concat());
        all
    }

    #[test]
    fn every_leaf_of_small_trees_is_proved_and_no_other() {
        for size in 1..20 {
            let head = root((0, size));
            for index in 0..size {
                let path: Vec<Hash> = inclusion_ranges(index, size).into_iter().map(root).collect();
                let of = |index: u64, size, path: &[Hash]| root_of(leaf(&index.to_be_bytes()), index, size, path);
                assert_eq!(of(index, size, &path), Some(head), "{index} of {size}");
                for path in changed(&path) {
                    assert_ne!(of(index, size, &path), Some(head), "{index} of {size}");
                }
                for other in (0..size).filter(|other| *other != index) {
                    assert_ne!(root_of(leaf(&index.to_be_bytes()), other, size, &path), Some(head));
                }
            }
            assert_eq!(root_of(leaf(&[]), size, size, &[]), None);
        }
        assert_eq!(root_of([0; 32], 0, 0, &[]), None);
        assert_eq!(root_of([0; 32], u64::MAX - 1, u64::MAX, &[[0; 32]; LONGEST]).map(|_| ()), None);
    }

    #[test]
    fn every_small_tree_begins_with_those_before_it_and_no_other() {
        for size in 0..20 {
            let new = (size, root((0, size)));
            for old_size in 0..=size {
                let old = (old_size, root((0, old_size)));
                let path: Vec<Hash> = consistency_ranges(old_size, size).into_iter().map(root).collect();
                assert!(is_consistent(old, new, &path), "{old_size} of {size}");
                for path in changed(&path) {
                    assert!(!is_consistent(old, new, &path), "{old_size} of {size}");
                }
                assert!(!is_consistent((old_size, [1; 32]), new, &path));
                if old_size > 0 {
                    assert!(!is_consistent(old, (size, [1; 32]), &path));
                }
            }
            assert!(!is_consistent((size + 1, [0; 32]), new, &[]));
        }
    }
}
