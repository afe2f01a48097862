//! Banks: all registers of a TPM under one hash algorithm (TCG TPM 2.0 Library, Part 1, section 17).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// SHA-1: read and predicted, never believed.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    /// All that are known here.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in tools, logs and sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Digest length in bytes.
    pub const fn length(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// TPM_ALG_ID (TCG Algorithm Registry).
    pub const fn algorithm(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// The bank with this TPM_ALG_ID.
    pub fn of_algorithm(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|bank| bank.algorithm() == id)
    }

    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => sha1::Sha1::digest(data).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(data).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(data).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(data).to_vec(),
        }
    }

    /// The register's next value: H(old || digest).
    pub fn extend(self, old: &[u8], digest: &[u8]) -> Vec<u8> {
        self.digest(&[old, digest].concat())
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_have_the_lengths_and_ids_of_their_algorithms() {
        for bank in Bank::ALL {
            assert_eq!(bank.digest(b"abc").len(), bank.length(), "{bank}");
            assert_eq!(Bank::of_algorithm(bank.algorithm()), Some(bank));
        }
        assert_eq!(Bank::of_algorithm(0x12), None);
        assert!(hex::encode(Bank::Sha256.digest(b"abc")).starts_with("ba7816bf"));
    }
}
