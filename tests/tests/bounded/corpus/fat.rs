//! FAT volumes of one sector for each cluster and for each table, with a long name in the root and the file EFI/BOOT/BOOTX64.EFI. Tables of FAT16 and FAT32 are
//! cut short: what lies behind the first clusters is zeros, and is not in the file.

use super::{File, file, patched};

const SECTOR: usize = 512;
const ROOT_ENTRIES: usize = 16;
const FOLDER: u8 = 0x10;
const FILE: u8 = 0x20;
const LONG_NAME: u8 = 0x0f;

/// Which of the three formats.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Twelve = 12,
    Sixteen = 16,
    ThirtyTwo = 32,
}

impl Width {
    /// Fewest clusters of the format, and those that a file of FAT12 needs.
    fn clusters(self, used: usize) -> usize {
        match self {
            Self::Twelve => used,
            Self::Sixteen => 4085,
            Self::ThirtyTwo => 65_525,
        }
    }

    /// Sectors before the first cluster: boot sector, table, root where it has a place of its own.
    fn data(self) -> usize {
        if self == Self::ThirtyTwo { 2 } else { 3 }
    }
}

fn entry(name: &[u8; 11], attributes: u8, cluster: usize, size: usize) -> Vec<u8> {
    let mut entry = name.to_vec();
    entry.push(attributes);
    entry.resize(26, 0);
    entry.extend((cluster as u16).to_le_bytes());
    entry.extend((size as u32).to_le_bytes());
    entry
}

/// One part of a long name, thirteen characters.
fn long_name(order: u8, text: &str) -> Vec<u8> {
    let mut units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    units.resize(26, 0);
    [&[order][..], &units[..10], &[LONG_NAME, 0, 0], &units[10..22], &[0, 0], &units[22..]].concat()
}

fn boot_sector(width: Width, clusters: usize) -> Vec<u8> {
    let total = (width.data() + clusters) as u32;
    let root_entries = if width == Width::ThirtyTwo { 0 } else { ROOT_ENTRIES as u8 };
    let mut sector = vec![0; SECTOR];
    let fields: [(usize, &[u8]); 7] = [
        (11, &[0, 2, 1, 1, 0, 1]),
        (17, &[root_entries]),
        (22, &[u8::from(width != Width::ThirtyTwo)]),
        (32, &total.to_le_bytes()),
        (36, &[u8::from(width == Width::ThirtyTwo)]),
        (44, &[2]),
        (510, &[0x55, 0xaa]),
    ];
    for (at, field) in fields {
        sector[at..at + field.len()].copy_from_slice(field);
    }
    sector
}

/// A table: cluster 2 is a root, 3 is EFI, 4 is EFI/BOOT, the file is the rest.
fn table(width: Width, next: &[usize]) -> Vec<u8> {
    let mut table = vec![0; SECTOR];
    for (cluster, next) in next.iter().enumerate() {
        match width {
            Width::Twelve => {
                let (at, shift) = (cluster * 3 / 2, cluster % 2 * 4);
                let pair = u16::from_le_bytes([table[at], table[at + 1]]) | (*next as u16 & 0xfff) << shift;
                table[at..at + 2].copy_from_slice(&pair.to_le_bytes());
            }
            Width::Sixteen => table[cluster * 2..cluster * 2 + 2].copy_from_slice(&(*next as u16).to_le_bytes()),
            Width::ThirtyTwo => table[cluster * 4..cluster * 4 + 4].copy_from_slice(&(*next as u32).to_le_bytes()),
        }
    }
    table
}

/// A volume with `content` as EFI/BOOT/BOOTX64.EFI.
pub fn volume(width: Width, content: &[u8]) -> Vec<u8> {
    const END: usize = 0x0fff_ffff;
    let used = content.len().div_ceil(SECTOR);
    let mut next = vec![END; 5 + used];
    (5..4 + used).for_each(|cluster| next[cluster] = cluster + 1);
    let root = [
        entry(b"TEST       ", 8, 0, 0),
        long_name(0x42, "lanks.conf"),
        long_name(1, "a name with b"),
        entry(b"ANAMEW~1CON", FILE, 0, 0),
        entry(b"EFI        ", FOLDER, 3, 0),
    ];
    let folders = [
        root.concat(),
        [entry(b".          ", FOLDER, 3, 0), entry(b"..         ", FOLDER, 0, 0), entry(b"BOOT       ", FOLDER, 4, 0)]
            .concat(),
        entry(b"BOOTX64 EFI", FILE, 5, content.len()),
    ];
    let mut volume = [boot_sector(width, width.clusters(3 + used)), table(width, &next)].concat();
    if width != Width::ThirtyTwo {
        volume.extend(&folders[0]);
        volume.resize(width.data() * SECTOR, 0);
    }
    for part in folders.iter().map(Vec::as_slice).chain([content]) {
        volume.extend(part);
        volume.resize(volume.len().next_multiple_of(SECTOR), 0);
    }
    volume
}

pub fn files() -> Vec<File> {
    let good = volume(Width::Twelve, &[7; 1200]);
    // Of twelve bits each, cluster 3 begins in the middle of byte 4, cluster 5 in that of byte 7.
    let following = |at: usize, bytes: &[u8]| patched(&good, SECTOR + at, bytes);
    let (root, boot) = (2 * SECTOR, 5 * SECTOR);
    let many = [vec![long_name(1, "thirteen char"); 15].concat(), entry(b"LONG       ", FILE, 0, 0)].concat();
    let mut files = vec![
        file("fat", "fat12", good.clone()),
        file("fat", "file-in-a-circle", following(7, &[0x5f, 0])),
        file("fat", "folder-in-a-circle", following(4, &[0x3f, 0])),
        file("fat", "folder-in-itself", patched(&good, boot - SECTOR + 64 + 26, &[3])),
        file("fat", "chain-to-a-free-cluster", following(7, &[0x0f, 0])),
        file("fat", "chain-to-a-bad-cluster", following(7, &[0x7f, 0xff])),
        file("fat", "file-of-4-gib", patched(&good, boot + 28, &[0xff; 4])),
        file("fat", "file-behind-the-volume", patched(&good, boot + 20, &[0xff; 2])),
        file("fat", "long-name-without-an-end", patched(&good, root, &many)),
        file("fat", "volume-of-2-tib", patched(&good, 32, &[0xff; 4])),
        file("fat", "tables-of-2-tib", patched(&patched(&good, 22, &[0]), 36, &[0xff; 4])),
        file("fat", "no-tables", patched(&good, 16, &[0])),
        file("fat", "clusters-of-64-kib", patched(&good, 13, &[128])),
        file("fat", "sectors-of-no-bytes", patched(&good, 11, &[0, 0])),
        file("fat", "cut-in-its-root", &good[..root + 40]),
    ];
    for (name, width) in [("fat16", Width::Sixteen), ("fat32", Width::ThirtyTwo)] {
        files.push(file("fat_large", name, volume(width, &[7; 1200])));
    }
    let large = volume(Width::ThirtyTwo, &[7; 1200]);
    files.push(file("fat_large", "root-in-a-circle", patched(&large, SECTOR + 8, &[2, 0, 0, 0])));
    files.push(file("fat_large", "root-behind-the-volume", patched(&large, 44, &[0xff; 4])));
    files.push(file("fat_large", "file-of-16-mib", patched(&large, 4 * SECTOR + 28, &[0, 0, 0, 1])));
    files
}
