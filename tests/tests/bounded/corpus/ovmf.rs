//! Firmware images of one page: the table of GUIDs at their end, and metadata at byte 0x800.

use ovmf_measure::{Guid, PAGE};

use super::{File, file, patched};

const TABLE: Guid = Guid::from_digits(0x96b582de_1fb2_45f7_baea_a366c55a082d);
const RESET_BLOCK: Guid = Guid::from_digits(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e);
const HASH_TABLE: Guid = Guid::from_digits(0x7255371f_3a3b_4b04_927b_1da6efa8d454);
const SEV: Guid = Guid::from_digits(0xdc886566_984a_4798_a75e_5585a7bf67cc);
const TDX: Guid = Guid::from_digits(0xe47a6535_984a_4798_865e_4685a7bf8ec2);
/// Where metadata begins.
const BLOCK: usize = 0x800;
const RESET_VECTOR: usize = 32;

/// An image with these entries and this metadata.
fn image(entries: &[(Guid, &[u32])], block: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    for (guid, numbers) in entries {
        table.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        table.extend((numbers.len() as u16 * 4 + 18).to_le_bytes());
        table.extend(guid.stored());
    }
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(TABLE.stored());
    let image = patched(&vec![0; PAGE], BLOCK, block);
    patched(&image, PAGE - RESET_VECTOR - table.len(), &table)
}

fn metadata(signature: &[u8; 4], size: usize, numbers: &[u32]) -> Vec<u8> {
    let count = numbers.len() * 4 / size;
    let header = [16 + numbers.len() as u32 * 4, 1, count as u32];
    let numbers = header.iter().chain(numbers).flat_map(|number| number.to_le_bytes());
    signature.iter().copied().chain(numbers).collect()
}

fn sev(sections: &[[u32; 3]]) -> Vec<u8> {
    let entries: [(Guid, &[u32]); 3] =
        [(RESET_BLOCK, &[0x80_b004]), (HASH_TABLE, &[0x1_0c00, 1024]), (SEV, &[(PAGE - BLOCK) as u32])];
    image(&entries, &metadata(b"ASEV", 12, sections.as_flattened()))
}

/// Sections as offset and length of the data, address, size (both 64 bits), type, attributes.
fn tdx(sections: &[[u32; 8]]) -> Vec<u8> {
    image(&[(TDX, &[(PAGE - BLOCK) as u32])], &metadata(b"TDVF", 32, sections.as_flattened()))
}

pub fn files() -> Vec<File> {
    let page = PAGE as u32;
    let good = sev(&[[0x1_0000, page, 0x10], [0x2_0000, page, 1], [0x3_0000, page, 2], [0x4_0000, page, 3]]);
    let code = [0, page, 0xffff_f000, 0, page, 0, 0, 1];
    let domain = tdx(&[code, [0, 0, 0x1_0000, 0, page, 0, 3, 0], [0, 0, 0x2_0000, 0, page, 0, 2, 2]]);
    let length = PAGE - RESET_VECTOR - 18;
    let number = |at: usize, value: u32| patched(&good, BLOCK + at, &value.to_le_bytes());
    vec![
        file("ovmf", "sev", good.clone()),
        file("ovmf", "tdx", domain.clone()),
        file("ovmf", "no-table", vec![0x90; PAGE]),
        file("ovmf", "empty-table", image(&[], &[])),
        file("ovmf", "table-longer-than-the-image", patched(&good, length, &[0xff; 2])),
        file("ovmf", "table-shorter-than-its-header", patched(&good, length, &[17, 0])),
        file("ovmf", "entry-of-no-bytes", patched(&good, length - 18, &[0, 0])),
        file("ovmf", "entry-without-its-number", image(&[(RESET_BLOCK, &[]), (SEV, &[])], &[])),
        file("ovmf", "metadata-before-the-image", image(&[(SEV, &[u32::MAX]), (TDX, &[page + 1])], &[])),
        file("ovmf", "metadata-behind-the-image", image(&[(SEV, &[0]), (TDX, &[4])], &[])),
        file("ovmf", "sections-of-4-gib", number(12, u32::MAX)),
        file("ovmf", "sections-behind-the-image", patched(&number(12, 256), BLOCK + 4, &[0xff; 4])),
        file("ovmf", "section-of-4-gib", number(20, 0xffff_f000)),
        file("ovmf", "sections-of-1-gib", sev(&[[0x1_0000, 1 << 30, 1]; 100])),
        file("ovmf", "data-of-4-gib", patched(&domain, BLOCK + 20, &[0xff; 4])),
        file(
            "ovmf",
            "memory-at-the-end-of-all-addresses",
            patched(&domain, BLOCK + 24, &[0, 0xf0, 255, 255, 255, 255, 255, 255]),
        ),
        file("ovmf", "half-a-page", &good[PAGE / 2..]),
    ]
}
