//! What the database consists of: one table for each of [`Table::ALL`], and nothing else. A view could answer with the row of another key, and a trigger could undo what the broker writes: a file that has one is refused, and no
//! connection runs one.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::store::{Error, Table};

/// The statement that creates a table.
pub(super) fn create(table: Table) -> String {
    let name = table.name();
    format!("CREATE TABLE {name} (key BLOB PRIMARY KEY, value BLOB NOT NULL, code BLOB) STRICT, WITHOUT ROWID")
}

/// A connection that runs no view and no trigger, and no function that a schema names.
pub(super) fn distrust(connection: &Connection) -> Result<(), Error> {
    for setting in [DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW] {
        connection.set_db_config(setting, false)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(connection.pragma_update(None, "trusted_schema", "OFF")?)
}

/// That the database consists of its tables.
pub(super) fn check(connection: &Connection) -> Result<(), Error> {
    let mut statement = connection.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut tables = 0;
    for row in rows {
        let (kind, name, sql): (String, String, Option<String>) = row?;
        let table = Table::ALL.into_iter().find(|table| kind == "table" && table.name() == name);
        if table.is_none_or(|table| sql.as_ref() != Some(&create(table))) {
            let name: String = name.escape_default().take(64).collect();
            return Err(Error::Schema(format!("{kind} {name}")));
        }
        tables += 1;
    }
    if tables == Table::ALL.len() { Ok(()) } else { Err(Error::Foreign) }
}
