//! Pages without copies of what was destroyed.

use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::Sqlite;
use crate::store::{Error, Failure};

impl Sqlite {
    /// Writes all pages anew: a row that moved to another page leaves a copy in the unused bytes of the page where it was, which `secure_delete` does not overwrite.
    pub(super) fn rewrite(&self, connection: &Connection) -> Result<(), Error> {
        let free = nix::sys::statvfs::statvfs(&self.path)
            .map_err(|error| Error::Database { failure: Failure::Io, detail: error.to_string() })?;
        let bytes = std::fs::metadata(&self.path).map_or(u64::MAX, |file| file.len());
        check_room(bytes, free.blocks_available().saturating_mul(free.fragment_size()))?;
        connection.execute_batch("VACUUM")?;
        self.scattered.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// All pages of a database of so many bytes go to the write-ahead log first. It would keep what is left of a disk that is almost full.
fn check_room(bytes: u64, free: u64) -> Result<(), Error> {
    let needed = bytes.saturating_mul(2);
    if free >= needed {
        return Ok(());
    }
    Err(Error::Database {
        failure: Failure::Full,
        detail: format!("writing its pages anew needs {needed} bytes, {free} are free"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_not_written_anew_where_that_would_fill_the_disk() {
        assert!(check_room(1000, 2000).is_ok());
        let error = check_room(1000, 1999).unwrap_err();
        assert!(matches!(error, Error::Database { failure: Failure::Full, .. }), "{error}");
        assert!(error.to_string().contains("2000 bytes"), "{error}");
    }
}
