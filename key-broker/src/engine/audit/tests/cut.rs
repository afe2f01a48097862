//! An older database beside the files of the log that it was.

use super::leaves::Leaves;
use super::*;

impl Log {
    /// Replaces the database with an earlier one, and leaves its files.
    fn roll_back(&mut self, backup: &std::path::Path) {
        let database = self.folder.path().join("database");
        self.store = Sqlite::open(backup).unwrap().with_test_key();
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(format!("{}{suffix}", database.display())).ok();
        }
        self.store.backup(&database).unwrap();
        self.store = Sqlite::open(&database).unwrap().with_test_key();
    }
}

#[test]
fn files_of_leaves_that_the_database_does_not_have_are_a_log_that_was_cut() {
    let mut log = Log::new();
    log.grow(1100);
    log.move_leaves().unwrap();
    let backup = log.folder.path().join("backup");
    log.store.backup(&backup).unwrap();
    log.grow(2000);
    log.move_leaves().unwrap();
    assert_eq!(log.check(&[]), Ok(2000));
    log.roll_back(&backup);
    let found = log.check(&[]).unwrap_err();
    assert!(found.contains("the log has 1100 leaves") && found.contains("tile/entries/005"), "{found}");
    assert!(found.contains("leaf 1535") && found.contains("it was cut"), "{found}");
    // One file is enough, of either kind and behind a gap.
    for number in [4, 5] {
        fs::remove_file(log.bundles.entries(number)).unwrap();
    }
    fs::remove_file(log.folder.path().join("audit/tile/0/004")).unwrap();
    assert!(log.check(&[]).unwrap_err().contains("tile/entries/005"));
    // What `key-broker restore` does.
    let first = first_in_database(&log.store).unwrap();
    log.bundles.set_aside(first.div_ceil(WIDTH), &log.folder.path().join("audit.before-7")).unwrap();
    assert_eq!(log.check(&[]), Ok(1100));
}

#[test]
fn files_that_are_written_but_not_yet_removed_from_the_database_are_no_cut() {
    let mut log = Log::new();
    log.grow(1023);
    let leaves = Leaves::of(&log.store, &log.bundles).unwrap().page(512).unwrap();
    // A broker that ended before it removed the rows; all of its leaves are in the log.
    log.bundles.write(2, &leaves[..256]).unwrap();
    assert_eq!(log.check(&[]), Ok(1023));
    let half = leaves[256..].iter().chain(&leaves).take(256).cloned().collect::<Vec<_>>();
    log.bundles.write(3, &half).unwrap();
    assert!(log.check(&[]).unwrap_err().contains("it was cut"), "the file has a leaf that the log does not have");
}
