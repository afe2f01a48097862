//! This machine as an attester: its TPM, its logs, its console.

use std::time::Duration;

use attester::{Machine, Quote};
use measurements::Bank;
use node_tpm::Keys;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::evidence;
use crate::code::Code;
use crate::console;
use crate::failure::Failure;
use crate::tpm::Tpm;

/// The TPM of this machine with the keys of this boot.
pub struct TpmMachine<'a> {
    pub(super) tpm: &'a mut Tpm,
    pub(super) keys: Keys,
}

impl Machine for TpmMachine<'_> {
    type Error = Failure;

    fn endorsement_key(&self) -> &[u8] {
        self.keys.endorsement_key()
    }

    fn attestation_key(&self) -> &[u8] {
        self.keys.attestation_key()
    }

    fn banks(&self) -> &[Bank] {
        self.tpm.banks()
    }

    fn quote(&mut self, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote, Failure> {
        let quote = self.tpm.quote(&self.keys, bank, extra_data)?;
        let registers = quote.registers.into_values().collect();
        Ok(Quote { attest: quote.attest, signature: quote.signature, registers })
    }

    fn activate(&mut self, blob: &[u8], seed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.tpm.activate(&self.keys, blob, seed)
    }

    fn random(&mut self) -> Result<[u8; 32], Failure> {
        let mut bytes = [0; 32];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| Failure::new(Code::EntropyMissing, "the kernel gives no random bytes"))?;
        Ok(bytes)
    }

    fn event_log(&self) -> Result<Vec<u8>, Failure> {
        evidence::event_log()
    }

    fn user_space_log(&self) -> Result<String, Failure> {
        evidence::user_space_log()
    }

    fn print(&mut self, line: &str) {
        console::line(line);
    }

    fn sleep(&mut self, pause: Duration) {
        std::thread::sleep(pause);
    }
}
