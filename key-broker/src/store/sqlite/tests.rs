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

/// What a writer of the file does who does not have the key.
fn forge(path: &Path, text: &str) {
    assert_eq!(Connection::open(path).unwrap().execute(text, []).unwrap(), 1, "{text}");
}

#[test]
fn row_that_was_not_written_with_the_key_is_an_error_until_it_is_trusted() {
    const FORGED: [&str; 4] = [
        "UPDATE nodes SET value = CAST('other' AS BLOB) WHERE key = CAST('one' AS BLOB)",
        "INSERT INTO disks (key, value) VALUES (CAST('new' AS BLOB), CAST('value' AS BLOB))",
        // Moved to another key, and to another table.
        "INSERT INTO nodes SELECT CAST('two' AS BLOB), value, code FROM nodes WHERE key = CAST('one' AS BLOB)",
        "INSERT INTO latches SELECT key, value, code FROM nodes WHERE key = CAST('one' AS BLOB)",
    ];
    for text in FORGED {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        let store = Sqlite::create(&path).unwrap();
        let key = || RowKey::derive(&[7; 32]);
        store.authenticate(key()).unwrap();
        let tables = Table::ALL.into_iter().filter(|table| table.is_authenticated());
        let read = |store: &Sqlite| {
            let mut rows = 0;
            let look = &mut |open: &dyn Transaction| {
                for table in tables.clone() {
                    for (row, _) in open.after(table, None, usize::MAX)? {
                        open.get(table, &row)?;
                    }
                    rows += open.last(table, usize::MAX)?.len();
                }
                Ok(())
            };
            store.look(look).map(|()| rows)
        };
        store.transact(&mut |open| open.put(Table::Nodes, b"one", b"value")).unwrap();
        // A check is no row that anything reads.
        *lock(&store.committed) -= CHECK_INTERVAL;
        store.check().unwrap();
        store.transact(&mut |open| open.put(Table::Audit, b"leaf", b"value")).unwrap();
        assert_eq!(read(&store).unwrap(), 2);
        forge(&path, text);
        assert!(matches!(read(&store), Err(Error::Unauthenticated { .. })), "{text}");
        assert!(
            matches!(
                store.transact(&mut |open| {
                    for table in tables.clone() {
                        for row in [&b"one"[..], b"two", b"new"] {
                            open.get(table, row)?;
                        }
                    }
                    Ok(())
                }),
                Err(Error::Unauthenticated { .. })
            ),
            "{text}"
        );
        drop(store);
        let store = Sqlite::open(&path).unwrap();
        assert!(matches!(store.authenticate(key()), Err(Error::Unauthenticated { .. })), "{text}");
        read(&store).expect("rows are shown while there is no key");
        assert_eq!(store.trust_rows(key()).unwrap(), 1, "{text}");
        store.authenticate(key()).unwrap();
        read(&store).unwrap();
        assert!(matches!(store.authenticate(RowKey::derive(&[8; 32])), Err(Error::Unauthenticated { .. })));
    }
}
