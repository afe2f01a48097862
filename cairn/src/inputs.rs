//! Files that several commands take.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use measurements::boot::{Image, Machine, Measured};
use measurements::compose::Configuration;
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;

/// What is known of the machine.
#[derive(Args)]
pub struct MachineArgs {
    /// The machine's OVMF image, or its code part (q35, no Secure Boot): PCR 0 becomes known, too
    #[arg(long, value_name = "FILE", conflicts_with = "machine")]
    firmware: Option<PathBuf>,
    /// The machine's variable store, beside the code part of its firmware: PCR 7 becomes known, too
    #[arg(long, value_name = "FILE", requires = "firmware")]
    variables: Option<PathBuf>,
    /// Machine reference (`measurements/machines/*.machine.json`): every register becomes known
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// The cluster's configuration (`cluster.json`); without it, the node belongs to no cluster
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
}

impl MachineArgs {
    /// The machine, of which nothing is known where no file is given.
    pub fn read(&self) -> Result<Machine> {
        if let Some(path) = &self.firmware {
            let store = self.variables.as_deref().map(read).transpose()?;
            return Machine::with_firmware(&read(path)?, store.as_deref()).with_context(|| unusable(path));
        }
        let Some(path) = &self.machine else { return Ok(Machine::unknown()) };
        read_machine(path)
    }

    /// The cluster's file, where one is named.
    pub fn cluster(&self) -> Option<&Path> {
        self.cluster.as_deref()
    }

    /// The configuration.
    pub fn configuration(&self) -> Result<Configuration> {
        let bytes = self.cluster.as_deref().map(read).transpose()?;
        Ok(bytes.map_or(Configuration::Stateless, |bytes| Configuration::cluster(&bytes)))
    }
}

/// A machine reference.
pub fn read_machine(path: &Path) -> Result<Machine> {
    let reference = MachineReference::parse(&read(path)?).with_context(|| unusable(path))?;
    reference.machine().with_context(|| unusable(path))
}

/// What is known of an image: its reference too, where that was given.
pub struct ImageFile {
    /// What is measured of it.
    pub measured: Measured,
    /// The document.
    pub reference: Option<ImageReference>,
}

/// A raw disk, a UKI, or an image reference.
pub fn read_image(path: &Path) -> Result<ImageFile> {
    let bytes = read(path)?;
    if bytes.starts_with(b"{") {
        let reference = ImageReference::parse(&bytes).with_context(|| unusable(path))?;
        let measured = reference.measured().with_context(|| unusable(path))?;
        return Ok(ImageFile { measured, reference: Some(reference) });
    }
    let unusable = || format!("Nothing can be predicted from {}", path.display());
    let measured = Image::parse(&bytes).with_context(unusable)?.measured().with_context(unusable)?;
    Ok(ImageFile { measured, reference: None })
}

/// What stands before the reason why a file is refused.
pub fn unusable(path: &Path) -> String {
    format!("{} cannot be used", path.display())
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("Failed to read {}", path.display()))
}
