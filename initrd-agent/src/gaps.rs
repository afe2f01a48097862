//! What lies on the image's disk outside of its partitions. No register covers boot code, unused entries of the partition
//! table, or the gaps before and between partitions: the firmware measures the header and the used entries (TCG PC Client
//! Platform Firmware Profile, section 2.3.4.6, PCR 5). A disk that holds anything there is refused, so that nothing can be
//! kept in these places from one boot to the next.
//!
//! Not looked at: what is behind the last partition, where tools move the second table when a disk grows. It is read by
//! nothing.

use std::collections::BTreeSet;
use std::fs::File;

use crate::code::Code;
use crate::failure::Failure;
use crate::gpt::Entry;
use crate::inventory::{self, Places};
use crate::read_at::ReadAt;

/// Boot code, the disk signature and two reserved bytes of a protective MBR (UEFI Specification 2.10, section 5.2.3).
const BOOT_CODE: u64 = 446;
/// The used part of a GPT header.
const HEADER: u64 = 92;
/// One entry of the table, and all of them.
const ENTRY: usize = 128;
const TABLE: u64 = 128 * ENTRY as u64;
/// More than the gaps of any image of ours.
const MAX_GAP_BYTES: u64 = 16 << 20;

/// Checks the disks with these names.
///
/// # Errors
/// `IMAGE_DISK_ALTERED`.
pub fn check(places: &Places, disks: &[String]) -> Result<(), Failure> {
    let names: BTreeSet<&String> = disks.iter().collect();
    for name in names {
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
    must_be_zero("the boot code", 0, BOOT_CODE)?;
    must_be_zero("the rest of the table's header", block + HEADER, 2 * block)?;
    unused_entries(disk, 2 * block)?;
    let mut places: Vec<(u64, u64)> = entries.iter().map(|entry| (entry.start, entry.start + entry.bytes)).collect();
    places.sort_unstable();
    let mut end = 2 * block + TABLE;
    for (start, next) in places {
        must_be_zero("the gap before a partition", end, start)?;
        end = end.max(next);
    }
    Ok(())
}

fn unused_entries(disk: &impl ReadAt, from: u64) -> Result<(), String> {
    let mut table = vec![0; TABLE as usize];
    disk.read_exact_at(&mut table, from).map_err(|error| format!("reading the partition table: {error}"))?;
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
mod tests {
    use super::*;
    use crate::gpt::Guid;

    const MIB: usize = 1 << 20;

    fn entry(number: u32, start: usize, bytes: usize) -> Entry {
        let guid = Guid::from_u128(u128::from(number));
        Entry { number, kind: guid, partuuid: guid, start: start as u64, bytes: bytes as u64 }
    }

    /// Two partitions with a gap before each, and what a table has.
    fn disk() -> (Vec<u8>, Vec<Entry>) {
        let mut disk = vec![0; 6 * MIB];
        disk[446..512].fill(1);
        disk[512..512 + 92].fill(2);
        disk[1024..1024 + 256].fill(3);
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
            (512 + 92, "the rest of the table's header"),
            (1024 + 256 + 16, "an unused entry"),
            (1024 + 16384, "the gap before a partition"),
            (MIB - 1, "the gap before a partition"),
            (2 * MIB, "the gap before a partition"),
            (3 * MIB - 1, "the gap before a partition"),
        ] {
            let mut disk = plain.clone();
            disk[at] = 1;
            let found = check_disk(&disk, 512, &entries);
            assert!(found.as_ref().is_err_and(|found| found.starts_with(what)), "{at}: {found:?}");
        }
        // Partitions are covered otherwise, and what is behind the last one is read by nothing.
        for at in [446, 600, 1024, MIB, 4 * MIB, 6 * MIB - 1] {
            let mut disk = plain.clone();
            disk[at] ^= 0x80;
            assert_eq!(check_disk(&disk, 512, &entries), Ok(()), "{at}");
        }
    }

    #[test]
    fn gap_that_is_too_large_or_cannot_be_read_is_refused() {
        let (plain, _) = disk();
        let far = check_disk(&plain, 512, &[entry(1, 40 * MIB, MIB)]);
        assert!(far.is_err_and(|found| found.contains("bytes")));
        assert!(check_disk(&plain[..1000].to_vec(), 512, &[]).is_err());
    }
}
