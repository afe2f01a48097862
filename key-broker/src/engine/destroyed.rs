//! What an operator has destroyed, shares above all, leaves the files of the database at once. After a commit it is still in the write-ahead log, and cutting that file would undo the transaction, until the log is moved into the database. Copies can be in unused bytes of pages, until all pages are written anew.

use std::time::Duration;

use serde_json::Value;

use super::Engine;
use crate::store::Error;

/// How long a command waits for reads of the database. Decisions wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);
const HINT: &str = "the broker tries again each second: end backups and other programs that read the database, and free space on its disk, until `key-broker status` prints that destroyed shares are overwritten";

impl Engine {
    /// Overwrites what a command has destroyed; adds a warning to its answer if that is not possible now.
    pub(super) fn overwrite_destroyed(&self, answer: &mut Value) {
        if let Err(error) = self.overwrite_within(PATIENCE) {
            answer["warning"] =
                format!("destroyed shares and replies may still be in the files database and database-wal: {error}")
                    .into();
            answer["hint"] = HINT.into();
        }
    }

    /// The work of each second, which delays no decision. What cannot be overwritten now is tried again.
    pub(super) fn retry_overwriting(&self) {
        let _ = self.overwrite_within(Duration::ZERO);
    }

    fn overwrite_within(&self, patience: Duration) -> Result<(), Error> {
        if self.store.has_destroyed() { self.store.fold(patience) } else { Ok(()) }
    }

    /// Whether destroyed shares are overwritten, for an operator.
    pub(super) fn destroyed_shares(&self) -> &'static str {
        if self.store.has_destroyed() { "may still be in the files database and database-wal" } else { "overwritten" }
    }

    /// Moves the write-ahead log into the database: the broker ends.
    ///
    /// # Errors
    /// [`Error`].
    pub fn fold(&self) -> Result<(), Error> {
        self.store.fold(PATIENCE)
    }
}

#[cfg(test)]
mod tests;
