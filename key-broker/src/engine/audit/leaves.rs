//! The leaves of the audit log in their order, a page at a time: older ones from bundles, the newest from the database. A leaf that moves to a bundle while the log is read is read once.

use super::bundles::{self, Bundles, WIDTH};
use super::{Leaf, head_of};
use crate::store::{Error, Store, Table};

/// Leaves that are read from the database in one look.
pub(super) const PAGE: usize = 512;

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The database.
    #[error(transparent)]
    Store(#[from] Error),
    /// A bundle.
    #[error(transparent)]
    Bundle(#[from] bundles::Problem),
    /// Leaves are not those that were signed.
    #[error("the audit log was changed: {0}; restore a backup, and find out who did it")]
    Changed(String),
}

/// The leaves that are there when reading begins.
pub struct Leaves<'a> {
    store: &'a dyn Store,
    bundles: &'a Bundles,
    /// Number of leaves.
    size: u64,
    /// The first leaf in the database, as far as it is known.
    first: u64,
}

impl<'a> Leaves<'a> {
    /// All leaves of the log.
    ///
    /// # Errors
    /// [`Error`].
    pub fn of(store: &'a dyn Store, bundles: &'a Bundles) -> Result<Self, Error> {
        let mut size = 0;
        store.look(&mut |open| {
            size = head_of(open)?.size;
            Ok(())
        })?;
        Ok(Self { store, bundles, size, first: 0 })
    }

    /// The first leaves, as many as these.
    pub fn limited(self, size: u64) -> Self {
        Self { size, ..self }
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Leaves from this number on, at least one; none behind the last one.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn page(&mut self, from: u64) -> Result<Vec<Vec<u8>>, Problem> {
        let most = usize::try_from(self.size.saturating_sub(from)).unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(Vec::new());
        }
        if from >= self.first {
            let before = from.checked_sub(1).map(u64::to_be_bytes);
            let mut rows = Vec::new();
            self.store.look(&mut |open| {
                rows = open.after(Table::Audit, before.as_ref().map(<[u8; 8]>::as_slice), PAGE.min(most))?;
                Ok(())
            })?;
            let is_next = |(row, number): &(&(Vec<u8>, Vec<u8>), u64)| row.0 == number.to_be_bytes();
            let count = rows.iter().zip(from..).take_while(is_next).count();
            if count > 0 {
                return Ok(rows.into_iter().take(count).map(|(_, leaf)| leaf).collect());
            }
            self.first = match rows.first() {
                Some((number, _)) => number_of(number)?,
                None => self.size,
            };
        }
        let mut leaves = self.bundles.read(from / WIDTH, (from, self.first.saturating_sub(1)))?;
        leaves.drain(..usize::try_from(from % WIDTH).unwrap_or_default());
        leaves.truncate(most);
        Ok(leaves)
    }
}

fn number_of(key: &[u8]) -> Result<u64, Error> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| Error::Damaged("audit log"))
}

fn parse(bytes: &[u8]) -> Result<Leaf, Error> {
    serde_json::from_slice(bytes).map_err(|_| Error::Damaged("audit log"))
}

/// Number of the first leaf in the database: all before it are in bundles.
///
/// # Errors
/// [`Error`].
pub fn first_in_database(store: &dyn Store) -> Result<u64, Error> {
    let mut first = 0;
    store.look(&mut |open| {
        // The newest leaves are always in the database.
        first = open.first(Table::Audit)?.map_or(Ok(0), |number| number_of(&number))?;
        Ok(())
    })?;
    Ok(first)
}

/// The last leaves.
///
/// # Errors
/// [`Problem`].
pub fn tail(store: &dyn Store, bundles: &Bundles, count: usize) -> Result<Vec<Leaf>, Problem> {
    let mut leaves = Leaves::of(store, bundles)?;
    let mut next = leaves.size().saturating_sub(count as u64);
    let mut found = Vec::new();
    while next < leaves.size() {
        let page = leaves.page(next)?;
        next += page.len() as u64;
        for leaf in &page {
            found.push(parse(leaf)?);
        }
    }
    Ok(found)
}

/// The leaf of a request: by the index, or, if it is older than the [`MAX_INDEXED_LEAVES`] newest, searched in the whole log page by page.
///
/// # Errors
/// [`Problem`].
///
/// [`MAX_INDEXED_LEAVES`]: crate::store::MAX_INDEXED_LEAVES
pub fn of_request(store: &dyn Store, bundles: &Bundles, request: &str) -> Result<Option<Leaf>, Problem> {
    let mut indexed = None;
    store.look(&mut |open| {
        indexed = open.get(Table::Requests, request.as_bytes())?;
        Ok(())
    })?;
    let mut leaves = Leaves::of(store, bundles)?;
    if let Some(number) = indexed {
        let page = leaves.page(number_of(&number)?)?;
        return Ok(page.first().map(|leaf| parse(leaf)).transpose()?.filter(|leaf| leaf.request == request));
    }
    let mut next = 0;
    while next < leaves.size() {
        let page = leaves.page(next)?;
        next += page.len() as u64;
        for leaf in &page {
            let leaf = parse(leaf)?;
            if leaf.request == request {
                return Ok(Some(leaf));
            }
        }
    }
    Ok(None)
}
