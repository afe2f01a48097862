//! How large an ext4 file system says it is (Linux `Documentation/filesystems/ext4/super.rst`): the generation block stands right behind it. A superblock is not believed, it only says where to look.

/// Where the superblock is, in the file system.
pub const SUPERBLOCK: u64 = 1024;
/// How much of it is read.
pub const SUPERBLOCK_LENGTH: usize = 1024;

/// Fields: position and length.
const BLOCKS_LOW: usize = 0x4;
const BLOCK_SIZE: usize = 0x18;
const MAGIC: usize = 0x38;
const INCOMPATIBLE: usize = 0x60;
const BLOCKS_HIGH: usize = 0x150;
const EXT4: u32 = 0xef53;
const MANY_BLOCKS: u32 = 0x80;
/// 1024 bytes times two to the power of the field; more than 64 KiB are no block.
const LARGEST_POWER: u32 = 6;

/// The bytes of a file system with this superblock; none where it is no superblock.
pub fn bytes(superblock: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u32::from_le_bytes(superblock.get(at..at + 4)?.try_into().ok()?));
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
