//! Rows in one transaction: read only with their authentication codes, and written with them.

use std::sync::Arc;

use rusqlite::params;

use crate::store::{Error, Row, RowKey, Table, Transaction};

/// Key in [`Table::State`] of the row that a check writes.
pub(super) const CHECK: &[u8] = b"store check";
/// Rows that are read at a time.
const PAGE: usize = 64;

/// A transaction on the tables.
pub(super) struct Open<'a> {
    pub(super) transaction: rusqlite::Transaction<'a>,
    pub(super) access: Access,
    pub(super) destroys: bool,
}

/// What a transaction may do with rows.
pub(super) enum Access {
    /// Nothing: the broker is sealed.
    Sealed,
    /// Write the row of a check.
    Check,
    /// Read and write rows with their authentication codes.
    Key(Arc<RowKey>),
}

/// The row that a check writes is never read, and has no code.
pub(super) fn is_check(table: Table, row: &[u8]) -> bool {
    table == Table::State && row == CHECK
}

/// Key, value and authentication code.
type CodedRow = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

impl Open<'_> {
    fn key(&self) -> Result<&RowKey, Error> {
        match &self.access {
            Access::Key(key) => Ok(key),
            Access::Sealed | Access::Check => Err(Error::Sealed),
        }
    }

    pub(super) fn verify(&self, table: Table, (row, value, code): CodedRow) -> Result<Row, Error> {
        let key = self.key()?;
        if !is_check(table, &row) {
            key.verify(table, &row, &value, code.as_deref())?;
        }
        Ok((row, value))
    }

    fn code(&self, table: Table, row: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match &self.access {
            Access::Check if is_check(table, row) => Ok(None),
            _ => Ok(Some(self.key()?.code(table, row, value).as_ref().to_vec())),
        }
    }

    /// Visits each row of all tables.
    pub(super) fn each(&self, mut visit: impl FnMut(Table, CodedRow) -> Result<(), Error>) -> Result<(), Error> {
        for table in Table::ALL {
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
        let by = self.key()?;
        let text = format!("SELECT key, value, code FROM {} WHERE key = ?1", table.name());
        let Some((_, value, code)) = self.rows(&text, params![key])?.pop() else { return Ok(None) };
        // The key that was asked for, whatever the database gives back.
        by.verify(table, key, &value, code.as_deref())?;
        Ok(Some(value))
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        let text =
            format!("INSERT INTO {} (key, value, code) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING", table.name());
        let code = self.code(table, key, value)?;
        Ok(self.transaction.prepare_cached(&text)?.execute(params![key, value, code])? == 1)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (key, value, code) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET value = excluded.value, code = excluded.code",
            table.name()
        );
        let code = self.code(table, key, value)?;
        self.transaction.prepare_cached(&text)?.execute(params![key, value, code])?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), Error> {
        self.key()?;
        let text = format!("DELETE FROM {} WHERE key = ?1", table.name());
        self.transaction.prepare_cached(&text)?.execute(params![key])?;
        Ok(())
    }

    fn last(&self, table: Table, most: usize) -> Result<Vec<Row>, Error> {
        self.key()?;
        let text = format!("SELECT key, value, code FROM {} ORDER BY key DESC LIMIT ?1", table.name());
        let rows = self.rows(&text, params![i64::try_from(most).unwrap_or(i64::MAX)])?;
        rows.into_iter().rev().map(|row| self.verify(table, row)).collect()
    }

    fn after(&self, table: Table, key: Option<&[u8]>, most: usize) -> Result<Vec<Row>, Error> {
        self.key()?;
        let rows = self.coded_after(table, key, most)?;
        rows.into_iter().map(|row| self.verify(table, row)).collect()
    }

    fn first(&self, table: Table) -> Result<Option<Vec<u8>>, Error> {
        let text = format!("SELECT min(key) FROM {}", table.name());
        Ok(self.transaction.prepare_cached(&text)?.query_row([], |row| row.get(0))?)
    }

    fn destroys(&mut self) {
        self.destroys = true;
    }

    fn count(&self, table: Table) -> Result<u64, Error> {
        let mut statement = self.transaction.prepare_cached(&format!("SELECT count(*) FROM {}", table.name()))?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }
}
