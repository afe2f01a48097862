//! Files without a GUID partition table that are given as a disk, known by their first bytes, so that a refusal names what was given and what to give.

use super::bytes::At;
use super::stub::is_linux;

/// What a file is, and what to do.
pub type Kind = (&'static str, &'static str);

const GIVE: &str = "give the raw disk, or the UKI alone";
const WHOLE: &str = "give the whole disk that has this file system as its EFI system partition";
/// Signature at the end of the first block of an MBR and of a FAT file system.
const BOOT_SIGNATURE: (usize, u16) = (510, 0xaa55);
/// Type of the partition that protects a GPT (UEFI 2.10, section 5.2.3).
const PROTECTIVE: u8 = 0xee;

/// What a file is that is no disk with a GUID partition table.
pub fn of(bytes: &[u8]) -> Option<Kind> {
    if bytes.is_empty() {
        return Some(("empty", GIVE));
    }
    if bytes.starts_with(b"\x7fELF") {
        return Some(("an ELF program", GIVE));
    }
    if is_linux(bytes) {
        return Some(("a kernel of Linux without a PE header", GIVE));
    }
    if bytes.half(BOOT_SIGNATURE.0) != Some(BOOT_SIGNATURE.1) {
        return None;
    }
    // Where FAT12, FAT16 and FAT32 have their name.
    if [54, 82].iter().any(|at| bytes.range(*at, 3) == Some(b"FAT")) {
        return Some(("a FAT file system", WHOLE));
    }
    let types: Vec<u8> = (0..4).filter_map(|entry| bytes.byte(450 + 16 * entry)).filter(|kind| *kind != 0).collect();
    if types.is_empty() {
        return Some(("a disk whose MBR has no partition", GIVE));
    }
    let hint = "convert the disk to a GUID partition table: `sgdisk --mbrtogpt DISK`";
    (!types.contains(&PROTECTIVE)).then_some(("a disk with an MBR partition table", hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_not_a_disk_with_a_gpt_is_named() {
        let block = |at: usize, bytes: &[u8]| {
            let mut block = vec![0; 1024];
            block[510..512].copy_from_slice(&[0x55, 0xaa]);
            block[at..at + bytes.len()].copy_from_slice(bytes);
            block
        };
        let name = |bytes: &[u8]| of(bytes).map(|(name, _)| name);
        assert_eq!(name(b""), Some("empty"));
        assert_eq!(name(b"\x7fELF\x02"), Some("an ELF program"));
        assert_eq!(name(&block(0x202, b"HdrS")), Some("a kernel of Linux without a PE header"));
        assert_eq!(name(&block(54, b"FAT16")), Some("a FAT file system"));
        assert_eq!(name(&block(82, b"FAT32")), Some("a FAT file system"));
        assert_eq!(name(&block(450, &[0x83])), Some("a disk with an MBR partition table"));
        assert_eq!(name(&block(0, b"")), Some("a disk whose MBR has no partition"));
        assert_eq!((name(&block(450, &[0xee])), name(b"text")), (None, None));
    }
}
