//! Firmware volumes: one with a file that holds an LZMA section with two volumes inside, as OVMF has, and other nestings.

use lzma_rs::compress::{Options, UnpackedSize};
use measurements::parse::fv::LARGEST_UNPACKED;

use super::{File, file, patched};

/// EFI_FIRMWARE_FILE_SYSTEM2_GUID and LZMA_CUSTOM_DECOMPRESS_GUID, as stored.
const FILE_SYSTEM: [u8; 16] =
    [0x78, 0xe5, 0x8c, 0x8c, 0x3d, 0x8a, 0x1c, 0x4f, 0x99, 0x35, 0x89, 0x61, 0x85, 0xc3, 0x2d, 0xd3];
const LZMA: [u8; 16] = [0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf];
const HEADER: usize = 0x48;
const FILE_HEADER: usize = 24;
const SECTION_GUID_DEFINED: u8 = 0x02;
const SECTION_VOLUME: u8 = 0x17;
const FILE_VOLUME: u8 = 0x0b;
/// Where the LZMA stream of [`firmware`] begins.
const STREAM: usize = HEADER + FILE_HEADER + 24;

fn section(kind: u8, content: &[u8]) -> Vec<u8> {
    let size = (content.len() as u32 + 4).to_le_bytes();
    let mut section = [&size[..3], &[kind], content].concat();
    section.resize(section.len().next_multiple_of(4), 0);
    section
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let options = Options { unpacked_size: UnpackedSize::WriteToHeader(Some(content.len() as u64)) };
    let mut stream = [&LZMA[..], &[24, 0, 1, 0]].concat();
    lzma_rs::lzma_compress_with_options(&mut &content[..], &mut stream, &options).unwrap();
    section(SECTION_GUID_DEFINED, &stream)
}

/// A volume with one file of this content.
fn volume(content: &[u8]) -> Vec<u8> {
    let mut volume = vec![0; HEADER + FILE_HEADER];
    volume[16..32].copy_from_slice(&FILE_SYSTEM);
    volume[0x28..0x2c].copy_from_slice(b"_FVH");
    volume[0x30] = HEADER as u8;
    volume[HEADER + 0x12] = FILE_VOLUME;
    volume[HEADER + 0x14..HEADER + 0x17].copy_from_slice(&((content.len() + FILE_HEADER) as u32).to_le_bytes()[..3]);
    volume.extend(content);
    volume.resize(volume.len().next_multiple_of(64) + 64, 0xff);
    let length = volume.len() as u64;
    patched(&volume, 0x20, &length.to_le_bytes())
}

fn firmware(inside: &[&[u8]]) -> Vec<u8> {
    volume(&compressed(&inside.iter().flat_map(|volume| section(SECTION_VOLUME, volume)).collect::<Vec<u8>>()))
}

/// A variable store: a volume of another file system.
fn store() -> Vec<u8> {
    patched(&volume(&[0xff; 40]), 16, &[0x8d; 16])
}

/// A file that has its size in eight bytes behind its header.
fn large_file(inside: &[u8]) -> Vec<u8> {
    let content = [&[0; 8], inside].concat();
    let image = patched(&volume(&content), HEADER + 0x13, &[1]);
    patched(&image, HEADER + FILE_HEADER, &(content.len() as u64 + FILE_HEADER as u64).to_le_bytes())
}

pub fn files() -> Vec<File> {
    let good = firmware(&[b"volume of the PEI phase", b"volume of the DXE phase"]);
    let stream = compressed(&[section(SECTION_VOLUME, b"one"), section(SECTION_VOLUME, b"two")].concat());
    let size = |bytes: [u8; 3]| patched(&good, HEADER + FILE_HEADER, &bytes);
    let claims = |length: u64| patched(&good, STREAM + 5, &length.to_le_bytes());
    vec![
        file("fv", "two-volumes", good.clone()),
        file("fv", "one-volume", firmware(&[b"one"])),
        file("fv", "three-volumes", firmware(&[b"one", b"two", b"three"])),
        file("fv", "volumes-of-no-bytes", firmware(&[b"", b""])),
        file("fv", "behind-a-variable-store", [store(), good.clone()].concat()),
        file("fv", "volumes-in-volumes", firmware(&[&good, &volume(&section(SECTION_VOLUME, &good))])),
        file("fv", "compressed-twice", volume(&compressed(&stream))),
        file("fv", "large-file", large_file(&stream)),
        file("fv", "file-of-all-bytes-there-are", patched(&large_file(&stream), HEADER + FILE_HEADER, &[0xff; 8])),
        file("fv", "section-in-a-section", volume(&section(SECTION_VOLUME, &stream))),
        file("fv", "sections-of-no-bytes", volume(&section(1, b"").repeat(500))),
        file("fv", "section-of-4-gib", patched(&size([0xff; 3]), HEADER + FILE_HEADER + 4, &[0xff; 4])),
        file("fv", "section-without-a-header", size([3, 0, 0])),
        file("fv", "stream-before-its-section-ends", patched(&good, STREAM - 4, &[0, 0])),
        file("fv", "stream-behind-its-section", patched(&good, STREAM - 4, &[0xff; 2])),
        file("fv", "claims-the-largest", claims(LARGEST_UNPACKED)),
        file("fv", "claims-more-than-the-largest", claims(LARGEST_UNPACKED + 1)),
        file("fv", "claims-no-size", claims(u64::MAX)),
        file("fv", "dictionary-of-4-gib", patched(&good, STREAM + 1, &[0xff; 4])),
        file("fv", "most-literal-bits", patched(&good, STREAM, &[224])),
        file("fv", "volume-of-no-bytes", patched(&good, 0x20, &[0; 8])),
        file("fv", "volume-of-all-bytes-there-are", patched(&good, 0x20, &[0xff; 8])),
        file("fv", "extended-header-at-64-kib", patched(&good, 0x34, &[0xff; 2])),
        file("fv", "extended-header-of-4-gib", patched(&patched(&good, 0x34, &[0x40]), 0x50, &[0xff; 4])),
        file("fv", "cut-in-its-stream", &good[..STREAM + 20]),
    ]
}
