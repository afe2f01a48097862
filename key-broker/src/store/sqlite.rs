//! SQLite: one file, write-ahead log, every commit on the disk before it counts. Several processes may use one file; the writing one locks it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::migration;
use super::{Error, Failure, Look, Row, Store, Table, Transaction, Work};

/// Version of the tables.
const VERSION: i64 = 3;
/// How long another process may hold the lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// Maximum of that time; SQLite counts milliseconds with 32 bits.
const MAX_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Minimum time that a transaction waits for earlier ones of this process, which take milliseconds each.
const MIN_TURN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a check waits for the lock.
const CHECK_PATIENCE: Duration = Duration::from_millis(500);
/// For how long a commit shows that the next one can succeed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Key in [`Table::State`] of the row that a check writes.
const CHECK: &[u8] = b"store check";
/// More than there are statements: none is compiled twice.
const STATEMENTS: usize = 128;

/// A database: one connection writes, and another reads beside it, so that nobody who only reads waits until the disk has what is being written. A third one copies.
pub struct Sqlite {
    // The last connection that closes moves the write-ahead log into the database, which one that only reads cannot.
    reader: Mutex<Connection>,
    copier: Mutex<Connection>,
    /// With a lock that can be waited for until a deadline.
    writer: parking_lot::Mutex<Connection>,
    /// Maximum time that a transaction waits for the transactions of this process and of others together.
    patience: Duration,
    /// Does not wait for transactions of this process.
    checker: Mutex<Connection>,
    /// Time of the last commit.
    committed: Mutex<Instant>,
}

impl Sqlite {
    /// Creates an empty database in a new file.
    ///
    /// # Errors
    /// [`Error`]; the file exists.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let created = File::create_new(path);
        created.map_err(|error| Error::Work(format!("cannot create the database {}: {error}", path.display())))?;
        let mut connection = connect(path)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for table in Table::ALL {
            let name = table.name();
            let make = format!("CREATE TABLE {name} (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID");
            transaction.execute(&make, [])?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
        Self::open(path)
    }

    /// Opens a database that exists.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, PATIENCE)
    }

    /// The same; a transaction waits so long for other transactions, of this process and of others, before it fails.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open_with(path: &Path, patience: Duration) -> Result<Self, Error> {
        let mut connection = connect(path)?;
        if connection.pragma_query_value(None, "user_version", |row| row.get(0).map(|found: i64| found == 0))? {
            return Err(Error::Foreign);
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What is removed, destroyed shares above all, is overwritten.
        connection.pragma_update(None, "secure_delete", "ON")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match found {
            VERSION => {}
            1 | 2 => {
                if found == 1 {
                    migration::to_2(&transaction)?;
                }
                migration::to_3(&transaction)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            found => return Err(Error::Version { found, expected: VERSION }),
        }
        for table in Table::ALL {
            transaction.prepare(&format!("SELECT key, value FROM {}", table.name())).map_err(|_| Error::Foreign)?;
        }
        transaction.commit()?;
        let reader = connect(path)?;
        reader.pragma_update(None, "query_only", "ON")?;
        let checker = connect(path)?;
        checker.pragma_update(None, "synchronous", "FULL")?;
        checker.busy_timeout(CHECK_PATIENCE)?;
        Ok(Self {
            reader: Mutex::new(reader),
            copier: Mutex::new(connect(path)?),
            writer: parking_lot::Mutex::new(connection),
            patience: patience.min(MAX_PATIENCE),
            checker: Mutex::new(checker),
            committed: Mutex::new(Instant::now()),
        })
    }
}

/// A connection to a database that exists: a missing one is never replaced with an empty one.
fn connect(path: &Path) -> Result<Connection, Error> {
    if std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Err(Error::Missing);
    }
    let connection = Connection::open_with_flags(path, OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_CREATE))?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Copies a database to a new file and flushes it; the database itself and its version stay as they are.
///
/// # Errors
/// [`Error`]; the new file exists.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    copy_with(&connect(from)?, to)
}

fn copy_with(connection: &Connection, to: &Path) -> Result<(), Error> {
    let text = to.to_str().ok_or(Error::Work("the name of the backup is not UTF-8".into()))?;
    // A new file: VACUUM INTO refuses one that is there.
    connection.execute("VACUUM INTO ?1", params![text])?;
    // VACUUM INTO flushes nothing.
    let flushed = File::open(to).and_then(|file| file.sync_all());
    flushed.map_err(|error| Error::Work(format!("cannot flush {}: {error}", to.display())))
}

/// Moves the write-ahead log of a database that no process uses into the database.
///
/// # Errors
/// [`Error`]; another process uses the database.
pub fn fold(path: &Path) -> Result<(), Error> {
    let is_busy: bool = connect(path)?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if is_busy {
        return Err(Error::Database { failure: Failure::Locked, detail: "its write-ahead log is in use".into() });
    }
    Ok(())
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
        let deadline = Instant::now() + self.patience;
        let turn = self.writer.try_lock_for(self.patience.max(MIN_TURN_PATIENCE));
        let mut connection = turn.ok_or_else(|| Error::Database {
            failure: Failure::Locked,
            detail: format!("earlier transactions of this broker have not ended after {:?}", self.patience),
        })?;
        connection.busy_timeout(deadline.saturating_duration_since(Instant::now()))?;
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
        // Transactions go on meanwhile.
        copy_with(&lock(&self.copier), to)
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
        let store = Sqlite::create(&folder.path().join("database")).unwrap();
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
        let store = Sqlite::create(&folder.path().join("database")).unwrap();
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
        let store = Sqlite::create(&path).unwrap();
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
        let store = Sqlite::create(&folder.path().join("database")).unwrap();
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
        let store = Sqlite::create(&path).unwrap();
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

    #[test]
    fn missing_or_foreign_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        assert!(matches!(Sqlite::open(&path), Err(Error::Missing)));
        assert!(!path.exists(), "an empty database was created");
        for (text, version) in [("", 0), ("CREATE TABLE other (x)", 0), ("CREATE TABLE nodes (key, value)", VERSION)] {
            let other = Connection::open(&path).unwrap();
            other.execute_batch(text).unwrap();
            other.pragma_update(None, "user_version", version).unwrap();
            drop(other);
            assert!(matches!(Sqlite::open(&path), Err(Error::Foreign)), "{text}");
            assert!(Sqlite::create(&path).is_err(), "{text}");
        }
    }

    #[test]
    fn all_transactions_in_line_fail_within_the_time_of_one() {
        const PATIENCE: Duration = Duration::from_millis(1500);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        drop(Sqlite::create(&path).unwrap());
        let store = Sqlite::open_with(&path, PATIENCE).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let failed = store.transact(&mut |_| Ok(()));
                    assert!(matches!(failed, Err(Error::Database { failure: Failure::Locked, .. })), "{failed:?}");
                });
            }
        });
        assert!(started.elapsed() < 2 * PATIENCE, "{:?}", started.elapsed());
        other.execute_batch("ROLLBACK").unwrap();
        store.transact(&mut |_| Ok(())).unwrap();
    }

    #[test]
    fn backup_and_transaction_do_not_wait_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::create(&folder.path().join("database")).unwrap();
        store
            .transact(&mut |open| {
                open.put(Table::State, b"x", b"1")?;
                std::thread::scope(|scope| {
                    let (send, receive) = std::sync::mpsc::channel();
                    let (store, copy) = (&store, folder.path().join("copy"));
                    scope.spawn(move || send.send(store.backup(&copy)));
                    receive.recv_timeout(Duration::from_secs(10)).expect("the backup waits for a transaction").unwrap();
                });
                Ok(())
            })
            .unwrap();
    }
}
