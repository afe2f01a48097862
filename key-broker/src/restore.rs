//! `key-broker restore`: a backup becomes the broker. It is unpacked and opened beside the database first, and proved ([`proof`]); then the database is renamed, so that an error or a power failure leaves one whole database.
//!
//! A database alone, as an earlier restore kept it, is restored where the keys of its broker still are, if the operator says that it is one: it has no signature.

mod proof;
mod whole;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use zeroize::Zeroizing;

use crate::backup::archive::{directory_of, is_database};
use crate::config::Config;
use crate::engine::{Missing, adopt_bundles, merge_bundles};
use crate::store::{self, Alone, Sqlite};

/// What SQLite keeps beside a database.
const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What a write-ahead log of another database is kept as, before `.before-TIME`: not the name that SQLite gives to the log of `database.before-TIME`.
const LOG: &str = "database-wal";

/// Asks for the passphrase, once the backup is known to be whole.
pub type Ask<'a> = &'a dyn Fn() -> Result<Zeroizing<Vec<u8>>>;

/// What an operator has decided.
#[derive(Clone, Copy, Default)]
pub struct Choices {
    /// A database that exists is replaced.
    pub replace: bool,
    /// The file is a database alone, which has no signature.
    pub database_alone: bool,
    /// Rows of a database alone that have no authentication codes are accepted.
    pub trust_database: bool,
}

/// Where a backup is restored.
struct Target {
    /// The broker's broker.toml, which may not exist.
    configuration: PathBuf,
    /// The database as it is named beside it.
    named: PathBuf,
    /// The file that this name leads to.
    database: PathBuf,
    /// Whether it exists.
    is_there: bool,
    /// Now, in seconds since 1970, or the next second that no file is named after: part of the names of what is kept.
    time: i64,
}

impl Target {
    fn of(configuration: &Path) -> Result<Self> {
        let named = configuration.with_file_name("database");
        let is_there = named.exists();
        // The rename must stay in one file system.
        let database = if is_there { fs::canonicalize(&named)? } else { named.clone() };
        // A restore in the same second has its own names.
        let is_taken = |time: &i64| {
            let [kept, aside, log] = ["database", "audit", LOG].map(|name| format!("{name}.before-{time}"));
            let is_there = |name| database.with_file_name(name).exists();
            configuration.with_file_name(kept).exists() || is_there(aside) || is_there(log)
        };
        let now = jiff::Timestamp::now().as_second();
        let time = (now..).find(|time| !is_taken(time)).unwrap_or(now);
        Ok(Self { configuration: configuration.to_owned(), named, database, is_there, time })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.configuration.with_file_name(name)
    }

    /// The lock of the database that is there. A broker that has it open would go on with it after the rename, and one boot would get its share from both.
    fn take(&self) -> Result<Option<Alone>> {
        // Another restore may have made one while this one waited for the passphrase.
        ensure!(self.is_there || !self.named.exists(), self.appeared());
        if self.is_there {
            self.set_foreign_log_aside()?;
        }
        let taken = self.is_there.then(|| Alone::take(&self.database)).transpose();
        taken.map_err(|error| self.cannot_take(error))
    }

    /// A write-ahead log of another database must not come into the one that is kept, and has the newest rows of that other one.
    fn set_foreign_log_aside(&self) -> Result<()> {
        let found = store::foreign_log(&self.database).map_err(|error| self.cannot_take(error))?;
        let Some(log) = found else { return Ok(()) };
        // Beside the log: a rename stays in one file system.
        let aside = self.database.with_file_name(format!("{LOG}.before-{}", self.time));
        fs::rename(&log, &aside).with_context(|| format!("cannot keep {}", log.display()))?;
        remove_file(&beside(&self.database, "-shm"))?;
        println!("kept {}: the write-ahead log of another database than {}", aside.display(), self.database.display());
        Ok(())
    }

    fn appeared(&self) -> String {
        format!(
            "{} did not exist when this restore began, and exists now\nhint: another restore or `key-broker init` has made it: use that one, or restore again with --replace",
            self.named.display()
        )
    }

    /// That no broker has the database open, before the operator enters a passphrase. Another cause why it cannot be locked is reported later, when the backup is proved.
    fn check_unused(&self) -> Result<()> {
        match store::check_unused(&self.database) {
            Err(error) if self.is_there && error.is_locked() => Err(self.cannot_take(error)),
            _ => Ok(()),
        }
    }

    fn cannot_take(&self, error: store::Error) -> anyhow::Error {
        let database = self.database.display();
        match error.is_locked() {
            true => anyhow!(
                "cannot replace {database}: another process has it open\nhint: stop all brokers that use this database, and restore again"
            ),
            false => anyhow!(error)
                .context(format!("cannot keep {database}: move it and its -wal file to another directory first")),
        }
    }

    /// Keeps the database that is there, which is locked, and puts a proved one in its place.
    fn replace(&self, copied: &Path, alone: Option<Alone>) -> Result<()> {
        let database = &self.database;
        if let Some(alone) = &alone {
            let kept = self.file(&format!("database.before-{}", self.time));
            alone.copy(&kept).with_context(|| format!("cannot keep {}", database.display()))?;
            println!("kept {}", kept.display());
        }
        if alone.is_some() {
            remove_beside(database)?;
            fs::rename(copied, database).with_context(|| format!("Failed to write {}", database.display()))?;
        } else {
            // Of a database that was lost; a new one would take what is in it for its own.
            remove_beside(database)?;
            let moved = renameat2(AT_FDCWD, copied, AT_FDCWD, database, RenameFlags::RENAME_NOREPLACE);
            match moved {
                Err(Errno::EEXIST) => anyhow::bail!(self.appeared()),
                moved => moved.with_context(|| format!("Failed to write {}", database.display()))?,
            }
        }
        File::open(directory_of(database))
            .and_then(|directory| directory.sync_all())
            .context("Failed to flush the directory")?;
        // A broker that waits for the lock finds now that its file was replaced.
        drop(alone);
        Ok(())
    }
}

/// Restores `backup` beside this broker.toml. A database that exists is kept beside it.
pub fn run(configuration: &Path, backup: &Path, choices: Choices, ask: Ask) -> Result<()> {
    let target = Target::of(configuration)?;
    ensure!(UnixStream::connect(target.file("admin.sock")).is_err(), "The broker runs: stop it first");
    ensure!(
        backup.exists(),
        "cannot restore {}: the file does not exist; name a file that `key-broker backup` wrote",
        backup.display()
    );
    ensure!(
        !target.is_there || choices.replace,
        "{} exists: with --replace it is kept beside the restored one",
        target.named.display()
    );
    let copied = target.database.with_file_name("database.restoring");
    let removed = SUFFIXES.into_iter().flat_map(|suffix| [beside(&copied, suffix), beside(&target.database, suffix)]);
    check_name(backup, removed.chain([copied.clone()]))?;
    let about = || format!("cannot restore {}", backup.display());
    target.check_unused().with_context(about)?;
    if !is_database(backup) {
        ensure!(
            !choices.database_alone,
            "{}: --database-alone is for a database alone, and the signature of a backup is verified\nhint: omit --database-alone",
            about()
        );
        ensure!(
            !choices.trust_database,
            "{}: --trust-database is for a database alone; the rows of a backup have authentication codes\nhint: omit --trust-database",
            about()
        );
        return whole::restore(&target, backup, ask).with_context(about);
    }
    ensure!(
        choices.database_alone,
        "{}: it is a database alone, which has no signature\nhint: name the file that `key-broker backup` wrote; if nobody but this broker has written the database, and it is the newest one, --database-alone",
        about()
    );
    let config = keys(&target).with_context(about)?;
    remove(&copied)?;
    let checked = check(backup, &copied, &config, choices, ask);
    if checked.is_err() {
        // It is of no use; that it cannot be removed is not the error to report.
        let _ = remove(&copied);
    }
    checked.with_context(about)?;
    target.take().and_then(|alone| target.replace(&copied, alone)).with_context(about)?;
    println!("restored {} from a database alone: no signature was verified", target.named.display());
    adopt(&target, None)
}

/// The broker whose keys belong to a database alone.
fn keys(target: &Target) -> Result<Config> {
    let sealed = target.file("sealed.json");
    ensure!(
        sealed.exists(),
        "it is a database alone, and {} does not exist: its shares could not be unwrapped\nhint: name a file that `key-broker backup` of this version wrote, or copy the keys of its broker there first",
        sealed.display()
    );
    Config::read(&target.configuration)
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

/// Copies a database, and proves the copy with the broker's keys.
fn check(backup: &Path, copied: &Path, config: &Config, choices: Choices, ask: Ask) -> Result<()> {
    store::copy(backup, copied)?;
    drop(Sqlite::open(copied)?);
    let engine = proof::open(copied, config, config.settings(), &ask()?, choices.trust_database)?;
    proof::prove(&engine, false)?;
    drop(engine);
    flush(copied)
}

/// An older version has been changed: all of it is in the file, and on the disk.
fn flush(copied: &Path) -> Result<()> {
    let log = beside(copied, "-wal");
    ensure!(!log.exists(), "the copy {} was not closed: {} exists", copied.display(), log.display());
    File::open(copied).and_then(|file| file.sync_all()).context("Failed to flush the copy")
}

/// Brings the files of the audit log to the restored database: those of the backup, and of those that are there the ones that belong to it.
fn adopt(target: &Target, backup: Option<&Path>) -> Result<()> {
    // Beside the directory that it is taken out of: a rename stays in one file system.
    let aside = target.database.with_file_name(format!("audit.before-{}", target.time));
    if let Some(backup) = backup {
        merge_bundles(backup, &target.named, &aside)?;
    }
    let found = adopt_bundles(&Sqlite::open(&target.named)?, &target.named, &aside)?;
    if aside.exists() {
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
mod tests;
