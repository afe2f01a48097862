//! What lies on the image's disk outside of its partitions. No register covers the first sector, unused entries of the partition
//! table, the second table, or the gaps before and between partitions: the firmware measures the first header and the used entries
//! (TCG PC Client Platform Firmware Profile, section 2.3.4.6, PCR 5). A disk that holds anything there but what the image builder
//! writes is refused, so that nothing can be kept in these places from one boot to the next.
//!
//! Firmware uses the second table if the first is damaged, and Linux reads it, so the second has to be a copy of the first. Its
//! place is in the first header, which is measured.
//!
//! Not checked: the free space behind the last partition and, on a disk larger than the image, behind the second table. The agent
//! and the kernel read nothing there. Firmware reads the last block of the disk if the first table is damaged, and then writes the
//! first table anew, which PCR 5 shows.

use std::collections::BTreeSet;
use std::fs::File;

use crate::code::Code;
use crate::failure::Failure;
use crate::gpt::Entry;
use crate::inventory::{self, Places};
use crate::read_at::ReadAt;

/// Boot code, the disk signature and two reserved bytes of a protective MBR (UEFI Specification 2.10, section 5.2.3).
const BOOT_CODE: u64 = 446;
/// The rest of its 512 bytes: four partition records and a signature.
const RECORDS: usize = 66;
/// The one record: not bootable, of the type EE, from the first sector in both ways of counting, to the end in the old one.
const PROTECTIVE: [u8; 12] = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0];
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// The used part of a GPT header, and places in it (section 5.3.2).
const HEADER: u64 = 92;
const CHECKSUM: std::ops::Range<usize> = 16..20;
const OWN_BLOCK: std::ops::Range<usize> = 24..32;
const OTHER_BLOCK: std::ops::Range<usize> = 32..40;
const TABLE_BLOCK: std::ops::Range<usize> = 72..80;
/// One entry of the table, and all of them.
const ENTRY: usize = 128;
const TABLE: u64 = 128 * ENTRY as u64;
/// More than the gaps of any image of ours.
const MAX_GAP_BYTES: u64 = 16 << 20;

/// Checks the disks with these names.
///
/// # Errors
/// `IMAGE_DISK_ALTERED`.
pub fn check(places: &Places, disks: &BTreeSet<String>) -> Result<(), Failure> {
    for name in disks {
        let altered = |what: String| Failure::new(Code::ImageDiskAltered, format!("disk {name}: {what}"));
        let block = inventory::block_size(places, name).map_err(|error| altered(error.to_string()))?;
        let entries = inventory::entries(places, name).map_err(|error| altered(error.to_string()))?;
        let disk = File::open(inventory::node(places, name)).map_err(|error| altered(error.to_string()))?;
        check_disk(&disk, block, &entries).map_err(altered)?;
    }
    Ok(())
}

fn check_disk(disk: &impl ReadAt, block: u64, entries: &[Entry]) -> Result<(), String> {
    let must_be_zero = |what: &str, from: u64, to: u64| {
        let length = to.saturating_sub(from);
        if length > MAX_GAP_BYTES {
            return Err(format!("{what} has {length} bytes"));
        }
        match first_used(disk, from, length) {
            Ok(None) => Ok(()),
            Ok(Some(at)) => Err(format!("{what} is not empty, at byte {at}")),
            Err(error) => Err(format!("reading {what}: {error}")),
        }
    };
    let header: [u8; HEADER as usize] = read(disk, "the partition table's header", block)?;
    let second = u64::from_le_bytes(std::array::from_fn(|index| header[OTHER_BLOCK.start + index]));
    must_be_zero("the boot code", 0, BOOT_CODE)?;
    must_be("the protective partition record", disk, BOOT_CODE, &protective_record(second))?;
    must_be_zero("the rest of the first sector", 512, block)?;
    must_be_zero("the rest of the table's header", block + HEADER, 2 * block)?;
    let table: [u8; TABLE as usize] = read(disk, "the partition table", 2 * block)?;
    unused_entries(&table)?;
    let beyond = || "the second partition table is beyond the largest disk".to_owned();
    let at = second.checked_mul(block).filter(|at| at.checked_add(block).is_some()).ok_or_else(beyond)?;
    let second_table = second.checked_sub(TABLE.div_ceil(block)).ok_or_else(beyond)?;
    must_be("the second partition table's header", disk, at, &second_header(header, second_table))?;
    must_be_zero("the rest of the second table's header", at + HEADER, at + block)?;
    must_be("the second partition table", disk, second_table * block, &table)?;
    let mut places: Vec<(u64, u64)> = entries.iter().map(|entry| (entry.start, entry.start + entry.bytes)).collect();
    places.sort_unstable();
    let mut end = 2 * block + TABLE;
    for (start, next) in places {
        must_be_zero("the gap before a partition", end, start)?;
        end = end.max(next);
    }
    Ok(())
}

/// What the image builder writes behind the boot code of a disk with this last block.
fn protective_record(last_block: u64) -> [u8; RECORDS] {
    let blocks = u32::try_from(last_block).unwrap_or(u32::MAX);
    let mut records = [0; RECORDS];
    records[..PROTECTIVE.len()].copy_from_slice(&PROTECTIVE);
    records[PROTECTIVE.len()..16].copy_from_slice(&blocks.to_le_bytes());
    records[RECORDS - SIGNATURE.len()..].copy_from_slice(&SIGNATURE);
    records
}

/// The header of a second table with this first block that belongs to the first `header`.
fn second_header(mut header: [u8; HEADER as usize], table: u64) -> [u8; HEADER as usize] {
    let first_block = 1u64.to_le_bytes();
    header.copy_within(OTHER_BLOCK, OWN_BLOCK.start);
    header[OTHER_BLOCK].copy_from_slice(&first_block);
    header[TABLE_BLOCK].copy_from_slice(&table.to_le_bytes());
    header[CHECKSUM].fill(0);
    let checksum = crc32fast::hash(&header);
    header[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn read<const N: usize>(disk: &impl ReadAt, what: &str, from: u64) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    disk.read_exact_at(&mut bytes, from).map_err(|error| format!("reading {what}: {error}"))?;
    Ok(bytes)
}

fn must_be<const N: usize>(what: &str, disk: &impl ReadAt, from: u64, expected: &[u8; N]) -> Result<(), String> {
    let found: [u8; N] = read(disk, what, from)?;
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => Err(format!("{what} is not as the image builder writes it, at byte {}", from + at as u64)),
    }
}

fn unused_entries(table: &[u8]) -> Result<(), String> {
    let is_hidden = |entry: &&[u8]| entry[..16] == [0; 16] && entry.iter().any(|byte| *byte != 0);
    match table.chunks_exact(ENTRY).find(is_hidden) {
        None => Ok(()),
        Some(_) => Err("an unused entry of the partition table is not empty".into()),
    }
}

/// Where the first byte that is not zero is.
fn first_used(disk: &impl ReadAt, from: u64, length: u64) -> std::io::Result<Option<u64>> {
    const PART: u64 = 1 << 20;
    for start in (0..length).step_by(PART as usize) {
        let mut part = vec![0; PART.min(length - start) as usize];
        disk.read_exact_at(&mut part, from + start)?;
        if let Some(at) = part.iter().position(|byte| *byte != 0) {
            return Ok(Some(from + start + at as u64));
        }
    }
    Ok(None)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::gpt::Guid;

    /// A disk of blocks of 512 bytes with a first table, completed by what a builder writes around it.
    pub fn completed(mut disk: Vec<u8>) -> Vec<u8> {
        let last = (disk.len() / 512 - 1) as u64;
        disk[512..][OTHER_BLOCK].copy_from_slice(&last.to_le_bytes());
        disk[512..][CHECKSUM].fill(0);
        let checksum = crc32fast::hash(&disk[512..512 + HEADER as usize]);
        disk[512..][CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        disk[BOOT_CODE as usize..512].copy_from_slice(&protective_record(last));
        let second = second_header(std::array::from_fn(|index| disk[512 + index]), last - 32);
        let at = disk.len() - 512;
        disk[at..at + HEADER as usize].copy_from_slice(&second);
        disk.copy_within(1024..1024 + TABLE as usize, at - TABLE as usize);
        disk
    }

    const MIB: usize = 1 << 20;

    fn entry(number: u32, start: usize, bytes: usize) -> Entry {
        let guid = Guid::from_u128(u128::from(number));
        Entry { number, kind: guid, partuuid: guid, start: start as u64, bytes: bytes as u64 }
    }

    /// End of the disk below that its tables know; behind it is one MiB more.
    const END: usize = 6 * MIB;
    /// Places of the second table's header and entries, with blocks of 512 bytes.
    const SECOND_HEADER: usize = END - 512;
    const SECOND_TABLE: usize = SECOND_HEADER - 16384;

    fn disk() -> (Vec<u8>, Vec<Entry>) {
        disk_of(512)
    }

    /// Two partitions with a gap before each, and what a builder writes around them, with blocks of this size.
    fn disk_of(block: usize) -> (Vec<u8>, Vec<Entry>) {
        let mut disk = vec![0; END + MIB];
        let (last, second_table) = ((END / block - 1) as u64, END - block - 16384);
        disk[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        disk[458..462].copy_from_slice(&(last as u32).to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[2 * block..2 * block + 256].fill(3);
        disk.copy_within(2 * block..2 * block + 16384, second_table);
        let second = (END - block, last, 1, (second_table / block) as u64);
        for (at, own, other, table) in [(block, 1, last, 2), second] {
            let header = &mut disk[at..at + 92];
            header[..16].copy_from_slice(b"EFI PART\0\0\x01\0\x5c\0\0\0");
            header[40..72].fill(7);
            header[80..92].fill(8);
            for (at, number) in [(24, own), (32, other), (72, table)] {
                header[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            let checksum = crc32fast::hash(header);
            header[16..20].copy_from_slice(&checksum.to_le_bytes());
        }
        disk[MIB..2 * MIB].fill(4);
        disk[3 * MIB..4 * MIB].fill(5);
        (disk, vec![entry(2, 3 * MIB, MIB), entry(1, MIB, MIB)])
    }

    #[test]
    fn bytes_outside_of_partitions_are_found_wherever_they_are() {
        let (plain, entries) = disk();
        assert_eq!(check_disk(&plain, 512, &entries), Ok(()));
        for (at, what) in [
            (0, "the boot code"),
            (445, "the boot code"),
            (446, "the protective partition record"),
            (450, "the protective partition record"),
            (454, "the protective partition record"),
            (458, "the protective partition record"),
            (462, "the protective partition record"),
            (509, "the protective partition record"),
            (510, "the protective partition record"),
            (511, "the protective partition record"),
            (512 + 92, "the rest of the table's header"),
            (1024 + 256 + 16, "an unused entry"),
            (1024 + 16384, "the gap before a partition"),
            (MIB - 1, "the gap before a partition"),
            (2 * MIB, "the gap before a partition"),
            (3 * MIB - 1, "the gap before a partition"),
            (SECOND_TABLE, "the second partition table is not"),
            (SECOND_TABLE + 256 + 16, "the second partition table is not"),
            (SECOND_HEADER - 1, "the second partition table is not"),
            (SECOND_HEADER, "the second partition table's header"),
            (SECOND_HEADER + 16, "the second partition table's header"),
            (SECOND_HEADER + 56, "the second partition table's header"),
            (SECOND_HEADER + 91, "the second partition table's header"),
            (SECOND_HEADER + 92, "the rest of the second table's header"),
            (6 * MIB - 1, "the rest of the second table's header"),
        ] {
            let mut disk = plain.clone();
            disk[at] ^= 1;
            let found = check_disk(&disk, 512, &entries);
            assert!(found.as_ref().is_err_and(|found| found.starts_with(what)), "{at}: {found:?}");
        }
        // Partitions are covered otherwise, and free space behind the last one is read by nothing.
        for at in [MIB, 4 * MIB, SECOND_TABLE - 1, 6 * MIB] {
            let mut disk = plain.clone();
            disk[at] ^= 0x80;
            assert_eq!(check_disk(&disk, 512, &entries), Ok(()), "{at}");
        }
    }

    #[test]
    fn space_in_large_blocks_behind_sector_and_headers_is_empty() {
        let (plain, entries) = disk_of(4096);
        assert_eq!(check_disk(&plain, 4096, &entries), Ok(()));
        for (at, what) in [
            (512, "the rest of the first sector"),
            (4095, "the rest of the first sector"),
            (4096 + 92, "the rest of the table's header"),
            (END - 4096 + 92, "the rest of the second table's header"),
        ] {
            let mut disk = plain.clone();
            disk[at] = 1;
            let found = check_disk(&disk, 4096, &entries);
            assert!(found.as_ref().is_err_and(|found| found.starts_with(what)), "{at}: {found:?}");
        }
    }

    /// Firmware accepts such a table: its checksums are right.
    #[test]
    fn second_table_with_other_partitions_and_right_checksums_is_refused() {
        let (mut disk, entries) = disk();
        disk[SECOND_TABLE + 32] ^= 1;
        let checksum = crc32fast::hash(&disk[SECOND_TABLE..SECOND_TABLE + 16384]);
        let header = &mut disk[SECOND_HEADER..SECOND_HEADER + 92];
        header[88..92].copy_from_slice(&checksum.to_le_bytes());
        header[16..20].fill(0);
        let checksum = crc32fast::hash(header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        let found = check_disk(&disk, 512, &entries);
        assert!(found.is_err_and(|found| found.starts_with("the second partition table's header")));
    }

    #[test]
    fn place_of_the_second_table_that_is_not_on_a_disk_is_refused() {
        let (plain, entries) = disk();
        for second in [0, 1, 31, u64::MAX / 512, u64::MAX] {
            let mut disk = plain.clone();
            disk[512 + 32..512 + 40].copy_from_slice(&second.to_le_bytes());
            disk[458..462].copy_from_slice(&u32::try_from(second).unwrap_or(u32::MAX).to_le_bytes());
            let found = check_disk(&disk, 512, &entries);
            assert!(found.as_ref().is_err_and(|found| found.contains("second")), "{second}: {found:?}");
        }
    }

    #[test]
    fn gap_that_is_too_large_or_cannot_be_read_is_refused() {
        let (plain, _) = disk();
        let far = check_disk(&plain, 512, &[entry(1, 40 * MIB, MIB)]);
        assert!(far.is_err_and(|found| found.contains("bytes")));
        for length in [0, 511, 1000, 1024 + 100, 6 * MIB - 1] {
            assert!(check_disk(&plain[..length].to_vec(), 512, &[]).is_err(), "{length} bytes");
        }
    }
}
