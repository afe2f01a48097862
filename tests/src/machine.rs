//! The machines of `measurements/machines`: their references, and real machines that are like them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use measurements::document::machine::MachineReference;
use tempfile::NamedTempFile;
use xtask::checkout::Checkout;
use xtask::machine::config::{FOLDER, FirmwareConfig, MachineConfig};
use xtask::machine::firmware::Firmware;
use xtask::progress::Progress;
use xtask::store::Store;
use xtask::vm::Machine;

/// Machines that can be booted here, each with the name of its row.
const WITH_TPM: [(&str, &str); 9] = [
    ("every_event_with_ovmf_2022_11_is_predicted", "q35-ovmf-2022.11-1cpu-1gib"),
    ("every_event_with_ovmf_2022_11_and_more_of_everything_is_predicted", "q35-ovmf-2022.11-2cpus-2gib"),
    ("every_event_with_ovmf_2025_02_is_predicted", "q35-ovmf-2025.02-1cpu-1gib"),
    ("every_event_with_ovmf_2025_02_and_two_cpus_is_predicted", "q35-ovmf-2025.02-2cpus-1gib"),
    ("every_event_with_ovmf_2025_02_and_more_memory_is_predicted", "q35-ovmf-2025.02-2cpus-2gib"),
    ("every_event_with_ovmf_2025_02_a_network_card_and_a_state_disk_is_predicted", "q35-ovmf-2025.02-2cpus-1gib-node"),
    ("every_event_with_ovmf_2025_02_and_a_fifo_tpm_is_predicted", "q35-ovmf-2025.02-2cpus-1gib-tis"),
    ("every_event_with_ovmf_2026_08_is_predicted", "q35-ovmf-2026.08-1cpu-1gib"),
    ("every_event_with_ovmf_2026_08_and_more_of_everything_is_predicted", "q35-ovmf-2026.08-2cpus-2gib"),
];

/// Machines that can be booted here: name of a row, name of the machine.
pub fn with_tpm() -> &'static [(&'static str, &'static str)] {
    &WITH_TPM
}

/// A machine of the checkout.
pub struct KnownMachine {
    /// What it is made of.
    pub config: MachineConfig,
    /// What it measures.
    pub reference: MachineReference,
    /// Its blank state disk, if it has one.
    pub state_disk: Option<NamedTempFile>,
}

impl KnownMachine {
    /// Reads its two files.
    pub fn get(name: &str) -> Result<Self> {
        let path = checkout()?.join(FOLDER).join(format!("{name}.machine.json"));
        let bytes = fs::read(&path).with_context(|| format!("Failed to read {}", path.display()))?;
        let reference = MachineReference::parse(&bytes).with_context(|| path.display().to_string())?;
        let config = MachineConfig::read(&checkout()?, name)?;
        let state_disk = config.blank_disk()?;
        Ok(Self { config, reference, state_disk })
    }

    /// Its firmware, out of the locked package.
    pub fn firmware(&self) -> Result<Firmware> {
        Firmware::get(&self.config.firmware, &checkout()?, &Store::open()?, &Progress::silent())
    }

    /// A real machine that is like it.
    pub fn real(&self, disk: &Path) -> Result<Machine> {
        let kept_disks = self.state_disk.iter().map(|disk| disk.path().to_owned()).collect();
        Ok(Machine { kept_disks, ..self.config.machine(disk, &self.firmware()?)? })
    }
}

/// A file of a locked package of a suite.
pub fn locked_file(package: &str, suite: &str, file: &str) -> Result<Vec<u8>> {
    let (package, suite) = (package.to_owned(), suite.to_owned());
    let config = FirmwareConfig { package, suite, code: file.into(), variables: None };
    Firmware::get(&config, &checkout()?, &Store::open()?, &Progress::silent())?.read_code()
}

/// The checkout that the tests are in.
pub fn checkout() -> Result<Checkout> {
    Ok(Checkout::at(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are not in a checkout")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_with_a_tpm_has_a_row() {
        let names = xtask::machine::config::names(checkout().unwrap().root()).unwrap();
        for name in names {
            let config = MachineConfig::read(&checkout().unwrap(), &name).unwrap();
            assert_eq!(config.tpm.is_some(), WITH_TPM.iter().any(|(_, found)| *found == name), "{name}");
            KnownMachine::get(&name).unwrap();
        }
    }
}
