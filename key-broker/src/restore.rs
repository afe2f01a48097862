//! `key-broker restore`: a backup becomes the database. It is copied and opened beside the database first, and then renamed, so that an error or a power failure leaves one whole database.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::config::Config;
use crate::engine::{Missing, adopt_bundles};
use crate::store::{self, Sqlite};

/// What SQLite keeps beside a database.
const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Restores `backup`. A database that exists is kept beside it, and must be meant with `replace`.
pub fn run(config: &Config, backup: &Path, replace: bool) -> Result<()> {
    ensure!(UnixStream::connect(config.file("admin.sock")).is_err(), "The broker runs: stop it first");
    let (named, time) = (config.file("database"), jiff::Timestamp::now().as_second());
    let is_there = named.exists();
    ensure!(
        backup.exists(),
        "cannot restore {}: the file does not exist; name a file that `key-broker backup` wrote",
        backup.display()
    );
    ensure!(!is_there || replace, "{} exists: with --replace it is kept beside the restored one", named.display());
    // The rename must stay in one file system.
    let database = if is_there { fs::canonicalize(&named)? } else { named.clone() };
    let copied = database.with_file_name("database.restoring");
    let removed = SUFFIXES.into_iter().flat_map(|suffix| [beside(&copied, suffix), beside(&database, suffix)]);
    check_name(backup, removed.chain([copied.clone()]))?;
    remove(&copied)?;
    let checked = check(backup, &copied);
    if checked.is_err() {
        // It is of no use; that it cannot be removed is not the error to report.
        let _ = remove(&copied);
    }
    checked.with_context(|| format!("cannot restore {}", backup.display()))?;
    if is_there {
        let kept = config.file(&format!("database.before-{time}"));
        // With what is in its write-ahead log, which must not be read with the new database.
        store::copy(&database, &kept).and_then(|()| store::fold(&database)).with_context(|| {
            format!("cannot keep {}: move it and its -wal file to another directory first", database.display())
        })?;
        println!("kept {}", kept.display());
    }
    remove_beside(&database)?;
    fs::rename(&copied, &database).with_context(|| format!("Failed to write {}", database.display()))?;
    let directory = database.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).context("Failed to flush the directory")?;
    println!("restored {}", named.display());
    adopt(config, &named, time)
}

/// A backup must not be one of the files that restoring removes.
fn check_name(backup: &Path, mut removed: impl Iterator<Item = PathBuf>) -> Result<()> {
    let canonical = fs::canonicalize(backup).with_context(|| format!("Failed to find {}", backup.display()))?;
    let is_removed = removed.any(|path| fs::canonicalize(path).is_ok_and(|path| path == canonical));
    ensure!(
        !is_removed,
        "cannot restore {}: a restore removes files of this name before it begins\nhint: rename it first, for example to {}",
        backup.display(),
        canonical.with_file_name("backup").display()
    );
    Ok(())
}

/// Copies a backup, and opens the copy as the broker would.
fn check(backup: &Path, copied: &Path) -> Result<()> {
    store::copy(backup, copied)?;
    drop(Sqlite::open(copied)?);
    let log = beside(copied, "-wal");
    ensure!(!log.exists(), "the copy {} was not closed: {} exists", copied.display(), log.display());
    // An older version has been changed.
    File::open(copied).and_then(|file| file.sync_all()).context("Failed to flush the copy")
}

fn adopt(config: &Config, database: &Path, time: i64) -> Result<()> {
    let aside = config.file(&format!("audit.before-{time}"));
    let found = adopt_bundles(&Sqlite::open(database)?, database, &aside)?;
    if let Some(aside) = found.aside {
        println!("kept {}: leaves of the audit log that the restored database does not have", aside.display());
    }
    if let Some(Missing { first, last, directory }) = found.missing {
        println!(
            "missing leaves {first} to {last} of the audit log: copy the directory audit of the backup to {}",
            directory.display()
        );
    }
    Ok(())
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(database: &Path) -> Result<()> {
    remove_beside(database)?;
    remove_file(database)
}

fn remove_beside(database: &Path) -> Result<()> {
    SUFFIXES.into_iter().try_for_each(|suffix| remove_file(&beside(database, suffix)))
}

fn remove_file(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("Failed to remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store as _, Table};

    fn put(store: &Sqlite, value: &[u8]) {
        store.transact(&mut |open| open.put(Table::Nodes, b"x", value)).unwrap();
    }

    fn value(path: &Path) -> Option<Vec<u8>> {
        let mut value = None;
        let store = Sqlite::open(path).unwrap().with_test_key();
        store.look(&mut |open| open.get(Table::Nodes, b"x").map(|found| value = found)).unwrap();
        value
    }

    /// A broker's directory, whose database has the value `new`, and a backup `backup` with the value `old`.
    fn broker() -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let toml = folder.path().join("broker.toml");
        fs::write(&toml, Config::text("127.0.0.1:0".parse().unwrap())).unwrap();
        let store = Sqlite::create(&folder.path().join("database")).unwrap().with_test_key();
        put(&store, b"old");
        store.backup(&folder.path().join("backup")).unwrap();
        put(&store, b"new");
        (folder, Config::read(&toml).unwrap())
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn missing_or_foreign_backup_is_refused_and_nothing_is_touched() {
        let (folder, config) = broker();
        fs::write(config.file("empty"), "").unwrap();
        fs::write(config.file("text"), "no database").unwrap();
        let before = names(folder.path());
        for (name, word) in [("misspelled", "key-broker backup"), ("empty", "not the database"), ("text", "text")] {
            let error = format!("{:#}", run(&config, &config.file(name), true).unwrap_err());
            assert!(error.contains(word), "{error}");
            assert_eq!(names(folder.path()), before, "{name}");
            assert_eq!(value(&config.file("database")).unwrap(), b"new", "{name}");
        }
        assert!(run(&config, &config.file("backup"), false).unwrap_err().to_string().contains("--replace"));
        assert_eq!(names(folder.path()), before);
    }

    #[test]
    fn restored_database_is_the_backup_and_the_one_before_is_kept() {
        let (folder, config) = broker();
        // What a restore that was interrupted left.
        fs::write(config.file("database.restoring"), "half").unwrap();
        run(&config, &config.file("backup"), true).unwrap();
        assert_eq!(value(&config.file("database")).unwrap(), b"old");
        assert!(config.file("backup").exists());
        let kept = names(folder.path()).into_iter().find(|name| name.starts_with("database.before-")).unwrap();
        assert_eq!(value(&config.file(&kept)).unwrap(), b"new");
        assert!(!config.file("database.restoring").exists());
    }

    #[test]
    fn backup_that_restoring_would_remove_is_refused_and_left_alone() {
        let (folder, config) = broker();
        fs::create_dir(config.file("other")).unwrap();
        for name in ["database.restoring", "database.restoring-wal", "database-journal"] {
            fs::rename(config.file("backup"), config.file(name)).unwrap();
            let before = names(folder.path());
            for path in [config.file(name), folder.path().join("other/..").join(name)] {
                let error = format!("{:#}", run(&config, &path, true).unwrap_err());
                assert!(error.contains("hint: rename it") && error.contains(name), "{error}");
                assert_eq!(names(folder.path()), before, "{name}");
            }
            fs::rename(config.file(name), config.file("backup")).unwrap();
        }
        assert_eq!(value(&config.file("database")).unwrap(), b"new");
        assert_eq!(value(&config.file("backup")).unwrap(), b"old");
    }

    #[test]
    fn database_itself_and_the_one_before_are_backups() {
        let (folder, config) = broker();
        run(&config, &config.file("database"), true).unwrap();
        assert_eq!(value(&config.file("database")).unwrap(), b"new");
        let kept = names(folder.path()).into_iter().find(|name| name.starts_with("database.before-")).unwrap();
        fs::rename(config.file(&kept), config.file("database.before-7")).unwrap();
        put(&Sqlite::open(&config.file("database")).unwrap().with_test_key(), b"newer");
        run(&config, &config.file("database.before-7"), true).unwrap();
        assert_eq!(value(&config.file("database")).unwrap(), b"new");
        assert_eq!(value(&config.file("database.before-7")).unwrap(), b"new");
    }

    #[test]
    fn lost_database_is_restored_without_its_old_write_ahead_log() {
        let (_folder, config) = broker();
        fs::remove_file(config.file("database")).unwrap();
        fs::write(config.file("database-wal"), "of the lost one").unwrap();
        run(&config, &config.file("backup"), false).unwrap();
        assert_eq!(value(&config.file("database")).unwrap(), b"old");
    }
}
