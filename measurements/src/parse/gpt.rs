//! GUID partition tables (UEFI 2.10, section 5.3), as firmware measures them: header and used entries byte for byte.
//!
//! Refused: a header or an array with a wrong checksum, entries of a size other than 128 bytes, more than 1024 of them.

use super::bytes::At;

/// Sizes of a logical block: that of nearly all disks, and that of disks without emulation (4Kn).
const BLOCKS: [usize; 2] = [512, 4096];
const HEADER: usize = 92;
const ENTRY: usize = 128;
const MOST_ENTRIES: u32 = 1024;

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpt<'a> {
    /// The header, 92 bytes as they are on the disk.
    pub header: &'a [u8],
    /// The used entries in slot order.
    pub entries: Vec<Entry<'a>>,
}

/// A used entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// 128 bytes as they are on the disk.
    pub bytes: &'a [u8],
    /// Number of the partition, from 1.
    pub number: u32,
    /// Type GUID as stored.
    pub type_guid: [u8; 16],
    /// Unique GUID as stored.
    pub guid: [u8; 16],
    /// First block.
    pub first: u64,
    /// Last block.
    pub last: u64,
    /// Bytes of a block.
    block: usize,
}

impl Entry<'_> {
    /// Position and length in bytes.
    pub fn range(&self) -> Option<(usize, usize)> {
        let first = usize::try_from(self.first).ok()?.checked_mul(self.block)?;
        let blocks = self.last.checked_sub(self.first)?.checked_add(1)?;
        Some((first, usize::try_from(blocks).ok()?.checked_mul(self.block)?))
    }

    /// Its name: UTF-16 up to the first NUL.
    pub fn name(&self) -> String {
        let units = self.bytes[56..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|unit| unit.unwrap_or('\u{fffd}')).collect()
    }
}

/// Why a table is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("there is no GUID partition table in block 1, whether blocks have 512 or 4096 bytes")]
    Missing,
    /// It contradicts itself.
    #[error("the GUID partition table is damaged: {0}")]
    Damaged(&'static str),
}

impl<'a> Gpt<'a> {
    /// Reads the primary table of a disk; a table says by its place how large blocks are.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(disk: &'a [u8]) -> Result<Self, Error> {
        let has_table =
            |block: &usize| disk.range(*block, HEADER).is_some_and(|header| header.starts_with(b"EFI PART"));
        let block = BLOCKS.into_iter().find(has_table).ok_or(Error::Missing)?;
        Self::with_block(disk, block)
    }

    fn with_block(disk: &'a [u8], block: usize) -> Result<Self, Error> {
        let header = disk.range(block, HEADER).ok_or(Error::Missing)?;
        if header.word(12) != Some(HEADER as u32) {
            return Err(Error::Damaged("its header does not have 92 bytes"));
        }
        let mut unsigned = header.to_vec();
        unsigned[16..20].fill(0);
        if header.word(16) != Some(crc32(&unsigned)) {
            return Err(Error::Damaged("the checksum of its header is wrong"));
        }
        let damaged = Error::Damaged("its array of entries lies outside the disk");
        let number = |at| header.word(at).unwrap_or(0);
        if number(84) != ENTRY as u32 || number(80) > MOST_ENTRIES {
            return Err(Error::Damaged("it has more than 1024 entries, or they do not have 128 bytes"));
        }
        let start = header.long(72).and_then(|number| usize::try_from(number).ok()?.checked_mul(block));
        let array = start.and_then(|start| disk.range(start, number(80) as usize * ENTRY)).ok_or(damaged)?;
        if number(88) != crc32(array) {
            return Err(Error::Damaged("the checksum of its entries is wrong"));
        }
        let entries =
            (1..).zip(array.chunks_exact(ENTRY)).filter_map(|(number, bytes)| entry(number, bytes, block)).collect();
        Ok(Self { header, entries })
    }

    /// What firmware measures: UEFI_GPT_DATA (TCG PC Client Platform Firmware Profile, section 10.4.8).
    pub fn event(&self) -> Vec<u8> {
        let mut event = self.header.to_vec();
        event.extend((self.entries.len() as u64).to_le_bytes());
        self.entries.iter().for_each(|entry| event.extend(entry.bytes));
        event
    }
}

fn entry(number: u32, bytes: &[u8], block: usize) -> Option<Entry<'_>> {
    let type_guid: [u8; 16] = bytes[..16].try_into().ok()?;
    (type_guid != [0; 16]).then_some(())?;
    let guid = bytes[16..32].try_into().ok()?;
    Some(Entry { bytes, number, type_guid, guid, first: bytes.long(32)?, last: bytes.long(40)?, block })
}

/// CRC-32 as in IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: usize| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 512;

    #[test]
    fn the_checksum_is_that_of_ieee_802_3() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_disk_without_a_table_says_so() {
        assert_eq!(Gpt::parse(&[]), Err(Error::Missing));
        assert_eq!(Gpt::parse(&[0; 4096]), Err(Error::Missing));
    }
    /// A disk with a table of four entries, the second of which is used; `change` comes before the checksums.
    fn disk(change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut disk = vec![0; 8 * BLOCK];
        disk[BLOCK..BLOCK + 8].copy_from_slice(b"EFI PART");
        disk[BLOCK + 12] = HEADER as u8;
        for (at, value) in [(72, 2), (80, 4), (84, ENTRY as u8)] {
            disk[BLOCK + at] = value;
        }
        let entry = 2 * BLOCK + ENTRY;
        disk[entry..entry + 32].fill(7);
        (disk[entry + 32], disk[entry + 40], disk[entry + 56]) = (4, 5, b'x');
        change(&mut disk);
        sign(&mut disk);
        disk
    }

    fn sign(disk: &mut [u8]) {
        let array = crc32(&disk[2 * BLOCK..2 * BLOCK + 4 * ENTRY]);
        disk[BLOCK + 88..BLOCK + 92].copy_from_slice(&array.to_le_bytes());
        disk[BLOCK + 16..BLOCK + 20].fill(0);
        let header = crc32(&disk[BLOCK..BLOCK + HEADER]);
        disk[BLOCK + 16..BLOCK + 20].copy_from_slice(&header.to_le_bytes());
    }

    #[test]
    fn used_entries_are_measured_behind_the_header() {
        let disk = disk(|_| ());
        let gpt = Gpt::parse(&disk).unwrap();
        let entry = &gpt.entries[0];
        assert_eq!((gpt.entries.len(), entry.number, entry.name().as_str()), (1, 2, "x"));
        assert_eq!(entry.range(), Some((4 * BLOCK, 2 * BLOCK)));
        let event = gpt.event();
        assert_eq!((event.len(), &event[HEADER..HEADER + 8]), (HEADER + 8 + ENTRY, &[1, 0, 0, 0, 0, 0, 0, 0][..]));
    }

    /// The same disk with blocks of 4096 bytes: header in block 1, entries in block 2.
    #[test]
    fn a_table_of_blocks_with_4096_bytes_is_measured_like_any_other() {
        let small = disk(|_| ());
        let mut large = vec![0; 8 * 4096];
        large[4096..4096 + HEADER].copy_from_slice(&small[BLOCK..BLOCK + HEADER]);
        large[2 * 4096..2 * 4096 + 4 * ENTRY].copy_from_slice(&small[2 * BLOCK..2 * BLOCK + 4 * ENTRY]);
        let (small, large) = (Gpt::parse(&small).unwrap(), Gpt::parse(&large).unwrap());
        assert_eq!(large.event(), small.event());
        assert_eq!(large.entries[0].range(), Some((4 * 4096, 2 * 4096)));
    }

    #[test]
    fn a_table_that_contradicts_itself_is_refused_with_the_reason() {
        for (at, what) in [(BLOCK + 24, "header"), (2 * BLOCK + 200, "entries")] {
            let mut disk = disk(|_| ());
            disk[at] ^= 1;
            let Err(Error::Damaged(problem)) = Gpt::parse(&disk) else { panic!("{what}") };
            assert!(problem.contains("checksum") && problem.contains(what), "{problem}");
        }
        for (at, value, words) in [
            (12, 93, "92 bytes"),
            (84, 64, "128 bytes"),
            (82, 1, "1024 entries"),
            (72, 200, "outside the disk"),
            (79, 0xff, "outside the disk"),
        ] {
            let disk = disk(|disk| disk[BLOCK + at] = value);
            let Err(Error::Damaged(problem)) = Gpt::parse(&disk) else { panic!("{words}") };
            assert!(problem.contains(words), "{words}: {problem}");
        }
    }
}
