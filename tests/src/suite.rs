//! What all rows share: the images, the tools, and the folder for console transcripts. `cargo xtask test` sets the variables.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use xtask::sandbox::Sandbox;
use xtask::vm::pcr::Pcrs;
use xtask::vm::{Accelerator, Machine};

use crate::environment::{self, variable};
use crate::image::Image;

/// Everything that the rows share.
pub struct Suite {
    /// The production image.
    pub image: Image,
    /// The image of the debug profile.
    pub debug: Image,
    /// Runs programs of the build root.
    pub sandbox: Sandbox,
    /// Where each row leaves its console transcripts.
    pub transcripts: PathBuf,
    /// The registers of a plain production boot, once a row has needed them.
    pub baseline: OnceLock<std::result::Result<Pcrs, String>>,
    accelerator: Accelerator,
}

impl Suite {
    /// Reads `CAIRN_BUILD_ROOT`, `CAIRN_IMAGE_DIR` and `CAIRN_DEBUG_IMAGE_DIR`; the sandbox reads `CAIRN_XTASK`.
    pub fn from_environment(transcripts: PathBuf) -> Result<Self> {
        let sandbox = environment::sandbox()?;
        std::fs::create_dir_all(&transcripts).with_context(|| format!("Failed to make {}", transcripts.display()))?;
        Ok(Self {
            image: Image::open(&variable("CAIRN_IMAGE_DIR")?)?,
            debug: Image::open(&variable("CAIRN_DEBUG_IMAGE_DIR")?)?,
            accelerator: Accelerator::detect(&sandbox),
            sandbox,
            transcripts,
            baseline: OnceLock::new(),
        })
    }

    /// The machine that rows begin with: a copy of it differs only in what the row is about.
    pub fn machine(&self, disks: &[PathBuf]) -> Machine {
        let accelerator = self.accelerator;
        Machine { disks: disks.to_vec(), accelerator, ..Machine::with_disk(&self.image.file("raw")) }
    }
}
