//! The broker's records, changed behind its back as only somebody with its database could: for attacks that the broker itself would stop before the node has to.

use anyhow::{Context, Result};
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::broker::Broker;

/// Sets the digest of the only disk's header; the broker must not be running, and is started with `run_trusting_rows`.
pub fn set_header(broker: &Broker, digest: &[u8; 32]) -> Result<()> {
    let database = Connection::open(broker.file("database")).context("Failed to open the database")?;
    let (key, value): (Vec<u8>, Vec<u8>) =
        database.query_row("SELECT key, value FROM disks", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut record: Value = serde_json::from_slice(&value)?;
    record["header"] = hex::encode(digest).into();
    record["state"] = "active".into();
    let changed =
        database.execute("UPDATE disks SET value = ?1 WHERE key = ?2", params![serde_json::to_vec(&record)?, key])?;
    anyhow::ensure!(changed == 1, "{changed} records were changed");
    Ok(())
}

/// Rewrites the first leaf of the audit log; the broker must not be running.
pub fn change_audit(broker: &Broker) -> Result<()> {
    let database = Connection::open(broker.file("database")).context("Failed to open the database")?;
    let (key, value): (Vec<u8>, Vec<u8>) =
        database
            .query_row("SELECT key, value FROM audit ORDER BY key LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut leaf: Value = serde_json::from_slice(&value)?;
    leaf["node"] = "somebody else".into();
    database.execute("UPDATE audit SET value = ?1 WHERE key = ?2", params![serde_json::to_vec(&leaf)?, key])?;
    Ok(())
}
