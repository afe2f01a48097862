//! What is read and written of an ext4 superblock (Linux `Documentation/filesystems/ext4/super.rst`): how large the file system says it is, because the generation block stands right behind it, and a tag.
//! A superblock is not believed, it only says where to look, until [`crate::superblock::check`] has accepted it.
//!
//! The tag is an HMAC of disk id and generation. The agent writes it before each mount, into the last reserved bytes of the superblock, which the kernel and e2fsprogs leave as they are. The tag and the superblock's checksum are in one sector of 512 bytes,
//! so that a torn write leaves the old tag or the new one.

use crc::{CRC_32_ISCSI, Crc};
use ring::hmac;

/// Where the superblock is, in the file system.
pub const SUPERBLOCK: u64 = 1024;
/// How much of it is read.
pub const SUPERBLOCK_LENGTH: usize = 1024;

/// Fields: position and length.
const BLOCKS_LOW: usize = 0x4;
const BLOCK_SIZE: usize = 0x18;
const MAGIC: usize = 0x38;
const INCOMPATIBLE: usize = 0x60;
const READ_ONLY_COMPATIBLE: usize = 0x64;
const BLOCKS_HIGH: usize = 0x150;
const TAG: std::ops::Range<usize> = 0x3dc..CHECKSUM;
const CHECKSUM: usize = 0x3fc;
const EXT4: u32 = 0xef53;
const MANY_BLOCKS: u32 = 0x80;
const METADATA_CHECKSUMS: u32 = 0x400;
/// 1024 bytes times two to the power of the field; more than 64 KiB are no block.
const LARGEST_POWER: u32 = 6;

/// The tag of the file system of the disk with this id, in this generation.
pub fn tag(key: &hmac::Key, disk: &[u8; 16], generation: u64) -> [u8; 32] {
    let mut tag = [0; 32];
    tag.copy_from_slice(hmac::sign(key, &[&disk[..], &generation.to_be_bytes()].concat()).as_ref());
    tag
}

/// Whether the superblock has this tag.
pub fn has_tag(superblock: &[u8], tag: &[u8; 32]) -> bool {
    superblock.get(TAG).is_some_and(|found| found == tag)
}

/// Writes the tag into a superblock, and makes its checksum right. False, and nothing is changed, where it is no superblock.
pub fn put_tag(superblock: &mut [u8], tag: &[u8; 32]) -> bool {
    let features = word(superblock, READ_ONLY_COMPATIBLE);
    let (Some(features), Some(_), SUPERBLOCK_LENGTH) = (features, bytes(superblock), superblock.len()) else {
        return false;
    };
    superblock[TAG].copy_from_slice(tag);
    if features & METADATA_CHECKSUMS != 0 {
        // The kernel's CRC-32C does not invert its result.
        let checksum = !Crc::<u32>::new(&CRC_32_ISCSI).checksum(&superblock[..CHECKSUM]);
        superblock[CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
    }
    true
}

fn word(superblock: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(superblock.get(at..at + 4)?.try_into().ok()?))
}

/// The bytes of a file system with this superblock; none where it is no superblock.
pub fn bytes(superblock: &[u8]) -> Option<u64> {
    let word = |at: usize| word(superblock, at);
    let (magic, power) = (word(MAGIC)? & 0xffff, word(BLOCK_SIZE)?);
    if magic != EXT4 || power > LARGEST_POWER {
        return None;
    }
    let has_many = word(INCOMPATIBLE)? & MANY_BLOCKS != 0;
    let high = if has_many { u64::from(word(BLOCKS_HIGH)?) } else { 0 };
    (high << 32 | u64::from(word(BLOCKS_LOW)?)).checked_mul(1024 << power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(words: &[(usize, u32)]) -> Vec<u8> {
        let mut superblock = vec![0; SUPERBLOCK_LENGTH];
        for (at, word) in words {
            superblock[*at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        superblock
    }

    #[test]
    fn the_size_is_blocks_times_their_size() {
        let small = [(MAGIC, EXT4), (BLOCK_SIZE, 2), (BLOCKS_LOW, 7), (BLOCKS_HIGH, 1)];
        assert_eq!(bytes(&superblock(&small)), Some(7 * 4096), "the high half does not count");
        let large = [&small[..], &[(INCOMPATIBLE, 0x2c2)]].concat();
        assert_eq!(bytes(&superblock(&large)), Some(((1 << 32) + 7) * 4096));
    }

    /// As mke2fs 1.47.2 wrote it, with the features of a state disk: 64 MiB in blocks of 4096 bytes.
    const RECORDED: &[u8] = include_bytes!("../tests/recorded/ext4-superblock.bin");

    #[test]
    fn tag_of_one_generation_is_that_of_no_other_and_changes_one_sector() {
        let key = |byte: u8| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]);
        let one = tag(&key(1), &[5; 16], 7);
        for other in [tag(&key(2), &[5; 16], 7), tag(&key(1), &[6; 16], 7), tag(&key(1), &[5; 16], 8), [0; 32]] {
            assert_ne!(one, other);
        }
        let mut superblock = RECORDED.to_vec();
        assert!(!has_tag(&superblock, &one) && put_tag(&mut superblock, &one) && has_tag(&superblock, &one));
        assert_eq!(superblock[..512], RECORDED[..512]);
        assert_eq!(bytes(&superblock), bytes(RECORDED));
        assert!(!has_tag(&superblock[..TAG.end - 1], &one), "cut short");
    }

    #[test]
    fn checksum_of_a_tagged_superblock_is_the_one_of_mke2fs() {
        let mut superblock = RECORDED.to_vec();
        superblock[CHECKSUM..].fill(0);
        assert!(put_tag(&mut superblock, &[0; 32]));
        assert_eq!(superblock, RECORDED, "no tag is 32 zeros, so all of it is as it was recorded");
        superblock[READ_ONLY_COMPATIBLE + 1] &= !4;
        let checksum = superblock[CHECKSUM..].to_vec();
        assert!(put_tag(&mut superblock, &[1; 32]));
        assert_eq!(superblock[CHECKSUM..], checksum, "without the feature there is no checksum");
    }

    #[test]
    fn other_bytes_get_no_tag() {
        for mut other in [vec![0; SUPERBLOCK_LENGTH], RECORDED[..SUPERBLOCK_LENGTH - 1].to_vec(), RECORDED.repeat(2)] {
            let before = other.clone();
            assert!(!put_tag(&mut other, &[1; 32]));
            assert_eq!(other, before);
        }
    }

    #[test]
    fn what_is_no_superblock_has_no_size() {
        let rows: [&[(usize, u32)]; 4] = [
            &[(BLOCKS_LOW, 7)],
            &[(MAGIC, EXT4 + 1), (BLOCKS_LOW, 7)],
            &[(MAGIC, EXT4), (BLOCK_SIZE, 7), (BLOCKS_LOW, 7)],
            &[(MAGIC, EXT4), (BLOCK_SIZE, 6), (INCOMPATIBLE, MANY_BLOCKS), (BLOCKS_HIGH, u32::MAX)],
        ];
        for words in rows {
            assert_eq!(bytes(&superblock(words)), None, "{words:?}");
        }
        assert_eq!(bytes(&superblock(&[(MAGIC, EXT4)])[..0x40]), None, "cut short");
    }
}
