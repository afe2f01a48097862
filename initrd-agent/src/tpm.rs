//! The TPM 2.0, through the kernel's resource manager. An extend always covers every active bank (TCG TPM 2.0 Library
//! Part 3, TPM2_PCR_Extend): a bank left out would let somebody else write its history later. A bank whose digest
//! cannot be computed here ends the boot.

use std::path::Path;
use std::str::FromStr;

use measurements::Bank;
use node_tpm::{Keys, Quote};
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, Digest, DigestValues, PcrSelectionList};
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};
use tss_esapi::{Context, Error};
use zeroize::Zeroizing;

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

const fn algorithm(bank: Bank) -> HashingAlgorithm {
    match bank {
        Bank::Sha1 => HashingAlgorithm::Sha1,
        Bank::Sha256 => HashingAlgorithm::Sha256,
        Bank::Sha384 => HashingAlgorithm::Sha384,
        Bank::Sha512 => HashingAlgorithm::Sha512,
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
            values.set(algorithm(*bank), Digest::try_from(digest.clone()).map_err(|error| failed(&what, &error))?);
        }
        // The password session: PCRs have an empty authorization, and an HMAC session would wait for random numbers.
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(pcr.handle(), values))
            .map_err(|error| failed(&what, &error))?;
        Ok(digests)
    }
}

/// The keys by which this machine shows what it is.
impl Tpm {
    /// Makes endorsement key and attestation key.
    ///
    /// # Errors
    /// `TPM_FAILED`.
    pub fn keys(&mut self) -> Result<Keys, Failure> {
        Keys::make(&mut self.context).map_err(|error| key_failed(&error))
    }

    /// Quotes PCR 0 to 15 of an active bank.
    ///
    /// # Errors
    /// `TPM_FAILED`.
    pub fn quote(&mut self, keys: &Keys, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote, Failure> {
        keys.quote(&mut self.context, bank, extra_data).map_err(|error| key_failed(&error))
    }

    /// Activates a credential; that it was made for another TPM is no failure of this one.
    pub fn activate(&mut self, keys: &Keys, blob: &[u8], seed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        keys.activate(&mut self.context, blob, seed).ok()
    }

    /// Random bytes of the TPM.
    ///
    /// # Errors
    /// `TPM_FAILED`.
    pub fn random(&mut self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let bytes = self.context.get_random(32).map_err(|error| failed("asking the TPM for random bytes", &error))?;
        Ok(Zeroizing::new(bytes.to_vec()))
    }

    /// Takes the keys out of the TPM.
    pub fn flush(&mut self, keys: Keys) {
        keys.flush(&mut self.context);
    }

    /// The active banks.
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }
}

fn key_failed(error: &node_tpm::Error) -> Failure {
    Failure::new(Code::TpmFailed, error.to_string())
}

/// The banks to extend, in the order of the log. Inactive banks are listed too, with no register selected.
fn active_banks(selections: &PcrSelectionList) -> Result<Vec<Bank>, Failure> {
    let mut banks = Vec::new();
    for selection in selections.get_selections().iter().filter(|selection| !selection.is_empty()) {
        let found = selection.hashing_algorithm();
        banks.push(
            Bank::ALL
                .into_iter()
                .find(|bank| algorithm(*bank) == found)
                .ok_or_else(|| Failure::new(Code::TpmBankUnsupported, format!("the TPM's bank {found:?} is active")))?,
        );
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
}
