//! The checkout that is built: where it is, which revision, and whether anything in it is not committed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A checkout of this project.
#[derive(Clone, Debug)]
pub struct Checkout {
    root: PathBuf,
}

/// What git says of a checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Commit id, or `unknown` outside git.
    pub commit: String,
    /// Whether files differ from that commit.
    pub dirty: bool,
}

impl Checkout {
    /// The checkout around the current folder.
    pub fn find() -> Result<Self> {
        let start = std::env::current_dir().context("Failed to read the current folder")?;
        let root = start
            .ancestors()
            .find(|folder| folder.join("os/image.toml").is_file() && folder.join("mkosi.conf").is_file())
            .with_context(|| format!("{} is not inside a checkout of Cairn: change into one", start.display()))?;
        Ok(Self { root: root.to_owned() })
    }

    /// The checkout whose top folder is `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Copies every file that git tracks or would track to the folder `to`.
    pub fn copy_to(&self, to: &Path) -> Result<()> {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let output = git.current_dir(&self.root).output().context("Failed to run git")?;
        ensure!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        let listed = String::from_utf8_lossy(&output.stdout);
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            let (from, target) = (self.root.join(path), to.join(path));
            // A file that was removed is still listed.
            let Ok(data) = from.symlink_metadata() else { continue };
            let failed = || format!("Failed to copy {path}");
            fs::create_dir_all(target.parent().unwrap_or(to)).with_context(failed)?;
            if data.is_symlink() {
                symlink(fs::read_link(&from).with_context(failed)?, &target).with_context(failed)?;
            } else {
                fs::copy(&from, &target).with_context(failed)?;
            }
        }
        Ok(())
    }

    /// Its top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The lock file.
    pub fn lock_path(&self) -> PathBuf {
        self.join("os/packages.lock")
    }

    /// Where builds write: `target/` or `CARGO_TARGET_DIR`.
    pub fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) if !folder.is_empty() => self.root.join(folder),
            _ => self.join("target"),
        }
    }

    /// Commit and dirtiness. A tree that is not a git checkout is built too, as `unknown` and dirty.
    pub fn revision(&self) -> Result<Revision> {
        let git = |arguments: &[&str]| -> Option<String> {
            let mut command = Command::new("git");
            // A checkout of another user is read all the same: nothing in it is run.
            command.args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C"]).arg(&self.root);
            let output = command.args(arguments).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let Some(commit) = git(&["rev-parse", "HEAD"]) else {
            return Ok(Revision { commit: "unknown".into(), dirty: true });
        };
        let status = git(&["status", "--porcelain"]).context("git status failed: is the checkout damaged?")?;
        ensure!(commit.trim().len() >= 40, "git names the commit {commit:?}");
        Ok(Revision { commit: commit.trim().to_owned(), dirty: !status.is_empty() })
    }
}
