//! Where things are on a state disk. All numbers are bytes.

use serde::{Deserialize, Serialize};

/// Both copies of header and JSON, then the keyslot: read once, and covered by one digest.
pub const HEADER: usize = 16 << 20;
/// One copy of header and JSON.
pub const METADATA: usize = 16 << 10;
/// The binary part of a copy.
pub const BINARY: usize = 4096;
/// Where the keyslot's key material is.
pub const KEYSLOT: u64 = 2 * METADATA as u64;
/// Where the share that is sealed to the recovery keys is: canonical JSON, then zeros. It is covered by the header's digest, and LUKS2 leaves it alone.
pub const RECOVERY: usize = 1 << 20;
/// At most so much.
pub const RECOVERY_LENGTH: usize = 16 << 10;
/// Where the mark of a disk that is being made is, until it is made ([`crate::unfinished`]).
pub const UNFINISHED: usize = 2 << 20;
/// Its block.
pub const UNFINISHED_LENGTH: usize = 4096;
/// Where the broker's statement about the committed disk is ([`crate::statement`]): not covered by the header's digest, which it names.
pub const STATEMENT: usize = 3 << 20;
/// Both copies of it.
pub const STATEMENT_LENGTH: usize = 16 << 10;
/// A disk with less holds no state: its header's area, as much again at its end that is looked at, and a file system.
pub const LEAST_DISK: u64 = 64 << 20;
/// Sectors of the mapping.
pub const SECTOR: u64 = 4096;
/// How sectors are encrypted.
pub const CIPHER: &str = "aes-xts-plain64";
/// Length of the key that wraps the volume key, in bytes.
pub const WRAPPING_KEY: u64 = 64;
/// Anti-forensic stripes of the keyslot.
pub const STRIPES: u64 = 4000;

/// How the sectors of a state disk are protected: named in `cluster.json` and in the disk's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// AES-XTS: encrypted, not authenticated.
    #[default]
    #[serde(rename = "luks2-xts-1")]
    Xts,
    /// AES-XTS with an HMAC-SHA-256 tag for each sector, stored by dm-integrity: a changed sector cannot be read. A sector that is replaced together with its older tag can.
    #[serde(rename = "luks2-xts-hmac-1")]
    XtsHmac,
}

impl Profile {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Xts, Self::XtsHmac];

    /// As documents have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xts => "luks2-xts-1",
            Self::XtsHmac => "luks2-xts-hmac-1",
        }
    }

    /// The profile with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Length of the volume key in bytes: two keys of AES-256, and one of HMAC-SHA-256.
    pub const fn key_length(self) -> u64 {
        match self {
            Self::Xts => 64,
            Self::XtsHmac => 96,
        }
    }

    /// Length of the keyslot's area in bytes: the volume key in [`STRIPES`] stripes, in whole pages.
    pub const fn keyslot_length(self) -> u64 {
        (self.key_length() * STRIPES).next_multiple_of(SECTOR)
    }
}
/// The generation block: right behind the file system, which ends so that it is the last of the mapping ([`crate::generation::places`]).
pub const GENERATION: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_place_in_the_header_s_area() {
        assert_eq!(Profile::ALL.map(Profile::keyslot_length), [258_048, 385_024]);
        assert_eq!(Profile::ALL.map(|profile| Profile::named(profile.name())), Profile::ALL.map(Some));
        let places = [
            (0, 2 * METADATA),
            (KEYSLOT as usize, Profile::XtsHmac.keyslot_length() as usize),
            (RECOVERY, RECOVERY_LENGTH),
            (UNFINISHED, UNFINISHED_LENGTH),
            (STATEMENT, STATEMENT_LENGTH),
            (HEADER, 0),
        ];
        for pair in places.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
        }
        assert!(places.iter().all(|(start, _)| start % SECTOR as usize == 0));
    }
}
