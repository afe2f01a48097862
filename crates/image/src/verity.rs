//! dm-verity hash trees (Linux, Documentation/admin-guide/device-mapper/verity.rst): format 1, SHA-256, blocks of 4096
//! bytes for data and hashes, the salt before each block.
//!
//! The output is what `veritysetup format` writes: a superblock in the first block (which our agent never parses), then
//! the levels, topmost first. All levels but the lowest fit in memory many times over; data is read in pieces by all
//! cores, so memory is bounded whatever the size. Refused: data that is empty or no multiple of a block.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Size of data and hash blocks in bytes.
pub const BLOCK_SIZE: u64 = 4096;
const BLOCK: usize = BLOCK_SIZE as usize;
/// Digests in a hash block.
const FANOUT: u64 = BLOCK_SIZE / 32;
/// Data blocks that one worker takes at a time: 128 KiB stay in a CPU's cache between being copied and being hashed.
const PIECE: u64 = 32;

/// What identifies a tree beside its data.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Hashed before every block.
    pub salt: [u8; 32],
    /// In the superblock.
    pub uuid: Uuid,
}

/// The digest of the topmost block: names the whole content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash([u8; 32]);

impl RootHash {
    /// The partition UUIDs of data and of hashes: first and second half of the root hash (UAPI, Discoverable Partitions
    /// Specification).
    pub fn halves(&self) -> (Uuid, Uuid) {
        let (mut data, mut hash) = ([0; 16], [0; 16]);
        data.copy_from_slice(&self.0[..16]);
        hash.copy_from_slice(&self.0[16..]);
        (Uuid::from_bytes(data), Uuid::from_bytes(hash))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RootHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| Error::RootHash(text.chars().take(80).collect()))?;
        Ok(Self(bytes))
    }
}

/// A tree that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Its root.
    pub root_hash: RootHash,
    /// Blocks of data that it covers.
    pub data_blocks: u64,
    /// Where the first hash block is, in bytes.
    pub hash_offset: u64,
    /// Size of the hash area with its superblock, in bytes.
    pub hash_size: u64,
}

/// Why a tree could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data has no whole number of blocks.
    #[error("the data has {0} bytes: a multiple of 4096, and at least one block, is needed")]
    Size(u64),
    /// The text is not a root hash.
    #[error("{0:?} is not a root hash: 64 hex digits are expected")]
    RootHash(String),
    /// Reading data or writing hashes failed.
    #[error("failed to {action}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What went wrong.
        source: std::io::Error,
    },
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, source }
}

/// Writes the hash area of `data` to `out`, from its first byte.
pub fn write_tree(data: &File, out: &File, parameters: &Parameters) -> Result<Tree, Error> {
    let size = data.metadata().map_err(io("find the size of the data"))?.len();
    if size == 0 || !size.is_multiple_of(BLOCK_SIZE) {
        return Err(Error::Size(size));
    }
    let data_blocks = size / BLOCK_SIZE;
    let levels = level_sizes(data_blocks);
    // Level 0 is the lowest and comes last in the file.
    let mut offset = 1 + levels.iter().sum::<u64>();
    let total = offset;
    let salted = Sha256::new().chain_update(parameters.salt);

    let lowest = hash_data(data, data_blocks, &salted)?;
    let mut digests = lowest;
    for blocks in levels {
        digests.resize((blocks * BLOCK_SIZE) as usize, 0);
        offset -= blocks;
        out.write_all_at(&digests, offset * BLOCK_SIZE).map_err(io("write a level of the hash tree"))?;
        digests = digests.chunks_exact(BLOCK).flat_map(|block| salted.clone().chain_update(block).finalize()).collect();
    }
    out.write_all_at(&superblock(data_blocks, parameters), 0).map_err(io("write the superblock"))?;
    let mut root = [0; 32];
    root.copy_from_slice(&digests);
    Ok(Tree { root_hash: RootHash(root), data_blocks, hash_offset: BLOCK_SIZE, hash_size: total * BLOCK_SIZE })
}

/// Hash blocks of each level, lowest first, down to the level of one block. A single data block needs none: its digest
/// is the root.
fn level_sizes(data_blocks: u64) -> Vec<u64> {
    let above = |blocks: u64| (blocks > 1).then(|| blocks.div_ceil(FANOUT));
    std::iter::successors(above(data_blocks), |blocks| above(*blocks)).collect()
}

/// The digests of all data blocks, in order: 32 bytes for each 4096, so 8 MiB for 1 GiB.
fn hash_data(data: &File, blocks: u64, salted: &Sha256) -> Result<Vec<u8>, Error> {
    let mut digests = vec![0; blocks as usize * 32];
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let pieces = digests.chunks_mut(PIECE as usize * 32).zip((0..).step_by(PIECE as usize));
    let queue = std::sync::Mutex::new(pieces);
    let work = || -> Result<(), Error> {
        let mut buffer = vec![0; PIECE as usize * BLOCK];
        loop {
            let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some((piece, first)) = next else { return Ok(()) };
            let bytes = &mut buffer[..piece.len() / 32 * BLOCK];
            data.read_exact_at(bytes, first as u64 * BLOCK_SIZE).map_err(io("read the data"))?;
            for (block, digest) in bytes.chunks_exact(BLOCK).zip(piece.chunks_exact_mut(32)) {
                digest.copy_from_slice(&salted.clone().chain_update(block).finalize());
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(digests)
}

/// cryptsetup's on-disk header, `struct verity_sb` of lib/verity/verity.c; 512 bytes in a block of their own.
fn superblock(data_blocks: u64, parameters: &Parameters) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..8].copy_from_slice(b"verity\0\0");
    block[8..12].copy_from_slice(&1u32.to_le_bytes());
    block[12..16].copy_from_slice(&1u32.to_le_bytes());
    block[16..32].copy_from_slice(parameters.uuid.as_bytes());
    block[32..38].copy_from_slice(b"sha256");
    block[64..68].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    block[68..72].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    block[72..80].copy_from_slice(&data_blocks.to_le_bytes());
    block[80..82].copy_from_slice(&32u16.to_le_bytes());
    block[88..120].copy_from_slice(&parameters.salt);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree_of(blocks: usize) -> (Tree, Vec<u8>) {
        let data: Vec<u8> = (0..blocks * BLOCK).map(|at| (at * 31 / 7) as u8 ^ (at / BLOCK) as u8).collect();
        let (input, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        input.write_all_at(&data, 0).unwrap();
        let parameters = Parameters { salt: [7; 32], uuid: Uuid::from_u128(0x1234) };
        let tree = write_tree(&input, &output, &parameters).unwrap();
        let mut bytes = vec![0; tree.hash_size as usize];
        output.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(output.metadata().unwrap().len(), tree.hash_size);
        (tree, bytes)
    }

    const V1: &str = "9c60183e1255512effad3836da50952ed50ffcd18ed995c07232da8d64a5b9f8";
    const V128: &str = "febe3c885a2ffad75c350e6c23a2d616f739723307607b7a237bca16fc8131b0";
    const V129: &str = "5feadb9dc7267e7e9b8a506d75b1a1c48456debcc5da255e28f6dd03bf62b197";
    const V16385: &str = "3ba633c4c3740feb165e0289db6f9da66a021548c9954f5d2e1481558300dedf";

    #[test]
    fn trees_of_up_to_three_levels_are_frozen() {
        // Taken from `veritysetup format` on the same data (tests/independent_tools.rs compares whole files).
        for (blocks, hash_blocks, root) in [(1, 0, V1), (128, 1, V128), (129, 3, V129), (16_385, 132, V16385)] {
            let (tree, bytes) = tree_of(blocks);
            assert_eq!((tree.data_blocks, tree.hash_size), (blocks as u64, (hash_blocks + 1) * BLOCK_SIZE));
            assert_eq!(tree.root_hash.to_string(), root, "{blocks}");
            if hash_blocks > 0 {
                let top = Sha256::new().chain_update([7; 32]).chain_update(&bytes[BLOCK..2 * BLOCK]).finalize();
                assert_eq!(tree.root_hash.as_bytes()[..], top[..]);
            }
        }
    }

    #[test]
    fn data_of_no_whole_number_of_blocks_is_refused() {
        for size in [0, 1, 4095, 4097] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            let parameters = Parameters { salt: [0; 32], uuid: Uuid::nil() };
            assert!(matches!(write_tree(&file, &file, &parameters), Err(Error::Size(found)) if found == size));
        }
    }

    #[test]
    fn the_halves_of_the_root_hash_are_the_partition_ids() {
        let text = "00112233445566778899aabbccddeeff0f1e2d3c4b5a69788796a5b4c3d2e1f0";
        let (data, hash) = text.parse::<RootHash>().unwrap().halves();
        assert_eq!(data.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(hash.to_string(), "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
        assert!("0011".parse::<RootHash>().is_err());
    }
}
