use super::*;
use crate::engine::tests::{init, put_state, put_state_and_die, state_of};
use crate::store::Store as _;

/// A broker's directory, whose database has the value `new`, and a database `backup` with the value `old`.
fn broker() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = init(parent.path());
    put_state(&folder, b"old");
    Sqlite::open(&folder.join("database")).unwrap().backup(&folder.join("backup")).unwrap();
    put_state(&folder, b"new");
    (parent, folder)
}

fn restore(folder: &Path, backup: &Path, replace: bool) -> Result<()> {
    let choices = Choices { replace, database_alone: is_database(backup), ..Choices::default() };
    run(&folder.join("broker.toml"), backup, choices, &|| Ok(Zeroizing::new(b"a passphrase".to_vec())))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn missing_or_foreign_backup_is_refused_and_nothing_is_touched() {
    let (_parent, folder) = broker();
    fs::write(folder.join("empty"), "").unwrap();
    fs::write(folder.join("text"), "no database").unwrap();
    let before = names(&folder);
    for (name, word) in [("misspelled", "key-broker backup"), ("empty", "not the database"), ("text", "text")] {
        let error = format!("{:#}", restore(&folder, &folder.join(name), true).unwrap_err());
        assert!(error.contains(word), "{error}");
        assert_eq!(names(&folder), before, "{name}");
        assert_eq!(state_of(&folder.join("database")).unwrap(), b"new", "{name}");
    }
    assert!(restore(&folder, &folder.join("backup"), false).unwrap_err().to_string().contains("--replace"));
    assert_eq!(names(&folder), before);
}

#[test]
fn restored_database_is_the_backup_and_the_one_before_is_kept() {
    let (_parent, folder) = broker();
    // What a restore that was interrupted left.
    fs::write(folder.join("database.restoring"), "half").unwrap();
    restore(&folder, &folder.join("backup"), true).unwrap();
    assert_eq!(state_of(&folder.join("database")).unwrap(), b"old");
    assert!(folder.join("backup").exists());
    let kept = names(&folder).into_iter().find(|name| name.starts_with("database.before-")).unwrap();
    assert_eq!(state_of(&folder.join(&kept)).unwrap(), b"new");
    assert!(!folder.join("database.restoring").exists());
}

#[test]
fn log_of_another_database_is_kept_and_comes_into_none() {
    let (_parent, folder) = broker();
    let [database, log, moved] = ["database", "database-wal", "moved"].map(|name| folder.join(name));
    put_state_and_die(&folder, b"newest");
    fs::rename(&database, &moved).unwrap();
    fs::copy(folder.join("backup"), &database).unwrap();
    let newest = fs::read(&log).unwrap();
    assert!(Sqlite::open(&database).err().unwrap().to_string().contains("write-ahead log of another database"));
    restore(&folder, &folder.join("backup"), true).unwrap();
    assert_eq!(state_of(&database).unwrap(), b"old");
    let kept = |start: &str| {
        let name = names(&folder).into_iter().find(|name| name.starts_with(start)).unwrap();
        folder.join(name)
    };
    assert!(fs::read(kept("database-wal.before-")).unwrap() == newest, "the log was changed");
    assert_eq!(state_of(&kept("database.before-")).unwrap(), b"old");
    // The other database, with its log beside it.
    let other = folder.join("other");
    fs::rename(&moved, &other).unwrap();
    fs::rename(kept("database-wal.before-"), folder.join("other-wal")).unwrap();
    assert_eq!(state_of(&other).unwrap(), b"newest");
}

#[test]
fn backup_that_restoring_would_remove_is_refused_and_left_alone() {
    let (_parent, folder) = broker();
    fs::create_dir(folder.join("other")).unwrap();
    for name in ["database.restoring", "database.restoring-wal", "database-journal"] {
        fs::rename(folder.join("backup"), folder.join(name)).unwrap();
        let before = names(&folder);
        for path in [folder.join(name), folder.join("other/..").join(name)] {
            let error = format!("{:#}", restore(&folder, &path, true).unwrap_err());
            assert!(error.contains("hint: rename it") && error.contains(name), "{error}");
            assert_eq!(names(&folder), before, "{name}");
        }
        fs::rename(folder.join(name), folder.join("backup")).unwrap();
    }
    assert_eq!(state_of(&folder.join("database")).unwrap(), b"new");
    assert_eq!(state_of(&folder.join("backup")).unwrap(), b"old");
}

#[test]
fn restores_within_one_second_keep_one_database_each() {
    let (_parent, folder) = broker();
    for _ in 0..3 {
        restore(&folder, &folder.join("backup"), true).unwrap();
    }
    let kept = names(&folder).into_iter().filter(|name| name.starts_with("database.before-")).count();
    assert_eq!(kept, 3);
}

#[test]
fn database_itself_and_the_one_before_are_backups() {
    let (_parent, folder) = broker();
    restore(&folder, &folder.join("database"), true).unwrap();
    assert_eq!(state_of(&folder.join("database")).unwrap(), b"new");
    let kept = names(&folder).into_iter().find(|name| name.starts_with("database.before-")).unwrap();
    fs::rename(folder.join(&kept), folder.join("database.before-7")).unwrap();
    put_state(&folder, b"newer");
    restore(&folder, &folder.join("database.before-7"), true).unwrap();
    assert_eq!(state_of(&folder.join("database")).unwrap(), b"new");
    assert_eq!(state_of(&folder.join("database.before-7")).unwrap(), b"new");
}

#[test]
fn lost_database_is_restored_without_its_old_write_ahead_log() {
    let (_parent, folder) = broker();
    fs::remove_file(folder.join("database")).unwrap();
    fs::write(folder.join("database-wal"), "of the lost one").unwrap();
    restore(&folder, &folder.join("backup"), false).unwrap();
    assert_eq!(state_of(&folder.join("database")).unwrap(), b"old");
}
