//! Moves older leaves from the database to bundles. A bundle is on the disk before its rows are removed, in a transaction of its own: a broker that ends at any place loses no leaf, and the next one continues.

use super::bundles::{Bundles, WIDTH};
use super::head_of;
use super::leaves::Problem;
use crate::fault;
use crate::store::{Error, Row, Store, Table};

/// The newest leaves, which stay in the database.
pub const MIN_IN_DATABASE: u64 = 256;

/// Moves all leaves that can be moved.
///
/// # Errors
/// [`Problem`]: then the database keeps the leaves, and the next call tries again.
pub fn move_leaves(store: &dyn Store, bundles: &Bundles) -> Result<(), Problem> {
    while let Some((number, rows)) = oldest(store)? {
        let leaves: Vec<Vec<u8>> = rows.iter().map(|(_, leaf)| leaf.clone()).collect();
        bundles.write(number, &leaves)?;
        store.transact(&mut |open| {
            for (key, leaf) in &rows {
                match open.get(Table::Audit, key)? {
                    Some(kept) if kept == *leaf => open.remove(Table::Audit, key)?,
                    // Another broker on this database has removed it.
                    None => {}
                    Some(_) => return Err(Error::Damaged("audit log")),
                }
            }
            fault::point("after-bundle-removal");
            Ok(())
        })?;
        fault::point("after-bundle-transaction");
    }
    Ok(())
}

/// The oldest leaves in the database, if they are a whole bundle and enough newer ones are there: number of the bundle and its rows.
fn oldest(store: &dyn Store) -> Result<Option<(u64, Vec<Row>)>, Problem> {
    let (mut size, mut rows) = (0, Vec::new());
    store.look(&mut |open| {
        size = head_of(open)?.size;
        rows = open.after(Table::Audit, None, usize::try_from(WIDTH).unwrap_or_default())?;
        Ok(())
    })?;
    let Some(first) = rows.first().and_then(|(key, _)| key.as_slice().try_into().ok()).map(u64::from_be_bytes) else {
        return Ok(None);
    };
    if first.saturating_add(WIDTH + MIN_IN_DATABASE) > size {
        return Ok(None);
    }
    let (bundle, mut keys) = (first / WIDTH * WIDTH, rows.iter().map(|(key, _)| key.as_slice()));
    if let Some(number) = (bundle..bundle + WIDTH).find(|number| keys.next() != Some(&number.to_be_bytes())) {
        return Err(Problem::Changed(format!("leaf {number} is missing")));
    }
    Ok(Some((first / WIDTH, rows)))
}
