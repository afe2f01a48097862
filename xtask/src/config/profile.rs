//! `os/profiles/<name>/`: variants of the image. A profile is a folder with `profile.toml`, and where it needs them
//! `mkosi.conf` (more packages) and `root/` (files laid over those of `os/root`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{mkosi_conf, read_toml, tree};

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
    /// More units that may be enabled. Each must be: the build fails if nothing enables it.
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
    /// More paths that are removed, as in os/tree.toml.
    #[serde(default)]
    pub drop: Vec<String>,
    /// More modes, as in os/tree.toml.
    #[serde(default)]
    pub modes: BTreeMap<String, String>,
    /// More owners (`uid:gid`), as in os/tree.toml.
    #[serde(default)]
    pub owners: BTreeMap<String, String>,
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

/// Where the account file `name`, such as `etc/passwd`, of an image is: the profile's own, or that of os/root.
pub fn account_file(checkout: &Path, profile: Option<&Profile>, name: &str) -> PathBuf {
    let own = profile.map(|profile| profile.folder.join("root").join(name)).filter(|path| path.is_file());
    own.unwrap_or_else(|| checkout.join("os/root").join(name))
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
    let path = folder.join("profile.toml");
    let config: ProfileConfig = read_toml(&path)?;
    tree::check_names(config.drop.iter(), &config.modes, &config.owners).with_context(|| path.display().to_string())?;
    Ok(Profile { name: name.to_owned(), folder, config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_on_profiles_names_every_profile_and_every_setting() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = std::fs::read_to_string(checkout.join("docs/profiles.md")).unwrap();
        let error = toml::from_str::<ProfileConfig>("absent = 1").unwrap_err().to_string();
        let settings: Vec<&str> = error.split('`').skip(1).step_by(2).filter(|word| *word != "absent").collect();
        assert!(settings.len() > 10 && settings.contains(&"owners"), "{error}");
        let names = names(checkout).unwrap();
        for name in settings.into_iter().chain(names.iter().map(String::as_str)) {
            assert!(page.contains(&format!("`{name}`")), "docs/profiles.md does not name {name}");
        }
    }

    #[test]
    fn path_with_a_slash_and_owner_that_is_no_number_are_refused_with_their_file() {
        let checkout = tempfile::tempdir().unwrap();
        let folder = checkout.path().join("os/profiles/own");
        std::fs::create_dir_all(&folder).unwrap();
        for (text, words) in [
            ("drop = [\"/var/lib/x\"]", "without slashes"),
            ("[owners]\n\"var/lib/x\" = \"www-data\"", "not uid:gid"),
            ("[modes]\n\"var/lib/x\" = \"8\"", "not octal"),
        ] {
            std::fs::write(folder.join("profile.toml"), text).unwrap();
            let error = format!("{:#}", read(checkout.path(), "own").unwrap_err());
            assert!(error.contains(words) && error.contains("own/profile.toml"), "{text}: {error}");
        }
        std::fs::write(folder.join("profile.toml"), "[owners]\n\"var/lib/x\" = \"33:33\"").unwrap();
        read(checkout.path(), "own").unwrap();
    }
}
