//! The cache below `${XDG_CACHE_HOME:-~/.cache}/cairn`: packages by their digest, and trees of stages by the digest of
//! their inputs. Nothing depends on it; removing it costs time only.
//!
//! What is made there appears whole or not at all: it is written under a temporary name and renamed. A lock file per
//! entry lets two builds at once make it only once; the lock goes away with the process, however that ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::digest::Sha256Digest;
use crate::interrupt::{Scratch, remove_tree, sweep};
use crate::progress::Progress;

/// The cache.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// Held while something is made; released when dropped.
pub struct Guard(#[allow(dead_code, reason = "held for its lock")] Flock<File>);

impl Store {
    /// Opens the user's cache, making it if need be.
    pub fn open() -> Result<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => {
                let home = std::env::var_os("HOME").filter(|value| !value.is_empty());
                let home =
                    home.context("Neither XDG_CACHE_HOME nor HOME is set: set XDG_CACHE_HOME to a writable folder")?;
                PathBuf::from(home).join(".cache")
            }
        };
        Self::at(&base.join("cairn"))
    }

    /// Opens a cache at `folder`.
    pub fn at(folder: &Path) -> Result<Self> {
        for part in ["debs", "stages", "locks", "tmp"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| {
                format!(
                    "Failed to make the cache {}. Set XDG_CACHE_HOME to a folder that you can write",
                    path.display()
                )
            })?;
        }
        let folder = folder.canonicalize().with_context(|| format!("Failed to resolve {}", folder.display()))?;
        sweep(&folder.join("tmp"))?;
        Ok(Self { folder })
    }

    /// A cache in the folder `at` that has what this one has, by links, except the stages that `without` names.
    pub fn linked(&self, at: &Path, without: &[&str]) -> Result<Self> {
        let copy = Self::at(at)?;
        for kind in ["debs", "stages"] {
            let from = self.folder.join(kind);
            let failed = || format!("Failed to link {} to {}", from.display(), at.display());
            for entry in fs::read_dir(&from).with_context(failed)?.flatten() {
                let name = entry.file_name();
                let stage = name.to_string_lossy().rsplit_once('-').map(|(stage, _)| stage.to_owned());
                if !stage.is_some_and(|stage| without.contains(&&*stage)) {
                    std::os::unix::fs::symlink(entry.path(), copy.folder.join(kind).join(&name))
                        .with_context(failed)?;
                }
            }
        }
        Ok(copy)
    }

    /// A cache in the folder `at` that has the packages of this one, by links, and nothing that was made of them: packages are believed by their digests, and a build that proves something makes the rest itself.
    pub fn packages_only(&self, at: &Path) -> Result<Self> {
        let copy = Self::at(at)?;
        let from = self.folder.join("debs");
        let failed = || format!("Failed to link {} to {}", from.display(), at.display());
        for entry in fs::read_dir(&from).with_context(failed)?.flatten() {
            let link = copy.folder.join("debs").join(entry.file_name());
            if !link.exists() {
                std::os::unix::fs::symlink(entry.path(), link).with_context(failed)?;
            }
        }
        Ok(copy)
    }

    /// Its top folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the package with this digest is, or will be.
    pub fn package(&self, digest: &Sha256Digest) -> PathBuf {
        self.folder.join("debs").join(digest.to_string())
    }

    /// Where the output of a stage with this key is, or will be.
    pub fn stage(&self, name: &str, key: &Sha256Digest) -> PathBuf {
        self.folder.join("stages").join(format!("{name}-{}", key.short()))
    }

    /// A folder for temporary files, on the same file system as the rest.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.folder.join("tmp"))
    }

    /// Says so if a full disk may be what made something fail: tools do not always find words for it.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        const LITTLE: u64 = 64 << 20;
        let Ok(disk) = nix::sys::statvfs::statvfs(&self.folder) else { return error };
        let free = disk.blocks_available() * disk.fragment_size();
        if free >= LITTLE {
            return error;
        }
        let hint = format!(
            "the disk of the cache {} is full ({} left): make room, or set XDG_CACHE_HOME, and run again",
            self.folder.display(),
            crate::progress::megabytes(free)
        );
        error.context(hint)
    }

    /// Waits for, and takes, the lock called `name`.
    pub fn lock(&self, name: &str, progress: &Progress) -> Result<Guard> {
        lock_file(&self.folder.join("locks").join(name), progress)
    }

    /// Removes all but the newest trees of each stage.
    pub fn prune(&self, keep: usize) -> Result<()> {
        let stages = self.folder.join("stages");
        let mut entries: Vec<(String, std::time::SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&stages).with_context(|| format!("Failed to list {}", stages.display()))? {
            let Ok(entry) = entry else { continue };
            let Ok(time) = entry.metadata().and_then(|data| data.modified()) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((stage, _)) = name.rsplit_once('-') else { continue };
            entries.push((stage.to_owned(), time, entry.path()));
        }
        entries.sort_by(|a, b| (&a.0, b.1).cmp(&(&b.0, a.1)));
        for group in entries.chunk_by(|a, b| a.0 == b.0) {
            for (_, _, path) in group.iter().skip(keep) {
                remove_tree(path)?;
            }
        }
        Ok(())
    }
}

/// Takes the advisory lock on `path`, saying so if it has to wait.
pub fn lock_file(path: &Path, progress: &Progress) -> Result<Guard> {
    let open = || File::create(path).with_context(|| format!("Failed to open the lock file {}", path.display()));
    match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Guard(lock)),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            progress.note(&format!("waiting for another build to finish with {}", path.display()));
            let lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .with_context(|| format!("Failed to lock {}", path.display()))?;
            Ok(Guard(lock))
        }
        Err((_, error)) => Err(error).with_context(|| format!("Failed to lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_keeps_the_newest_trees_of_each_stage() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        for (age, text) in [(30, "a"), (20, "b"), (10, "c")] {
            let path = store.stage("root", &Sha256Digest::of(text.as_bytes()));
            fs::create_dir(&path).unwrap();
            let time = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        store.prune(2).unwrap();
        let left = |text: &str| store.stage("root", &Sha256Digest::of(text.as_bytes())).exists();
        assert_eq!((left("a"), left("b"), left("c")), (false, true, true));
    }

    #[test]
    fn a_cache_for_proofs_has_packages_and_nothing_that_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(&folder.path().join("one")).unwrap();
        let digest = Sha256Digest::of(b"package");
        fs::write(store.package(&digest), b"package").unwrap();
        fs::create_dir(store.stage("root", &digest)).unwrap();
        let other = store.packages_only(&folder.path().join("two")).unwrap();
        // Asked again, it goes on.
        store.packages_only(&folder.path().join("two")).unwrap();
        assert_eq!(fs::read(other.package(&digest)).unwrap(), b"package");
        assert!(!other.stage("root", &digest).exists());
    }

    #[test]
    fn a_lock_is_free_again_when_its_guard_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        drop(lock_file(&path, &Progress::silent()).unwrap());
        let _guard = lock_file(&path, &Progress::silent()).unwrap();
        assert!(Flock::lock(File::create(&path).unwrap(), FlockArg::LockExclusiveNonblock).is_err());
    }
}
