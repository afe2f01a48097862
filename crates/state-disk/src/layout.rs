//! Where things are on a state disk. All numbers are bytes.

/// Both copies of header and JSON, then the keyslot: read once, and covered by one digest.
pub const HEADER: usize = 16 << 20;
/// One copy of header and JSON.
pub const METADATA: usize = 16 << 10;
/// The binary part of a copy.
pub const BINARY: usize = 4096;
/// Where the keyslot's key material is.
pub const KEYSLOT: u64 = 2 * METADATA as u64;
/// Its length: a key of 64 bytes in 4000 stripes, in whole pages.
pub const KEYSLOT_LENGTH: u64 = 258_048;
/// Where the share that is sealed to the recovery keys is: canonical JSON, then zeros. It is covered by the header's digest, and LUKS2 leaves it alone.
pub const RECOVERY: usize = 1 << 20;
/// At most so much.
pub const RECOVERY_LENGTH: usize = 16 << 10;
/// Where the mark of a disk that is being made is, until it is made ([`crate::unfinished`]).
pub const UNFINISHED: usize = 2 << 20;
/// Its block.
pub const UNFINISHED_LENGTH: usize = 4096;
/// A disk with less holds no state: its header's area, as much again at its end that is looked at, and a file system.
pub const LEAST_DISK: u64 = 64 << 20;
/// Sectors of the mapping.
pub const SECTOR: u64 = 4096;
/// How sectors are encrypted.
pub const CIPHER: &str = "aes-xts-plain64";
/// Length of the volume key, and of the key that wraps it.
pub const KEY: u64 = 64;
/// The generation block: right behind the file system, which ends so that it is the last of the mapping ([`crate::generation::places`]).
pub const GENERATION: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_place_in_the_header_s_area() {
        const STRIPES: u64 = 4000;
        assert_eq!((KEY * STRIPES).next_multiple_of(SECTOR), KEYSLOT_LENGTH);
        let places = [
            (0, 2 * METADATA),
            (KEYSLOT as usize, KEYSLOT_LENGTH as usize),
            (RECOVERY, RECOVERY_LENGTH),
            (UNFINISHED, UNFINISHED_LENGTH),
            (HEADER, 0),
        ];
        for pair in places.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
        }
        assert!(places.iter().all(|(start, _)| start % SECTOR as usize == 0));
    }
}
