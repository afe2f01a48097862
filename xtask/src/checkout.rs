//! The checkout that is built: where it is, which revision, and whether anything in it is not committed.

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
