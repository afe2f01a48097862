//! `os/tree.toml`: what is taken out of the packages' files, who owns what, and what may be left in.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::read_toml;

/// The whole file. Paths have no leading slash; `*` in [`TreeConfig::drop`] stands for anything within one name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeConfig {
    /// Paths that are removed, with all below them.
    pub drop: Vec<String>,
    /// Folders whose content is removed.
    pub empty: Vec<String>,
    /// Modes, in octal, of paths that keep another mode than the package gave them.
    pub modes: BTreeMap<String, String>,
    /// `uid:gid` of every path that root does not own.
    pub owners: BTreeMap<String, String>,
    /// What an image has that is not for people to log in.
    pub lean: Lean,
    /// What may be in the finished tree.
    pub allow: Allow,
}

/// What is left of the packages' programs where nobody logs in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lean {
    /// Names in /usr/bin and /usr/sbin that stay; all others go.
    pub programs: Vec<String>,
    /// More paths that are removed.
    pub drop: Vec<String>,
    /// Names that no path of the root may have.
    pub denied: Vec<String>,
}

/// The allow-lists of the check for ways in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// systemd generators.
    pub generators: Vec<String>,
    /// Paths with setuid or setgid bit.
    pub setuid: Vec<String>,
    /// World-writable folders (sticky).
    pub world_writable: Vec<String>,
    /// Units that something in the tree enables.
    pub units: Vec<String>,
    /// Units that must be masked or absent.
    pub masked: Vec<String>,
    /// Files that must be there, because something loads them at run time and is silent if they are missing.
    pub required: Vec<String>,
}

impl TreeConfig {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read_toml(path)?;
        check_names(config.drop.iter().chain(&config.lean.drop).chain(&config.empty), &config.modes, &config.owners)
            .with_context(|| path.display().to_string())?;
        Ok(config)
    }
}

/// Paths without slashes around, modes and owners that are numbers: for `os/tree.toml` and each `profile.toml`.
pub fn check_names<'a>(
    paths: impl Iterator<Item = &'a String>,
    modes: &'a BTreeMap<String, String>,
    owners: &'a BTreeMap<String, String>,
) -> Result<()> {
    for name in paths.chain(modes.keys()).chain(owners.keys()) {
        ensure!(!name.starts_with('/') && !name.ends_with('/'), "{name:?}: write it without slashes around");
    }
    mode_table(modes)?;
    owner_table(owners)?;
    Ok(())
}

/// `modes` as numbers.
pub fn mode_table(modes: &BTreeMap<String, String>) -> Result<BTreeMap<String, u32>> {
    let parse = |(path, mode): (&String, &String)| {
        let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
        Ok((path.clone(), mode.with_context(|| format!("modes: {path}: the mode is not octal"))?))
    };
    modes.iter().map(parse).collect()
}

/// `owners` as numbers.
pub fn owner_table(owners: &BTreeMap<String, String>) -> Result<BTreeMap<String, (u32, u32)>> {
    let parse = |(path, owner): (&String, &String)| {
        let pair = owner.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        Ok((path.clone(), pair.with_context(|| format!("owners: {path}: {owner:?} is not uid:gid"))?))
    };
    owners.iter().map(parse).collect()
}
