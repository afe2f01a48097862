//! `/ready` shows whether a node that comes now gets a decision; and neither metrics nor requests that wait for the store delay other requests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use attest::message::Purpose;
use cairn_tests::broker::Broker;
use cairn_tests::suite::Suite;
use rusqlite::Connection as Database;

use crate::Row;
use crate::availability::{NODES, Node, PATIENCE, await_readiness, begin_all, fleet, get, show_all};
use crate::operation::{plain, with_metrics};
use crate::scene::Scene;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("broker_without_its_store_is_not_ready_and_sends_nodes_away", not_ready),
        Row::new("sealed_broker_and_broker_with_a_late_clock_are_not_ready", sealed_or_late),
        Row::new("metrics_delay_no_request_while_releases_are_judged", metrics),
        Row::new("hello_is_answered_while_the_rows_of_a_backup_are_checked", backup),
        Row::new("requests_that_wait_for_the_store_delay_no_hello", waiting),
        Row::new("store_that_cannot_read_delays_a_node_and_does_not_refuse_it", unreadable),
    ]
}

fn not_ready(_: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::new("store_seconds = 0")?;
    with_metrics(&broker)?;
    broker.run()?;
    let must_be_ready = |broker: &Broker| -> Result<()> {
        await_readiness(broker, 200)?;
        ensure!(get(broker, "/ready")?.body == b"{\"state\":\"ready\"}\n", "/ready");
        ensure!(plain(broker, "/ready")?.contains(" 200 "), "/ready of the metrics");
        let certificate = get(broker, "/krp/1/broker")?;
        ensure!(certificate.status == 200, "no certificate: {}", certificate.status);
        Ok(())
    };
    must_be_ready(&broker)?;
    let other = Database::open(broker.file("database"))?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    await_readiness(&broker, 503)?;
    let body = get(&broker, "/ready")?.body;
    ensure!(body == b"{\"state\":\"not_ready\",\"reason\":\"store\"}\n", "{:?}", String::from_utf8_lossy(&body));
    let text = plain(&broker, "/ready")?;
    ensure!(text.contains(" 503 ") && text.contains("\"reason\":\"store\""), "/ready of the metrics: {text}");
    // However many ask, the store is tried once a second.
    let started = Instant::now();
    let mut pauses = BTreeSet::new();
    for _ in 0..50 {
        let certificate = get(&broker, "/krp/1/broker")?;
        ensure!(certificate.status == 503, "a certificate without a store: {}", certificate.status);
        pauses.insert(certificate.retry_after.context("no Retry-After")?);
    }
    ensure!(started.elapsed() < Duration::from_secs(8), "50 questions took {:?}", started.elapsed());
    ensure!(pauses.len() > 2, "all come back at one time: {pauses:?}");
    ensure!(get(&broker, "/health")?.status == 200, "/health");
    other.execute_batch("ROLLBACK")?;
    must_be_ready(&broker)
}

fn sealed_or_late(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::start()?;
    let reason = |broker: &Broker| -> Result<String> {
        let ready = get(broker, "/ready")?;
        let body: serde_json::Value = serde_json::from_slice(&ready.body)?;
        Ok(format!("{} {}", ready.status, body["reason"].as_str().unwrap_or("-")))
    };
    ensure!(reason(&broker)? == "200 -", "an open broker: {}", reason(&broker)?);
    // A row of the audit log with the time of now.
    broker.allow(&suite.image.file("reference.json"))?;
    broker.kill();
    broker.run_with(&[("CAIRN_CLOCK_OFFSET", "-320")])?;
    ensure!(reason(&broker)? == "200 -", "320 s behind: {}", reason(&broker)?);
    broker.kill();
    broker.run_with(&[("CAIRN_CLOCK_OFFSET", "-400")])?;
    ensure!(reason(&broker)? == "503 clock", "400 s behind: {}", reason(&broker)?);
    broker.kill();
    broker.run_sealed()?;
    ensure!(reason(&broker)? == "503 sealed", "a sealed broker: {}", reason(&broker)?);
    broker.unseal()?;
    ensure!(reason(&broker)? == "200 -", "an unsealed broker: {}", reason(&broker)?);
    Ok(())
}

fn metrics(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::new("")?;
    with_metrics(&broker)?;
    let until = broker.file("until");
    broker.run_with(&[("CAIRN_HOLD", "before-figures"), ("CAIRN_HOLD_UNTIL", &until.display().to_string())])?;
    let nodes = fleet(suite, &broker)?;
    thread::scope(|scope| -> Result<()> {
        let judging = scope.spawn(|| plain(&broker, "/metrics"));
        must_answer_while_held(&broker, &nodes[0], &until)?;
        let text = judging.join().ok().context("a thread panicked")??;
        ensure!(text.contains("cairn_broker_releases{standing=\"good\"} 1"), "{text}");
        Ok(())
    })
}

/// A hello, which reads the record of its node, is answered while the broker waits at a fault point for this file.
fn must_answer_while_held(broker: &Broker, node: &Node, until: &Path) -> Result<()> {
    let started = Instant::now();
    while !until.with_extension("reached").exists() {
        ensure!(started.elapsed() < PATIENCE, "the broker does not come to the fault point");
        thread::sleep(Duration::from_millis(20));
    }
    let started = Instant::now();
    let answered = broker.wire()?.begin(node.hello(Purpose::Provision)?);
    let waited = started.elapsed();
    fs::write(until, "")?;
    answered?;
    ensure!(waited < Duration::from_secs(5), "the hello waited {waited:?}");
    Ok(())
}

fn backup(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::new("")?;
    let until = broker.file("until");
    broker.run_with(&[("CAIRN_HOLD", "rows-of-a-backup"), ("CAIRN_HOLD_UNTIL", &until.display().to_string())])?;
    let nodes = fleet(suite, &broker)?;
    let file = broker.file("backup").display().to_string();
    thread::scope(|scope| -> Result<()> {
        let written = scope.spawn(|| broker.admin(&["backup", &file]));
        must_answer_while_held(&broker, &nodes[0], &until)?;
        let written = written.join().ok().context("a thread panicked")??;
        ensure!(written["nodes"] == nodes.len(), "{written}");
        Ok(())
    })
}

/// More requests wait for the lock of the database than verify at a time.
fn waiting(suite: &Suite, _: &str) -> Result<()> {
    let broker = Broker::start()?;
    let mut nodes = fleet(suite, &broker)?;
    let waiting = (2 * thread::available_parallelism()?.get() + 1).min(NODES - 1);
    let last = nodes.pop().context("no node")?;
    nodes.truncate(waiting);
    let talks = begin_all(&broker, &mut nodes)?;
    let mut wire = broker.wire()?;
    let other = Database::open(broker.file("database"))?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    thread::scope(|scope| -> Result<()> {
        let shown = scope.spawn(|| show_all(&mut nodes, talks));
        // Until all of them wait.
        thread::sleep(Duration::from_secs(2));
        let started = Instant::now();
        let answer = wire.say("/krp/1/hello", &last.hello(Purpose::Provision)?)?;
        let waited = started.elapsed();
        other.execute_batch("ROLLBACK")?;
        ensure!(answer.status == 200, "the hello: {}", answer.status);
        ensure!(waited < Duration::from_secs(2), "the hello waited {waited:?} for evidence that waits for the store");
        let answers = shown.join().ok().context("a thread panicked")??;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        ensure!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        Ok(())
    })
}

/// The records of nodes are away: the broker cannot know whether a machine is enrolled.
fn unreadable(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut talk = scene.begin(Purpose::Provision)?;
    let evidence = scene.node.evidence(&talk)?;
    let hello = scene.node.hello(Purpose::Provision)?;
    let database = Database::open(scene.broker.file("database"))?;
    database.execute_batch("ALTER TABLE nodes RENAME TO nodes_away")?;
    let answers = [scene.broker.wire()?.say("/krp/1/hello", &hello)?, talk.show(&evidence)?];
    for (answer, message) in answers.iter().zip(["hello", "evidence"]) {
        ensure!(answer.status == 503 && answer.retry_after.is_some(), "the {message}: {}", answer.status);
    }
    database.execute_batch("ALTER TABLE nodes_away RENAME TO nodes")?;
    scene.must_still_release().map(drop)
}
