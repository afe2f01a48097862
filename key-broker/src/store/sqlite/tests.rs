use super::*;

mod pages;

#[test]
fn a_transaction_happens_whole_or_not_at_all_and_keys_are_unique() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::create(&folder.path().join("database")).unwrap().with_test_key();
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
    let other = Sqlite::open(&folder.path().join("database")).unwrap().with_test_key();
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
    let store = Sqlite::create(&folder.path().join("database")).unwrap().with_test_key();
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
    let store = Sqlite::create(&path).unwrap().with_test_key();
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
    let store = Sqlite::create(&folder.path().join("database")).unwrap().with_test_key();
    store.transact(&mut |open| open.put(Table::State, b"x", &[1; 2000])).unwrap();
    let checker = lock(&store.checker);
    checker.pragma_update(None, "max_page_count", 1).unwrap();
    let large = checker.execute("INSERT INTO state (key, value) VALUES (x'00', zeroblob(100000))", []);
    drop(checker);
    let failure = Error::from(large.unwrap_err());
    assert!(matches!(failure, Error::Database { failure: Failure::Full, .. }), "{failure:?}");
    assert!(failure.to_string().ends_with("free space on its file system"));
}

#[test]
fn another_version_is_refused_and_a_backup_is_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("database"), folder.path().join("copy"));
    let store = Sqlite::create(&path).unwrap().with_test_key();
    store.transact(&mut |open| open.put(Table::State, b"x", b"1")).unwrap();
    store.backup(&copy).unwrap();
    assert!(store.backup(&copy).is_err(), "a backup never overwrites one");
    let restored = Sqlite::open(&copy).unwrap().with_test_key();
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
        assert!(matches!(Sqlite::open(&path), Err(Error::Foreign | Error::Schema(_))), "{text}");
        assert!(Sqlite::create(&path).is_err(), "{text}");
    }
}

#[test]
fn all_transactions_in_line_fail_within_the_time_of_one() {
    const PATIENCE: Duration = Duration::from_millis(1500);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("database");
    drop(Sqlite::create(&path).unwrap());
    let store = Sqlite::open_with(&path, PATIENCE).unwrap().with_test_key();
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
    let store = Sqlite::create(&folder.path().join("database")).unwrap().with_test_key();
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

/// What a writer of the file does who does not have the key.
fn forge(path: &Path, text: &str) {
    Connection::open(path).unwrap().execute_batch(text).unwrap();
}

fn key() -> RowKey {
    RowKey::derive(&[7; 32])
}

fn read(store: &Sqlite) -> Result<usize, Error> {
    let mut rows = 0;
    let look = &mut |open: &dyn Transaction| {
        for table in Table::ALL {
            for (row, _) in open.after(table, None, usize::MAX)?.iter().filter(|(row, _)| row != CHECK) {
                open.get(table, row)?;
            }
            rows += open.last(table, usize::MAX)?.len();
        }
        Ok(())
    };
    store.look(look).map(|()| rows)
}

#[test]
fn row_that_was_not_written_with_the_key_is_an_error() {
    const FORGED: [&str; 5] = [
        "UPDATE nodes SET value = CAST('other' AS BLOB) WHERE key = CAST('one' AS BLOB)",
        "UPDATE audit SET value = CAST('other' AS BLOB)",
        "INSERT INTO disks (key, value) VALUES (CAST('new' AS BLOB), CAST('value' AS BLOB))",
        // Moved to another key, and to another table.
        "INSERT INTO nodes SELECT CAST('two' AS BLOB), value, code FROM nodes WHERE key = CAST('one' AS BLOB)",
        "INSERT INTO latches SELECT key, value, code FROM nodes WHERE key = CAST('one' AS BLOB)",
    ];
    for text in FORGED {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        let store = Sqlite::create(&path).unwrap().with_test_key();
        store.transact(&mut |open| open.put(Table::Nodes, b"one", b"value")).unwrap();
        store.transact(&mut |open| open.put(Table::Audit, b"leaf", b"value")).unwrap();
        // The row of a check is no row that anything reads.
        *lock(&store.committed) -= CHECK_INTERVAL;
        store.check().unwrap();
        assert_eq!(read(&store).unwrap(), 3);
        forge(&path, text);
        assert!(matches!(read(&store), Err(Error::Unauthenticated { .. })), "{text}");
        let look = &mut |open: &mut dyn Transaction| {
            for table in Table::ALL {
                for row in [&b"one"[..], b"two", b"new", b"leaf"] {
                    open.get(table, row)?;
                }
            }
            Ok(())
        };
        assert!(matches!(store.transact(look), Err(Error::Unauthenticated { .. })), "{text}");
        drop(store);
        let store = Sqlite::open(&path).unwrap();
        assert!(matches!(store.authenticate(key()), Err(Error::Unauthenticated { .. })), "{text}");
        // Rows of this broker are beside it: it is not a database of an older version.
        let trusted = store.trust_rows(key(), &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(trusted.contains("1 rows were not: restore a backup"), "{trusted}");
        assert!(matches!(store.authenticate(key()), Err(Error::Unauthenticated { .. })), "{text}");
    }
}

#[test]
fn rows_without_any_code_are_trusted_with_the_work_of_the_same_transaction_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("database");
    let store = Sqlite::create(&path).unwrap().with_test_key();
    store.transact(&mut |open| open.put(Table::Nodes, b"one", b"value")).unwrap();
    store.transact(&mut |open| open.put(Table::Disks, b"one", b"value")).unwrap();
    drop(store);
    forge(&path, "UPDATE nodes SET code = NULL; UPDATE disks SET code = NULL");
    let store = Sqlite::open(&path).unwrap();
    let failed = store.trust_rows(key(), &mut |_, _| Err(Error::Work("no".into())));
    assert!(matches!(failed, Err(Error::Work(_))));
    assert!(matches!(store.authenticate(key()), Err(Error::Unauthenticated { .. })));
    let mut trusted = 0;
    let work = &mut |open: &mut dyn Transaction, rows| {
        trusted = rows;
        open.put(Table::Audit, b"leaf", b"value")
    };
    store.trust_rows(key(), work).unwrap();
    assert_eq!(trusted, 2);
    store.authenticate(key()).unwrap();
    assert_eq!(read(&store).unwrap(), 3);
    assert!(matches!(store.authenticate(RowKey::derive(&[8; 32])), Err(Error::Unauthenticated { .. })));
}

#[test]
fn sealed_store_neither_reads_nor_writes_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("database");
    let store = Sqlite::create(&path).unwrap().with_test_key();
    store.transact(&mut |open| open.put(Table::Nodes, b"one", b"value")).unwrap();
    drop(store);
    let store = Sqlite::open(&path).unwrap();
    *lock(&store.committed) -= CHECK_INTERVAL;
    store.check().unwrap();
    for table in Table::ALL {
        let reads: [Look; 3] =
            [&mut |open| open.get(table, b"one").map(drop), &mut |open| open.last(table, 1).map(drop), &mut |open| {
                open.after(table, None, 1).map(drop)
            }];
        for look in reads {
            assert!(matches!(store.look(look), Err(Error::Sealed)), "{}", table.name());
        }
        let writes: [Work; 3] = [
            &mut |open| open.put(table, b"one", b"other"),
            &mut |open| open.insert(table, b"two", b"other").map(drop),
            &mut |open| open.remove(table, b"one"),
        ];
        for work in writes {
            assert!(matches!(store.transact(work), Err(Error::Sealed)), "{}", table.name());
        }
    }
    store.authenticate(key()).unwrap();
    let mut value = None;
    store.look(&mut |open| open.get(Table::Nodes, b"one").map(|found| value = found)).unwrap();
    assert_eq!(value.unwrap(), b"value");
}

#[test]
fn view_trigger_index_or_changed_table_is_refused_and_never_runs() {
    const RETIRED: &[u8] = b"retired";
    for text in [
        "CREATE TRIGGER x AFTER UPDATE ON disks BEGIN UPDATE disks SET value = old.value, code = old.code WHERE key = new.key; END",
        "CREATE INDEX x ON disks (value)",
        "CREATE TABLE x (key BLOB)",
        "ALTER TABLE disks RENAME TO x; CREATE VIEW disks AS SELECT key, value, code FROM x",
        "DROP TABLE grants; CREATE TABLE grants (key BLOB PRIMARY KEY, value BLOB NOT NULL DEFAULT x'00', code BLOB) STRICT, WITHOUT ROWID",
        "DROP TABLE grants",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        let store = Sqlite::create(&path).unwrap().with_test_key();
        store.transact(&mut |open| open.put(Table::Disks, b"one", b"value")).unwrap();
        forge(&path, text);
        // A broker that is open already: what was written is there, or nothing is.
        let written = store.transact(&mut |open| open.put(Table::Disks, b"one", RETIRED));
        let mut value = None;
        let read = store.look(&mut |open| open.get(Table::Disks, b"one").map(|found| value = found));
        assert!(written.is_err() || (read.is_ok() && value.as_deref() == Some(RETIRED)), "{text}: {value:?}");
        assert!(store.authenticate(key()).is_err(), "{text}");
        store.backup(&folder.path().join("backup")).unwrap();
        drop(store);
        for name in ["database", "backup"] {
            let opened = Sqlite::open(&folder.path().join(name)).map(drop);
            assert!(matches!(opened, Err(Error::Schema(_) | Error::Foreign)), "{name}, {text}: {opened:?}");
        }
    }
}

#[test]
fn database_that_was_replaced_is_neither_read_nor_written() {
    let folder = tempfile::tempdir().unwrap();
    let [path, copy, moved] = ["database", "copy", "moved"].map(|name| folder.path().join(name));
    let store = Sqlite::create(&path).unwrap().with_test_key();
    store.transact(&mut |open| open.put(Table::State, b"x", b"1")).unwrap();
    store.backup(&copy).unwrap();
    // As mv does, as cp does to a file that was removed, and a file that is gone.
    let replace: [&dyn Fn(); 2] = [&|| std::fs::rename(&copy, &path).unwrap(), &|| ()];
    for replace in replace {
        std::fs::rename(&path, &moved).unwrap();
        replace();
        let errors = [
            store.transact(&mut |_| panic!("it is written")),
            store.look(&mut |_| panic!("it is read")),
            store.check(),
            store.backup(&folder.path().join("other")),
        ];
        for error in errors {
            let error = error.expect_err("the replaced database is used");
            assert!(matches!(error, Error::Replaced) && error.to_string().contains("restart"), "{error}");
        }
        if path.exists() {
            std::fs::rename(&path, &copy).unwrap();
        }
        std::fs::rename(&moved, &path).unwrap();
        store.check().unwrap();
        store.transact(&mut |open| open.put(Table::State, b"x", b"2")).unwrap();
    }
}

/// The file that was put there is an older one, the log has what came later: neither is used, and nothing is written to it.
#[test]
fn database_in_the_place_of_another_is_not_mixed_with_the_log_of_that_one() {
    let folder = tempfile::tempdir().unwrap();
    let [path, older, current] = ["database", "older", "current"].map(|name| folder.path().join(name));
    let store = Sqlite::create(&path).unwrap().with_test_key();
    store.transact(&mut |open| open.put(Table::State, b"x", b"1")).unwrap();
    store.fold(PATIENCE).unwrap();
    std::fs::copy(&path, &older).unwrap();
    store.transact(&mut |open| open.put(Table::State, b"x", b"2")).unwrap();
    // It was killed: nothing closes the database.
    std::mem::forget(store);
    std::fs::rename(&path, &current).unwrap();
    std::fs::copy(&older, &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    for _ in 0..2 {
        let error = Sqlite::open(&path).err().expect("the log of another database is read").to_string();
        assert!(error.contains("write-ahead log of another database") && error.contains("restore"), "{error}");
        // What a restore asks before its passphrase.
        check_unused(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == before, "it was written to");
    }
    // The database that the log belongs to.
    std::fs::rename(&current, &path).unwrap();
    let mut value = None;
    let store = Sqlite::open(&path).unwrap().with_test_key();
    store.look(&mut |open| open.get(Table::State, b"x").map(|found| value = found)).unwrap();
    assert_eq!(value.as_deref(), Some(&b"2"[..]));
    // And the older one without that log.
    drop(store);
    std::fs::remove_file(&path).unwrap();
    let _ = std::fs::remove_file(folder.path().join("database-wal"));
    let _ = std::fs::remove_file(folder.path().join("database-shm"));
    std::fs::copy(&older, &path).unwrap();
    Sqlite::open(&path).unwrap();
}
