//! `xtask/log-server/packages.toml`: what the transparency log of the tests is built from.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::read_toml;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogServerConfig {
    /// Suite of all packages.
    pub suite: String,
    /// Packages of programs that are used as they are.
    pub programs: Vec<String>,
    /// Packages of the Go compiler.
    pub compiler: Vec<String>,
    /// Packages of Rekor's sources and of what they import.
    pub sources: Vec<String>,
    /// Packages of the timestamp authority's sources and of what they import, beyond those of Rekor.
    pub timestamp_sources: Vec<String>,
    /// Packages of the sources of Rekor v1 and Trillian and of what they import, beyond all of these.
    pub rekor_v1_sources: Vec<String>,
}

impl LogServerConfig {
    /// Reads the file of a checkout.
    pub fn read(checkout: &Path) -> Result<Self> {
        let path = checkout.join("xtask/log-server/packages.toml");
        let config: Self = read_toml(&path)?;
        for list in config.lists().into_iter().chain([&config.rekor_v1_sources]) {
            ensure!(!list.is_empty(), "{}: no list may be empty", path.display());
        }
        Ok(config)
    }

    fn lists(&self) -> [&Vec<String>; 4] {
        [&self.programs, &self.compiler, &self.sources, &self.timestamp_sources]
    }

    /// All names but those of Rekor v1.
    pub fn packages(&self) -> Vec<String> {
        self.lists().into_iter().flatten().cloned().collect()
    }
}
