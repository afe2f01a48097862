//! A TPM emulator as an attester's TPM: swtpm of the build root, with commands that this repository writes itself.

use anyhow::{Context, Result};
use measurements::Bank;
use xtask::sandbox::Sandbox;
use xtask::vm::emulated_tpm::EmulatedTpm;
use xtask::vm::tpm_commands::{Attested, Key, Selection, SigningKey};

use super::{AttesterTpm, Quote};

/// An emulator with its two keys loaded.
pub struct Emulated {
    /// The emulator.
    pub tpm: EmulatedTpm,
    /// The endorsement key.
    pub ek: Key,
    /// The attestation key.
    pub ak: Key,
    _folder: tempfile::TempDir,
}

impl Emulated {
    /// A new TPM.
    pub fn new(sandbox: &Sandbox) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cairn-tpm-").tempdir().context("Failed to make a folder")?;
        EmulatedTpm::manufacture(sandbox, folder.path(), &Bank::ALL)?;
        let mut tpm = EmulatedTpm::start(sandbox, folder.path())?;
        let (ek, ak) = keys(&mut tpm)?;
        Ok(Self { tpm, ek, ak, _folder: folder })
    }

    /// SHA-256 of the endorsement key's public area.
    pub fn endorsement_key_digest(&self) -> String {
        hex::encode(Bank::Sha256.digest(&self.ek.area))
    }

    /// Quotes these selections instead of a node's.
    pub fn quote_of(&mut self, extra_data: &[u8; 32], selections: &[Selection]) -> Result<Attested> {
        Ok(self.tpm.commands.quote(&self.ak, extra_data, selections)?)
    }
}

fn keys(tpm: &mut EmulatedTpm) -> Result<(Key, Key)> {
    Ok((tpm.commands.endorsement_key()?, tpm.commands.signing_key(SigningKey::Attestation(0))?))
}

impl AttesterTpm for Emulated {
    fn endorsement_key(&self) -> &[u8] {
        &self.ek.area
    }

    fn attestation_key(&self) -> &[u8] {
        &self.ak.area
    }

    fn reset(&mut self) -> Result<()> {
        self.tpm.reset()?;
        (self.ek, self.ak) = keys(&mut self.tpm)?;
        Ok(())
    }

    fn extend(&mut self, register: u8, digests: &[(Bank, Vec<u8>)]) -> Result<()> {
        let digests = digests.iter().map(|(bank, digest)| (*bank, digest.as_slice()));
        Ok(self.tpm.commands.extend(register, digests)?)
    }

    fn quote(&mut self, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote> {
        let Attested { attest, signature } = self.quote_of(extra_data, &[Selection::of_a_node(bank)])?;
        let registers =
            (0..16).map(|register| self.tpm.commands.read(bank, register)).collect::<std::result::Result<_, _>>()?;
        Ok(Quote { attest, signature, registers })
    }

    fn activate(&mut self, blob: &[u8], seed: &[u8]) -> Result<Vec<u8>> {
        Ok(self.tpm.commands.activate(&self.ak, &self.ek, blob, seed)?)
    }
}
