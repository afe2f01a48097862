//! The generation block in a mapping: found before anything else of the volume is believed, judged by the broker's
//! number, compared with the tag in the superblock, whose fields must be those of a state disk, and written back ([`state_disk::generation`] says where it is, also
//! in a disk that has grown).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use ring::hmac;
use state_disk::filesystem::{self, SUPERBLOCK, SUPERBLOCK_LENGTH};
use state_disk::generation::{self, Block, Verdict, places};
use state_disk::keys::DiskKeys;
use state_disk::layout::{GENERATION, SECTOR};
use state_disk::superblock;

use super::table::Mapping;
use crate::code::Code;
use crate::failure::Failure;
use crate::read_at::ReadAt;

/// What is known of a volume whose generation was judged.
pub struct Volume {
    /// As it was found.
    pub block: Block,
    /// Whether the mapping has become larger than the file system in it.
    pub grown: bool,
}

/// How large the file system of a mapping is: the generation block is behind it.
pub const fn filesystem_bytes(mapping: u64) -> u64 {
    mapping.saturating_sub(GENERATION)
}

/// Finds the block of the disk with this id in a mapping of so many bytes, and judges it. Neither e2fsck nor the kernel
/// has read anything of the file system by then.
///
/// # Errors
/// `GENERATION_INVALID`, `DISK_ROLLBACK`, `BROKER_BEHIND`, `DISK_TOO_SMALL`, `DISK_UNREADABLE`, `FILESYSTEM_DAMAGED`.
pub fn judge(volume: &impl ReadAt, bytes: u64, keys: &DiskKeys, id: &[u8; 16], broker: u64) -> Result<Volume, Failure> {
    let unreadable = |error: io::Error| {
        Failure::new(Code::DiskUnreadable, format!("reading the generation block of the state disk: {error}"))
    };
    let mut superblock = vec![0; SUPERBLOCK_LENGTH];
    volume.read_exact_at(&mut superblock, SUPERBLOCK).map_err(unreadable)?;
    let filesystem = filesystem::bytes(&superblock);
    let places = places(bytes, filesystem).ok_or_else(|| {
        let what = format!(
            "the state disk has room for {bytes} bytes, and holds a file system of {}: it has become smaller, or is damaged",
            filesystem.unwrap_or_default()
        );
        Failure::new(Code::DiskTooSmall, what)
    })?;
    let mut blocks = Vec::new();
    for place in &places {
        let mut block = vec![0; GENERATION as usize];
        volume.read_exact_at(&mut block, *place).map_err(unreadable)?;
        blocks.extend(Block::from_bytes(block));
    }
    let key = &keys.generation;
    let (block, found) = Block::newest_of(blocks, key, id)
        .map_err(|error| Failure::new(Code::GenerationInvalid, format!("the state disk: {error}")))?;
    let numbers = format!("the disk was released {found} times, the broker knows of {broker}");
    match generation::judge(found, broker) {
        Verdict::GoesOn => {}
        Verdict::DiskRollback => return Err(Failure::new(Code::DiskRollback, numbers)),
        Verdict::BrokerBehind => return Err(Failure::new(Code::BrokerBehind, numbers)),
    }
    let has_tag = |number: &u64| filesystem::has_tag(&superblock, &filesystem::tag(&keys.filesystem, id, *number));
    if block.requires_tag(key, id) && !generation::accepted_tags(found, broker).iter().any(has_tag) {
        let what = format!(
            "the superblock of the state disk does not have the tag of generation {found}: the generation block is newer than the file system"
        );
        return Err(Failure::new(Code::DiskRollback, what));
    }
    check(&superblock)?;
    Ok(Volume { block, grown: places.len() > 1 })
}

/// Refuses a superblock that no state disk has: root of the node may have written it. One that is broken is not repaired
/// from a copy, which nothing vouches for.
fn check(superblock: &[u8]) -> Result<(), Failure> {
    superblock::check(superblock)
        .map_err(|error| Failure::new(Code::FilesystemDamaged, format!("the file system of the state disk: {error}")))
}

/// Checks the superblock again, writes the tag of a generation into it, and flushes it. The file system must be whole and
/// not mounted. The file is to be kept open until it is: the kernel then mounts the superblock that is in its page cache,
/// and does not read it from the disk again.
///
/// # Errors
/// `DISK_WRITE_FAILED`, `FILESYSTEM_DAMAGED`.
pub fn tag(mapping: &Mapping, keys: &DiskKeys, id: &[u8; 16], generation: u64) -> Result<File, Failure> {
    let failed = |error: io::Error| {
        let what = format!("writing the tag of generation {generation} to the superblock of the state disk: {error}");
        Failure::new(Code::DiskWriteFailed, what)
    };
    let volume = open(mapping).map_err(failed)?;
    let mut superblock = vec![0; SUPERBLOCK_LENGTH];
    FileExt::read_exact_at(&volume, &mut superblock, SUPERBLOCK).map_err(failed)?;
    check(&superblock)?;
    if !filesystem::put_tag(&mut superblock, &filesystem::tag(&keys.filesystem, id, generation)) {
        return Err(Failure::new(Code::FilesystemDamaged, "the state disk has no superblock of ext4"));
    }
    volume.write_all_at(&superblock, SUPERBLOCK).and_then(|()| volume.sync_data()).map_err(failed)?;
    Ok(volume)
}

/// The next block.
///
/// # Errors
/// `GENERATION_INVALID`.
pub fn next(block: &Block, key: &hmac::Key, id: &[u8; 16], generation: u64) -> Result<Block, Failure> {
    block
        .with_next(key, id, generation)
        .map_err(|error| Failure::new(Code::GenerationInvalid, format!("the state disk: {error}")))
}

/// Writes the block to the end of the mapping, and flushes it.
///
/// # Errors
/// `DISK_WRITE_FAILED`.
pub fn write(mapping: &Mapping, block: &Block) -> Result<(), Failure> {
    let write = || {
        let volume = open(mapping)?;
        volume.write_all_at(block.as_bytes(), filesystem_bytes(mapping.bytes))?;
        volume.sync_data()
    };
    write().map_err(|error: io::Error| {
        Failure::new(Code::DiskWriteFailed, format!("writing the generation block of the state disk: {error}"))
    })
}

/// Gives tags to the blocks that mke2fs reads before it has written them: both ends of the mapping, where it looks for
/// other file systems, and the blocks with copies of the superblock, of which it writes a part. No other block of a new
/// disk with authenticated sectors can be read before it is written, and a file system reads only what it has written.
///
/// # Errors
/// `DISK_FORMAT_FAILED`.
pub fn write_first_tags(mapping: &Mapping) -> Result<(), Failure> {
    let write = || {
        let volume = OpenOptions::new().write(true).open(&mapping.node)?;
        for place in first_blocks(mapping.bytes) {
            // A whole block: the page cache reads nothing for it.
            volume.write_all_at(&[0; SECTOR as usize], place)?;
        }
        volume.sync_data()
    };
    write().map_err(|error: io::Error| {
        Failure::new(Code::DiskFormatFailed, format!("writing the first sectors of the state disk: {error}"))
    })
}

/// Where those blocks are, in a mapping of so many bytes (ext4 with `sparse_super`: groups 0, 1, and the powers of 3, 5
/// and 7).
fn first_blocks(bytes: u64) -> Vec<u64> {
    const END: u64 = 4 << 20;
    /// Eight blocks for each byte of a block: what one block of a bitmap describes.
    const GROUP: u64 = 8 * SECTOR * SECTOR;
    let copies = [3, 5, 7].into_iter().flat_map(|base: u64| {
        std::iter::successors(Some(1), move |group: &u64| group.checked_mul(base))
            .map_while(|group| group.checked_mul(GROUP))
            .take_while(|place| *place < bytes)
    });
    let blocks = |from: u64, to: u64| (from / SECTOR..to / SECTOR).map(|block| block * SECTOR);
    let mut places: Vec<u64> =
        copies.chain(blocks(0, END.min(bytes))).chain(blocks(bytes.saturating_sub(END), bytes)).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Opens the mapping's device.
///
/// # Errors
/// What the kernel said.
pub fn open(mapping: &Mapping) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(&mapping.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [5; 16];
    const BYTES: u64 = 1 << 20;
    const RECORDED: &[u8] = include_bytes!("../../../crates/state-disk/tests/recorded/ext4-superblock.bin");

    fn keys() -> DiskKeys {
        state_disk::keys::derive(&[1; 32], &ID)
    }

    fn block(number: u64) -> Block {
        Block::new(&keys().generation, &ID, number)
    }

    /// A volume of 1 MiB with a file system of so many bytes, blocks at these places, and the tag of the newest.
    fn volume(filesystem: u64, blocks: &[(u64, u64)]) -> Vec<u8> {
        let newest = blocks.iter().map(|(_, number)| *number).max();
        tagged(newest.unwrap_or_default(), filesystem, blocks)
    }

    fn tagged(generation: u64, filesystem: u64, blocks: &[(u64, u64)]) -> Vec<u8> {
        let mut volume = vec![0; BYTES as usize];
        let superblock = &mut volume[SUPERBLOCK as usize..];
        superblock[..SUPERBLOCK_LENGTH].copy_from_slice(RECORDED);
        superblock[4..8].copy_from_slice(&((filesystem / 4096) as u32).to_le_bytes());
        let tag = filesystem::tag(&keys().filesystem, &ID, generation);
        assert!(filesystem::put_tag(&mut superblock[..SUPERBLOCK_LENGTH], &tag));
        for (place, number) in blocks {
            let place = *place as usize;
            volume[place..place + 4096].copy_from_slice(block(*number).as_bytes());
        }
        volume
    }

    /// The same volume with another field in its superblock; the tag is there.
    fn with_field(mut volume: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
        let at = SUPERBLOCK as usize + at;
        volume[at..at + field.len()].copy_from_slice(field);
        volume
    }

    /// The documented limit: sectors are encrypted each for itself, so these two blocks vouch for no other.
    #[test]
    fn old_sectors_between_a_new_superblock_and_a_new_block_are_not_noticed() {
        const END: u64 = BYTES - 4096;
        let (old, new) = (volume(END, &[(END, 4)]), volume(END, &[(END, 5)]));
        let mixed = [&new[..4096], &old[4096..END as usize], &new[END as usize..]].concat();
        assert!(judge(&mixed, BYTES, &keys(), &ID, 5).is_ok());
    }

    #[test]
    fn the_tag_is_written_to_the_superblock_alone() {
        const END: u64 = BYTES - 4096;
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = tagged(5, END, &[(END, 6)]);
        std::fs::write(file.path(), &before).unwrap();
        let mapping = Mapping { node: file.path().display().to_string(), bytes: BYTES };
        tag(&mapping, &keys(), &ID, 6).unwrap();
        assert!(judge(&std::fs::read(file.path()).unwrap(), BYTES, &keys(), &ID, 5).is_ok());
        tag(&mapping, &keys(), &ID, 5).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), before, "the old tag again, and nothing else");
        std::fs::write(file.path(), vec![0; BYTES as usize]).unwrap();
        assert_eq!(tag(&mapping, &keys(), &ID, 6).unwrap_err().code(), Code::FilesystemDamaged);
    }

    #[test]
    fn each_pair_of_numbers_has_its_end() {
        const END: u64 = BYTES - 4096;
        const OLD: u64 = BYTES / 2;
        let rows = [
            ("as left", volume(END, &[(END, 5)]), 5, Ok(false)),
            ("a commit was lost", volume(END, &[(END, 6)]), 5, Ok(false)),
            ("put back", volume(END, &[(END, 4)]), 5, Err(Code::DiskRollback)),
            ("an old database", volume(END, &[(END, 7)]), 5, Err(Code::BrokerBehind)),
            ("no block", volume(END, &[]), 5, Err(Code::GenerationInvalid)),
            ("no file system", [&[0; 4096], &volume(END, &[(END, 5)])[4096..]].concat(), 5, Err(Code::DiskRollback)),
            ("put back, but for the last block", tagged(3, END, &[(END, 5)]), 5, Err(Code::DiskRollback)),
            ("put back by one, but for the last block", tagged(4, END, &[(END, 5)]), 5, Err(Code::DiskRollback)),
            ("the same where a commit was lost", tagged(5, END, &[(END, 6)]), 5, Err(Code::DiskRollback)),
            ("cut between tag and block", tagged(6, END, &[(END, 5)]), 5, Ok(false)),
            ("a tag of what is to come", tagged(7, END, &[(END, 5)]), 5, Err(Code::DiskRollback)),
            ("in use when power was cut", with_field(volume(END, &[(END, 5)]), 0x60, &[0xc6]), 5, Ok(false)),
            ("grown", volume(OLD, &[(OLD, 5)]), 5, Ok(true)),
            ("grown, and cut after the block was moved", volume(OLD, &[(OLD, 5), (END, 6)]), 6, Ok(true)),
            ("grown, and both put back", volume(OLD, &[(OLD, 5), (END, 5)]), 6, Err(Code::DiskRollback)),
            ("cut within the growing", volume(OLD + 4096, &[(END, 5)]), 5, Ok(true)),
            ("smaller", volume(BYTES, &[]), 5, Err(Code::DiskTooSmall)),
        ];
        for (case, volume, broker, expected) in rows {
            let found = judge(&volume, BYTES, &keys(), &ID, broker);
            assert_eq!(found.map(|volume| volume.grown).map_err(|failure| failure.code()), expected, "{case}");
        }
        let other = judge(&volume(END, &[(END, 5)]), BYTES, &keys(), &[6; 16], 5);
        assert_eq!(other.err().map(|failure| failure.code()), Some(Code::GenerationInvalid), "another disk's");
        let cut = judge(&volume(END, &[])[..4096].to_vec(), BYTES, &keys(), &ID, 5);
        assert_eq!(cut.err().map(|failure| failure.code()), Some(Code::DiskUnreadable));
    }

    #[test]
    fn superblock_that_no_state_disk_has_is_refused_before_and_after_e2fsck() {
        const END: u64 = BYTES - 4096;
        let rows: [(&str, usize, &[u8]); 6] = [
            ("a magic that was overwritten: e2fsck would take a copy", 0x38, &[0]),
            ("a journal by its UUID", 0xd0, &[0x11; 16]),
            ("no journal in the volume", 0xe0, &[0]),
            ("a journal by its device", 0xe4, &[0x20, 0xfe]),
            ("data in the journal", 0x100, &[0x2c]),
            ("options of the mount", 0x200, b"journal_path=/dev/vdc"),
        ];
        for (case, at, field) in rows {
            let volume = with_field(volume(END, &[(END, 5)]), at, field);
            let found = judge(&volume, BYTES, &keys(), &ID, 5);
            assert_eq!(found.err().map(|failure| failure.code()), Some(Code::FilesystemDamaged), "{case}");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &volume).unwrap();
            let mapping = Mapping { node: file.path().display().to_string(), bytes: BYTES };
            let found = tag(&mapping, &keys(), &ID, 6);
            assert_eq!(found.err().map(|failure| failure.code()), Some(Code::FilesystemDamaged), "{case}");
            assert!(std::fs::read(file.path()).unwrap() == volume, "{case}: it was written to");
        }
    }

    #[test]
    fn blocks_that_mke2fs_reads_first_are_whole_and_within_the_mapping() {
        const GIB: u64 = 1 << 30;
        let places = first_blocks(30 * GIB);
        for group in [1, 3, 5, 7, 9, 25, 27, 49, 81, 125] {
            assert!(places.contains(&(group * 32768 * 4096)), "{group}");
        }
        assert_eq!(places.len(), 10 + 2 * 1024, "the copies, and 4 MiB at either end");
        assert!(places.iter().all(|place| place.is_multiple_of(4096) && place + 4096 <= 30 * GIB));
        assert_eq!(first_blocks(1 << 20).len(), 256);
        assert!(first_blocks(u64::MAX - 4095).len() < 3000);
    }

    #[test]
    fn the_block_is_written_behind_the_file_system() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(BYTES).unwrap();
        let mapping = Mapping { node: file.path().display().to_string(), bytes: BYTES };
        let next = next(&block(5), &keys().generation, &ID, 6).unwrap();
        write(&mapping, &next).unwrap();
        let written = std::fs::read(file.path()).unwrap();
        assert_eq!(&written[BYTES as usize - 4096..], next.as_bytes());
        assert!(written[..BYTES as usize - 4096].iter().all(|byte| *byte == 0));
        let found = Block::from_bytes(written[BYTES as usize - 4096..].to_vec()).unwrap();
        assert_eq!(found.generation(&keys().generation, &ID), Ok(6));
    }
}
