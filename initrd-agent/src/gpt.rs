//! The partition table of one disk (UEFI Specification 2.10, section 5.3), read by ourselves because Linux does not
//! tell partition UUIDs to a system without udev. Every byte is the host's: sizes are fixed here and compared with the
//! disk's, both checksums are verified, and anything unusual makes the whole table invalid. Only the primary header is
//! read, as Linux does.

use std::fmt;
use std::str::FromStr;

use crate::read_at::ReadAt;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
const MOST_ENTRIES: usize = 128;

/// A GUID in the byte order of the disk: the first three groups little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid([u8; 16]);

/// Places in the disk's bytes, in the order of the text.
const TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl Guid {
    /// From the number that the text shows, most significant digit first.
    pub const fn from_u128(value: u128) -> Self {
        let text = value.to_be_bytes();
        let mut disk = [0; 16];
        let mut index = 0;
        while index < 16 {
            disk[TEXT_ORDER[index]] = text[index];
            index += 1;
        }
        Self(disk)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, place) in TEXT_ORDER.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[*place])?;
        }
        Ok(())
    }
}

/// The text is not a GUID.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a lower-case UUID such as 00112233-4455-6677-8899-aabbccddeeff")]
pub struct NotAGuid(String);

impl FromStr for Guid {
    type Err = NotAGuid;

    fn from_str(text: &str) -> Result<Self, NotAGuid> {
        let digits: String = text.chars().filter(|character| *character != '-').collect();
        u128::from_str_radix(&digits, 16)
            .ok()
            .map(Self::from_u128)
            .filter(|guid| guid.to_string() == text)
            .ok_or_else(|| NotAGuid(text.to_owned()))
    }
}

/// One used entry; offsets and sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Number of the partition, from 1.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Which one it is.
    pub partuuid: Guid,
    /// Where it starts.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Why a disk is ignored.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// The device did not give its bytes.
    #[error("reading the partition table: {0}")]
    Read(#[from] std::io::Error),
    /// The disk has no partition table of this kind, which is no defect.
    #[error("no GPT header")]
    Absent,
    /// The table is not as the specification and our bounds say.
    #[error("the GPT is not valid: {0}")]
    Invalid(&'static str),
}

/// Reads the used entries of a disk with `block` bytes per logical block.
///
/// # Errors
/// When there is no valid table; entries that end beyond the disk are not an error here.
pub fn entries(disk: &impl ReadAt, block: u64) -> Result<Vec<Entry>, GptError> {
    let mut header = [0; HEADER_BYTES];
    disk.read_exact_at(&mut header, block)?;
    let layout = Layout::parse(header)?;
    let mut table = vec![0; MOST_ENTRIES * ENTRY_BYTES];
    let table = &mut table[..layout.entries * ENTRY_BYTES];
    let place = layout.table.checked_mul(block).ok_or(GptError::Invalid("table beyond the largest disk"))?;
    disk.read_exact_at(table, place)?;
    if crc32fast::hash(table) != layout.checksum {
        return Err(GptError::Invalid("wrong checksum of the entries"));
    }
    let used = table.chunks_exact(ENTRY_BYTES).zip(1..).filter(|(entry, _)| entry[..16] != [0; 16]);
    used.map(|(bytes, number)| entry(bytes, number, block)).collect()
}

/// What the header says about the entries.
struct Layout {
    table: u64,
    entries: usize,
    checksum: u32,
}

impl Layout {
    fn parse(mut header: [u8; HEADER_BYTES]) -> Result<Self, GptError> {
        let require = |holds: bool, what| if holds { Ok(()) } else { Err(GptError::Invalid(what)) };
        if &header[..8] != SIGNATURE {
            return Err(GptError::Absent);
        }
        require(u32_at(&header, 8) == REVISION, "unknown revision")?;
        require(u32_at(&header, 12) as usize == HEADER_BYTES, "header is not 92 bytes")?;
        let checksum = u32_at(&header, 16);
        header[16..20].fill(0);
        require(crc32fast::hash(&header) == checksum, "wrong checksum of the header")?;
        require(u64_at(&header, 24) == 1, "header is not for block 1")?;
        require(u32_at(&header, 84) as usize == ENTRY_BYTES, "entries are not 128 bytes")?;
        let entries = u32_at(&header, 80) as usize;
        require((1..=MOST_ENTRIES).contains(&entries), "not 1 to 128 entries")?;
        let table = u64_at(&header, 72);
        require(table >= 2, "entries overlap the header")?;
        Ok(Self { table, entries, checksum: u32_at(&header, 88) })
    }
}

fn entry(bytes: &[u8], number: u32, block: u64) -> Result<Entry, GptError> {
    let (first, last) = (u64_at(bytes, 32), u64_at(bytes, 40));
    let blocks = last.checked_sub(first).and_then(|blocks| blocks.checked_add(1));
    let extent = blocks.and_then(|blocks| Some((first.checked_mul(block)?, blocks.checked_mul(block)?)));
    let (start, bytes_long) = extent.ok_or(GptError::Invalid("a partition ends before it starts"))?;
    start.checked_add(bytes_long).ok_or(GptError::Invalid("a partition beyond the largest disk"))?;
    Ok(Entry { number, kind: guid_at(bytes, 0), partuuid: guid_at(bytes, 16), start, bytes: bytes_long })
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[offset + index])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

fn guid_at(bytes: &[u8], offset: usize) -> Guid {
    Guid(array_at(bytes, offset))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const KIND: Guid = Guid::from_u128(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709);
    pub const PARTUUID: Guid = Guid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);

    /// A disk of 1 MiB with 128 entries; each given entry is (slot, kind, UUID, first block, last block).
    pub fn disk(block: usize, used: &[(usize, Guid, Guid, u64, u64)]) -> Vec<u8> {
        let mut disk = vec![0; 1 << 20];
        let table = 2 * block;
        for (slot, kind, partuuid, first, last) in used {
            let at = table + slot * ENTRY_BYTES;
            disk[at..at + 16].copy_from_slice(&kind.0);
            disk[at + 16..at + 32].copy_from_slice(&partuuid.0);
            disk[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            disk[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        }
        disk[block..block + 8].copy_from_slice(SIGNATURE);
        disk[block + 8..block + 12].copy_from_slice(&REVISION.to_le_bytes());
        disk[block + 12..block + 16].copy_from_slice(&92u32.to_le_bytes());
        disk[block + 24] = 1;
        disk[block + 72] = 2;
        disk[block + 80] = 128;
        disk[block + 84] = 128;
        seal(&mut disk, block);
        disk
    }

    /// Writes both checksums.
    fn seal(disk: &mut [u8], block: usize) {
        let table = crc32fast::hash(&disk[2 * block..2 * block + MOST_ENTRIES * ENTRY_BYTES]);
        disk[block + 88..block + 92].copy_from_slice(&table.to_le_bytes());
        disk[block + 16..block + 20].fill(0);
        let header = crc32fast::hash(&disk[block..block + HEADER_BYTES]);
        disk[block + 16..block + 20].copy_from_slice(&header.to_le_bytes());
    }

    #[test]
    fn a_table_is_read_with_small_and_large_blocks() {
        for block in [512usize, 4096] {
            let disk = disk(block, &[(1, KIND, PARTUUID, 40, 47)]);
            let expected =
                Entry { number: 2, kind: KIND, partuuid: PARTUUID, start: 40 * block as u64, bytes: 8 * block as u64 };
            assert_eq!(entries(&disk, block as u64).unwrap(), [expected]);
        }
    }

    #[test]
    fn a_changed_or_unusual_table_is_refused() {
        type Change = fn(&mut Vec<u8>);
        let rows: [(&str, Change, bool); 13] = [
            ("no signature", |disk| disk[512] = 0, true),
            ("other revision", |disk| disk[522] = 2, true),
            ("longer header", |disk| disk[524] = 96, true),
            ("flipped header byte", |disk| disk[512 + 60] ^= 1, false),
            ("flipped entry byte", |disk| disk[1024 + 4] ^= 1, false),
            ("header of another block", |disk| disk[512 + 24] = 2, true),
            ("entries of 256 bytes", |disk| disk[512 + 84..512 + 86].copy_from_slice(&[0, 1]), true),
            ("no entries", |disk| disk[512 + 80] = 0, true),
            ("129 entries", |disk| disk[512 + 80] = 129, true),
            ("four thousand million entries", |disk| disk[512 + 80..512 + 84].fill(0xff), true),
            ("entries in block 1", |disk| disk[512 + 72] = 1, true),
            ("entries beyond the disk", |disk| disk[512 + 72..512 + 80].fill(0x7f), true),
            ("ends before it starts", |disk| disk[1024 + 128 + 40] = 1, true),
        ];
        for (case, change, sealed) in rows {
            let mut disk = disk(512, &[(0, KIND, PARTUUID, 40, 47), (1, KIND, PARTUUID, 48, 50)]);
            assert!(entries(&disk, 512).is_ok());
            change(&mut disk);
            if sealed {
                seal(&mut disk, 512);
            }
            assert!(entries(&disk, 512).is_err(), "{case} was accepted");
        }
    }

    #[test]
    fn partitions_at_the_end_of_numbers_do_not_wrap() {
        for (first, last) in [(0, u64::MAX), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert!(entries(&disk(512, &[(0, KIND, PARTUUID, first, last)]), 512).is_err(), "{first}..{last}");
        }
    }

    #[test]
    fn a_disk_shorter_than_its_table_is_an_error_and_not_a_panic() {
        let whole = disk(512, &[]);
        for length in [0, 511, 512, 600, 1024, 1025, 17000] {
            assert!(entries(&whole[..length].to_vec(), 512).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_guid_reads_what_it_writes_and_nothing_else() {
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let guid: Guid = text.parse().unwrap();
        assert_eq!(guid.0[..4], [0x28, 0x73, 0x2a, 0xc1]);
        assert_eq!(guid.to_string(), text);
        for wrong in ["", "c12a7328", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "c12a7328f81f11d2ba4b00a0c93ec93b"] {
            assert_eq!(wrong.parse::<Guid>(), Err(NotAGuid(wrong.to_owned())));
        }
    }
}
