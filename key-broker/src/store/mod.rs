//! What a broker keeps, as short transactions over tables of keys and values: every decision reads and writes inside one of them, and nothing is kept elsewhere. A distributed store can implement the same trait.

mod authentication;
mod migration;
mod sqlite;

pub use authentication::RowKey;
pub use sqlite::{Alone, Sqlite, check_unused, copy, foreign_log};

use std::time::Duration;

/// Leaves of the audit log whose requests are in the index, counted from the newest. An older one is searched in the log.
pub const MAX_INDEXED_LEAVES: u64 = 16_384;

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Nodes, by name.
    Nodes,
    /// Names of nodes, by the SHA-256 of their endorsement keys.
    EndorsementKeys,
    /// Machine references, by their SHA-256.
    Machines,
    /// Releases, by the SHA-256 of their references.
    Releases,
    /// Disk records, by node and slot.
    Disks,
    /// Node and slot, by disk id.
    DiskIds,
    /// What operators have granted, by node and slot.
    Grants,
    /// The last boot of each node that was given a release, with the stored reply, by name of the node.
    Latches,
    /// Names of nodes, by the session of their last release.
    Spent,
    /// Leaves of the audit log, by number.
    Audit,
    /// Numbers of the newest leaves, by request.
    Requests,
    /// The same requests, by number of the leaf modulo their maximum: the oldest is found at the place of the next.
    RecentRequests,
    /// Single values: the head of the audit log.
    State,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Nodes,
        Self::EndorsementKeys,
        Self::Machines,
        Self::Releases,
        Self::Disks,
        Self::DiskIds,
        Self::Grants,
        Self::Latches,
        Self::Spent,
        Self::Audit,
        Self::Requests,
        Self::RecentRequests,
        Self::State,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::EndorsementKeys => "endorsement_keys",
            Self::Machines => "machines",
            Self::Releases => "releases",
            Self::Disks => "disks",
            Self::DiskIds => "disk_ids",
            Self::Grants => "grants",
            Self::Latches => "latches",
            Self::Spent => "spent",
            Self::Audit => "audit",
            Self::Requests => "requests",
            Self::RecentRequests => "recent_requests",
            Self::State => "state",
        }
    }
}

/// Kind of a failure of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Another process holds the lock for writing.
    Locked,
    /// The file system is full, or a quota or size limit is reached.
    Full,
    /// The file or its directory cannot be written.
    ReadOnly,
    /// Reading, writing or flushing failed.
    Io,
    /// The file is not an intact database.
    Corrupt,
    /// Any other failure.
    Other,
}

impl Failure {
    /// What the operator does next.
    const fn hint(self) -> &'static str {
        match self {
            Self::Locked => "end the other process that uses the database",
            Self::Full => "free space on its file system",
            Self::ReadOnly => "make the database and its directory writable for the broker",
            Self::Io => "check the disk and the kernel log",
            Self::Corrupt => "restore a backup",
            Self::Other => {
                "check that its file system has space and is writable, and that no other version of the broker uses it"
            }
        }
    }
}

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("the database: {detail}; {}", failure.hint())]
    Database {
        /// Its kind.
        failure: Failure,
        /// Message of the database.
        detail: String,
    },
    /// Its version.
    #[error(
        "the database is of version {found}, this broker understands {expected}: use the broker that made it, or restore a backup"
    )]
    Version {
        /// What was found.
        found: i64,
        /// What is understood.
        expected: i64,
    },
    /// The file does not exist.
    #[error(
        "the file does not exist: restore a backup with `key-broker restore`, or create a broker with `key-broker init`"
    )]
    Missing,
    /// The file has another device or inode than the one that was opened.
    #[error(
        "the database file was replaced or removed after the broker opened it, and the broker decides nothing; restart all brokers that use it"
    )]
    Replaced,
    /// The file has no tables of a broker.
    #[error("the file is not the database of a broker: restore a backup with `key-broker restore`")]
    Foreign,
    /// Rows are neither read nor written without their key.
    #[error("the broker is sealed: key-broker unseal")]
    Sealed,
    /// The database has another table, or a view, trigger or index.
    #[error("the database has the {0}, which the broker has not created: restore a backup")]
    Schema(String),
    /// A row has no authentication code, or that of another row.
    #[error(
        "row {key:?} of table {table} in the database was not written with the keys of this broker; restore a backup"
    )]
    Unauthenticated {
        /// The table.
        table: &'static str,
        /// Key of the row.
        key: String,
    },
    /// What was read cannot be.
    #[error("the database holds a {0} that cannot be read: restore a backup")]
    Damaged(&'static str),
    /// The work itself failed; nothing was written.
    #[error("{0}")]
    Work(String),
}

impl Error {
    /// Whether another process holds the lock.
    pub const fn is_locked(&self) -> bool {
        matches!(self, Self::Database { failure: Failure::Locked, .. })
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A transaction: all of it happens, or nothing.
pub trait Transaction {
    /// A value.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Adds a value; false if the key is there already, and then nothing changes.
    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool, Error>;
    /// Sets a value.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error>;
    /// Removes a value; what was there is overwritten.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Error>;
    /// All pairs of a table in the order of their keys; at most `most`, the last ones.
    fn last(&self, table: Table, most: usize) -> Result<Vec<Row>, Error>;
    /// Pairs of a table in the order of their keys, behind this key; at most `most`, the first ones.
    fn after(&self, table: Table, key: Option<&[u8]>, most: usize) -> Result<Vec<Row>, Error>;
    /// The first key of a table, also while the broker is sealed: nothing has verified it.
    fn first(&self, table: Table) -> Result<Option<Vec<u8>>, Error>;
    /// What this transaction removes must not stay in any file: [`Store::has_destroyed`] is true once it has ended.
    fn destroys(&mut self);
    /// How many pairs a table has, also while the broker is sealed: nothing has verified them.
    fn count(&self, table: Table) -> Result<u64, Error>;
}

/// The work of a transaction.
pub type Work<'a> = &'a mut dyn FnMut(&mut dyn Transaction) -> Result<(), Error>;

/// The work of the transaction in which rows are trusted, with their number.
pub type TrustWork<'a> = &'a mut dyn FnMut(&mut dyn Transaction, usize) -> Result<(), Error>;

/// The work of a look.
pub type Look<'a> = &'a mut dyn FnMut(&dyn Transaction) -> Result<(), Error>;

/// A store.
pub trait Store: Send + Sync {
    /// Runs `work` in a transaction, which happens before or after every other one. An error undoes all of it.
    fn transact(&self, work: Work) -> Result<(), Error>;
    /// Runs `look` on what was there at one moment, with every transaction that had ended before. It waits for none that is running, and nothing can be decided on it that is not decided again in a transaction.
    fn look(&self, look: Look) -> Result<(), Error>;
    /// Whether a transaction can be committed now: commits one, unless the last one was committed less than a second ago. Fails within a second if another process holds the lock.
    fn check(&self) -> Result<(), Error>;
    /// Whether what a transaction has destroyed may still be in a file, until [`Store::fold`] succeeds. True of a store that was opened just now.
    fn has_destroyed(&self) -> bool;
    /// Moves all that earlier transactions have written to their places, and overwrites where it was before. Waits at most `patience` for reads and transactions that are running.
    fn fold(&self, patience: Duration) -> Result<(), Error>;
    /// From now on, every row is written with an authentication code under this key, and read only with it. Rows that are there already must have theirs. Before, no row is read or written.
    fn authenticate(&self, key: RowKey) -> Result<(), Error>;
    /// Writes authentication codes under this key for all rows as they are, of which none may have one, and does this work in the same transaction, with the number of rows.
    fn trust_rows(&self, key: RowKey, work: TrustWork) -> Result<(), Error>;
    /// Writes a whole copy of what is there now to a new file.
    fn backup(&self, to: &std::path::Path) -> Result<(), Error>;
}
