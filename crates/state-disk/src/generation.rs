//! The generation block: how often the broker has released this disk, kept inside the encrypted volume and outside its file system, so that an older copy of the whole disk is noticed before its journal is replayed.
//!
//! It is the last [`GENERATION`](crate::layout::GENERATION) bytes of the mapping and holds two copies, which are written in turn: whatever a power cut leaves of the one, the other is whole. Each has an HMAC under
//! a key that only this disk's share gives. Rollback is noticed only across generations; the number is no count of boots.
//!
//! Sectors are encrypted each for itself, so the block alone would vouch for nothing but itself. The superblock carries a tag of the same generation ([`crate::filesystem::tag`]): an older file system with a newer block is noticed ([`accepted_tags`]).
//!
//! # Where it is, and what happens when a disk grows
//!
//! The file system is made [`GENERATION`](crate::layout::GENERATION) bytes smaller than the mapping, so the block is both the last of the mapping and the first behind the file system. The mapping is as large as the disk, so after the
//! disk has grown these are two places ([`places`]): both are read, and the newest whole copy counts, wherever it stands. Then, before anything is mounted, the block is written once more at the new end, and flushed;
//! only then is the file system grown up to it (by the kernel, whose journal keeps it whole). Power may be cut at any point: until the file system's size has changed, the block behind it is untouched; afterwards, the one at the
//! end is there. Only a cut within the growing, and a disk that is grown again before the next boot, leaves neither place: the disk is refused, and opened by recovery.

use ring::hmac;

use crate::layout::GENERATION;

const BLOCK: usize = GENERATION as usize;
/// One copy; sectors of a disk are smaller, so that a torn write leaves the other copy alone.
const COPY: usize = BLOCK / 2;
const MAGIC: &[u8; 8] = b"CAIRNGE2";
/// Of a copy from before file systems had a tag: its file system has none. It is read, never written.
const MAGIC_WITHOUT_TAG: &[u8; 8] = b"CAIRNGEN";
/// Magic, disk id, generation, reserved bytes, HMAC. The reserved bytes are zero and are not read: older agents wrote the root of the audit log.
const DISK: usize = 8;
const NUMBER: usize = 24;
const RESERVED: usize = 32;
const SIGNED: usize = 64;
const END: usize = 96;

/// A block whose length is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block(Vec<u8>);

/// Why a block is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has another length.
    #[error("the generation block has {0} bytes, {BLOCK} are expected")]
    Length(usize),
    /// Neither copy is of this disk and whole.
    #[error("neither copy of the generation block is whole: the disk is damaged, or not the one that its header says")]
    NoCopy,
}

/// What the numbers of disk and broker mean together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The disk goes on, and gets the broker's number plus one.
    GoesOn,
    /// The disk is older than the broker knows: it was put back.
    DiskRollback,
    /// The broker is older than the disk knows: its database was put back.
    BrokerBehind,
}

/// Judges the disk's number by the broker's. The disk may be one ahead: then the last commit was lost. A database that is one generation old is the same here; the broker's statement beside the header tells the two apart.
pub fn judge(disk: u64, broker: u64) -> Verdict {
    match disk.checked_sub(broker) {
        None => Verdict::DiskRollback,
        Some(0 | 1) => Verdict::GoesOn,
        Some(_) => Verdict::BrokerBehind,
    }
}

/// The generations whose tag the file system may have, by the numbers of disk and broker: the tag is written before the block, so a power cut between them leaves the next one.
pub const fn accepted_tags(disk: u64, broker: u64) -> [u64; 2] {
    [disk, broker.saturating_add(1)]
}

/// Where the block may be, in a mapping with a file system of so many bytes: at the end, and behind the file system. None where there is no place for it, which is so when the disk has become smaller.
pub fn places(mapping: u64, filesystem: Option<u64>) -> Option<Vec<u64>> {
    let end = mapping.checked_sub(GENERATION)?;
    let mut places = vec![end];
    match filesystem {
        Some(behind) if behind > end => return None,
        Some(behind) if behind < end => places.push(behind),
        _ => {}
    }
    Some(places)
}

impl Block {
    /// The block of a new disk: both copies say the same.
    pub fn new(key: &hmac::Key, disk: &[u8; 16], generation: u64) -> Self {
        let copy = copy(key, disk, generation);
        Self([copy.clone(), copy].concat())
    }

    /// A block as it was read.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        if bytes.len() == BLOCK { Ok(Self(bytes)) } else { Err(Error::Length(bytes.len())) }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Of several blocks, the one with the newest whole copy, and its generation.
    ///
    /// # Errors
    /// [`Error::NoCopy`] where none has a whole one.
    pub fn newest_of(blocks: Vec<Self>, key: &hmac::Key, disk: &[u8; 16]) -> Result<(Self, u64), Error> {
        let whole = blocks.into_iter().filter_map(|block| {
            let generation = block.generation(key, disk).ok()?;
            Some((block, generation))
        });
        whole.max_by_key(|(_, generation)| *generation).ok_or(Error::NoCopy)
    }

    /// The generation of the newest whole copy: how often the disk was released.
    ///
    /// # Errors
    /// [`Error::NoCopy`].
    pub fn generation(&self, key: &hmac::Key, disk: &[u8; 16]) -> Result<u64, Error> {
        self.newest(key, disk).map(|(_, generation)| generation).ok_or(Error::NoCopy)
    }

    /// Whether the file system must have a tag: not where the newest whole copy is from before there were tags.
    pub fn requires_tag(&self, key: &hmac::Key, disk: &[u8; 16]) -> bool {
        let newest = self.newest(key, disk).and_then(|(index, _)| self.0.chunks(COPY).nth(index));
        newest.is_none_or(|copy| !copy.starts_with(MAGIC_WITHOUT_TAG))
    }

    /// The block with the next generation in place of the older copy.
    ///
    /// # Errors
    /// [`Error::NoCopy`].
    pub fn with_next(&self, key: &hmac::Key, disk: &[u8; 16], next: u64) -> Result<Self, Error> {
        let (newest, _) = self.newest(key, disk).ok_or(Error::NoCopy)?;
        let mut bytes = self.0.clone();
        let start = (1 - newest) * COPY;
        bytes[start..start + COPY].copy_from_slice(&copy(key, disk, next));
        Ok(Self(bytes))
    }

    /// Index and generation of the newest whole copy.
    fn newest(&self, key: &hmac::Key, disk: &[u8; 16]) -> Option<(usize, u64)> {
        let copies = self.0.chunks(COPY).enumerate();
        let whole = copies.filter_map(|(index, copy)| Some((index, parse(key, disk, copy)?)));
        whole.max_by_key(|(_, generation)| *generation)
    }
}

fn copy(key: &hmac::Key, disk: &[u8; 16], generation: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(disk);
    bytes.extend(generation.to_be_bytes());
    bytes.resize(SIGNED, 0);
    bytes.extend(hmac::sign(key, &bytes).as_ref());
    bytes.resize(COPY, 0);
    bytes
}

fn parse(key: &hmac::Key, disk: &[u8; 16], copy: &[u8]) -> Option<u64> {
    hmac::verify(key, copy.get(..SIGNED)?, copy.get(SIGNED..END)?).ok()?;
    let is_magic = copy.starts_with(MAGIC) || copy.starts_with(MAGIC_WITHOUT_TAG);
    if !is_magic || copy.get(DISK..NUMBER)? != disk {
        return None;
    }
    Some(u64::from_be_bytes(copy.get(NUMBER..RESERVED)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: [u8; 16] = [5; 16];

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn copies_are_written_in_turn_and_the_newest_counts() {
        let first = Block::new(&key(1), &DISK, 1);
        let second = first.with_next(&key(1), &DISK, 2).unwrap();
        let third = second.with_next(&key(1), &DISK, 3).unwrap();
        assert_eq!(third.generation(&key(1), &DISK), Ok(3));
        let changed = |one: &Block, other: &Block| {
            let differs = |half: usize| one.0[half * COPY..][..COPY] != other.0[half * COPY..][..COPY];
            [differs(0), differs(1)]
        };
        let (once, again) = (changed(&first, &second), changed(&second, &third));
        assert!(once.iter().filter(|changed| **changed).count() == 1 && once != again, "{once:?} {again:?}");
    }

    #[test]
    fn a_write_that_is_cut_anywhere_leaves_the_older_or_the_newer_number() {
        let before = Block::new(&key(1), &DISK, 7);
        let after = before.with_next(&key(1), &DISK, 8).unwrap();
        for sector in 0..=BLOCK / 512 {
            let torn = [&after.0[..sector * 512], &before.0[sector * 512..]].concat();
            let number = Block::from_bytes(torn).unwrap().generation(&key(1), &DISK).unwrap();
            assert!(number == 7 || number == 8, "{sector}: {number}");
        }
    }

    #[test]
    fn what_is_of_another_key_or_disk_or_changed_is_no_copy() {
        let block = Block::new(&key(1), &DISK, 1);
        assert_eq!(block.generation(&key(2), &DISK), Err(Error::NoCopy));
        assert_eq!(block.generation(&key(1), &[6; 16]), Err(Error::NoCopy));
        for at in 0..END {
            let mut bytes = block.0.clone();
            bytes[at] ^= 1;
            bytes[COPY + at] ^= 1;
            assert_eq!(Block(bytes).generation(&key(1), &DISK), Err(Error::NoCopy), "byte {at}");
        }
        assert_eq!(Block::from_bytes(vec![0; BLOCK]).unwrap().generation(&key(1), &DISK), Err(Error::NoCopy));
        assert_eq!(Block::from_bytes(vec![0; 1]), Err(Error::Length(1)));
    }

    #[test]
    fn copy_from_before_tags_requires_none_until_the_next_is_written() {
        let mut bytes = vec![0; BLOCK];
        for copy in bytes.chunks_mut(COPY) {
            copy[..SIGNED].copy_from_slice(&super::copy(&key(1), &DISK, 7)[..SIGNED]);
            copy[..super::DISK].copy_from_slice(MAGIC_WITHOUT_TAG);
            // An older agent has written the root of the audit log.
            copy[RESERVED..SIGNED].fill(9);
            let tag = hmac::sign(&key(1), &copy[..SIGNED]);
            copy[SIGNED..END].copy_from_slice(tag.as_ref());
        }
        let old = Block::from_bytes(bytes).unwrap();
        assert_eq!(old.generation(&key(1), &DISK), Ok(7));
        assert!(!old.requires_tag(&key(1), &DISK));
        let next = old.with_next(&key(1), &DISK, 8).unwrap();
        assert!(next.requires_tag(&key(1), &DISK));
        assert!(Block::new(&key(1), &DISK, 0).requires_tag(&key(1), &DISK));
        assert!(next.requires_tag(&key(2), &DISK), "a block without a whole copy requires one, too");
    }

    #[test]
    fn a_grown_disk_has_two_places_and_a_smaller_one_none() {
        const MIB: u64 = 1 << 20;
        for (mapping, filesystem, expected) in [
            (MIB, Some(MIB - GENERATION), Some(vec![MIB - GENERATION])),
            (2 * MIB, Some(MIB - GENERATION), Some(vec![2 * MIB - GENERATION, MIB - GENERATION])),
            (2 * MIB, None, Some(vec![2 * MIB - GENERATION])),
            (MIB, Some(MIB), None),
            (MIB, Some(u64::MAX), None),
            (GENERATION - 1, None, None),
        ] {
            assert_eq!(places(mapping, filesystem), expected, "{mapping} {filesystem:?}");
        }
    }

    #[test]
    fn the_newest_of_two_places_counts_and_one_is_enough() {
        let old = Block::new(&key(1), &DISK, 7);
        let new = old.with_next(&key(1), &DISK, 8).unwrap();
        let garbage = Block::from_bytes(vec![9; BLOCK]).unwrap();
        for (blocks, number) in [
            (vec![old.clone(), new.clone()], 8),
            (vec![new.clone(), old.clone()], 8),
            (vec![garbage.clone(), old.clone()], 7),
            (vec![new, garbage.clone()], 8),
        ] {
            let (block, found) = Block::newest_of(blocks, &key(1), &DISK).unwrap();
            assert_eq!((found, block.generation(&key(1), &DISK)), (number, Ok(number)));
        }
        assert_eq!(Block::newest_of(vec![garbage], &key(1), &DISK), Err(Error::NoCopy));
        assert_eq!(Block::newest_of(vec![], &key(1), &DISK), Err(Error::NoCopy));
    }

    #[test]
    fn tags_of_the_block_s_generation_and_of_the_next_are_accepted() {
        for (disk, broker, accepted) in [(5, 5, [5, 6]), (6, 5, [6, 6]), (0, 0, [0, 1])] {
            assert_eq!(judge(disk, broker), Verdict::GoesOn);
            assert_eq!(accepted_tags(disk, broker), accepted, "{disk} {broker}");
        }
    }

    #[test]
    fn the_numbers_of_disk_and_broker_are_judged() {
        for (disk, broker, verdict) in [
            (4, 5, Verdict::DiskRollback),
            (5, 5, Verdict::GoesOn),
            (6, 5, Verdict::GoesOn),
            (7, 5, Verdict::BrokerBehind),
            (0, u64::MAX, Verdict::DiskRollback),
            (u64::MAX, 0, Verdict::BrokerBehind),
        ] {
            assert_eq!(judge(disk, broker), verdict, "{disk} {broker}");
        }
    }
}
