//! The data that describes an image: `os/image.toml`, `os/tree.toml`, the profiles and the package lists.
//!
//! All of it is strict TOML (or the one section of mkosi's format that we use): an unknown field is an error that names
//! the file, because a misspelt hardening switch that is silently ignored is worse than none.

pub mod image;
pub mod log_server;
pub mod mkosi_conf;
pub mod profile;
pub mod tree;

use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// Reads a TOML file into `T`; the error names the file and what is wrong with it.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("Failed to read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
}
