//! From older versions of the database to version 5, in the transaction that opens it: all of it happens, or nothing.
//!
//! Version 1 kept a latch and a session for each boot, for ever, and an endorsement key went on naming a node that had been enrolled with another one. Version 2 keeps the last boot of each node, and an index of all requests in the audit log. Version 3
//! keeps an index of the newest requests, and older leaves of the audit log in files beside the database. Version 4 keeps in the latch that a TPM was cleared, and wraps the share of a disk for the endorsement key of its node, which needs
//! the broker's keys: that is done when the broker is unsealed. Version 5 has a place for the authentication code of each row, which an operator has to have written: rows from before it prove nothing.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::{Map, Value};

use super::{Error, MAX_INDEXED_LEAVES, Table};

/// Bytes of the counts at the end of a boot's name: resets and restarts, big-endian.
const COUNTS: usize = 8;

/// From this version.
pub(super) fn from(transaction: &Transaction, version: i64) -> Result<(), Error> {
    if version < 2 {
        to_2(transaction)?;
    }
    if version < 3 {
        to_3(transaction)?;
    }
    if version < 4 {
        to_4(transaction)?;
    }
    to_5(transaction)
}

/// A place for authentication codes.
fn to_5(transaction: &Transaction) -> Result<(), Error> {
    let add = |table: Table| format!("ALTER TABLE {} ADD COLUMN code BLOB;", table.name());
    Ok(transaction.execute_batch(&Table::ALL.map(add).concat())?)
}

/// Keeps the newest requests in the index.
fn to_3(transaction: &Transaction) -> Result<(), Error> {
    transaction.execute_batch(
        "CREATE TABLE recent_requests (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
    )?;
    let newest = "SELECT value FROM requests ORDER BY value DESC LIMIT 1";
    let newest: Option<Vec<u8>> = transaction.query_row(newest, [], |row| row.get(0)).optional()?;
    let newest = newest.map(|number| leaf_number(&number)).transpose()?.unwrap_or_default();
    let oldest = (newest + 1).saturating_sub(MAX_INDEXED_LEAVES);
    transaction.execute("DELETE FROM requests WHERE value < ?1", params![oldest.to_be_bytes()])?;
    for (request, number) in rows(transaction, "requests")? {
        let place = leaf_number(&number)? % MAX_INDEXED_LEAVES;
        let text = "INSERT INTO recent_requests (key, value) VALUES (?1, ?2)";
        transaction.execute(text, params![place.to_be_bytes(), request])?;
    }
    Ok(())
}

/// Keeps in the latch that a TPM was cleared. An approval of version 3 was one of every reason: it ends.
fn to_4(transaction: &Transaction) -> Result<(), Error> {
    for (name, latch) in rows(transaction, "latches")? {
        let mut latch = document(&latch, "latch")?;
        latch.remove("superseded");
        let node = "SELECT value FROM nodes WHERE key = ?1";
        let node: Option<Vec<u8>> = transaction.query_row(node, params![name], |row| row.get(0)).optional()?;
        let node = node.map(|node| document(&node, "node")).transpose()?;
        if node.is_some_and(|node| node.get("waiting").is_some_and(|waiting| waiting["code"] == "TPM_CLEARED")) {
            // The lowest counts that a boot can have: version 3 did not keep those of the boot that is held.
            latch.insert("cleared".into(), vec![0, 0].into());
        }
        let value = serde_json::to_vec(&latch).map_err(|error| Error::Work(error.to_string()))?;
        transaction.execute("UPDATE latches SET value = ?2 WHERE key = ?1", params![name, value])?;
    }
    Ok(())
}

fn leaf_number(bytes: &[u8]) -> Result<u64, Error> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| Error::Damaged("requests"))
}

/// Changes the tables.
fn to_2(transaction: &Transaction) -> Result<(), Error> {
    let keys = endorsement_keys(transaction)?;
    let latches = latches(transaction, &keys)?;
    transaction.execute_batch("DELETE FROM latches; DELETE FROM spent;")?;
    for (node, Latch { record, .. }) in &latches {
        let session = record.get("session").and_then(Value::as_str).and_then(|text| hex::decode(text).ok());
        let session = session.ok_or(Error::Damaged("latch"))?;
        let value = serde_json::to_vec(record).map_err(|error| Error::Work(error.to_string()))?;
        transaction.execute("INSERT INTO latches (key, value) VALUES (?1, ?2)", params![node.as_bytes(), value])?;
        transaction.execute("INSERT INTO spent (key, value) VALUES (?1, ?2)", params![session, node.as_bytes()])?;
    }
    rename_boots(transaction, &latches)
}

/// A disk's record names the boot of its last release, which may report after the migration. Version 1 named it by the attestation key.
fn rename_boots(transaction: &Transaction, latches: &[(String, Latch)]) -> Result<(), Error> {
    let names: BTreeMap<String, &String> =
        latches.iter().map(|(_, latch)| (hex::encode(&latch.old_boot), &latch.boot)).collect();
    for (key, disk) in rows(transaction, "disks")? {
        let mut disk = document(&disk, "disk")?;
        for field in ["pending", "released"] {
            let old = disk.get(field).and_then(Value::as_str);
            if let Some(boot) = old.and_then(|old| names.get(old)) {
                disk.insert(field.into(), (*boot).clone().into());
            }
        }
        let value = serde_json::to_vec(&disk).map_err(|error| Error::Work(error.to_string()))?;
        transaction.execute("UPDATE disks SET value = ?2 WHERE key = ?1", params![key, value])?;
    }
    Ok(())
}

/// A record of a table.
type Record = Map<String, Value>;
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows(transaction: &Transaction, table: &str) -> Result<Rows, Error> {
    let mut statement = transaction.prepare(&format!("SELECT key, value FROM {table} ORDER BY key"))?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn document(bytes: &[u8], what: &'static str) -> Result<Record, Error> {
    serde_json::from_slice(bytes).map_err(|_| Error::Damaged(what))
}

/// The keys of a node's TPM.
struct Keys {
    endorsement: String,
    /// Name of its attestation key, which version 1 named boots by.
    attestation: Vec<u8>,
}

/// Keys by names of nodes. An endorsement key whose node has another one by now is taken out of the index.
fn endorsement_keys(transaction: &Transaction) -> Result<BTreeMap<String, Keys>, Error> {
    /// TPM_ALG_SHA256, with which a name begins (TCG TPM 2.0 Library, Part 1, section 16).
    const ALG_SHA256: [u8; 2] = [0, 0x0b];
    let mut keys = BTreeMap::new();
    for (name, node) in rows(transaction, "nodes")? {
        let node = document(&node, "node")?;
        let text = |field: &str| node.get(field).and_then(Value::as_str).map(str::to_owned);
        let area = text("ak").and_then(|area| hex::decode(area).ok());
        let attestation =
            area.map_or_else(Vec::new, |area| [&ALG_SHA256[..], digest(&SHA256, &area).as_ref()].concat());
        let endorsement = text("ek").ok_or(Error::Damaged("node"))?;
        keys.insert(String::from_utf8_lossy(&name).into_owned(), Keys { endorsement, attestation });
    }
    for (key, name) in rows(transaction, "endorsement_keys")? {
        let name = String::from_utf8_lossy(&name).into_owned();
        if keys.get(&name).is_none_or(|keys| keys.endorsement != hex::encode(&key)) {
            eprintln!("key-broker: the endorsement key sha256:{} no longer names node {name}", hex::encode(&key));
            transaction.execute("DELETE FROM endorsement_keys WHERE key = ?1", params![key])?;
        }
    }
    Ok(keys)
}

/// The last boot of a node.
struct Latch {
    /// Resets and restarts.
    counts: (u32, u32),
    /// The boot's name in version 1.
    old_boot: Vec<u8>,
    /// Its name in version 2, hexadecimal.
    boot: String,
    /// In the form of version 2.
    record: Record,
}

/// The last latch of each node's TPM.
fn latches(transaction: &Transaction, keys: &BTreeMap<String, Keys>) -> Result<Vec<(String, Latch)>, Error> {
    let mut last: BTreeMap<String, Latch> = BTreeMap::new();
    for (old_boot, latch) in rows(transaction, "latches")? {
        let mut record = document(&latch, "latch")?;
        let node = record.get("node").and_then(Value::as_str).ok_or(Error::Damaged("latch"))?.to_owned();
        let (key, counts) = old_boot.split_last_chunk::<COUNTS>().ok_or(Error::Damaged("latch"))?;
        let [r0, r1, r2, r3, s0, s1, s2, s3] = *counts;
        let (reset, restart) = (u32::from_be_bytes([r0, r1, r2, r3]), u32::from_be_bytes([s0, s1, s2, s3]));
        let boot = hex::encode(counts);
        // A boot of another TPM that had this name before is compared with nothing.
        let Some(keys) = keys.get(&node).filter(|keys| keys.attestation == key) else { continue };
        record.insert("ek".into(), keys.endorsement.clone().into());
        record.insert("reset".into(), reset.into());
        record.insert("restart".into(), restart.into());
        if last.get(&node).is_none_or(|kept| kept.counts < (reset, restart)) {
            let boot = keys.endorsement.clone() + &boot;
            last.insert(node, Latch { counts: (reset, restart), old_boot, boot, record });
        }
    }
    Ok(last.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;
    use serde_json::json;

    use crate::store::{MAX_INDEXED_LEAVES, Sqlite, Store as _, Table};

    /// A database as version 1 left it: node `one` was enrolled with another TPM before, and each TPM was booted twice.
    fn version_1(path: &Path) {
        let connection = Connection::open(path).unwrap();
        for table in Table::ALL.into_iter().filter(|table| *table != Table::RecentRequests) {
            let make = format!(
                "CREATE TABLE {} (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
                table.name()
            );
            connection.execute(&make, []).unwrap();
        }
        connection.pragma_update(None, "user_version", 1).unwrap();
        let put = |table: &str, key: &[u8], value: &[u8]| {
            let text = format!("INSERT INTO {table} (key, value) VALUES (?1, ?2)");
            connection.execute(&text, rusqlite::params![key, value]).unwrap();
        };
        put("nodes", b"one", json!({"ak": "0102", "ek": hex::encode([2; 32])}).to_string().as_bytes());
        put("endorsement_keys", &[1; 32], b"one");
        put("endorsement_keys", &[2; 32], b"one");
        let name = |area: &[u8]| [&[0, 0x0b][..], ring::digest::digest(&ring::digest::SHA256, area).as_ref()].concat();
        for (area, session, reset) in [([9, 9], 1_u8, 90_u32), ([9, 9], 2, 91), ([1, 2], 3, 7), ([1, 2], 4, 8)] {
            let boot = [name(&area), reset.to_be_bytes().to_vec(), vec![0; 4]].concat();
            let latch = json!({"node": "one", "session": hex::encode([session; 16])}).to_string();
            put("latches", &boot, latch.as_bytes());
            put("spent", &[session; 16], &boot);
        }
    }

    #[test]
    fn database_of_version_1_keeps_the_last_boot_and_the_key_of_each_node() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        version_1(&path);
        for _ in 0..2 {
            let store = Sqlite::open(&path).unwrap();
            store
                .look(&mut |open| {
                    assert_eq!(
                        open.get(Table::EndorsementKeys, &[1; 32])?,
                        None,
                        "the key of the machine that is gone"
                    );
                    assert_eq!(open.get(Table::EndorsementKeys, &[2; 32])?, Some(b"one".to_vec()));
                    assert_eq!((open.count(Table::Latches)?, open.count(Table::Spent)?), (1, 1));
                    assert_eq!(open.get(Table::Spent, &[4; 16])?, Some(b"one".to_vec()));
                    let latch = open.get(Table::Latches, b"one")?.unwrap();
                    let latch: serde_json::Value = serde_json::from_slice(&latch).unwrap();
                    assert_eq!((&latch["reset"], &latch["restart"]), (&json!(8), &json!(0)));
                    assert_eq!(latch["ek"], hex::encode([2; 32]));
                    Ok(())
                })
                .unwrap();
        }
    }

    #[test]
    fn database_of_version_2_keeps_the_newest_requests_in_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        version_1(&path);
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        let size = MAX_INDEXED_LEAVES + 9;
        connection.execute_batch("BEGIN").unwrap();
        for number in (0..size).filter(|number| number % 2 == 0) {
            let request = format!("request {number}").into_bytes();
            let text = "INSERT INTO requests (key, value) VALUES (?1, ?2)";
            connection.execute(text, rusqlite::params![request, number.to_be_bytes()]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        let store = Sqlite::open(&path).unwrap();
        store
            .look(&mut |open| {
                assert_eq!(open.count(Table::Requests)?, MAX_INDEXED_LEAVES / 2);
                assert_eq!(open.count(Table::RecentRequests)?, MAX_INDEXED_LEAVES / 2);
                assert_eq!(open.get(Table::Requests, b"request 8")?, None);
                assert_eq!(open.get(Table::Requests, b"request 10")?, Some(10_u64.to_be_bytes().to_vec()));
                let place = (MAX_INDEXED_LEAVES + 8) % MAX_INDEXED_LEAVES;
                let newest = format!("request {}", MAX_INDEXED_LEAVES + 8).into_bytes();
                assert_eq!(open.get(Table::RecentRequests, &place.to_be_bytes())?, Some(newest));
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn database_of_version_3_keeps_that_a_held_tpm_was_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        drop(Sqlite::create(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        for table in Table::ALL {
            connection.execute(&format!("ALTER TABLE {} DROP COLUMN code", table.name()), []).unwrap();
        }
        connection.pragma_update(None, "user_version", 3).unwrap();
        let put = |table: &str, key: &str, value: serde_json::Value| {
            let text = format!("INSERT INTO {table} (key, value) VALUES (?1, ?2)");
            connection.execute(&text, rusqlite::params![key.as_bytes(), value.to_string().as_bytes()]).unwrap();
        };
        for (name, code) in [("one", "TPM_CLEARED"), ("two", "NODE_HELD")] {
            put("nodes", name, json!({"name": name, "waiting": {"code": code, "request": "5"}}));
            put("latches", name, json!({"node": name, "reset": 7, "superseded": true}));
        }
        put("latches", "three", json!({"node": "three"}));
        for _ in 0..2 {
            let store = Sqlite::open(&path).unwrap();
            store
                .look(&mut |open| {
                    let latch = |name: &[u8]| open.get(Table::Latches, name).map(Option::unwrap);
                    let latch = |name: &[u8]| latch(name).map(|bytes| serde_json::from_slice(&bytes).unwrap());
                    let [one, two, three]: [serde_json::Value; 3] = [latch(b"one")?, latch(b"two")?, latch(b"three")?];
                    assert_eq!(one, json!({"node": "one", "reset": 7, "cleared": [0, 0]}));
                    assert_eq!(two, json!({"node": "two", "reset": 7}));
                    assert_eq!(three, json!({"node": "three"}));
                    Ok(())
                })
                .unwrap();
        }
    }
}
