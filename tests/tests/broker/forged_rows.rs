//! Rows that a writer of the broker's database file forges, who does not have the broker's keys: none of them is used. The control is the row as the broker wrote it.

use anyhow::{Context, Result, ensure};
use attest::message::{DiskState, Purpose};
use cairn_tests::attester::AttesterTpm as _;
use cairn_tests::node::Node as Machine;
use cairn_tests::records;
use cairn_tests::suite::Suite;
use rusqlite::{Connection, params};
use serde_json::{Map, Value};

use crate::Row;
use crate::scene::{Node, Scene, release, report};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("attestation_key_forged_in_the_database_gets_no_share", attestation_key),
        Row::new("endorsement_key_forged_in_the_database_gets_no_disk", endorsement_key),
        Row::new("release_to_a_node_forged_in_the_database_gets_no_certificate", latch),
        Row::new("allowed_release_forged_in_the_database_releases_nothing", allowed),
        Row::new("machine_reference_under_the_digest_of_another_releases_nothing", machine),
        Row::new("broker_does_not_serve_with_forged_rows", restarted),
    ]
}

const FOUND: &str = "was not written with the keys of this broker";

/// The only row of a table with this key, as it was before it was forged.
struct Forged {
    database: Connection,
    table: &'static str,
    key: Vec<u8>,
    before: Vec<u8>,
}

impl Forged {
    /// Changes the record with this key, and leaves its authentication code.
    fn new(
        scene: &Scene,
        (table, key): (&'static str, Option<&str>),
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<Self> {
        let database = Connection::open(scene.broker.file("database"))?;
        let text = format!("SELECT key, value FROM {table} WHERE ?1 IS NULL OR key = ?1");
        let key = key.map(str::as_bytes);
        let (key, before): (Vec<u8>, Vec<u8>) =
            database.query_row(&text, params![key], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut record: Map<String, Value> = serde_json::from_slice(&before)?;
        change(&mut record);
        let after = serde_json::to_vec(&record)?;
        ensure!(after != before, "nothing is forged");
        let forged = Self { database, table, key, before };
        forged.write(&after)?;
        Ok(forged)
    }

    fn write(&self, value: &[u8]) -> Result<()> {
        let text = format!("UPDATE {} SET value = ?2 WHERE key = ?1", self.table);
        ensure!(self.database.execute(&text, params![self.key, value])? == 1, "no row was written");
        Ok(())
    }

    /// Writes the row as it was.
    fn undo(&self) -> Result<()> {
        self.write(&self.before)
    }
}

/// A machine with another TPM says that it has the endorsement key of node `one`, which is public: what it is answered.
fn impersonate(scene: &Scene, other: &Node) -> Result<u16> {
    let mut hello = other.hello(Purpose::Unlock)?;
    hello.ek = scene.node.hello(Purpose::Unlock)?.ek;
    hello.disk = scene.node.disk.clone();
    Ok(scene.broker.wire()?.say("/krp/1/hello", &hello)?.status)
}

fn attestation_key(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let other = scene.stranger()?;
    let forged = Forged::new(&scene, ("nodes", None), |node| {
        node.insert("ak".into(), hex::encode(other.tpm.attestation_key()).into());
    })?;
    ensure!(impersonate(&scene, &other)? == 503, "a forged key is used");
    ensure!(String::from_utf8_lossy(&scene.broker.printed()?).contains(FOUND), "the broker does not name the row");
    forged.undo()?;
    scene.must_still_unlock()
}

fn endorsement_key(suite: &Suite, _: &str) -> Result<()> {
    let scene = Scene::known(suite)?;
    let (two, other) = (scene.another("two")?, scene.stranger()?);
    let grant = ["disk", "grant", "two", "--rebind-from", "one"];
    for name in ["one", "two"] {
        let forged = Forged::new(&scene, ("nodes", Some(name)), |node| {
            node.insert("ek".into(), other.tpm.endorsement_key_digest().into());
        })?;
        let output = scene.broker.command(&grant)?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && words.contains(FOUND), "a forged key of node {name}: {words}");
        forged.undo()?;
    }
    scene.broker.admin(&grant)?;
    // The control: the disk is that of the new machine.
    let mut node = two;
    node.disk = scene.node.disk.clone();
    ensure!(node.disk != DiskState::Blank, "the node has no disk");
    release(&scene.broker, &mut node, Purpose::Unlock).map(drop)
}

fn latch(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let commit = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    let changes: [(&str, Value); 3] =
        [("assurance", "tpm-discrete".into()), ("reset", 7.into()), ("node", "two".into())];
    for (field, value) in changes {
        let forged = Forged::new(&scene, ("latches", None), |latch| drop(latch.insert(field.into(), value)))?;
        let response = scene.broker.wire()?.say("/krp/1/commit", &commit)?;
        ensure!(response.status == 503, "{field}: the report is answered with {}", response.status);
        let resumed = scene.broker.wire()?.resume(&released.session)?;
        ensure!(resumed.status == 503, "{field}: the release is sent again with {}", resumed.status);
        forged.undo()?;
    }
    let forged = Forged::new(&scene, ("disks", None), |disk| drop(disk.insert("generation".into(), 70.into())))?;
    let response = scene.broker.wire()?.say("/krp/1/commit", &commit)?;
    ensure!(response.status == 503, "a forged record of the disk: the report is answered with {}", response.status);
    forged.undo()?;
    scene.broker.wire()?.must_acknowledge(&commit).map(drop)
}

/// The image of the writer is in the place of one that was allowed.
fn allowed(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let forged =
        Forged::new(&scene, ("releases", None), |release| drop(release.insert("name".into(), "theirs".into())))?;
    let (_, response) = crate::scene::ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    ensure!(response.status == 503, "a forged release: {}", scene.broker.judged(&response)?);
    forged.undo()?;
    scene.must_still_unlock()
}

/// Written with the broker's keys: a mistake of the broker.
fn machine(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let (digest, reference) = records::first(&scene.broker, "machines")?;
    let path = Machine::machine_reference()?.with_file_name("q35-ovmf-2025.02-2cpus-1gib-tis.machine.json");
    records::write(&scene.broker, "machines", &digest, &std::fs::read(path)?)?;
    let (_, response) = crate::scene::ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    ensure!(response.status == 503, "another machine's reference: {}", scene.broker.judged(&response)?);
    records::write(&scene.broker, "machines", &digest, &reference)?;
    scene.must_still_release().map(drop)
}

fn restarted(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    scene.broker.kill();
    // Nothing reads this table when the broker is unsealed, but the comparison of all rows.
    let forged = Forged::new(&scene, ("latches", None), |latch| drop(latch.insert("reset".into(), 70.into())))?;
    let printed = scene.broker.run_refusing_rows()?;
    ensure!(printed.contains("row \"one\" of table latches") && printed.contains(FOUND), "it prints {printed}");
    ensure!(scene.broker.unseal().is_err(), "the passphrase alone opens the broker");
    forged.undo()?;
    scene.broker.unseal().context("the row is as the broker wrote it")?;
    scene.must_still_unlock()
}
