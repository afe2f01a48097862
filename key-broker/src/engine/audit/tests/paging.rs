//! A store that counts: however long the log is, no read of it may ask for more than a page.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::leaves::PAGE;
use super::*;
use crate::store::{Error, Look, Row, RowKey, Store, TrustWork, Work};

struct Counting<'a> {
    store: &'a Sqlite,
    /// Most rows that one read has asked for.
    most: AtomicUsize,
}

struct Counted<'a> {
    open: &'a dyn Transaction,
    most: &'a AtomicUsize,
}

fn not_a_read<T>() -> Result<T, Error> {
    Err(Error::Work("the log is only read".into()))
}

impl Transaction for Counted<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.open.get(table, key)
    }

    fn insert(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<bool, Error> {
        not_a_read()
    }

    fn put(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<(), Error> {
        not_a_read()
    }

    fn remove(&mut self, _: Table, _: &[u8]) -> Result<(), Error> {
        not_a_read()
    }

    fn destroys(&mut self) {}

    fn last(&self, table: Table, most: usize) -> Result<Vec<Row>, Error> {
        self.most.fetch_max(most, Ordering::Relaxed);
        self.open.last(table, most)
    }

    fn after(&self, table: Table, key: Option<&[u8]>, most: usize) -> Result<Vec<Row>, Error> {
        self.most.fetch_max(most, Ordering::Relaxed);
        self.open.after(table, key, most)
    }

    fn first(&self, table: Table) -> Result<Option<Vec<u8>>, Error> {
        self.open.first(table)
    }

    fn count(&self, table: Table) -> Result<u64, Error> {
        self.open.count(table)
    }
}

impl Store for Counting<'_> {
    fn transact(&self, _: Work) -> Result<(), Error> {
        not_a_read()
    }

    fn look(&self, look: Look) -> Result<(), Error> {
        self.store.look(&mut |open| look(&Counted { open, most: &self.most }))
    }

    fn check(&self) -> Result<(), Error> {
        self.store.check()
    }

    fn has_destroyed(&self) -> bool {
        false
    }

    fn fold(&self, _: std::time::Duration) -> Result<(), Error> {
        not_a_read()
    }

    fn authenticate(&self, _: RowKey) -> Result<(), Error> {
        not_a_read()
    }

    fn trust_rows(&self, _: RowKey, _: TrustWork) -> Result<(), Error> {
        not_a_read()
    }

    fn backup(&self, _: &Path) -> Result<(), Error> {
        not_a_read()
    }
}

#[test]
fn long_log_is_verified_and_searched_page_by_page() {
    let mut log = Log::new();
    let size = 4 * PAGE as u64;
    log.grow(size);
    let key: [u8; 32] = log.key.public_key().as_ref().try_into().unwrap();
    // All leaves are in the database; then the older ones are in files.
    for _ in 0..2 {
        let store = Counting { store: &log.store, most: AtomicUsize::new(0) };
        assert_eq!(
            verify(&store, &log.bundles, ORIGIN, &key, &log.heads).map_err(|problem| problem.to_string()),
            Ok(size)
        );
        assert!(of_request(&store, &log.bundles, "unknown").unwrap().is_none());
        assert_eq!(tail(&store, &log.bundles, usize::MAX).unwrap().len() as u64, size);
        assert_eq!(store.most.into_inner(), PAGE);
        log.move_leaves().unwrap();
    }
}
