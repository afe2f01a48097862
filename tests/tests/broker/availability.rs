//! A store that cannot write is no verdict about a node: every answer is "later", and when it writes again every node gets its key.

use std::fs;
use std::thread;

use anyhow::{Context, Result, ensure};
use attest::message::Purpose;
use cairn_tests::attester::software::{self, SoftwareTpm};
use cairn_tests::attester::{self, Attester, AttesterTpm as _, Boot};
use cairn_tests::broker::Broker;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use connection::Response;
use measurements::Bank;

use crate::Row;

pub fn rows() -> Vec<Row> {
    vec![Row::new("store_that_cannot_write_delays_twenty_nodes_and_refuses_none", locked)]
}

const NODES: usize = 20;

type Node = Attester<SoftwareTpm>;

/// Good evidence of all of them at once.
fn ask_all(broker: &Broker, nodes: &mut [Node]) -> Result<Vec<Response>> {
    thread::scope(|scope| {
        let asked: Vec<_> = nodes
            .iter_mut()
            .map(|node| {
                scope.spawn(move || -> Result<Response> {
                    let mut talk = broker.wire()?.begin(node.hello(Purpose::Provision)?)?;
                    let evidence = node.evidence(&talk)?;
                    talk.show(&evidence)
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().ok().context("a thread panicked")?).collect()
    })
}

fn locked(suite: &Suite, _: &str) -> Result<()> {
    let broker = Broker::start_with("store_seconds = 0")?;
    let reference = suite.image.file("reference.json");
    let machine = Machine::machine_reference()?;
    let read = |path: &std::path::Path| fs::read(path).with_context(|| format!("Failed to read {}", path.display()));
    let boot = Boot::of(&attester::composition(&read(&reference)?, &read(&machine)?, &broker.cluster()?)?);
    let booted = |tpm| Attester::booted(tpm, &boot);
    let mut nodes = software::several(NODES)?.into_iter().map(booted).collect::<Result<Vec<_>>>()?;
    broker.allow(&reference)?;
    for (number, node) in nodes.iter().enumerate() {
        let ek = hex::encode(Bank::Sha256.digest(node.tpm.endorsement_key()));
        broker.enrol(&format!("node-{number}"), &ek, &machine)?;
    }

    // Somebody else holds the lock: as with a full disk and a read-only folder, nothing can be written.
    let other = rusqlite::Connection::open(broker.file("database"))?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let answers = ask_all(&broker, &mut nodes)?;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    ensure!(statuses.iter().all(|status| *status == 503), "while nothing can be written: {statuses:?}");
    let pauses: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer.retry_after).collect();
    ensure!(pauses.len() > 1 && !pauses.contains(&None), "all come back at one time: {pauses:?}");
    // A refusal of a node could not be written either, so it is none.
    let mut changed = broker.wire()?.begin(nodes[0].hello(Purpose::Provision)?)?;
    let mut evidence = nodes[0].evidence(&changed)?;
    evidence.event_log.0.truncate(100);
    let answer = changed.show(&evidence)?;
    ensure!(answer.status == 503, "a refusal that is not in the audit log: {}", answer.status);
    other.execute_batch("ROLLBACK")?;

    let statuses: Vec<u16> = ask_all(&broker, &mut nodes)?.iter().map(|answer| answer.status).collect();
    ensure!(statuses.iter().all(|status| *status == 200), "when the store writes again: {statuses:?}");
    Ok(())
}
