//! The database is as large as its nodes make it, however often they boot: older leaves of the audit log are in files beside it, and its index has the newest requests.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use attest::message::{CommitResult, Purpose};
use cairn_tests::attester::software::{self, SoftwareTpm};
use cairn_tests::attester::{Attester, AttesterTpm as _, Boot};
use cairn_tests::broker::Broker;
use cairn_tests::image::Image;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use measurements::Bank;

use crate::Row;
use crate::scene::{self, ask, commit, composition, release};

const NODES: usize = 20;
/// Of all nodes together; more with `cargo xtask test --full`.
const BOOTS: usize = 200;
const FULL_BOOTS: usize = 10_000;
/// Numbers get longer: generations, counts and times.
const SLACK_BYTES: u64 = 32;
/// The head of the audit log holds a hash for each power of two of its leaves, of which there are fewer than 2^64.
const HEAD_BYTES: u64 = 64 * 68;
/// Tables that hold the newest leaves of the audit log and their index, and the maximum of their rows.
const LOG: [(&str, u64); 3] = [("audit", 511), ("recent_requests", 16_384), ("requests", 16_384)];
/// Decisions of an operator before the boots: leaves are moved to files during all of them.
const DECISIONS: usize = 600;
/// Of the whole file: a row of each table for each node, and the log with its index.
const MAX_FILE_BYTES: u64 = NODES as u64 * (16 << 10) + (4 << 20);
const LIMITS: &str =
    "hellos_per_minute = 1000000\nrequests_per_minute = 1000000\nstrangers_per_minute = 1000000\nhold_seconds = 1\n";

pub fn rows() -> Vec<Row> {
    vec![Row::new("database_does_not_grow_with_boots", growth)]
}

type Node = Attester<SoftwareTpm>;

struct Fleet {
    broker: Broker,
    boot: Boot,
    nodes: Vec<Node>,
    /// An operator has not approved it.
    held: Node,
    /// The broker does not know it.
    unknown: Node,
}

impl Fleet {
    fn new(image: &Image) -> Result<Self> {
        let broker = Broker::start_with(LIMITS)?;
        broker.allow(&image.file("reference.json"))?;
        broker.enrol_idle(&Machine::machine_reference()?)?;
        broker.fill_audit(DECISIONS)?;
        let boot = Boot::of(&composition(image, &broker)?);
        let booted = |tpm| Attester::booted(tpm, &boot);
        let mut nodes = software::several(NODES + 2)?.into_iter().map(booted).collect::<Result<Vec<_>>>()?;
        let (unknown, held) = (nodes.pop().context("no nodes")?, nodes.pop().context("no nodes")?);
        let key = |node: &Node| hex::encode(Bank::Sha256.digest(node.tpm.endorsement_key()));
        let machine = Machine::machine_reference()?;
        for (number, node) in nodes.iter_mut().enumerate() {
            broker.enrol(&format!("node-{number}"), &key(node), &machine)?;
            scene::provision(&broker, node)?;
        }
        let machine = machine.display().to_string();
        broker.admin(&["node", "enrol", "held", "--ek", &key(&held), "--machine", &machine, "--hold"])?;
        Ok(Self { broker, boot, nodes, held, unknown })
    }

    /// One more boot of each node, of three kinds in turn: reported, failed, and never reported; and both that get nothing ask again.
    fn boot(&mut self, round: usize) -> Result<()> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.reboot(&self.boot)?;
            let released = release(&self.broker, node, Purpose::Unlock)?;
            match (round + number) % 4 {
                0 => continue,
                1 => {
                    let commit = node.commit(&released, CommitResult::Failed { code: "DISK_OPEN_FAILED".into() }, 0)?;
                    self.broker.wire()?.must_acknowledge(&commit)?;
                }
                _ => drop(commit(&self.broker, node, &released, Purpose::Unlock)?),
            }
        }
        for (node, status) in [(&mut self.held, 202), (&mut self.unknown, 403)] {
            let (_, response) = ask(&self.broker, node, Purpose::Provision)?;
            ensure!(response.status == status, "answered with {}, not {status}", response.status);
        }
        Ok(())
    }

    /// Rows and bytes of each table, without the one row that checks of the store write: the first one may come at any time.
    fn sizes(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let database = rusqlite::Connection::open(self.broker.file("database"))?;
        let mut names = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
        let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let size = |name: String| {
            let text = format!(
                "SELECT count(*), coalesce(sum(length(key) + length(value)), 0) FROM {name} WHERE key <> CAST('store check' AS BLOB)"
            );
            let size = database.query_row(&text, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((name, size))
        };
        names.into_iter().map(size).collect()
    }
}

fn growth(suite: &Suite, _: &str) -> Result<()> {
    let boots = if std::env::var_os(xtask::test::FULL).is_some() { FULL_BOOTS } else { BOOTS };
    let mut fleet = Fleet::new(&suite.image)?;
    // Every kind of boot once.
    const WARM_UP: usize = 4;
    (0..WARM_UP).try_for_each(|round| fleet.boot(round))?;
    fleet.broker.audit_rows()?;
    let before = fleet.sizes()?;
    (WARM_UP..boots / NODES).try_for_each(|round| fleet.boot(round))?;
    fleet.broker.audit_rows()?;
    let after = fleet.sizes()?;
    for (name, (rows, bytes)) in &after {
        let (rows_before, bytes_before) = before.get(name).context("a new table")?;
        if let Some((_, limit)) = LOG.iter().find(|(log, _)| log == name) {
            ensure!(rows <= limit, "{name} has {rows} rows, more than {limit}");
            continue;
        }
        ensure!(rows == rows_before, "{name} had {rows_before} rows, and has {rows} after {boots} boots");
        let head = if name == "state" { HEAD_BYTES } else { 0 };
        let limit = bytes_before + SLACK_BYTES * rows + head;
        ensure!(*bytes <= limit, "{name} had {bytes_before} bytes, and has {bytes} after {boots} boots");
    }
    let verified = fleet.broker.admin(&["audit", "verify"])?;
    let leaves = verified["leaves"].as_u64().unwrap_or_default();
    ensure!(leaves > (DECISIONS + boots) as u64, "the boots are not in the log: {verified}");
    let file = fs::metadata(fleet.broker.file("database"))?.len();
    println!("{boots} boots, {leaves} leaves: the database has {file} bytes, {after:?}");
    ensure!(file < MAX_FILE_BYTES, "the file has {file} bytes after {boots} boots");
    Ok(())
}
