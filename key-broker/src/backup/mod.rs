//! `key-broker backup`: one file with everything that a new host needs, written by the running broker. Keys stay sealed in it as they are on the disk; the file itself is its owner's alone.

pub mod archive;
pub mod manifest;
pub mod members;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::engine::{Engine, sha256};
use crate::fault;
use archive::{WRITING, Writer, directory_of, remove_abandoned};
use members::{AUDIT, CONFIGURATION, DATABASE, LEVELS, MAX_SMALL_BYTES, bundle};

/// Writes a backup of a broker whose files are in the directory of `configuration`, which is its broker.toml.
pub fn write(engine: &Engine, configuration: &Path, to: &Path) -> Result<Value> {
    let about = || format!("cannot write the backup {}", to.display());
    ensure!(!to.exists(), "{}: the file exists\nhint: name a file that does not exist yet", about());
    written(engine, configuration, to).with_context(about)
}

fn written(engine: &Engine, configuration: &Path, to: &Path) -> Result<Value> {
    let files = files(engine, configuration)?;
    remove_abandoned(directory_of(to), WRITING);
    let mut writer = Writer::new(to)?;
    let copies = tempfile::Builder::new().prefix(WRITING).tempdir_in(directory_of(to));
    let copies = copies.context("cannot create a directory beside it")?;
    let database = copies.path().join(DATABASE);
    engine.copy_database(&database)?;
    // Learned now, and not on the new host; on the copy, because hellos wait for the reads of the database.
    let rows = engine.check_copy(&database)?;
    add_file(&mut writer, DATABASE, &database)?;
    for (name, bytes) in files {
        writer.add(name, bytes.len() as u64, &mut &bytes[..])?;
    }
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

/// Name and bytes of a file; some hold keys.
type SmallFile = (&'static str, Zeroizing<Vec<u8>>);

/// The files that identify the broker, which must be those that it has read, and its broker.toml, which a broker must be able to read.
fn files(engine: &Engine, configuration: &Path) -> Result<Vec<SmallFile>> {
    let mut files = Vec::new();
    for (name, expected) in engine.identity().context("the broker is sealed\nhint: key-broker unseal")? {
        let path = directory_of(configuration).join(name);
        let bytes = small_file(&path)?;
        ensure!(
            sha256(&bytes) == expected.0,
            "{} has changed since the broker has read it\nhint: write the file of this broker there again, for example out of an earlier backup (tar -xf BACKUP {name}); after an intended change, restart the broker",
            path.display()
        );
        files.push((name, bytes));
    }
    let bytes = small_file(configuration)?;
    let text = std::str::from_utf8(&bytes).map_err(anyhow::Error::from);
    text.and_then(|text| Config::parse(text, configuration)).with_context(|| {
        format!("{} cannot be restored\nhint: correct it, and restart the broker", configuration.display())
    })?;
    files.push((CONFIGURATION, bytes));
    Ok(files)
}

fn small_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let about = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(about)?;
    ensure!(file.metadata()?.is_file(), "{} is not a regular file", path.display());
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_SMALL_BYTES + 1).read_to_end(&mut bytes).with_context(about)?;
    Ok(bytes)
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
