//! Partition tables, and whole disks: a table of four entries in blocks 1 and 2, partitions behind it.

use super::{File, fat, file, patched, pe};

const BLOCK: usize = 512;
const ENTRIES: usize = 2 * BLOCK;
/// Block of the first partition.
const FIRST: u64 = 3;
/// Type of an EFI system partition, as stored.
const ESP: [u8; 16] = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
const LINUX: [u8; 16] = [0xaf; 16];

fn entry(kind: [u8; 16], first: u64, last: u64, name: &str) -> Vec<u8> {
    let mut entry = [kind, [0x11; 16]].concat();
    entry.extend([first, last, 0].iter().flat_map(|number| number.to_le_bytes()));
    entry.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    entry.resize(128, 0);
    entry
}

/// A disk with these entries and, from block 3 on, this content.
fn disk(entries: &[Vec<u8>], content: &[u8]) -> Vec<u8> {
    let mut array = entries.concat();
    array.resize(BLOCK, 0);
    let mut disk = vec![0; BLOCK];
    disk.extend(b"EFI PART\0\0\x01\0\x5c\0\0\0");
    disk.resize(BLOCK + 72, 0);
    disk.extend(2_u64.to_le_bytes());
    disk.extend([4, 128].iter().flat_map(|number: &u32| number.to_le_bytes()));
    disk.resize(ENTRIES, 0);
    disk.extend(array);
    disk.extend(content);
    signed(disk)
}

/// With the checksums of entries and header.
fn signed(mut disk: Vec<u8>) -> Vec<u8> {
    let entries = crc32fast::hash(&disk[ENTRIES..ENTRIES + BLOCK]);
    disk[BLOCK + 88..BLOCK + 92].copy_from_slice(&entries.to_le_bytes());
    disk[BLOCK + 16..BLOCK + 20].fill(0);
    let header = crc32fast::hash(&disk[BLOCK..BLOCK + 92]);
    disk[BLOCK + 16..BLOCK + 20].copy_from_slice(&header.to_le_bytes());
    disk
}

pub fn files() -> Vec<File> {
    let entries = [entry(ESP, 3, 4, "esp"), vec![0; 128], entry(LINUX, 5, 5, "a name of thirty-six characters ... ")];
    let good = disk(&entries, &[]);
    let header = |at: usize, value: u32| signed(patched(&good, BLOCK + at, &value.to_le_bytes()));
    let range = |first: u64, last: u64| disk(&[entry(LINUX, first, last, "x")], &[]);
    let mut files = vec![
        file("gpt", "two-entries", good.clone()),
        file("gpt", "no-entries", header(80, 0)),
        file("gpt", "header-with-a-wrong-checksum", patched(&good, BLOCK + 16, &[0; 4])),
        file("gpt", "entries-with-a-wrong-checksum", patched(&good, ENTRIES + 32, &[9])),
        file("gpt", "entries-behind-the-disk", header(72, 3)),
        file("gpt", "entries-at-2-tib", header(72, u32::MAX)),
        file("gpt", "1025-entries", header(80, 1025)),
        file("gpt", "entries-of-4-gib", header(84, u32::MAX)),
        file("gpt", "header-of-4-gib", header(12, u32::MAX)),
        file("gpt", "last-before-first", range(5, 4)),
        file("gpt", "all-blocks-there-are", range(0, u64::MAX)),
        file(
            "gpt",
            "half-a-surrogate",
            disk(&[entry(LINUX, 1, 1, "x")].map(|entry| patched(&entry, 56, &[0, 0xd8])), &[]),
        ),
        file("gpt", "cut-in-its-header", &good[..BLOCK + 91]),
        file("gpt", "cut-in-its-entries", &good[..ENTRIES + 200]),
    ];
    files.extend(disks());
    files
}

fn disks() -> Vec<File> {
    let volume = fat::volume(fat::Width::Twelve, &pe::uki(257));
    let last = FIRST + (volume.len() / BLOCK) as u64 - 1;
    let esp = || entry(ESP, FIRST, last, "esp");
    let good = disk(&[esp()], &volume);
    vec![
        file("boot_image", "two-systems", disk(&[esp(), esp()], &volume)),
        file("boot_image", "system-behind-the-disk", disk(&[entry(ESP, FIRST, last + 1, "esp")], &volume)),
        file("boot_image", "no-system", disk(&[entry(LINUX, FIRST, last, "root")], &[])),
        file("boot_image", "system-without-a-uki", disk(&[esp()], &fat::volume(fat::Width::Twelve, b"MZ"))),
        file("boot_image", "partition-table-with-a-wrong-checksum", patched(&good, BLOCK + 16, &[0; 4])),
        file("boot_image", "disk", good),
    ]
}
