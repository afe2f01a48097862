//! The outputs of one build: the files beside `*.image.json`, and what that document says about the disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use xtask::difference::{OUTPUTS, Outputs};

/// One built image.
#[derive(Clone, Debug)]
pub struct Image {
    outputs: Outputs,
    /// What `*.image.json` says.
    pub document: Document,
}

/// The parts of `*.image.json` that the tests need.
#[derive(Clone, Debug, Deserialize)]
pub struct Document {
    /// Whether the image has a way in.
    pub debug: bool,
    /// Kernel command line.
    pub command_line: String,
    /// Root hash of the verity tree.
    pub root_hash: String,
    /// Partition table.
    pub partitions: Vec<Partition>,
}

/// One partition; places and sizes in bytes.
#[derive(Clone, Debug, Deserialize)]
pub struct Partition {
    /// Number, from 1.
    pub index: u32,
    /// Name in the table.
    pub name: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Image {
    /// The one image in `folder`.
    pub fn open(folder: &Path) -> Result<Self> {
        let outputs = Outputs::in_folder(folder)?;
        let document = serde_json::from_slice(&outputs.read("image.json")?)
            .with_context(|| format!("Failed to understand the image in {}", folder.display()))?;
        Ok(Self { outputs, document })
    }

    /// As what is compared.
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Copies the outputs, to change one.
    pub fn copy_to(&self, folder: &Path) -> Result<Self> {
        for (suffix, _) in OUTPUTS {
            let from = self.file(suffix);
            let name = from.file_name().context("an output without name")?;
            fs::copy(&from, folder.join(name)).with_context(|| format!("Failed to copy {}", from.display()))?;
        }
        Self::open(folder)
    }

    /// The output with this suffix, for example `raw`.
    pub fn file(&self, suffix: &str) -> PathBuf {
        self.outputs.file(suffix)
    }

    /// The bytes of an output.
    pub fn read(&self, suffix: &str) -> Result<Vec<u8>> {
        self.outputs.read(suffix)
    }

    /// The partition with this name.
    pub fn partition(&self, name: &str) -> Result<&Partition> {
        let partition = self.document.partitions.iter().find(|partition| partition.name == name);
        partition.with_context(|| format!("{} has no partition {name}", self.outputs.name()))
    }
}
