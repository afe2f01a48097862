//! Parsers of what stands on a state disk before and inside its encryption: header, mark, recovery document, superblock, generation block.

use std::cell::RefCell;

use attest::recovery::Recovery;
use ring::hmac;
use sha2::{Digest, Sha256};
use state_disk::generation::{Block, places};
use state_disk::layout::{BINARY, GENERATION, HEADER, METADATA, UNFINISHED, UNFINISHED_LENGTH};
use state_disk::{filesystem, header, id, recovery, unfinished};

use super::{known, read};

/// How much of the binary part of a header is in an input: the rest is zeros in every header.
pub const BINARY_FIELDS: usize = 512;
/// Where the checksum is in it.
const CHECKSUM: std::ops::Range<usize> = 448..512;
/// The HMAC of a copy of the generation block, behind what it covers.
const COVERED: usize = 64;

/// A header of LUKS2: the fields of the first copy, those of the second, and the JSON of both; the rest of the area is zeros. Once as it is, and once with checksums made right.
pub fn luks2_header(bytes: &[u8]) {
    luks2_header_is_accepted(bytes);
}

/// As it is, and with right checksums.
pub fn luks2_header_is_accepted(bytes: &[u8]) -> [bool; 2] {
    thread_local! {
        static AREA: RefCell<Vec<u8>> = vec![0; HEADER].into();
    }
    AREA.with_borrow_mut(|area| {
        let (first, rest) = bytes.split_at(bytes.len().min(BINARY_FIELDS));
        let (second, json) = rest.split_at(rest.len().min(BINARY_FIELDS));
        let json = &json[..json.len().min(METADATA - BINARY)];
        for (copy, fields) in area.chunks_mut(METADATA).zip([first, second]) {
            copy.fill(0);
            copy[..fields.len()].copy_from_slice(fields);
            copy[BINARY..BINARY + json.len()].copy_from_slice(json);
        }
        let as_it_is = is_header(area);
        for copy in area.chunks_mut(METADATA).take(2) {
            copy[CHECKSUM].fill(0);
            let checksum = Sha256::digest(&*copy);
            copy[CHECKSUM.start..][..checksum.len()].copy_from_slice(&checksum);
        }
        [as_it_is, is_header(area)]
    })
}

/// Whether it is a header of the known disk: then it is one by its digest, too.
fn is_header(area: &[u8]) -> bool {
    let Some(fresh) = read(header::check_fresh(area, known::DISK)) else { return false };
    assert_eq!(fresh.uuid(), known::DISK);
    assert_eq!(header::check(area, fresh.digest(), known::DISK), Ok(fresh));
    true
}

/// The block at the place of the mark of an unfinished disk; the rest of the area is zeros.
pub fn unfinished(bytes: &[u8]) {
    thread_local! {
        static AREA: RefCell<Vec<u8>> = vec![0; HEADER].into();
    }
    AREA.with_borrow_mut(|area| {
        let given = &bytes[..bytes.len().min(UNFINISHED_LENGTH)];
        area[UNFINISHED..][..UNFINISHED_LENGTH].fill(0);
        area[UNFINISHED..][..given.len()].copy_from_slice(given);
        let before = area[UNFINISHED..][..UNFINISHED_LENGTH].to_vec();
        let taken = unfinished::take(area);
        let expected = taken.map(|id| unfinished::mark(&id));
        assert!(expected.is_none_or(|mark| mark == before));
        assert_eq!(area[UNFINISHED..][..UNFINISHED_LENGTH] != before, taken.is_some());
        assert!(taken.is_none_or(|disk| id::parse(&id::write(&disk)) == Some(disk)));
    });
}

/// The place of the recovery document, what is found there, and the share in it.
pub fn recovery(bytes: &[u8]) {
    let Some(document) = recovery::find(bytes) else { return };
    assert!(bytes.starts_with(document) && !document.contains(&0));
    let Some(recovery) = read(Recovery::read(document)) else { return };
    assert_eq!(recovery.write().ok().as_deref(), Some(document));
    read(recovery.open(&known::private_key()));
}

/// The length of a mapping, then the superblock of the file system in it: where the generation block may be.
pub fn superblock(bytes: &[u8]) {
    let Some((mapping, superblock)) = bytes.split_first_chunk() else { return };
    let mapping = u64::from_le_bytes(*mapping);
    let size = filesystem::bytes(superblock);
    for place in places(mapping, size).unwrap_or_default() {
        assert!(place.checked_add(GENERATION).is_some_and(|end| end <= mapping));
    }
}

/// A generation block, cut or filled with zeros to its length; once as it is, and once with the HMACs of its copies made right.
pub fn generation(bytes: &[u8]) {
    generation_is_accepted(bytes);
}

/// As it is, and with right HMACs.
pub fn generation_is_accepted(bytes: &[u8]) -> [bool; 2] {
    read(Block::from_bytes(bytes.to_vec()));
    let mut block = bytes.to_vec();
    block.resize(GENERATION as usize, 0);
    let as_it_is = is_block(block.clone());
    for copy in block.chunks_mut(GENERATION as usize / 2) {
        let tag = hmac::sign(&known::generation_key(), &copy[..COVERED]);
        copy[COVERED..][..tag.as_ref().len()].copy_from_slice(tag.as_ref());
    }
    [as_it_is, is_block(block)]
}

/// Whether it is a block of the known disk: then the next generation can be written, and is the newest.
fn is_block(block: Vec<u8>) -> bool {
    let (key, disk) = (known::generation_key(), known::DISK_BYTES);
    let Some(block) = read(Block::from_bytes(block)) else { return false };
    let Some(found) = read(block.generation(&key, &disk)) else { return false };
    if let Some(next) = found.checked_add(1) {
        let written = read(block.with_next(&key, &disk, next));
        assert_eq!(written.and_then(|block| block.generation(&key, &disk).ok()), Some(next));
    }
    true
}
