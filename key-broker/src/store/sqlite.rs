//! SQLite: one file, write-ahead log, every commit on the disk before it counts. Several processes may use one file; the writing one locks it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

use super::migration;
use super::{Error, Failure, Look, Row, RowKey, Store, Table, Transaction, Work};

/// Version of the tables.
const VERSION: i64 = 5;
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
/// Rows that are read at a time.
const PAGE: usize = 64;
/// More than there are statements: none is compiled twice.
const STATEMENTS: usize = 128;

/// A database: one connection writes, and another reads beside it, so that a read does not wait for a write to reach the disk. A third one copies.
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
    /// Of authentication codes; none while the broker is sealed.
    key: RwLock<Option<Arc<RowKey>>>,
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
            let make = format!(
                "CREATE TABLE {name} (key BLOB PRIMARY KEY, value BLOB NOT NULL, code BLOB) STRICT, WITHOUT ROWID"
            );
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
            1..=4 => {
                migration::from(&transaction, found)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            found => return Err(Error::Version { found, expected: VERSION }),
        }
        for table in Table::ALL {
            transaction
                .prepare(&format!("SELECT key, value, code FROM {}", table.name()))
                .map_err(|_| Error::Foreign)?;
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
            key: RwLock::default(),
        })
    }

    fn key(&self) -> Option<Arc<RowKey>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(
        &self,
        key: Option<Arc<RowKey>>,
        work: impl FnOnce(&mut Open<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + self.patience;
        let turn = self.writer.try_lock_for(self.patience.max(MIN_TURN_PATIENCE));
        let mut connection = turn.ok_or_else(|| Error::Database {
            failure: Failure::Locked,
            detail: format!("earlier transactions of this broker have not ended after {:?}", self.patience),
        })?;
        connection.busy_timeout(deadline.saturating_duration_since(Instant::now()))?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut open = Open { transaction, key };
        work(&mut open)?;
        open.transaction.commit()?;
        *lock(&self.committed) = Instant::now();
        Ok(())
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
        self.write(self.key(), |open| work(open))
    }

    fn look(&self, look: Look) -> Result<(), Error> {
        let mut connection = lock(&self.reader);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        look(&Open { transaction, key: self.key() })
    }

    fn check(&self) -> Result<(), Error> {
        if lock(&self.committed).elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        let mut connection = lock(&self.checker);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut open = Open { transaction, key: None };
        // A commit without a change writes nothing, and succeeds on a full file system.
        open.put(Table::State, CHECK, b"")?;
        open.transaction.commit()?;
        *lock(&self.committed) = Instant::now();
        Ok(())
    }

    fn authenticate(&self, key: RowKey) -> Result<(), Error> {
        let key = Some(Arc::new(key));
        {
            let mut connection = lock(&self.reader);
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            let open = Open { transaction, key: key.clone() };
            open.each(|table, row| open.verify(table, row).map(drop))?;
        }
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    fn trust_rows(&self, key: RowKey) -> Result<usize, Error> {
        let mut wrong = Vec::new();
        self.write(Some(Arc::new(key)), |open| {
            open.each(|table, row| {
                if open.verify(table, row.clone()).is_err() {
                    wrong.push((table, row.0, row.1));
                }
                Ok(())
            })?;
            wrong.iter().try_for_each(|(table, row, value)| open.put(*table, row, value))
        })?;
        Ok(wrong.len())
    }

    fn backup(&self, to: &Path) -> Result<(), Error> {
        // Transactions go on meanwhile.
        copy_with(&lock(&self.copier), to)
    }
}

struct Open<'a> {
    transaction: rusqlite::Transaction<'a>,
    key: Option<Arc<RowKey>>,
}

/// Key, value and authentication code.
type CodedRow = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

impl Open<'_> {
    /// The key, if rows like this one have authentication codes.
    fn key_of(&self, table: Table, row: &[u8]) -> Option<&RowKey> {
        // What a check writes is never read.
        let is_check = table == Table::State && row == CHECK;
        self.key.as_deref().filter(|_| table.is_authenticated() && !is_check)
    }

    fn verify(&self, table: Table, (row, value, code): CodedRow) -> Result<Row, Error> {
        if let Some(key) = self.key_of(table, &row) {
            key.verify(table, &row, &value, code.as_deref())?;
        }
        Ok((row, value))
    }

    fn code(&self, table: Table, row: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        self.key_of(table, row).map(|key| key.code(table, row, value).as_ref().to_vec())
    }

    /// Visits each row that has an authentication code.
    fn each(&self, mut visit: impl FnMut(Table, CodedRow) -> Result<(), Error>) -> Result<(), Error> {
        for table in Table::ALL.into_iter().filter(|table| table.is_authenticated()) {
            let mut last: Option<Vec<u8>> = None;
            loop {
                let rows = self.coded_after(table, last.as_deref(), PAGE)?;
                let Some((row, _, _)) = rows.last() else { break };
                last = Some(row.clone());
                rows.into_iter().try_for_each(|row| visit(table, row))?;
            }
        }
        Ok(())
    }

    fn coded_after(&self, table: Table, key: Option<&[u8]>, most: usize) -> Result<Vec<CodedRow>, Error> {
        let text =
            format!("SELECT key, value, code FROM {} WHERE ?1 IS NULL OR key > ?1 ORDER BY key LIMIT ?2", table.name());
        self.rows(&text, params![key, i64::try_from(most).unwrap_or(i64::MAX)])
    }

    fn rows(&self, text: &str, parameters: impl rusqlite::Params) -> Result<Vec<CodedRow>, Error> {
        let mut statement = self.transaction.prepare_cached(text)?;
        let rows = statement.query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

impl Transaction for Open<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let text = format!("SELECT key, value, code FROM {} WHERE key = ?1", table.name());
        let found = self.rows(&text, params![key])?.pop();
        Ok(found.map(|row| self.verify(table, row)).transpose()?.map(|(_, value)| value))
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        let text =
            format!("INSERT INTO {} (key, value, code) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING", table.name());
        let code = self.code(table, key, value);
        Ok(self.transaction.prepare_cached(&text)?.execute(params![key, value, code])? == 1)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (key, value, code) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET value = excluded.value, code = excluded.code",
            table.name()
        );
        let code = self.code(table, key, value);
        self.transaction.prepare_cached(&text)?.execute(params![key, value, code])?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Error> {
        let text = format!("DELETE FROM {} WHERE key = ?1", table.name());
        self.transaction.prepare_cached(&text)?.execute(params![key])?;
        Ok(())
    }

    fn last(&self, table: Table, most: usize) -> Result<Vec<Row>, Error> {
        let text = format!("SELECT key, value, code FROM {} ORDER BY key DESC LIMIT ?1", table.name());
        let rows = self.rows(&text, params![i64::try_from(most).unwrap_or(i64::MAX)])?;
        rows.into_iter().rev().map(|row| self.verify(table, row)).collect()
    }

    fn after(&self, table: Table, key: Option<&[u8]>, most: usize) -> Result<Vec<Row>, Error> {
        let rows = self.coded_after(table, key, most)?;
        rows.into_iter().map(|row| self.verify(table, row)).collect()
    }

    fn count(&self, table: Table) -> Result<u64, Error> {
        let mut statement = self.transaction.prepare_cached(&format!("SELECT count(*) FROM {}", table.name()))?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }
}

#[cfg(test)]
mod tests;
