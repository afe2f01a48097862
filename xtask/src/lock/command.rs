//! `cargo xtask lock`: brings `os/packages.lock` in step with the package sets, and says what moved.

use std::path::Path;

use anyhow::{Context, Result};

use super::resolve::{Update, resolve};
use super::{Lock, sets};
use crate::checkout::Checkout;
use crate::cli::LockArgs;
use crate::mirror::Mirrors;
use crate::progress::Progress;

/// Runs the command.
pub fn run(args: &LockArgs, progress: &Progress) -> Result<()> {
    let checkout = Checkout::find()?;
    let path = checkout.lock_path();
    let old = if path.exists() { Some(Lock::read(&path)) } else { None };
    let update = match &args.update {
        None => Update::Nothing,
        Some(names) if names.is_empty() => Update::Everything,
        Some(names) => Update::Only(names.iter().cloned().collect()),
    };
    // A full update is also the way out of a lock that no longer reads.
    let old = match old {
        Some(Err(error)) if update == Update::Everything => {
            progress.warn(&format!("{error:#}"));
            None
        }
        other => other.transpose()?,
    };
    let wanted = sets::read(checkout.root())?;
    if let Some(old) = &old
        && update == Update::Nothing
        && old.inputs == sets::digest(&wanted)
    {
        progress.note("os/packages.lock answers the package sets already: nothing to do (--update moves versions)");
        return Ok(());
    }
    if let (Update::Only(names), Some(old)) = (&update, &old) {
        for name in names {
            let known = old.packages.iter().any(|package| package.name == *name);
            anyhow::ensure!(known, "The lock has no package {name}: `--update` without a name moves all");
        }
    }
    progress.note("resolving the package sets with apt");
    let date = old.as_ref().map_or(Ok(0), Lock::source_date)?;
    let mirrors = Mirrors::find(date)?;
    let lock = resolve(&wanted, old.as_ref(), &update, &mirrors, &checkout.target().join("lock"))?;
    let changes = lock.changes_since(old.as_ref().unwrap_or(&Lock { packages: Vec::new(), ..lock.clone() }));
    if let Some(old) = &old
        && changes.is_empty()
        && old.inputs == lock.inputs
        && old.packages == lock.packages
    {
        progress.note("no package moved: os/packages.lock stays as it is");
        return Ok(());
    }
    write(&path, &lock)?;
    for change in &changes {
        println!("{change}");
    }
    progress.note(&format!("wrote {}: {} packages, {} changed", path.display(), lock.packages.len(), changes.len()));
    Ok(())
}

/// Writes the lock in one step.
pub fn write(path: &Path, lock: &Lock) -> Result<()> {
    let partial = path.with_extension("lock.partial");
    std::fs::write(&partial, lock.render()).with_context(|| format!("Failed to write {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("Failed to move {} into place", partial.display()))
}
