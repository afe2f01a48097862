//! The broker's records, changed behind its back as only a holder of its keys could: for attacks that the authentication codes of rows would stop before the check under test. Codes are computed as docs/protocol.md describes them.

use anyhow::{Context, Result, anyhow, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::broker::{Broker, PASSPHRASE};

/// Contents of the broker's sealed box.
fn sealed(broker: &Broker) -> Result<Value> {
    let sealed: Value = serde_json::from_slice(&std::fs::read(broker.file("sealed.json"))?)?;
    let number = |name: &str| sealed[name].as_u64().and_then(|number| u32::try_from(number).ok()).context("no number");
    let bytes = |name: &str| hex::decode(sealed[name].as_str().unwrap_or_default()).context("no hexadecimal digits");
    let failed = |error: argon2::Error| anyhow!("{error}");
    let params = Params::new(number("memory_kib")?, number("passes")?, 1, Some(32)).map_err(failed)?;
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(PASSPHRASE.trim_ascii_end(), &bytes("salt")?, &mut key)
        .map_err(failed)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow!("no key"))?);
    let nonce: [u8; 12] = bytes("nonce")?.try_into().map_err(|_| anyhow!("no nonce"))?;
    let schema = sealed["schema"].as_str().unwrap_or_default().as_bytes().to_vec();
    let mut contents = bytes("sealed")?;
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(schema), &mut contents);
    serde_json::from_slice(opened.map_err(|_| anyhow!("the passphrase does not open the box"))?)
        .context("the box has no keys")
}

/// The authentication code of a row.
fn code(broker: &Broker, table: &str, key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    let contents = sealed(broker)?;
    let epochs = contents["epochs"].as_object().context("no epochs")?;
    let number = |name: &&String| name.parse::<u64>().unwrap_or(u64::MAX);
    let oldest = epochs.keys().min_by_key(number).context("no epoch")?;
    let epoch_key = hex::decode(epochs[oldest].as_str().unwrap_or_default())?;
    let mac = |key: &[u8], bytes: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes);
    let row_key = mac(&epoch_key, b"cairn broker database rows 1");
    let length = u32::try_from(key.len())?.to_be_bytes();
    Ok(mac(row_key.as_ref(), &[table.as_bytes(), &[0], &length, key, value].concat()).as_ref().to_vec())
}

/// The first row of a table.
pub fn first(broker: &Broker, table: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let database = Connection::open(broker.file("database")).context("Failed to open the database")?;
    let text = format!("SELECT key, value FROM {table} ORDER BY key LIMIT 1");
    database.query_row(&text, [], |row| Ok((row.get(0)?, row.get(1)?))).context("the table has no row")
}

/// Writes a row with its authentication code.
pub fn write(broker: &Broker, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
    let database = Connection::open(broker.file("database")).context("Failed to open the database")?;
    let text = format!("INSERT OR REPLACE INTO {table} (key, value, code) VALUES (?1, ?2, ?3)");
    database
        .execute(&text, params![key, value, code(broker, table, key, value)?])
        .context("the row cannot be written")?;
    Ok(())
}

/// Removes a row.
pub fn remove(broker: &Broker, table: &str, key: &[u8]) -> Result<()> {
    let database = Connection::open(broker.file("database")).context("Failed to open the database")?;
    let removed = database.execute(&format!("DELETE FROM {table} WHERE key = ?1"), params![key])?;
    ensure!(removed == 1, "{removed} rows were removed");
    Ok(())
}

/// Sets the digest of the only disk's header; the broker must not be running.
pub fn set_header(broker: &Broker, digest: &[u8; 32]) -> Result<()> {
    let (key, value) = first(broker, "disks")?;
    let mut record: Value = serde_json::from_slice(&value)?;
    record["header"] = hex::encode(digest).into();
    record["state"] = "active".into();
    write(broker, "disks", &key, &serde_json::to_vec(&record)?)
}

/// Rewrites the first leaf of the audit log; the broker must not be running.
pub fn change_audit(broker: &Broker) -> Result<()> {
    let (key, value) = first(broker, "audit")?;
    let mut leaf: Value = serde_json::from_slice(&value)?;
    leaf["node"] = "somebody else".into();
    write(broker, "audit", &key, &serde_json::to_vec(&leaf)?)
}
