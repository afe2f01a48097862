//! Files that several commands take.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use measurements::boot::Machine;
use measurements::machine::MachineReference;

/// What is known of the machine.
#[derive(Args)]
pub struct MachineArgs {
    /// Code part of the machine's OVMF (q35, no Secure Boot): its registers become known, too
    #[arg(long, value_name = "FILE", conflicts_with = "machine")]
    firmware: Option<PathBuf>,
    /// Machine reference (`measurements/machines/*.machine.json`): every register becomes known
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
}

impl MachineArgs {
    /// The machine, of which nothing is known where no file is given.
    pub fn read(&self) -> Result<Machine> {
        let unusable = |path: &Path| format!("{} cannot be used", path.display());
        if let Some(path) = &self.firmware {
            return Machine::with_firmware(&read(path)?).with_context(|| unusable(path));
        }
        let Some(path) = &self.machine else { return Ok(Machine::unknown()) };
        let reference = MachineReference::parse(&read(path)?).with_context(|| unusable(path))?;
        Machine::try_from(&reference).with_context(|| unusable(path))
    }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("Failed to read {}", path.display()))
}
