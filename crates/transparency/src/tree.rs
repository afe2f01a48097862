//! The Merkle tree of RFC 6962, section 2.1: SHA-256, leaves and nodes hashed under different prefixes. A log is appended to with the roots of its perfect subtrees alone, largest first.

use sha2::{Digest, Sha256};

/// A digest of the tree.
pub type Hash = [u8; 32];

/// Digest of a leaf: `SHA-256(0x00 || leaf)`.
pub fn leaf(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

/// Digest of a node: `SHA-256(0x01 || left || right)`.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// What is needed of a tree to append to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of perfect subtrees, largest first: one for each bit of the size.
    roots: Vec<Hash>,
}

impl Frontier {
    /// A frontier as it was kept; nothing if it cannot be one.
    pub fn new(size: u64, roots: Vec<Hash>) -> Option<Self> {
        (size.count_ones() as usize == roots.len()).then_some(Self { size, roots })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of perfect subtrees, largest first.
    pub fn roots(&self) -> &[Hash] {
        &self.roots
    }

    /// Appends the digest of a leaf.
    pub fn append(&mut self, leaf: Hash) {
        let mut new = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                new = node(&left, &new);
            }
        }
        self.roots.push(new);
        self.size += 1;
    }

    /// The root of the tree; of an empty one, SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else { return Sha256::digest([]).into() };
        roots.fold(*last, |right, left| node(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves and roots of the test vectors that implementations of RFC 6962 share.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_the_test_vectors() {
        let mut frontier = Frontier::default();
        assert_eq!(hex::encode(frontier.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (bytes, root) in LEAVES.iter().zip(ROOTS) {
            frontier.append(leaf(&hex::decode(bytes).unwrap()));
            assert_eq!(hex::encode(frontier.root()), root, "{} leaves", frontier.size());
            let kept = Frontier::new(frontier.size(), frontier.roots().to_vec());
            assert_eq!(kept, Some(frontier.clone()));
        }
        assert_eq!(Frontier::new(3, vec![[0; 32]]), None);
    }
}
