//! SQLite: one file, write-ahead log, every commit on the disk before it counts. Several processes may use one file; the writing one locks it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};

use super::migration;
use super::{Error, Failure, Look, Row, Store, Table, Transaction, Work};

/// Version of the tables.
const VERSION: i64 = 3;
/// How long another process may hold the lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a check waits for the lock.
const CHECK_PATIENCE: Duration = Duration::from_millis(500);
/// For how long a commit shows that the next one can succeed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Key in [`Table::State`] of the row that a check writes.
const CHECK: &[u8] = b"store check";
/// More than there are statements: none is compiled twice.
const STATEMENTS: usize = 128;

/// A database: one connection writes, and another reads beside it, so that nobody who only reads waits until the disk has what is being written.
pub struct Sqlite {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    /// Does not wait for transactions of this process.
    checker: Mutex<Connection>,
    /// Time of the last commit.
    committed: Mutex<Instant>,
}

impl Sqlite {
    /// Opens a database, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, PATIENCE)
    }

    /// The same; another process may hold the lock for so long before a transaction fails.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open_with(path: &Path, patience: Duration) -> Result<Self, Error> {
        let mut connection = connect(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What is removed, destroyed shares above all, is overwritten.
        connection.pragma_update(None, "secure_delete", "ON")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match found {
            VERSION => {}
            0 => {
                for table in Table::ALL {
                    let name = table.name();
                    let make = format!(
                        "CREATE TABLE {name} (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID"
                    );
                    transaction.execute(&make, [])?;
                }
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            1 | 2 => {
                if found == 1 {
                    migration::to_2(&transaction)?;
                }
                migration::to_3(&transaction)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            found => return Err(Error::Version { found, expected: VERSION }),
        }
        transaction.commit()?;
        let reader = connect(path)?;
        reader.pragma_update(None, "query_only", "ON")?;
        connection.busy_timeout(patience)?;
        let checker = connect(path)?;
        checker.pragma_update(None, "synchronous", "FULL")?;
        checker.busy_timeout(CHECK_PATIENCE)?;
        Ok(Self {
            writer: Mutex::new(connection),
            reader: Mutex::new(reader),
            checker: Mutex::new(checker),
            committed: Mutex::new(Instant::now()),
        })
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// A transaction that panicked was rolled back.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let failure = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Locked,
            Some(ErrorCode::DiskFull) => Failure::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Failure::ReadOnly,
            Some(ErrorCode::SystemIoFailure) => Failure::Io,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Failure::Corrupt,
            _ => Failure::Other,
        };
        Self::Database { failure, detail: error.to_string() }
    }
}

impl Store for Sqlite {
    fn transact(&self, work: Work) -> Result<(), Error> {
        let mut connection = lock(&self.writer);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut open = Open(transaction);
        work(&mut open)?;
        open.0.commit()?;
        *lock(&self.committed) = Instant::now();
        Ok(())
    }

    fn look(&self, look: Look) -> Result<(), Error> {
        let mut connection = lock(&self.reader);
        look(&Open(connection.transaction_with_behavior(TransactionBehavior::Deferred)?))
    }

    fn check(&self) -> Result<(), Error> {
        if lock(&self.committed).elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        let mut connection = lock(&self.checker);
        let mut open = Open(connection.transaction_with_behavior(TransactionBehavior::Immediate)?);
        // A commit without a change writes nothing, and succeeds on a full file system.
        open.put(Table::State, CHECK, b"")?;
        open.0.commit()?;
        *lock(&self.committed) = Instant::now();
        Ok(())
    }

    fn backup(&self, to: &Path) -> Result<(), Error> {
        let text = to.to_str().ok_or(Error::Work("the name of the backup is not UTF-8".into()))?;
        // A new file: VACUUM INTO refuses one that is there.
        lock(&self.writer).execute("VACUUM INTO ?1", params![text])?;
        Ok(())
    }
}

struct Open<'a>(rusqlite::Transaction<'a>);

impl Transaction for Open<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut statement = self.0.prepare_cached(&format!("SELECT value FROM {} WHERE key = ?1", table.name()))?;
        Ok(statement.query_row(params![key], |row| row.get(0)).optional()?)
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        let text = format!("INSERT INTO {} (key, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING", table.name());
        Ok(self.0.prepare_cached(&text)?.execute(params![key, value])? == 1)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            table.name()
        );
        self.0.prepare_cached(&text)?.execute(params![key, value])?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Error> {
        self.0.prepare_cached(&format!("DELETE FROM {} WHERE key = ?1", table.name()))?.execute(params![key])?;
        Ok(())
    }

    fn last(&self, table: Table, most: usize) -> Result<Vec<Row>, Error> {
        let text = format!("SELECT key, value FROM {} ORDER BY key DESC LIMIT ?1", table.name());
        let mut statement = self.0.prepare_cached(&text)?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![most], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        rows.reverse();
        Ok(rows)
    }

    fn after(&self, table: Table, key: Option<&[u8]>, most: usize) -> Result<Vec<Row>, Error> {
        let text =
            format!("SELECT key, value FROM {} WHERE ?1 IS NULL OR key > ?1 ORDER BY key LIMIT ?2", table.name());
        let mut statement = self.0.prepare_cached(&text)?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![key, most], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn count(&self, table: Table) -> Result<u64, Error> {
        let mut statement = self.0.prepare_cached(&format!("SELECT count(*) FROM {}", table.name()))?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_happens_whole_or_not_at_all_and_keys_are_unique() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("database")).unwrap();
        store
            .transact(&mut |open| {
                assert!(open.insert(Table::Nodes, b"a", b"1")?);
                assert!(!open.insert(Table::Nodes, b"a", b"2")?);
                open.put(Table::State, b"x", b"1")
            })
            .unwrap();
        let failed = store.transact(&mut |open| {
            open.put(Table::State, b"x", b"2")?;
            Err(Error::Work("no".into()))
        });
        assert!(matches!(failed, Err(Error::Work(_))));
        let other = Sqlite::open(&folder.path().join("database")).unwrap();
        other
            .transact(&mut |open| {
                assert_eq!(open.get(Table::State, b"x")?, Some(b"1".to_vec()));
                assert_eq!(open.last(Table::Nodes, 5)?, [(b"a".to_vec(), b"1".to_vec())]);
                assert_eq!(open.after(Table::Nodes, None, 5)?, [(b"a".to_vec(), b"1".to_vec())]);
                assert_eq!(open.after(Table::Nodes, Some(b"a"), 5)?, []);
                open.remove(Table::Nodes, b"a")?;
                assert_eq!(open.get(Table::Nodes, b"a")?, None);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn a_look_sees_what_has_ended_and_waits_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("database")).unwrap();
        let seen = || {
            let mut seen = (None, 0);
            store
                .look(&mut |open| {
                    seen = (open.get(Table::State, b"x")?, open.count(Table::State)?);
                    Ok(())
                })
                .unwrap();
            seen
        };
        store
            .transact(&mut |open| {
                open.put(Table::State, b"x", b"1")?;
                assert_eq!(seen(), (None, 0), "it has not ended");
                Ok(())
            })
            .unwrap();
        assert_eq!(seen(), (Some(b"1".to_vec()), 1));
    }

    #[test]
    fn check_of_a_locked_database_fails_within_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        let store = Sqlite::open(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        store.check().unwrap();
        *lock(&store.committed) -= CHECK_INTERVAL;
        let started = Instant::now();
        let failed = store.check();
        assert!(matches!(failed, Err(Error::Database { failure: Failure::Locked, .. })), "{failed:?}");
        assert!(started.elapsed() < Duration::from_secs(1));
        other.execute_batch("ROLLBACK").unwrap();
        store.check().unwrap();
    }

    #[test]
    fn full_database_is_reported_as_full() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("database")).unwrap();
        store.transact(&mut |open| open.put(Table::State, b"x", &[1; 2000])).unwrap();
        let checker = lock(&store.checker);
        checker.pragma_update(None, "max_page_count", 1).unwrap();
        let large = checker.execute("INSERT INTO state VALUES (x'00', zeroblob(100000))", []);
        drop(checker);
        let failure = Error::from(large.unwrap_err());
        assert!(matches!(failure, Error::Database { failure: Failure::Full, .. }), "{failure:?}");
        assert!(failure.to_string().ends_with("free space on its file system"));
    }

    #[test]
    fn another_version_is_refused_and_a_backup_is_a_database() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("database"), folder.path().join("copy"));
        let store = Sqlite::open(&path).unwrap();
        store.transact(&mut |open| open.put(Table::State, b"x", b"1")).unwrap();
        store.backup(&copy).unwrap();
        assert!(store.backup(&copy).is_err(), "a backup never overwrites one");
        let restored = Sqlite::open(&copy).unwrap();
        restored
            .transact(&mut |open| {
                assert_eq!(open.get(Table::State, b"x")?, Some(b"1".to_vec()));
                Ok(())
            })
            .unwrap();
        drop(store);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
        assert!(matches!(Sqlite::open(&path), Err(Error::Version { found: 9, .. })));
    }
}
