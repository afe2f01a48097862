//! `measurements/machines/<name>.toml`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use measurements::boot::BootMethod;
use serde::Deserialize;

use crate::checkout::Checkout;
use crate::config::read_toml;

/// Where machines are in a checkout.
pub const FOLDER: &str = "measurements/machines";

/// A machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Its firmware.
    pub firmware: FirmwareConfig,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB; none where nothing follows from it.
    #[serde(default)]
    pub memory_mib: u32,
    /// How the guest reaches its TPM; none without.
    pub tpm: Option<TpmConfig>,
    /// Whether it has a network card (virtio, without a boot ROM).
    #[serde(default)]
    pub network: bool,
    /// Whether it has a state disk (virtio) beside the image's.
    #[serde(default)]
    pub state_disk: bool,
    /// How the image is started.
    pub boot: BootMethod,
    /// A confidential machine.
    pub launch: Option<LaunchConfig>,
}

/// A file of a locked package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareConfig {
    /// Name of the package.
    pub package: String,
    /// Its suite: two may have packages of one name.
    pub suite: String,
    /// The file that the VMM is given: a whole image, or the code part of one.
    pub code: PathBuf,
    /// The variable store beside the code part.
    pub variables: Option<PathBuf>,
}

/// How a guest reaches its TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TpmConfig {
    /// Command response buffer.
    Crb,
    /// FIFO.
    Tis,
}

/// A confidential machine on QEMU.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "technology")]
pub enum LaunchConfig {
    /// AMD SEV-SNP.
    SevSnp {
        /// QEMU's name of the CPU model.
        cpu: String,
        /// SEV_FEATURES.
        features: u64,
    },
    /// Intel TDX.
    Tdx,
}

impl MachineConfig {
    /// Reads the machine `name` of a checkout.
    pub fn read(checkout: &Checkout, name: &str) -> Result<Self> {
        read_toml(&checkout.join(FOLDER).join(format!("{name}.toml")))
    }
}

/// The names of all machines of a checkout, sorted.
pub fn names(checkout: &Path) -> Result<Vec<String>> {
    let folder = checkout.join(FOLDER);
    let entries = std::fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}
