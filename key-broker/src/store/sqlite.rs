//! SQLite: one file, write-ahead log, every commit on the disk before it counts. Several processes may use one file; the writing one locks it. A file that was replaced while it is open is neither read nor written.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

use super::{Error, Failure, Look, RowKey, Store, Table, Transaction, TrustWork, Work};
use super::{authentication, migration};

mod alone;
mod rewrite;
mod schema;
mod transaction;

pub use alone::{Alone, check_unused, foreign_log};
use transaction::{Access, CHECK, Open, is_check};

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
/// More than there are statements: none is compiled twice.
const STATEMENTS: usize = 128;

/// A database: one connection writes, and another reads beside it, so that a read does not wait for a write to reach the disk. A third one copies.
pub struct Sqlite {
    path: PathBuf,
    /// Device and inode of the file. Connections to a file that was renamed or removed go on with it, while other processes open the new one.
    identity: (u64, u64),
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
    /// Whether the write-ahead log may contain what a transaction has destroyed.
    destroyed: AtomicBool,
    /// Whether unused bytes of the database's pages may contain it.
    scattered: AtomicBool,
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
            transaction.execute(&schema::create(table), [])?;
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
        let identity = identity(path)?;
        let mut connection = connect(path)?;
        // The log of another database must not come into this one when the connection is closed.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        if connection.pragma_query_value(None, "user_version", |row| row.get(0).map(|found: i64| found == 0))? {
            return Err(Error::Foreign);
        }
        // A restore may have kept it locked until it was replaced.
        check_identity(path, identity)?;
        check_log(&connection, path, identity)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What is removed, destroyed shares above all, is overwritten.
        connection.pragma_update(None, "secure_delete", "ON")?;
        // Rows that are sorted or copied are in no temporary file.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
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
        schema::check(&transaction)?;
        if owner_of(&transaction)? != mark(identity) {
            transaction.pragma_update(None, "application_id", mark(identity))?;
        }
        transaction.commit()?;
        let reader = connect(path)?;
        reader.pragma_update(None, "query_only", "ON")?;
        let checker = connect(path)?;
        checker.pragma_update(None, "synchronous", "FULL")?;
        checker.busy_timeout(CHECK_PATIENCE)?;
        let copier = connect(path)?;
        check_identity(path, identity)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            reader: Mutex::new(reader),
            copier: Mutex::new(copier),
            writer: parking_lot::Mutex::new(connection),
            patience: patience.min(MAX_PATIENCE),
            checker: Mutex::new(checker),
            committed: Mutex::new(Instant::now()),
            // By a broker that was killed.
            destroyed: AtomicBool::new(true),
            scattered: AtomicBool::new(true),
            key: RwLock::default(),
        })
    }

    /// With a key that tests know; rows that have no codes get them.
    #[cfg(test)]
    pub fn with_test_key(self) -> Self {
        self.trust_rows(RowKey::derive(&[7; 32]), &mut |_, _| Ok(())).unwrap();
        self.authenticate(RowKey::derive(&[7; 32])).unwrap();
        self
    }

    fn access(&self) -> Access {
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner).clone();
        key.map_or(Access::Sealed, Access::Key)
    }

    fn check_identity(&self) -> Result<(), Error> {
        check_identity(&self.path, self.identity)
    }

    /// The connection that writes, once earlier transactions of this process have ended.
    fn turn(&self, patience: Duration) -> Result<parking_lot::MutexGuard<'_, Connection>, Error> {
        self.writer.try_lock_for(patience).ok_or_else(|| Error::Database {
            failure: Failure::Locked,
            detail: format!("earlier transactions of this broker have not ended after {patience:?}"),
        })
    }

    fn write(&self, access: Access, work: impl FnOnce(&mut Open<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let deadline = Instant::now() + self.patience;
        let mut connection = self.turn(self.patience.max(MIN_TURN_PATIENCE))?;
        connection.busy_timeout(deadline.saturating_duration_since(Instant::now()))?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.check_identity()?;
        let mut open = Open { transaction, access, destroys: false };
        work(&mut open)?;
        let destroys = open.destroys;
        open.transaction.commit()?;
        if destroys {
            // Before another thread can fold: the turn ends with this function.
            self.destroyed.store(true, Ordering::Relaxed);
            self.scattered.store(true, Ordering::Relaxed);
        }
        *lock(&self.committed) = Instant::now();
        Ok(())
    }
}

/// Names the file that a database and its write-ahead log belong to, in the header of the database (`application_id`, which is in the log, too, once it is written). Of its inode alone: devices are numbered anew at each
/// start of a host. 0 is a database of an earlier version, and is no mark.
fn mark((_, inode): (u64, u64)) -> i32 {
    let [a, b, c, d, e, f, g, h] = inode.to_be_bytes();
    let folded = i32::from_be_bytes([a ^ e, b ^ f, c ^ g, d ^ h]);
    if folded == 0 { 1 } else { folded }
}

fn owner_of(connection: &Connection) -> Result<i32, Error> {
    Ok(connection.pragma_query_value(None, "application_id", |row| row.get(0))?)
}

/// That the write-ahead log beside a database is its own: a database that was put in the place of another one finds the log of that one, and would be mixed with it.
fn check_log(connection: &Connection, path: &Path, identity: (u64, u64)) -> Result<(), Error> {
    match foreign_log_of(connection, path, identity)? {
        Some(log) => Err(Error::Work(format!(
            "{} is the write-ahead log of another database than {}: that was put in its place; stop all brokers, and put the database back that was there, or restore a backup with `key-broker restore FILE --replace`",
            log.display(),
            path.display()
        ))),
        None => Ok(()),
    }
}

/// The write-ahead log beside a database, if it is that of another one.
fn foreign_log_of(connection: &Connection, path: &Path, identity: (u64, u64)) -> Result<Option<PathBuf>, Error> {
    let (log, is_empty) = log_of(path);
    let owner = owner_of(connection)?;
    Ok((!is_empty && owner != 0 && owner != mark(identity)).then_some(log))
}

/// The write-ahead log of a database, and whether nothing is in it.
fn log_of(path: &Path) -> (PathBuf, bool) {
    // SQLite has it beside the file that a link leads to.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut log = path.into_os_string();
    log.push("-wal");
    let log = PathBuf::from(log);
    let is_empty = std::fs::metadata(&log).map_or(true, |log| log.len() == 0);
    (log, is_empty)
}

/// A connection to a database that exists: a missing one is never replaced with an empty one.
fn connect(path: &Path) -> Result<Connection, Error> {
    if std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Err(Error::Missing);
    }
    let connection = Connection::open_with_flags(path, OpenFlags::default().difference(OpenFlags::SQLITE_OPEN_CREATE))?;
    connection.busy_timeout(PATIENCE)?;
    schema::distrust(&connection)?;
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

/// Device and inode of the file that this path leads to.
fn identity(path: &Path) -> Result<(u64, u64), Error> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Missing),
        Err(error) => Err(Error::Database { failure: Failure::Io, detail: error.to_string() }),
    }
}

fn check_identity(path: &Path, expected: (u64, u64)) -> Result<(), Error> {
    match identity(path) {
        Ok(found) if found == expected => Ok(()),
        Ok(_) | Err(Error::Missing) => Err(Error::Replaced),
        Err(error) => Err(error),
    }
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
        self.write(self.access(), |open| work(open))
    }

    fn look(&self, look: Look) -> Result<(), Error> {
        let mut connection = lock(&self.reader);
        self.check_identity()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        look(&Open { transaction, access: self.access(), destroys: false })
    }

    fn check(&self) -> Result<(), Error> {
        self.check_identity()?;
        if lock(&self.committed).elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        let mut connection = lock(&self.checker);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut open = Open { transaction, access: Access::Check, destroys: false };
        // A commit without a change writes nothing, and succeeds on a full file system.
        open.put(Table::State, CHECK, b"")?;
        open.transaction.commit()?;
        *lock(&self.committed) = Instant::now();
        Ok(())
    }

    fn has_destroyed(&self) -> bool {
        self.destroyed.load(Ordering::Relaxed)
    }

    fn fold(&self, patience: Duration) -> Result<(), Error> {
        let connection = self.turn(patience)?;
        self.check_identity()?;
        connection.busy_timeout(patience)?;
        // Without room for it, the log is moved all the same.
        let rewritten = if self.scattered.load(Ordering::Relaxed) { self.rewrite(&connection) } else { Ok(()) };
        let is_busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if is_busy {
            return Err(Error::Database { failure: Failure::Locked, detail: "its write-ahead log is in use".into() });
        }
        rewritten?;
        self.destroyed.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn authenticate(&self, key: RowKey) -> Result<(), Error> {
        let key = Arc::new(key);
        {
            let mut connection = lock(&self.reader);
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            schema::check(&transaction)?;
            let open = Open { transaction, access: Access::Key(key.clone()), destroys: false };
            open.each(|table, row| open.verify(table, row).map(drop))?;
        }
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(())
    }

    fn trust_rows(&self, key: RowKey, work: TrustWork) -> Result<(), Error> {
        self.write(Access::Key(Arc::new(key)), |open| {
            schema::check(&open.transaction)?;
            let (mut rows, mut authentic) = (Vec::new(), None);
            open.each(|table, row| {
                match open.verify(table, row.clone()) {
                    Ok((row, _)) if !is_check(table, &row) => authentic = Some((table, row)),
                    Ok(_) => {}
                    Err(_) => rows.push((table, row.0, row.1)),
                }
                Ok(())
            })?;
            // Only a database of an older version has none at all.
            if let Some((table, row)) = authentic.filter(|_| !rows.is_empty()) {
                return Err(Error::Work(format!(
                    "row {:?} of table {} was written with the keys of this broker, and {} rows were not: restore a backup",
                    authentication::shown(&row),
                    table.name(),
                    rows.len()
                )));
            }
            rows.iter().try_for_each(|(table, row, value)| open.put(*table, row, value))?;
            work(open, rows.len())
        })
    }

    fn backup(&self, to: &Path) -> Result<(), Error> {
        self.check_identity()?;
        // Transactions go on meanwhile.
        copy_with(&lock(&self.copier), to)
    }
}

#[cfg(test)]
mod tests;
