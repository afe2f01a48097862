//! Databases of older versions, with the records of a real node as the older brokers wrote them: version 1 until commit 14146ef, version 2 until e3ad95d. A broker of today opens them, and nodes go on where they were.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use attest::message::Purpose;
use cairn_tests::attester::{AttesterTpm as _, Released, name};
use cairn_tests::suite::Suite;
use rusqlite::{Connection, params};
use serde_json::{Map, Value};

use crate::Row;
use crate::scene::{self, Scene, release, report};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("database_of_version_1_keeps_sessions_and_disks_of_nodes", |suite, _| migrated(suite, to_1)),
        Row::new("database_of_version_2_keeps_sessions_and_disks_of_nodes", |suite, _| migrated(suite, to_2)),
        Row::new("database_of_version_4_keeps_sessions_and_disks_of_nodes", |suite, _| migrated(suite, to_4)),
    ]
}

type Record = Map<String, Value>;

/// The records of a table, by their keys.
fn records(database: &Connection, table: &str) -> Result<BTreeMap<Vec<u8>, Record>> {
    let mut statement = database.prepare(&format!("SELECT key, value FROM {table}"))?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let parse = |row: rusqlite::Result<(Vec<u8>, Vec<u8>)>| {
        let (key, value) = row?;
        Ok((key, serde_json::from_slice(&value)?))
    };
    rows.map(parse).collect()
}

fn put(database: &Connection, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
    let text = format!("INSERT OR REPLACE INTO {table} (key, value) VALUES (?1, ?2)");
    database.execute(&text, params![key, value]).map(drop).context("the row cannot be written")
}

/// Changes each record of a table; these fields are not in it afterwards.
fn change(database: &Connection, table: &str, without: &[&str], change: impl Fn(&mut Record)) -> Result<()> {
    for (key, mut record) in records(database, table)? {
        without.iter().for_each(|field| drop(record.remove(*field)));
        change(&mut record);
        put(database, table, &key, &serde_json::to_vec(&record)?)?;
    }
    Ok(())
}

/// Version 4 had no authentication codes.
pub fn to_4(database: &Connection, _: &Scene) -> Result<()> {
    let mut statement = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let drop: String = names.iter().map(|name| format!("ALTER TABLE {name} DROP COLUMN code;")).collect();
    Ok(database.execute_batch(&format!("{drop} PRAGMA user_version = 4"))?)
}

/// Version 2 had an index of all requests, and no order of them.
fn to_2(database: &Connection, scene: &Scene) -> Result<()> {
    to_4(database, scene)?;
    database.execute_batch("DROP TABLE recent_requests; PRAGMA user_version = 2")?;
    change(database, "latches", &["covered"], |_| ())
}

/// Version 1 named a boot by the attestation key and kept each one; it had neither the time of the audit log nor receipts and counts of boots in records of disks.
fn to_1(database: &Connection, scene: &Scene) -> Result<()> {
    to_2(database, scene)?;
    let boot = |reset: u64, restart: u64| {
        let counts = [reset, restart].map(|count| (count as u32).to_be_bytes());
        [&name(scene.node.tpm.attestation_key())[..], &counts.concat()].concat()
    };
    let (_, latch) = records(database, "latches")?.pop_first().context("no latch")?;
    let count = |field: &str| latch[field].as_u64().context("a latch without counts");
    let (reset, restart) = (count("reset")?, count("restart")?);
    change(database, "disks", &["receipt", "unreported"], |disk| {
        disk.insert("released".into(), hex::encode(boot(reset, restart)).into());
    })?;
    change(database, "nodes", &["waiting", "epoch"], |_| ())?;
    // The head of the audit log; what checks of the store wrote is no record.
    database.execute("DELETE FROM state WHERE key <> ?1", params![b"audit head"])?;
    change(database, "state", &["time"], |_| ())?;
    // The boot before, too.
    database.execute_batch("DELETE FROM latches; DELETE FROM spent")?;
    for (reset, session) in [(reset - 1, Value::from("11".repeat(16))), (reset, latch["session"].clone())] {
        let mut old = latch.clone();
        ["ek", "reset", "restart", "superseded"].iter().for_each(|field| drop(old.remove(*field)));
        put(database, "spent", &hex::decode(session.as_str().unwrap_or_default())?, &boot(reset, restart))?;
        old.insert("session".into(), session);
        put(database, "latches", &boot(reset, restart), &serde_json::to_vec(&old)?)?;
    }
    // The key of a machine that had the node's name before.
    put(database, "endorsement_keys", &[9; 32], b"one")?;
    database.pragma_update(None, "user_version", 1).context("the version cannot be set")
}

fn migrated(suite: &Suite, downgrade: impl Fn(&Connection, &Scene) -> Result<()>) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let released: Released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.kill();
    downgrade(&Connection::open(scene.broker.file("database"))?, &scene)?;
    // Anybody may have written rows that have no authentication codes: an operator accepts them once.
    let printed = scene.broker.run_refusing_rows()?;
    ensure!(printed.contains("key-broker unseal --trust-database"), "the broker prints {printed}");
    ensure!(scene.broker.wire().is_err(), "the broker answers nodes");
    scene.broker.trust_database()?;
    let tail = scene.broker.admin(&["audit", "tail", "1"])?;
    let found = tail[0]["found"].as_str().unwrap_or_default();
    ensure!(found.starts_with("rows of the database trusted as they were: "), "the audit log has {found:?}");
    scene.broker.kill();
    scene.broker.run()?;
    let resumed = scene.broker.wire()?.resume(&released.session)?;
    ensure!(
        resumed.status == 200 && resumed.body == released.body,
        "the release is not sent again: {}",
        resumed.status
    );
    ensure!(scene.broker.code(&released.release.request)? == "RELEASED", "the request is not found");
    // The boot goes on: it has had its share, and it reports.
    let (_, response) = scene::ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, "BOOT_LATCHED")?;
    let commit = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    scene.broker.wire()?.must_acknowledge(&commit)?;
    scene.reboot()?;
    let next = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    ensure!(*next.share == *released.share, "the disk has another share");
    scene::commit(&scene.broker, &mut scene.node, &next, Purpose::Unlock)?;
    ensure!(scene.broker.disk("one", "generation")? == 3, "the generation did not go on");
    scene.broker.admin(&["audit", "verify"]).map(drop)
}
