//! Hashes of kernel, initrd and command line, which QEMU puts into guest memory for direct kernel boot with `kernel-hashes=on` (QEMU, `target/i386/sev.c`;
//! edk2, `OvmfPkg/AmdSev/BlobVerifierLibSevHashes`).

use sha2::{Digest, Sha256};

use crate::firmware::HashTableArea;
use crate::{Error, Guid, PAGE};

const TABLE: Guid = Guid::from_digits(0x9438d606_4f22_4cc9_b479_a793d411fd21);
const COMMAND_LINE: Guid = Guid::from_digits(0x97d02dd8_bd20_4c94_aa78_e7714d36ab2a);
const INITRD: Guid = Guid::from_digits(0x44baf731_3a2f_4bd7_9af1_41e29169781d);
const KERNEL: Guid = Guid::from_digits(0x4de79437_abd2_427f_b835_d5b172d2045b);

/// GUID, length and three entries of GUID, length and digest.
const LENGTH: u16 = 168;
const ENTRY: u16 = 50;
/// Padded to a multiple of 16.
const PADDED: usize = 176;

/// SHA-256 of what a VMM hands to the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelHashes {
    kernel: [u8; 32],
    initrd: [u8; 32],
    command_line: [u8; 32],
}

impl KernelHashes {
    /// Of the files as they are; no initrd is an empty one. The command line is hashed with its NUL.
    pub fn new(kernel: &[u8], initrd: &[u8], command_line: &[u8]) -> Self {
        let digest = |bytes: &[u8]| Sha256::digest(bytes).into();
        let terminated: [u8; 32] = Sha256::new().chain_update(command_line).chain_update([0]).finalize().into();
        Self { kernel: digest(kernel), initrd: digest(initrd), command_line: terminated }
    }

    /// Of a file with this SHA-256 that is started alone, as a unified kernel image is: no initrd and no command line.
    pub fn of_image(kernel: [u8; 32]) -> Self {
        Self { kernel, ..Self::new(&[], &[], &[]) }
    }

    /// The table as it lies in memory.
    pub fn table(&self) -> [u8; PADDED] {
        let mut table = Vec::with_capacity(PADDED);
        table.extend(TABLE.stored());
        table.extend(LENGTH.to_le_bytes());
        for (guid, digest) in [(COMMAND_LINE, &self.command_line), (INITRD, &self.initrd), (KERNEL, &self.kernel)] {
            table.extend(guid.stored());
            table.extend(ENTRY.to_le_bytes());
            table.extend(digest);
        }
        let mut padded = [0; PADDED];
        padded[..table.len()].copy_from_slice(&table);
        padded
    }

    /// The page that holds the table at its place.
    pub(super) fn page(&self, area: HashTableArea) -> Result<[u8; PAGE], Error> {
        let at = area.base as usize % PAGE;
        if (area.size as usize) < PADDED {
            return Err(Error::HashArea("it is too small for the table"));
        }
        let mut page = [0; PAGE];
        let place = page.get_mut(at..at + PADDED).ok_or(Error::HashArea("the table would leave its page"))?;
        place.copy_from_slice(&self.table());
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_its_entries_in_a_fixed_order() {
        let table = KernelHashes::new(b"k", b"", b"").table();
        assert_eq!(&table[..18], &[TABLE.stored().as_slice(), &[168, 0]].concat());
        let entry = |index: usize| &table[18 + 50 * index..68 + 50 * index];
        assert_eq!(&entry(0)[..16], COMMAND_LINE.stored());
        assert_eq!(&entry(0)[18..], Sha256::digest([0]).as_slice());
        assert_eq!(&entry(1)[18..], Sha256::digest([]).as_slice());
        assert_eq!(&entry(2)[18..], Sha256::digest(b"k").as_slice());
        assert_eq!(table[168..], [0; 8]);
    }

    #[test]
    fn a_table_that_leaves_its_page_is_refused() {
        let hashes = KernelHashes::new(b"", b"", b"");
        assert_eq!(hashes.page(HashTableArea { base: 0x810f00, size: 1024 }).unwrap()[0xf00], TABLE.stored()[0]);
        for area in [HashTableArea { base: 0x810f60, size: 1024 }, HashTableArea { base: 0x810000, size: 175 }] {
            assert!(matches!(hashes.page(area), Err(Error::HashArea(_))));
        }
    }
}
