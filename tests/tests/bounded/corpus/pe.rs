//! PE images and UKIs: the headers that firmware reads, and sections in blocks of 512 bytes.

use super::{File, file, patched};

const HEADERS: usize = 0x400;
const OPTIONAL: usize = 0x58;
const CERTIFICATES: usize = OPTIONAL + 112 + 32;
const TABLE: usize = 0x148;
const BLOCK: usize = 512;

/// A PE image with these sections.
pub fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS];
    let fields: [(usize, &[u8]); 8] = [
        (0, b"MZ"),
        (0x3c, &[0x40]),
        (0x40, b"PE\0\0\x64\x86"),
        (0x46, &[sections.len() as u8]),
        (0x54, &[0xf0]),
        (OPTIONAL, &[0x0b, 2]),
        (OPTIONAL + 60, &(HEADERS as u32).to_le_bytes()),
        (OPTIONAL + 108, &[16]),
    ];
    for (at, field) in fields {
        bytes[at..at + field.len()].copy_from_slice(field);
    }
    for (index, (name, data)) in sections.iter().enumerate() {
        let (start, raw) = (bytes.len(), data.len().next_multiple_of(BLOCK));
        let numbers = [data.len(), start, raw, start].map(|number| (number as u32).to_le_bytes());
        let at = TABLE + 40 * index;
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        bytes[at + 8..at + 24].copy_from_slice(numbers.as_flattened());
        bytes.extend(*data);
        bytes.resize(start + raw, 0);
    }
    let size = (bytes.len() as u32).to_le_bytes();
    bytes[OPTIONAL + 56..OPTIONAL + 60].copy_from_slice(&size);
    bytes
}

/// A UKI with the stub of this version of systemd.
pub fn uki(version: u32) -> Vec<u8> {
    let magic = format!("#### LoaderInfo: systemd-stub {version}.1-1 ####\0");
    let kernel = image(&[(".text", b"kernel")]);
    image(&[
        (".sdmagic", magic.as_bytes()),
        (".osrel", b"ID=cairn\n"),
        (".cmdline", b" console=ttyS0\tquiet\n\0"),
        (".linux", &kernel),
        (".initrd", b"0707010"),
    ])
}

pub fn files() -> Vec<File> {
    let good = image(&[(".text", b"code"), (".data", &[7; 600])]);
    let section =
        |index: usize, field: usize, value: u32| patched(&good, TABLE + 40 * index + field, &value.to_le_bytes());
    let signed = |start: usize, length: u32| {
        let entry = [(start as u32).to_le_bytes(), length.to_le_bytes()];
        patched(&[&good[..], &[9; 8]].concat(), CERTIFICATES, entry.as_flattened())
    };
    let no_optional_header = patched(&patched(&good, 0x46, &[0]), 0x54, &[0]);
    let no_directory = patched(&no_optional_header, OPTIONAL + 60, &(OPTIONAL as u32).to_le_bytes());
    let many: Vec<(&str, &[u8])> = vec![(".s", b""); 17];
    let mut files = vec![
        file("pe", "two-sections", good.clone()),
        file("pe", "no-sections", image(&[])),
        file("pe", "seventeen-empty-sections", image(&many)),
        file("pe", "signed", signed(good.len(), 8)),
        file("pe", "signed-over-a-section", signed(HEADERS + BLOCK, (good.len() + 8 - HEADERS - BLOCK) as u32)),
        file("pe", "signed-behind-the-file", signed(good.len(), u32::MAX)),
        file("pe", "sections-overlap", section(1, 20, HEADERS as u32)),
        file("pe", "section-over-the-headers", section(0, 20, 0x100)),
        file("pe", "section-of-4-gib", section(1, 16, u32::MAX)),
        file("pe", "section-of-4-gib-in-memory", section(1, 8, u32::MAX)),
        file("pe", "section-at-4-gib", section(1, 20, u32::MAX)),
        file("pe", "no-optional-header", patched(&no_directory, OPTIONAL + 108, &[0])),
        file("pe", "four-directories", patched(&good, OPTIONAL + 108, &[4])),
        file("pe", "ninety-seven-sections", patched(&good, 0x46, &[97])),
        file("pe", "header-at-4-gib", patched(&good, 0x3c, &[0xff; 4])),
        file("pe", "cut-in-its-table", &good[..TABLE + 20]),
    ];
    files.extend(ukis());
    files
}

fn ukis() -> Vec<File> {
    let magic: (&str, &[u8]) = (".sdmagic", b"#### LoaderInfo: systemd-stub 257.1-1 ####\0");
    let good = uki(257);
    vec![
        file("uki", "stub-252", uki(252)),
        file("uki", "stub-257", good.clone()),
        file("uki", "stub-258", uki(258)),
        file("uki", "stub-262", uki(262)),
        file("uki", "stub-300", uki(300)),
        file("uki", "no-stub", image(&[(".linux", b"kernel")])),
        file("uki", "no-kernel", image(&[magic])),
        file("uki", "kernel-that-is-no-image", image(&[magic, (".linux", b"MZ")])),
        file("uki", "two-kernels", image(&[magic, (".linux", b"one"), (".linux", b"two")])),
        file("uki", "profiles", image(&[magic, (".linux", b"one"), (".profile", b"ID=a")])),
        file("uki", "cut-in-its-kernel", &good[..good.len() - 2 * BLOCK]),
        file("boot_image", "uki", good),
    ]
}
