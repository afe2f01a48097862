//! `os/image.toml`: what the image is called, what its kernel is told, how its disk is laid out.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::read_toml;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Identifier: file names and os-release carry it.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Version of the release.
    pub version: String,
    /// Security epoch: rises when older releases must no longer be trusted.
    pub epoch: u64,
    /// Least version of the key-release protocol that the agent speaks.
    pub protocol_min: u64,
    /// Words of the kernel command line, in order.
    pub command_line: Vec<String>,
    /// Suites, kernel and firmware.
    pub packages: Packages,
    /// The initrd.
    pub initrd: Initrd,
    /// The EROFS root.
    pub root: Root,
    /// The disk.
    pub disk: Disk,
}

/// Where packages come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// Suite of root, profiles, build root and kernel.
    pub suite: String,
    /// Metapackage whose dependency is the kernel image.
    pub kernel: String,
    /// Firmware of machine references, beside that of the build root.
    pub firmware: Vec<Firmware>,
}

/// Firmware packages of one suite.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// The suite.
    pub suite: String,
    /// Names of packages.
    pub packages: Vec<String>,
}

/// What the initrd holds beside the agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initrd {
    /// Kernel modules by name; what they depend on is found.
    pub modules: Vec<String>,
    /// Libraries that are loaded at run time, so that ELF does not name them.
    pub libraries: Vec<String>,
    /// zstd level.
    pub compression: i32,
}

/// How the root file system is packed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Kernel modules, with what they depend on; the root has no others.
    pub modules: Vec<String>,
    /// Modules that no root has, even if one of `modules` needs them: names, or their first letters and `*`.
    pub denied: Vec<String>,
    /// `-z` of mkfs.erofs.
    pub compression: String,
    /// `-C` of mkfs.erofs, bytes.
    pub cluster: u32,
    /// `-E` of mkfs.erofs.
    pub features: String,
}

/// Sizes on the disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Size of the ESP in MiB: room for two UKIs.
    pub esp_mib: u64,
}

impl ImageConfig {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read_toml(path)?;
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
        };
        ensure!(plain(&config.id), "{}: id {:?} must be of a-z, 0-9, '.', '-'", path.display(), config.id);
        ensure!(
            plain(&config.version),
            "{}: version {:?} must be of a-z, 0-9, '.', '-'",
            path.display(),
            config.version
        );
        for word in &config.command_line {
            ensure!(
                word.bytes().all(|b| b.is_ascii_graphic()),
                "{}: command_line: {word:?} must be one word of printable ASCII",
                path.display()
            );
        }
        Ok(config)
    }
}
