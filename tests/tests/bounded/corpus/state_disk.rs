//! What stands on a state disk: the recorded header of cryptsetup, marks, superblocks, generation blocks.

use state_disk::generation::Block;
use state_disk::layout::{BINARY, GENERATION, METADATA};
use state_disk::unfinished::mark;

use super::{File, changed, file, patched};
use crate::targets::{BINARY_FIELDS, known};

const RECORDED: &[u8] = include_bytes!("../../../../crates/state-disk/tests/recorded/luks2-header.bin");

pub fn files() -> Vec<File> {
    [headers(), marks(), superblocks(), generations()].concat()
}

/// Fields of both copies, and the JSON, as the target puts them together.
fn header(fields: &[u8], json: &str) -> Vec<u8> {
    [fields, json.as_bytes()].concat()
}

fn headers() -> Vec<File> {
    let fields = [&RECORDED[..BINARY_FIELDS], &RECORDED[METADATA..][..BINARY_FIELDS]].concat();
    let text = &RECORDED[BINARY..METADATA];
    let good = std::str::from_utf8(text).unwrap().trim_end_matches('\0');
    let with = |from: &str, to: &str| header(&fields, &changed(good, from, to));
    let field = |at: usize, bytes: &[u8]| header(&patched(&fields, at, bytes), good);
    let keyslot = &good[good.find("\"0\":{\"type\":\"luks2\"").unwrap()..good.find("},\"tokens\"").unwrap()];
    let numbers = format!("\"tokens\":{{\"0\":[{}0]}}", "0,".repeat(500));
    let tokens = (0..40).map(|number| format!("\"{number}\":{{}}")).collect::<Vec<_>>().join(",");
    let strings = format!("\"keyslots\":[{}\"0\"]", "\"\",".repeat(500));
    vec![
        file("luks2_header", "recorded", header(&fields, good)),
        file("luks2_header", "checksum-that-is-wrong", field(448, &[0; 4])),
        file("luks2_header", "magic-of-the-first-in-both", field(BINARY_FIELDS, b"LUKS\xba\xbe")),
        file("luks2_header", "sequence-that-differs", field(16, &[0xff; 8])),
        file("luks2_header", "no-json", fields.clone()),
        file("luks2_header", "text-behind-the-json", header(&fields, &format!("{good}\0x"))),
        file("luks2_header", "keyslot-twice", with(keyslot, &[keyslot, keyslot].join(","))),
        file("luks2_header", "forty-tokens", with("\"tokens\":{}", &format!("\"tokens\":{{{tokens}}}"))),
        file("luks2_header", "token-of-numbers", with("\"tokens\":{}", &numbers)),
        file("luks2_header", "keyslots-of-a-digest-without-names", with("\"keyslots\":[\"0\"]", &strings)),
        file(
            "luks2_header",
            "iterations-beyond-2-to-64",
            with("\"iterations\":1000", "\"iterations\":18446744073709551616"),
        ),
        file(
            "luks2_header",
            "thousand-arrays",
            with("\"tokens\":{}", &format!("\"tokens\":{{\"0\":{}", "[".repeat(1000))),
        ),
        file("luks2_header", "cut", &header(&fields, good)[..BINARY_FIELDS * 2 + 400]),
    ]
}

fn marks() -> Vec<File> {
    let good = mark(&known::DISK_BYTES);
    vec![
        file("unfinished", "mark", &good[..32]),
        file("unfinished", "one-byte-behind", patched(&good[..64], 40, &[1])),
        file("unfinished", "one-byte-at-the-end", patched(&good, good.len() - 1, &[1])),
        file("unfinished", "zeros", [0; 32]),
        file("unfinished", "cut-in-the-id", &good[..20]),
    ]
}

fn superblocks() -> Vec<File> {
    const MIB: u64 = 1 << 20;
    let of = |mapping: u64, power: u32, blocks: [u32; 2], incompatible: u32| {
        let mut superblock = vec![0; 0x154];
        for (at, word) in [(0x4, blocks[0]), (0x18, power), (0x38, 0xef53), (0x60, incompatible), (0x150, blocks[1])] {
            superblock[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        [&mapping.to_le_bytes()[..], &superblock].concat()
    };
    let good = of(MIB, 2, [255, 0], 0x2c2);
    vec![
        file("superblock", "ends-at-the-generation-block", good.clone()),
        file("superblock", "in-a-disk-that-has-grown", of(2 * MIB, 2, [255, 0], 0x2c2)),
        file("superblock", "in-a-disk-that-is-smaller", of(MIB / 2, 2, [255, 0], 0x2c2)),
        file("superblock", "in-a-disk-of-no-bytes", of(0, 2, [255, 0], 0x2c2)),
        file("superblock", "in-a-disk-of-16-eib", of(u64::MAX, 2, [255, 0], 0x2c2)),
        file("superblock", "blocks-of-4-tib", of(MIB, 32, [255, 0], 0x2c2)),
        file("superblock", "blocks-beyond-2-to-64", of(MIB, 6, [u32::MAX; 2], 0x80)),
        file("superblock", "high-half-that-does-not-count", of(MIB, 2, [255, u32::MAX], 0)),
        file("superblock", "no-superblock", patched(&good, 8 + 0x38, &[0; 4])),
        file("superblock", "cut", &good[..8 + 0x62]),
    ]
}

fn generations() -> Vec<File> {
    let (key, disk) = (known::generation_key(), known::DISK_BYTES);
    let first = Block::new(&key, &disk, 7);
    let second = first.with_next(&key, &disk, 8).unwrap();
    let last = Block::new(&key, &disk, u64::MAX);
    let (good, copy) = (second.as_bytes(), GENERATION as usize / 2);
    vec![
        // All that follows in a copy is zeros, but for the second copy.
        file("generation", "one-copy", &good[..96]),
        file("generation", "two-copies", &good[..copy + 96]),
        file("generation", "largest-number", &last.as_bytes()[..96]),
        file("generation", "of-another-disk", patched(&good[..96], 8, &[0xff; 16])),
        file("generation", "wrong-hmac", patched(&good[..96], 64, &[0; 32])),
        file("generation", "other-magic", patched(&good[..96], 0, b"CAIRNGEM")),
        file("generation", "bytes-behind-a-copy", patched(&good[..200], 150, &[1])),
        file("generation", "cut", &good[..70]),
    ]
}
