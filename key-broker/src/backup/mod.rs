//! `key-broker backup`: one file with everything that a new host needs, written by the running broker. Keys stay sealed in it as they are on the disk; the file itself is its owner's alone.

pub mod archive;
pub mod manifest;
pub mod members;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::fault;
use archive::{WRITING, Writer, directory_of, remove_abandoned};
use members::{AUDIT, CONFIGURATION, DATABASE, IDENTITY, LEVELS, bundle};

/// Writes a backup of a broker whose files are in the directory of `configuration`, which is its broker.toml.
pub fn write(engine: &Engine, configuration: &Path, to: &Path) -> Result<Value> {
    let about = || format!("cannot write the backup {}", to.display());
    ensure!(!to.exists(), "{}: the file exists\nhint: name a file that does not exist yet", about());
    written(engine, configuration, to).with_context(about)
}

fn written(engine: &Engine, configuration: &Path, to: &Path) -> Result<Value> {
    // Learned now, and not on the new host.
    let rows = engine.check_rows()?;
    remove_abandoned(directory_of(to), WRITING);
    let mut writer = Writer::new(to)?;
    let copies = tempfile::Builder::new().prefix(WRITING).tempdir_in(directory_of(to));
    let copies = copies.context("cannot create a directory beside it")?;
    let database = copies.path().join(DATABASE);
    engine.copy_database(&database)?;
    engine.authenticate_copy(&database)?;
    add_file(&mut writer, DATABASE, &database)?;
    for name in IDENTITY {
        add_file(&mut writer, name, &directory_of(configuration).join(name))?;
    }
    add_file(&mut writer, CONFIGURATION, configuration)?;
    // The leaves that the copy does not have: their bundles were complete before the copy was made, and never change.
    let needed = engine.bundles_before(&database)?;
    let mut first_leaf = 0;
    for number in 0..needed {
        if !engine.bundles().has(number) {
            first_leaf = (number + 1) * engine.bundle_width();
            continue;
        }
        for (level, _) in LEVELS {
            let name = bundle(level, number);
            add_file(&mut writer, &name, &in_directory(engine.bundles().directory(), &name))?;
        }
    }
    engine.verify_log(first_leaf == 0).with_context(|| {
        format!(
            "the audit log would be refused by a restore\nhint: key-broker audit verify; move a damaged file out of the directory {}, and back up again",
            engine.bundles().directory().display()
        )
    })?;
    let (bytes, digest) = writer.digest();
    let manifest = engine.sign_manifest(bytes, digest, first_leaf)?;
    fault::point("before-backup-rename");
    writer.finish(&manifest)?;
    let leaves = match first_leaf.checked_sub(1) {
        None => "complete".to_owned(),
        Some(last) => format!(
            "incomplete: this broker has lost leaves up to {last}; copy them to the directory {} and back up again",
            engine.bundles().directory().display()
        ),
    };
    Ok(json!({"backup": to, "nodes": rows.nodes, "disks": rows.disks, "audit_log": leaves}))
}

/// Path of a member of the audit log in this directory.
fn in_directory(audit: &Path, name: &str) -> PathBuf {
    audit.join(name.strip_prefix(&format!("{AUDIT}/")).unwrap_or(name))
}

fn add_file(writer: &mut Writer, name: &str, path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "{} is not a regular file", path.display());
    writer.add(name, metadata.len(), &mut file as &mut dyn Read)
}
