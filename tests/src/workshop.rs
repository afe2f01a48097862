//! Clones of the sources under test and caches of their own, so that nothing that a row does touches the checkout or the user's cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use xtask::lock::Lock;
use xtask::sandbox::Sandbox;
use xtask::store::Store;

use crate::environment::{output_of, sandbox, variable, xtask};
use crate::image::Image;
use crate::sources::{git, snapshot};

/// What all rows share.
pub struct Workshop {
    /// The build root.
    pub sandbox: Sandbox,
    /// The production image, built by `cargo xtask test`.
    pub image: Image,
    /// The user's cache, which has everything.
    pub store: Store,
    /// A copy of the program under test that every user may run.
    pub xtask: PathBuf,
    /// The commit that all clones have: the checkout as it is, also where that is not committed.
    sources: PathBuf,
    folder: tempfile::TempDir,
}

impl Workshop {
    /// Copies the checkout and the program under test, and fetches all packages of the lock.
    pub fn open() -> Result<Self> {
        // Not /tmp: that may be memory, and a cold build takes gigabytes.
        let folder = tempfile::Builder::new().prefix("cairn-builds-").tempdir_in("/var/tmp");
        let folder = folder.context("Failed to make a folder in /var/tmp")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).context("chmod")?;
        let program = folder.path().join("xtask");
        fs::copy(xtask()?, &program).context("Failed to copy the xtask program")?;
        let sources = folder.path().join("sources");
        snapshot(&sources)?;
        // Rows take single packages away from a cache that has all.
        output_of(Command::new(&program).arg("fetch").current_dir(&sources))?;
        Ok(Self {
            sandbox: sandbox()?,
            image: Image::open(&variable("CAIRN_IMAGE_DIR")?)?,
            store: Store::open()?,
            xtask: program,
            sources,
            folder,
        })
    }

    /// Where a row may work.
    pub fn folder(&self, row: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(row);
        fs::create_dir_all(&folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        Ok(folder)
    }

    /// A new clone at `path`.
    pub fn clone_to(&self, path: &Path) -> Result<()> {
        git(self.folder.path(), &["clone", "--quiet", &self.sources.to_string_lossy(), &path.to_string_lossy()])
    }

    /// A clone and a cache for one row.
    pub fn bench(&self, row: &str) -> Result<Bench<'_>> {
        let folder = self.folder(row)?;
        let (checkout, cache) = (folder.join("checkout"), folder.join("cache"));
        self.clone_to(&checkout)?;
        self.store.linked(&cache.join("cairn"), &[])?;
        Ok(Bench { workshop: self, folder, checkout, cache })
    }
}

/// A clone with a cache.
pub struct Bench<'a> {
    /// What it shares with other rows.
    pub workshop: &'a Workshop,
    /// Where the row may work.
    pub folder: PathBuf,
    /// The clone.
    pub checkout: PathBuf,
    /// `XDG_CACHE_HOME` of the row.
    pub cache: PathBuf,
}

impl Bench<'_> {
    /// Takes stages out of the cache: all whose name begins so.
    pub fn forget_stages(&self, names: &[&str]) -> Result<()> {
        for path in self.stages(names)? {
            fs::remove_file(&path).with_context(|| format!("Failed to remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Folders of the stages whose name begins so.
    pub fn stages(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.cache.join("cairn/stages");
        let entries = fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))?.flatten();
        let of = |name: &str| names.iter().any(|stage| name.rsplit_once('-').is_some_and(|(found, _)| found == *stage));
        Ok(entries.filter(|entry| of(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect())
    }

    /// Takes all packages and stages out of the cache.
    pub fn forget_everything(&self) -> Result<()> {
        fs::remove_dir_all(&self.cache).with_context(|| format!("Failed to remove {}", self.cache.display()))
    }

    /// The lock of the clone.
    pub fn lock(&self) -> Result<Lock> {
        Lock::read(&self.checkout.join("os/packages.lock"))
    }

    /// Where a package is in the row's cache.
    pub fn cached(&self, sha256: impl std::fmt::Display) -> PathBuf {
        self.cache.join("cairn/debs").join(sha256.to_string())
    }

    /// Replaces text in a file of the clone.
    pub fn edit(&self, path: &str, from: &str, to: &str) -> Result<()> {
        let path = self.checkout.join(path);
        let text = fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))?;
        ensure!(text.contains(from), "{} has no {from:?}", path.display());
        fs::write(&path, text.replacen(from, to, 1)).with_context(|| format!("Failed to write {}", path.display()))
    }

    /// The program under test in this clone, with this cache.
    pub fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.workshop.xtask);
        command
            .args(arguments)
            .current_dir(&self.checkout)
            .env("XDG_CACHE_HOME", &self.cache)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CAIRN_DEBIAN_MIRROR")
            .env_remove("CAIRN_XTASK")
            .stdin(Stdio::null());
        command
    }

    /// Requires success; what was printed on both outputs.
    pub fn must_succeed(&self, command: &mut Command) -> Result<String> {
        let output = command.output().context("Failed to start xtask")?;
        ensure!(output.status.success(), "{:?}: {}", output.status, text_of(&output));
        Ok(text_of(&output))
    }

    /// Requires a plain failure (not a panic, not a signal) whose message has all of `words`.
    pub fn must_fail(&self, command: &mut Command, words: &[&str]) -> Result<()> {
        let output = command.output().context("Failed to start xtask")?;
        let text = text_of(&output);
        ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
        let message = text.split_once("error: ").map_or("", |(_, message)| message);
        for word in words {
            ensure!(message.contains(word), "the error does not say {word:?}: {text}");
        }
        Ok(())
    }

    /// Requires that nothing half-made is in the cache.
    pub fn must_be_clean(&self) -> Result<()> {
        let folder = self.cache.join("cairn/tmp");
        let left: Vec<_> =
            fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))?.flatten().collect();
        ensure!(left.is_empty(), "temporary folders are left: {left:?}");
        let mounts = fs::read_to_string("/proc/mounts").context("Failed to read /proc/mounts")?;
        let folder = self.folder.to_string_lossy();
        ensure!(!mounts.contains(&*folder), "a mount is left: {mounts}");
        Ok(())
    }

    /// The outputs in `target/image` of the clone.
    pub fn image(&self) -> Result<Image> {
        Image::open(&self.checkout.join("target/image"))
    }
}

/// Both outputs of a program.
pub fn text_of(output: &Output) -> String {
    [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat()
}
