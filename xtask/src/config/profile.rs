//! `os/profiles/<name>/`: variants of the image. A profile is a folder with `profile.toml`, and where it needs them
//! `mkosi.conf` (more packages) and `root/` (files laid over those of `os/root`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{mkosi_conf, read_toml};

/// What a profile changes besides packages and files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// The image has a way in: brokers refuse it, and the check for ways in is told so.
    #[serde(default)]
    pub debug: bool,
    /// Build the agent with its verbose feature.
    #[serde(default)]
    pub verbose_agent: bool,
    /// More words on the kernel command line.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// More units that may be enabled.
    #[serde(default)]
    pub units: Vec<String>,
    /// Keep everything that the packages bring: all programs, scripts and the shell.
    #[serde(default)]
    pub full: bool,
    /// More programs that are kept.
    #[serde(default)]
    pub programs: Vec<String>,
    /// More kernel modules in the root.
    #[serde(default)]
    pub modules: Vec<String>,
    /// More of what os/activation.toml lists.
    #[serde(default)]
    pub activation: BTreeSet<String>,
}

/// A profile that was found.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name: the variant.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its settings.
    pub config: ProfileConfig,
}

/// The names of all profiles, sorted.
pub fn names(checkout: &Path) -> Result<Vec<String>> {
    let folder = checkout.join("os/profiles");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("Failed to list {}", folder.display()))?;
        if entry.path().join("profile.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The packages that a profile adds.
pub fn packages(checkout: &Path, name: &str) -> Result<Vec<String>> {
    let path = checkout.join("os/profiles").join(name).join("mkosi.conf");
    if path.exists() { mkosi_conf::packages(&path) } else { Ok(Vec::new()) }
}

/// Reads the profile called `name`.
pub fn read(checkout: &Path, name: &str) -> Result<Profile> {
    let known = names(checkout)?;
    if !known.iter().any(|known| known == name) {
        bail!("There is no profile {name:?}: os/profiles has {}", known.join(", "));
    }
    let folder = checkout.join("os/profiles").join(name);
    let config = read_toml(&folder.join("profile.toml"))?;
    Ok(Profile { name: name.to_owned(), folder, config })
}
