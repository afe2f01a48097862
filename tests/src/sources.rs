//! Clones of the sources under test, as they are.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::environment::output_of;
use crate::machine::checkout;

/// Makes a repository at `to` whose head is the checkout under test as it is: its commit, or one more with what is not committed.
pub fn snapshot(to: &Path) -> Result<()> {
    let checkout = checkout()?;
    let root = checkout.root();
    git(root.parent().unwrap_or(root), &["clone", "--quiet", &root.to_string_lossy(), &to.to_string_lossy()])?;
    git(to, &["rm", "-r", "--quiet", "."])?;
    checkout.copy_to(to)?;
    git(to, &["add", "--all"])?;
    let unchanged = Command::new("git").args(["diff", "--cached", "--quiet", "HEAD"]).current_dir(to).status();
    if !unchanged.context("Failed to run git")?.success() {
        commit(to, "The checkout as it is")?;
    }
    Ok(())
}

/// Commits everything, as nobody in particular; the commit.
pub fn commit(folder: &Path, message: &str) -> Result<String> {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@invalid", "-c", "commit.gpgsign=false"];
    git(folder, &["add", "--all"])?;
    git(folder, &[&identity[..], &["commit", "--quiet", "--message", message]].concat())?;
    head(folder)
}

/// The commit that is checked out.
pub fn head(folder: &Path) -> Result<String> {
    let mut git = Command::new("git");
    Ok(output_of(git.args(["-c", "safe.directory=*", "rev-parse", "HEAD"]).current_dir(folder))?.trim().to_owned())
}

/// Runs git on repositories of whichever user.
pub fn git(folder: &Path, arguments: &[&str]) -> Result<()> {
    output_of(Command::new("git").args(["-c", "safe.directory=*"]).args(arguments).current_dir(folder)).map(drop)
}
