//! A backup with everything. It is unpacked beside the database and opened there as the broker would open it; only then are its files put in their places, the database last. Files that identify the broker are written where they are missing, and never replaced.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use measurements::canonical;
use tempfile::TempDir;

use super::{Ask, Target, adopt, proof};
use crate::backup::archive::{Archive, directory_of, remove_abandoned};
use crate::backup::manifest::Manifest;
use crate::backup::members::{AUDIT, CONFIGURATION, DATABASE, IDENTITY};
use crate::config::Config;
use crate::engine::Rows;
use crate::fault;

/// Begin of the name of the directory that a backup is unpacked in.
const STAGING: &str = "restoring-";

/// A backup that was proved, and unpacked.
struct Proved {
    folder: TempDir,
    rows: Rows,
    manifest: Manifest,
}

/// Restores it.
pub(super) fn restore(target: &Target, backup: &Path, ask: Ask) -> Result<()> {
    let mut archive = Archive::open(backup)?;
    let folder = directory_of(&target.configuration);
    let is_new = !folder.exists();
    if is_new {
        fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let proved = proved(target, &mut archive, ask);
    if proved.is_err() && is_new {
        // It is empty again; that it cannot be removed is not the error to report.
        let _ = fs::remove_dir(folder);
    }
    put(target, proved?)
}

fn proved(target: &Target, archive: &mut Archive, ask: Ask) -> Result<Proved> {
    let parent = directory_of(&target.database);
    remove_abandoned(parent, STAGING);
    let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(parent);
    let folder = staging.context("cannot create a directory beside the database")?;
    let (bytes, digest) = archive.extract(folder.path())?;
    // An accident. The signature is verified below.
    let said: Manifest = unverified(archive.manifest())?;
    ensure!(
        (said.bytes, said.digest.0) == (bytes, digest),
        "the backup was changed: its {bytes} bytes have the SHA-256 {}, the manifest names {}\nhint: name another file that `key-broker backup` wrote",
        hex::encode(digest),
        hex::encode(said.digest.0)
    );
    for name in [CONFIGURATION].iter().chain(&IDENTITY) {
        ensure!(folder.path().join(name).exists(), "the backup does not contain {name}");
    }
    compare(target, folder.path())?;
    // Before a database is opened, which changes one of an older version.
    let read = |name: &str| fs::read(folder.path().join(name));
    let manifest = Manifest::verify(archive.manifest(), &read("cluster.json")?, &read("certificate.json")?)?;
    let keys = Config::read(&folder.path().join(CONFIGURATION))?;
    let settings = match target.configuration.exists() {
        true => Config::read(&target.configuration)?.settings(),
        false => keys.settings(),
    };
    let database = folder.path().join(DATABASE);
    let engine = proof::open(&database, &keys, settings, &ask()?, false)?;
    let rows = proof::prove(&engine, manifest.first_leaf == 0)?;
    drop(engine);
    super::flush(&database)?;
    Ok(Proved { folder, rows, manifest })
}

/// What the manifest says before the key is known that must have signed it.
fn unverified(envelope: &[u8]) -> Result<Manifest> {
    let payload = envelope::Envelope::parse(envelope).and_then(|envelope| envelope.unverified_payload());
    let payload = payload.map_err(|error| anyhow!("the manifest of the backup: {error}"))?;
    canonical::read(&payload).map_err(|error| anyhow!(error))
}

/// Files that are there must be those of the backup: another broker's keys are never mixed with its own.
fn compare(target: &Target, staged: &Path) -> Result<()> {
    for name in IDENTITY {
        let path = target.file(name);
        if path.exists() && fs::read(&path)? != fs::read(staged.join(name))? {
            bail!(
                "{} is another than that of the backup\nhint: restore into an empty directory, with --config DIRECTORY/broker.toml",
                path.display()
            );
        }
    }
    Ok(())
}

/// Puts everything in its place. What was written before an error is removed again.
fn put(target: &Target, proved: Proved) -> Result<()> {
    let Proved { folder, rows, manifest } = proved;
    let staged = folder.path();
    let mut written = Vec::new();
    let alone = target.take()?;
    let replace = || target.replace(&staged.join(DATABASE), alone);
    let done = put_files(target, staged, &mut written).and_then(|()| replace());
    if done.is_err() {
        for path in written {
            // The error that is reported is the one before.
            let _ = fs::remove_file(path);
        }
    }
    done?;
    adopt(target, Some(&staged.join(DATABASE)))?;
    println!(
        "restored {} from the backup of {}: {} nodes, {} disks, every share unwrapped",
        target.named.display(),
        manifest.created,
        rows.nodes,
        rows.disks
    );
    Ok(())
}

fn put_files(target: &Target, staged: &Path, written: &mut Vec<PathBuf>) -> Result<()> {
    for name in IDENTITY {
        put_file(&staged.join(name), &target.file(name), written)?;
    }
    put_file(&staged.join(CONFIGURATION), &target.configuration, written)?;
    let audit = target.database.with_file_name(AUDIT);
    if !audit.exists() && staged.join(AUDIT).exists() {
        fs::rename(staged.join(AUDIT), &audit).with_context(|| format!("cannot create {}", audit.display()))?;
    }
    fault::point("before-restore-rename");
    Ok(())
}

/// Writes a file that does not exist: whole, flushed, and its owner's alone.
fn put_file(from: &Path, to: &Path, written: &mut Vec<PathBuf>) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let about = || format!("cannot write {}", to.display());
    let mut file = tempfile::NamedTempFile::new_in(directory_of(to)).with_context(about)?;
    file.write_all(&fs::read(from)?).and_then(|()| file.as_file().sync_all()).with_context(about)?;
    file.persist_noclobber(to).map_err(|error| error.error).with_context(about)?;
    written.push(to.to_owned());
    Ok(())
}
