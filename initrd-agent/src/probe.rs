//! Whether a data partition and a hash partition belong to this image, found out in user space before anything is
//! mapped: the hash tree's path from the root hash down to data block 0 (dm-verity on-disk format 1, Linux
//! `Documentation/admin-guide/device-mapper/verity.rst`). It chooses among copies with the same UUID and turns a
//! foreign disk into a code instead of a kernel panic. It proves nothing about other blocks: the kernel verifies each
//! of them again, when it is read.

use sha2::{Digest, Sha256};

use crate::boot_document::{BLOCK, Root};
use crate::read_at::ReadAt;

const HASHES_PER_BLOCK: u64 = BLOCK / 32;

/// Why a pair of partitions is not the image's.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A device did not give its bytes.
    #[error("reading the {what}: {error}")]
    Read {
        /// Which block.
        what: String,
        /// What the device said.
        error: std::io::Error,
    },
    /// A block is not the one that the root hash names.
    #[error("the {0} does not match the root hash")]
    Mismatch(String),
}

/// First block of every level of the hash tree, counted from the tree's start, top level first, and after them the
/// number of blocks in all.
struct Tree {
    levels: Vec<u64>,
    blocks: u64,
}

impl Tree {
    /// Levels are stored top first; a single data block has no tree and is hashed by the root hash itself.
    fn over(data_blocks: u64) -> Self {
        let mut sizes = Vec::new();
        let mut below = data_blocks;
        while below > 1 {
            below = below.div_ceil(HASHES_PER_BLOCK);
            sizes.push(below);
        }
        let mut blocks = 0;
        let mut levels = Vec::new();
        for size in sizes.iter().rev() {
            levels.push(blocks);
            blocks += size;
        }
        Self { levels, blocks }
    }
}

/// Bytes that the data partition must have.
pub fn least_data_bytes(root: &Root) -> u64 {
    root.data_blocks * BLOCK
}

/// Bytes that the hash partition must have.
pub fn least_hash_bytes(root: &Root) -> u64 {
    root.hash_offset + Tree::over(root.data_blocks).blocks * BLOCK
}

/// Verifies the path from the root hash to data block 0.
///
/// # Errors
/// The first block on the path that cannot be read or does not match.
pub fn probe(root: &Root, data: &impl ReadAt, hash: &impl ReadAt) -> Result<(), ProbeError> {
    let mut expected = root.hash.0;
    for (level, start) in Tree::over(root.data_blocks).levels.iter().enumerate() {
        let what = if level == 0 { "top block of the hash tree".into() } else { format!("hash tree's level {level}") };
        let block = verified_block(root, hash, root.hash_offset + start * BLOCK, &expected, what)?;
        expected.copy_from_slice(&block[..32]);
    }
    verified_block(root, data, 0, &expected, "first data block".into()).map(drop)
}

fn verified_block(
    root: &Root,
    device: &impl ReadAt,
    offset: u64,
    expected: &[u8; 32],
    what: String,
) -> Result<[u8; BLOCK as usize], ProbeError> {
    let mut block = [0; BLOCK as usize];
    if let Err(error) = device.read_exact_at(&mut block, offset) {
        return Err(ProbeError::Read { what, error });
    }
    let digest = Sha256::new().chain_update(root.salt.0).chain_update(block).finalize();
    if digest[..] != expected[..] { Err(ProbeError::Mismatch(what)) } else { Ok(block) }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::boot_document::{BootDocument, tests::GOOD};

    /// An image of `blocks` data blocks: its parameters, data and hash partition (the tree starts at 4096).
    pub fn image(blocks: u64) -> (Root, Vec<u8>, Vec<u8>) {
        let mut root = BootDocument::parse(GOOD.as_bytes()).unwrap().root;
        let data: Vec<u8> = (0..blocks * BLOCK).map(|index| (index / 7) as u8).collect();
        let mut levels = vec![data.clone()];
        while levels.last().unwrap().len() as u64 > BLOCK {
            let mut level: Vec<u8> =
                levels.last().unwrap().chunks(BLOCK as usize).flat_map(|b| hash(&root, b)).collect();
            level.resize(level.len().next_multiple_of(BLOCK as usize), 0);
            levels.push(level);
        }
        root.data_blocks = blocks;
        root.hash.0 = hash(&root, levels.last().unwrap());
        let mut tree = vec![0; BLOCK as usize];
        levels[1..].iter().rev().for_each(|level| tree.extend_from_slice(level));
        (root, data, tree)
    }

    fn hash(root: &Root, block: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(root.salt.0).chain_update(block).finalize().into()
    }

    #[test]
    fn the_real_pair_passes_at_every_depth() {
        for blocks in [1, 2, 128, 129, 128 * 128 + 1] {
            let (root, data, tree) = image(blocks);
            probe(&root, &data, &tree).unwrap_or_else(|error| panic!("{blocks} blocks: {error}"));
            assert_eq!(least_data_bytes(&root), data.len() as u64);
            assert_eq!(least_hash_bytes(&root), tree.len() as u64, "{blocks} blocks");
        }
    }

    #[test]
    fn a_flipped_byte_on_the_path_is_named() {
        let rows = [
            ("top block of the hash tree", 4096usize),
            ("top block of the hash tree", 8191),
            ("hash tree's level 1", 8192),
        ];
        let (root, data, tree) = image(129);
        for (what, place) in rows {
            let mut changed = tree.clone();
            changed[place] ^= 1;
            let error = probe(&root, &data, &changed).unwrap_err();
            assert_eq!(error.to_string(), format!("the {what} does not match the root hash"));
        }
        let mut changed = data.clone();
        changed[4095] ^= 1;
        let error = probe(&root, &changed, &tree).unwrap_err();
        assert_eq!(error.to_string(), "the first data block does not match the root hash");
    }

    #[test]
    fn a_foreign_salt_or_root_hash_does_not_pass() {
        let (mut root, data, tree) = image(129);
        root.salt.0[0] ^= 1;
        assert!(probe(&root, &data, &tree).is_err());
        root.salt.0[0] ^= 1;
        root.hash.0[31] ^= 1;
        assert!(probe(&root, &data, &tree).is_err());
    }

    #[test]
    fn a_device_that_ends_early_is_an_error_and_not_a_panic() {
        let (root, data, tree) = image(129);
        assert!(matches!(probe(&root, &data, &tree[..8192].to_vec()), Err(ProbeError::Read { .. })));
        assert!(matches!(probe(&root, &Vec::new(), &tree), Err(ProbeError::Read { .. })));
    }

    #[test]
    fn the_largest_allowed_image_does_not_overflow() {
        let (mut root, ..) = image(1);
        root.data_blocks = (1 << 41) - 1;
        root.hash_offset = (1 << 53) - BLOCK;
        assert!(least_hash_bytes(&root) > root.hash_offset);
        assert!(least_data_bytes(&root) < 1 << 53);
    }
}
