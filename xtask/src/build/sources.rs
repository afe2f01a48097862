//! The packages of a build: the lock, checked against the package sets, and its files in the cache.
//!
//! A build trusts nothing but the hashes of the lock. Where the lock cannot serve (a set has changed, or mirrors have
//! forgotten a superseded version), a plain build resolves anew below `target/`, says so, and is marked as not locked;
//! with `--locked` that is an error.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::checkout::Checkout;
use crate::digest::Sha256Digest;
use crate::fetch::{self, Gone};
use crate::lock::command::write;
use crate::lock::resolve::{Update, resolve};
use crate::lock::sets::{self, PackageSet};
use crate::lock::{Lock, Package};
use crate::mirror::{Mirrors, VARIABLE};
use crate::progress::Progress;
use crate::store::Store;

/// Packages whose bytes were checked.
pub struct Sources {
    /// The lock they come from.
    pub lock: Lock,
    /// Whether that is the committed lock.
    pub locked: bool,
    /// All package sets.
    pub sets: BTreeMap<String, PackageSet>,
    /// The fetched files by digest.
    pub files: BTreeMap<Sha256Digest, PathBuf>,
}

impl Sources {
    /// Gets the packages of the sets that `wanted` names.
    pub fn get(
        checkout: &Checkout,
        wanted: &[&str],
        must_be_locked: bool,
        store: &Store,
        progress: &Progress,
    ) -> Result<Self> {
        let lock = Lock::read(&checkout.lock_path())?;
        let sets = sets::read(checkout.root())?;
        let mut sources = Self { locked: true, files: BTreeMap::new(), lock, sets };
        if sources.lock.inputs != sets::digest(&sources.sets) {
            let reason = "os/packages.lock does not answer the package sets (mkosi.conf, os/image.toml or a profile has changed)";
            sources.resolve_again(reason, Update::Nothing, checkout, must_be_locked, progress)?;
        }
        match sources.fetch(wanted, store, progress) {
            Err(error) if error.is::<Gone>() => {
                let reason = format!("{error}: mirrors forget superseded versions");
                sources.resolve_again(&reason, Update::Everything, checkout, must_be_locked, progress)?;
                sources.fetch(wanted, store, progress)?;
            }
            other => other?,
        }
        Ok(sources)
    }

    fn fetch(&mut self, wanted: &[&str], store: &Store, progress: &Progress) -> Result<()> {
        let packages: Vec<&Package> =
            self.lock.packages.iter().filter(|package| wanted.iter().any(|set| package.sets.contains(*set))).collect();
        self.files = fetch::fetch(&self.lock, &packages, store, progress)?;
        Ok(())
    }

    fn resolve_again(
        &mut self,
        reason: &str,
        update: Update,
        checkout: &Checkout,
        must_be_locked: bool,
        progress: &Progress,
    ) -> Result<()> {
        if must_be_locked {
            bail!(
                "{reason}.\nWith --locked that is the end. Ways on: `cargo xtask lock` (or `--update PACKAGE`) and commit the lock; \
                 {VARIABLE}=<a snapshot service>/{{date}} or a mirror of your own; or a build without --locked, which is marked"
            );
        }
        progress.warn(&format!("{reason}. Resolving anew; an image of them is marked \"locked\": false"));
        let state = checkout.target().join("lock");
        let mirrors = Mirrors::find(self.lock.source_date()?)?;
        let fresh = resolve(&self.sets, Some(&self.lock), &update, &mirrors, &state)
            .context("The package sets could not be resolved anew")?;
        for change in fresh.changes_since(&self.lock) {
            progress.warn(&change);
        }
        write(&state.join("packages.lock"), &fresh)?;
        self.lock = fresh;
        self.locked = false;
        Ok(())
    }

    /// The packages of a set.
    pub fn set(&self, name: &str) -> Result<Vec<&Package>> {
        let packages: Vec<&Package> = self.lock.packages.iter().filter(|package| package.sets.contains(name)).collect();
        if packages.is_empty() {
            bail!("The lock has no package of the set {name}: run `cargo xtask lock`");
        }
        Ok(packages)
    }
}
