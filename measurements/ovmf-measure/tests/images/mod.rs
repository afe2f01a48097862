//! Firmware images for cross-checks: noise with a block of SEV metadata at its start and a table of GUIDs at its end (edk2, `OvmfPkg/ResetVector`).

use ovmf_measure::Guid;

/// SEV-ES reset block.
pub const RESET_BLOCK: u128 = 0x00f771de_1a7e_4fcb_890e_68c77e2fb44e;
/// Area for kernel hashes.
pub const HASH_TABLE: u128 = 0x7255371f_3a3b_4b04_927b_1da6efa8d454;
/// Where the SEV metadata lies.
pub const METADATA: u128 = 0xdc886566_984a_4798_a75e_5585a7bf67cc;
const TABLE: u128 = 0x96b582de_1fb2_45f7_baea_a366c55a082d;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// splitmix64, little-endian.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| random.number().to_le_bytes()).take(length.div_ceil(8)).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// Numbers as they are stored.
pub fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// An image of `pages` pages with these sections (address, size, type) and these entries of its table, the first being the lowest in memory. A [`METADATA`]
/// entry without data gets the position of the sections.
pub fn image(seed: u64, pages: usize, sections: &[[u32; 3]], entries: &[(u128, Vec<u8>)]) -> Vec<u8> {
    let mut image = noise(seed, pages * 4096);
    let count = sections.len() as u32;
    let block = [b"ASEV".to_vec(), numbers(&[16 + 12 * count, 1, count]), numbers(sections.as_flattened())].concat();
    image[..block.len()].copy_from_slice(&block);
    let mut table = Vec::new();
    for (guid, data) in entries {
        let position = numbers(&[image.len() as u32]);
        let data = if *guid == METADATA && data.is_empty() { &position } else { data };
        table.extend(data);
        table.extend((data.len() as u16 + 18).to_le_bytes());
        table.extend(Guid::from_digits(*guid).stored());
    }
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(Guid::from_digits(TABLE).stored());
    let end = image.len() - 32;
    image[end - table.len()..end].copy_from_slice(&table);
    image
}
