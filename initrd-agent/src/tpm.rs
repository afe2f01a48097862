//! The TPM 2.0, through the kernel's resource manager. An extend always covers every active bank (TCG TPM 2.0 Library
//! Part 3, TPM2_PCR_Extend): a bank left out would let somebody else write its history later. A bank whose digest
//! cannot be computed here ends the boot.

use std::path::Path;
use std::str::FromStr;

use sha2::Digest as _;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, Digest, DigestValues, PcrSelectionList};
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};
use tss_esapi::{Context, Error};

use crate::code::Code;
use crate::failure::Failure;

const DEVICE: &str = "/dev/tpmrm0";
/// More banks than any TPM has.
const MOST_BANKS: u32 = 16;

/// The PCRs that the agent extends; their meaning is in design section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pcr {
    /// Boot phases.
    Phases,
    /// The configuration of the cluster.
    Configuration,
    /// What the boot ended in: stateless, a release, or a failure.
    Outcome,
}

impl Pcr {
    /// The register's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Phases => 11,
            Self::Configuration => 12,
            Self::Outcome => 15,
        }
    }

    const fn handle(self) -> PcrHandle {
        match self {
            Self::Phases => PcrHandle::Pcr11,
            Self::Configuration => PcrHandle::Pcr12,
            Self::Outcome => PcrHandle::Pcr15,
        }
    }
}

/// A PCR bank, by its hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bank {
    /// Old firmware keeps it active; extended, never believed.
    Sha1,
    /// The bank that every TPM has.
    Sha256,
    /// The bank that attestation prefers.
    Sha384,
    /// Rare.
    Sha512,
}

impl Bank {
    /// The name in the measurement log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of `bytes` in this bank's algorithm.
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        }
    }

    const fn algorithm(self) -> HashingAlgorithm {
        match self {
            Self::Sha1 => HashingAlgorithm::Sha1,
            Self::Sha256 => HashingAlgorithm::Sha256,
            Self::Sha384 => HashingAlgorithm::Sha384,
            Self::Sha512 => HashingAlgorithm::Sha512,
        }
    }

    fn of(algorithm: HashingAlgorithm) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512].into_iter().find(|bank| bank.algorithm() == algorithm)
    }
}

/// An open TPM.
#[derive(Debug)]
pub struct Tpm {
    context: Context,
    banks: Vec<Bank>,
}

impl Tpm {
    /// Opens the TPM and asks which banks are active.
    ///
    /// # Errors
    /// `TPM_MISSING`, `TPM_FAILED` or `TPM_BANK_UNSUPPORTED`.
    pub fn open() -> Result<Self, Failure> {
        if !Path::new(DEVICE).exists() {
            return Err(Failure::new(Code::TpmMissing, format!("there is no {DEVICE}")));
        }
        let mut context = DeviceConfig::from_str(DEVICE)
            .and_then(|device| Context::new(TctiNameConf::Device(device)))
            .map_err(|error| failed("opening the TPM", &error))?;
        let (capability, _) = context
            .get_capability(CapabilityType::AssignedPcr, 0, MOST_BANKS)
            .map_err(|error| failed("asking the TPM for its PCR banks", &error))?;
        let CapabilityData::AssignedPcr(selections) = capability else {
            return Err(Failure::new(Code::TpmFailed, "the TPM answered another question than its PCR banks"));
        };
        let banks = active_banks(&selections)?;
        Ok(Self { context, banks })
    }

    /// Extends a PCR with the digest of `bytes` in every active bank; gives the digests.
    ///
    /// # Errors
    /// `TPM_FAILED`.
    pub fn extend(&mut self, pcr: Pcr, bytes: &[u8]) -> Result<Vec<(Bank, Vec<u8>)>, Failure> {
        let digests: Vec<_> = self.banks.iter().map(|bank| (*bank, bank.digest(bytes))).collect();
        let what = format!("extending PCR {}", pcr.number());
        let mut values = DigestValues::new();
        for (bank, digest) in &digests {
            values.set(bank.algorithm(), Digest::try_from(digest.clone()).map_err(|error| failed(&what, &error))?);
        }
        // The password session: PCRs have an empty authorization, and an HMAC session would wait for random numbers.
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(pcr.handle(), values))
            .map_err(|error| failed(&what, &error))?;
        Ok(digests)
    }
}

/// The banks to extend, in the order of the log. Inactive banks are listed too, with no register selected.
fn active_banks(selections: &PcrSelectionList) -> Result<Vec<Bank>, Failure> {
    let mut banks = Vec::new();
    for selection in selections.get_selections().iter().filter(|selection| !selection.is_empty()) {
        let algorithm = selection.hashing_algorithm();
        banks.push(Bank::of(algorithm).ok_or_else(|| {
            Failure::new(Code::TpmBankUnsupported, format!("the TPM's bank {algorithm:?} is active"))
        })?);
    }
    if banks.is_empty() {
        return Err(Failure::new(Code::TpmBankUnsupported, "the TPM has no active PCR bank"));
    }
    banks.sort_unstable();
    Ok(banks)
}

fn failed(what: &str, error: &Error) -> Failure {
    Failure::new(Code::TpmFailed, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tss_esapi::structures::{PcrSelectionListBuilder, PcrSlot};

    fn list(banks: &[(HashingAlgorithm, &[PcrSlot])]) -> PcrSelectionList {
        let builder = banks.iter().fold(PcrSelectionListBuilder::new(), |builder, (algorithm, slots)| {
            builder.with_selection(*algorithm, slots)
        });
        builder.build().unwrap()
    }

    #[test]
    fn banks_with_registers_are_active_and_empty_ones_are_not() {
        let slots: &[PcrSlot] = &[PcrSlot::Slot11, PcrSlot::Slot15];
        let selections = list(&[
            (HashingAlgorithm::Sha1, &[]),
            (HashingAlgorithm::Sha256, slots),
            (HashingAlgorithm::Sha384, slots),
            (HashingAlgorithm::Sm3_256, &[]),
        ]);
        assert_eq!(active_banks(&selections).unwrap(), [Bank::Sha256, Bank::Sha384]);
    }

    #[test]
    fn an_active_bank_that_cannot_be_extended_ends_the_boot() {
        let slots: &[PcrSlot] = &[PcrSlot::Slot0];
        let rows = [
            list(&[(HashingAlgorithm::Sha256, slots), (HashingAlgorithm::Sm3_256, slots)]),
            list(&[(HashingAlgorithm::Sha3_256, slots)]),
            list(&[(HashingAlgorithm::Sha256, &[])]),
        ];
        for selections in rows {
            let failure = active_banks(&selections).expect_err("accepted");
            assert_eq!(failure.code(), Code::TpmBankUnsupported);
        }
    }

    #[test]
    fn each_bank_hashes_with_its_own_algorithm() {
        let rows = [
            (Bank::Sha1, "a9993e36", 20),
            (Bank::Sha256, "ba7816bf", 32),
            (Bank::Sha384, "cb00753f", 48),
            (Bank::Sha512, "ddaf35a1", 64),
        ];
        for (bank, start, length) in rows {
            let digest = bank.digest(b"abc");
            assert_eq!((hex::encode(&digest[..4]).as_str(), digest.len()), (start, length), "{}", bank.name());
        }
    }
}
