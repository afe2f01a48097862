//! What cargo has compiled, by whose package it is. Crates of other projects have the same content under the same name wherever they are compiled. Those of this workspace do not: cargo names them alike in each copy of the sources, and
//! tells by the times of files whether one is up to date.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What cargo needs of a compiled crate, below the folder of the profile.
pub const FOLDERS: [&str; 3] = [".fingerprint", "build", "deps"];

/// The packages of this workspace.
pub struct OwnPackages(BTreeSet<String>);

impl OwnPackages {
    /// Reads a Cargo.lock: packages of this workspace have no source there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(lock: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Lock {
            package: Vec<Package>,
        }
        #[derive(serde::Deserialize)]
        struct Package {
            name: String,
            source: Option<String>,
        }
        let text = fs::read_to_string(lock).with_context(|| format!("Failed to read {}", lock.display()))?;
        let lock: Lock = toml::from_str(&text).with_context(|| lock.display().to_string())?;
        let own = lock.package.into_iter().filter(|package| package.source.is_none());
        Ok(Self(own.map(|package| package.name.replace('_', "-")).collect()))
    }

    /// Whether a file or folder, `NAME-HASH` with or without `lib` and an ending, is of one of them.
    pub fn has_made(&self, file: &str) -> bool {
        let Some((name, _)) = file.rsplit_once('-') else { return true };
        let name = name.replace('_', "-");
        [Some(name.as_str()), name.strip_prefix("lib")].into_iter().flatten().any(|name| self.0.contains(name))
    }

    /// Gives the folder `to` of a profile what the folder `from` has of other packages, as further names of the same files.
    ///
    /// # Errors
    /// A folder cannot be read or written.
    pub fn share_others(&self, from: &Path, to: &Path) -> Result<()> {
        for name in FOLDERS {
            let folder = from.join(name);
            if !folder.is_dir() {
                continue;
            }
            let failed = || format!("Failed to list {}", folder.display());
            for entry in fs::read_dir(&folder).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                if !self.has_made(&entry.file_name().to_string_lossy()) {
                    share(&entry.path(), &to.join(name).join(entry.file_name()))?;
                }
            }
        }
        Ok(())
    }
}

/// A file, or a folder with all that is in it. What is there already stays.
fn share(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let failed = || format!("Failed to write {}", to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(failed)?;
    if !from.is_dir() {
        return fs::hard_link(from, to).with_context(failed);
    }
    fs::create_dir(to).with_context(failed)?;
    for entry in fs::read_dir(from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        share(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_of_others_are_shared_and_none_of_this_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to, lock] = ["from", "to", "Cargo.lock"].map(|name| folder.path().join(name));
        let text = "[[package]]\nname = \"key-broker\"\nversion = \"1\"\n\n[[package]]\nname = \"serde\"\nversion = \"1\"\nsource = \"registry\"\n";
        fs::write(&lock, text).unwrap();
        let own = OwnPackages::read(&lock).unwrap();
        let others = ["deps/libserde-00.rlib", ".fingerprint/serde-00/lib-serde", "build/ring-01/out/libring_core.a"];
        let of_workspace = [
            "deps/libkey_broker-02.rlib",
            "deps/key_broker-03",
            ".fingerprint/key-broker-04/bin",
            "deps/x",
            "other/a-00",
        ];
        for name in others.iter().chain(&of_workspace) {
            fs::create_dir_all(from.join(name).parent().unwrap()).unwrap();
            fs::write(from.join(name), name).unwrap();
        }
        for _ in 0..2 {
            own.share_others(&from, &to).unwrap();
            assert!(others.iter().all(|name| fs::read_to_string(to.join(name)).unwrap() == *name));
            assert!(!of_workspace.iter().any(|name| to.join(name).exists()));
        }
        own.share_others(&folder.path().join("missing"), &to).unwrap();
    }
}
