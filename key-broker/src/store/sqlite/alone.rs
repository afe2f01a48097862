//! A database that is about to be replaced: no process may have it open, because each would go on with the file from before.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{CHECK_PATIENCE, connect, copy_with, foreign_log_of, identity, log_of};
use crate::store::{Error, Failure};

/// A database that nothing else has open. While this value exists, no other connection can read or write it.
pub struct Alone(Connection);

impl Alone {
    /// Locks the database, and moves its write-ahead log into it: in this mode there is none.
    ///
    /// # Errors
    /// [`Error`]; with [`Failure::Locked`], another process has the database open.
    pub fn take(path: &Path) -> Result<Self, Error> {
        let connection = exclusive(path)?;
        // SQLite leaves this mode only for a connection that is the only one (<https://sqlite.org/wal.html>, section 5).
        let mode: String = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
        if mode != "delete" {
            return Err(Error::Database {
                failure: Failure::Locked,
                detail: format!("its journal stays in mode {mode}"),
            });
        }
        // In the locking mode of this connection, the lock stays.
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
        Ok(Self(connection))
    }

    /// Copies it to a new file, and flushes that.
    ///
    /// # Errors
    /// [`Error`]; the new file exists.
    pub fn copy(&self, to: &Path) -> Result<(), Error> {
        copy_with(&self.0, to)
    }
}

/// The write-ahead log beside a database that no process has open, if it is that of another one.
///
/// # Errors
/// [`Error`]; with [`Failure::Locked`], another process has the database open.
pub fn foreign_log(path: &Path) -> Result<Option<PathBuf>, Error> {
    let identity = identity(path)?;
    foreign_log_of(&exclusive(path)?, path, identity)
}

/// That no process has the database open now.
///
/// # Errors
/// [`Error`]; with [`Failure::Locked`], another process has the database open.
pub fn check_unused(path: &Path) -> Result<(), Error> {
    exclusive(path)?.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(Error::from)
}

/// A connection whose first access fails while another one is open, even if that one is idle: each of a database with a write-ahead log has a shared lock.
fn exclusive(path: &Path) -> Result<Connection, Error> {
    // A log that is there may be that of another database, which must not come into it if nothing is replaced. One that this connection makes goes with it.
    let (_, is_empty) = log_of(path);
    let connection = connect(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !is_empty)?;
    connection.busy_timeout(CHECK_PATIENCE)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(connection)
}
