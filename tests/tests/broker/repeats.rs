//! Messages that come too late, or again and again: evidence after its session has ended is not a decision, and a report that is refused many times is one row of the audit log.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attest::message::{Commit, CommitResult, DiskState, Purpose, Refused};
use attester::{Machine, Quote, Settings};
use cairn_tests::attester::{AttesterTpm as _, SLOT, hpke_key, random};
use cairn_tests::broker::Broker;
use cairn_tests::event_log;
use cairn_tests::suite::Suite;
use measurements::Bank;
use zeroize::Zeroizing;

use crate::Row;
use crate::scene::{Node, Scene, release, report};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("late_evidence_is_a_wait_for_the_attester_and_then_a_release", late),
        Row::new("session_that_another_broker_has_answered_is_refused", answered_elsewhere),
        Row::new("report_that_is_refused_many_times_is_one_row_of_the_audit_log", repeated),
    ]
}

/// A machine with a TPM, whose first quote takes a while.
struct Slow<'a> {
    node: &'a mut Node,
    delay: Option<Duration>,
    lines: Vec<String>,
    pauses: usize,
}

impl Machine for Slow<'_> {
    type Error = anyhow::Error;

    fn endorsement_key(&self) -> &[u8] {
        self.node.tpm.endorsement_key()
    }

    fn attestation_key(&self) -> &[u8] {
        self.node.tpm.attestation_key()
    }

    fn banks(&self) -> &[Bank] {
        &Bank::ALL
    }

    fn quote(&mut self, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote> {
        thread::sleep(self.delay.take().unwrap_or_default());
        let quote = self.node.tpm.quote(bank, extra_data)?;
        Ok(Quote { attest: quote.attest, signature: quote.signature, registers: quote.registers })
    }

    fn activate(&mut self, blob: &[u8], seed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.node.tpm.activate(blob, seed).ok().map(Zeroizing::new)
    }

    fn random(&mut self) -> Result<[u8; 32]> {
        random()
    }

    fn event_log(&self) -> Result<Vec<u8>> {
        Ok(event_log::write(&self.node.log))
    }

    fn user_space_log(&self) -> Result<String> {
        Ok(String::new())
    }

    fn print(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }

    fn sleep(&mut self, _: Duration) {
        self.pauses += 1;
    }
}

/// The attester of the agent against the broker's program.
fn late(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::with(suite, Broker::start_with("challenge_seconds = 1")?)?;
    let cluster = scene.broker.cluster_document()?;
    let settings = Settings { cluster: &cluster, bundle: None, min_version: 1, patience: Duration::from_secs(20) };
    let addresses = [scene.broker.address()?];
    for (delay, pauses) in [(None, 0), (Some(Duration::from_millis(2500)), 1)] {
        let machine = Slow { node: &mut scene.node, delay, lines: Vec::new(), pauses: 0 };
        let mut attester = attester::Attester::new(machine, settings, &addresses, hpke_key()?)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let released = attester.release(SLOT, &DiskState::Blank, &[Purpose::Provision]);
        let machine = attester.into_machine();
        released.map_err(|error| anyhow::anyhow!("{error}: {:?}", machine.lines))?;
        ensure!(machine.pauses == pauses, "{} pauses, not {pauses}: {:?}", machine.pauses, machine.lines);
        scene.reboot()?;
    }
    Ok(())
}

/// Two brokers with one database: the other one has answered this session.
fn answered_elsewhere(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let mut talk = scene.begin(Purpose::Unlock)?;
    let evidence = scene.node.evidence(&talk)?;
    let database = rusqlite::Connection::open(scene.broker.file("database"))?;
    let row = rusqlite::params![talk.challenge.session.0, b"one"];
    database.execute("INSERT INTO spent (key, value) VALUES (?1, ?2)", row)?;
    scene.broker.trust_rows()?;
    let response = talk.show(&evidence)?;
    scene.broker.must_refuse(&response, "NONCE_SPENT")?;
    scene.must_still_unlock()
}

/// One quote is enough for as many reports as a client sends: each says something that the quote does not cover.
fn repeated(suite: &Suite, _: &str) -> Result<()> {
    const TIMES: usize = 250;
    const MAX_ROWS: u64 = 3;
    let mut scene = Scene::known(suite)?;
    let leaves = |scene: &Scene| -> Result<u64> {
        scene.broker.admin(&["audit", "verify"])?["leaves"].as_u64().context("no number of leaves")
    };
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let failed = scene.node.commit(&released, CommitResult::Failed { code: "DISK_OPEN_FAILED".into() }, 0)?;
    let own = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    scene.broker.wire()?.must_acknowledge(&own)?;
    let CommitResult::Opened { header, volume } = own.result.clone() else { anyhow::bail!("{:?}", own.result) };
    let made = Commit { result: CommitResult::Formatted { header, volume }, ..own.clone() };
    let before = leaves(&scene)?;
    let mut wire = scene.broker.wire()?;
    let mut requests = Vec::new();
    // One is refused before the transaction, the other in it.
    for commit in [&made, &failed] {
        for _ in 0..TIMES {
            let response = wire.say("/krp/1/commit", commit)?;
            ensure!(response.status == 403, "status {}", response.status);
            requests.push(scene.broker.decision::<Refused>(&response)?.request);
        }
    }
    let after = leaves(&scene)?;
    ensure!((before + 1..=before + MAX_ROWS).contains(&after), "{before} leaves became {after}");
    let first = requests.first().context("no request")?;
    let explained = scene.broker.admin(&["explain", first])?;
    ensure!(explained["code"] == "STATE" && explained["node"] == "one", "{explained}");
    ensure!(requests.iter().all(|request| request == first), "the request changes while the reason does not");
    // The node's own report is acknowledged all the same, and a refusal of its next boot is a row again.
    wire.must_acknowledge(&own)?;
    scene.node.keep(&released);
    scene.reboot()?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let before = leaves(&scene)?;
    let made = CommitResult::Formatted { header, volume };
    let own = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    let response = scene.broker.wire()?.say("/krp/1/commit", &Commit { result: made, ..own.clone() })?;
    scene.broker.must_refuse(&response, "STATE")?;
    ensure!(leaves(&scene)? == before + 1, "the refusal of the next boot is no row");
    scene.broker.wire()?.must_acknowledge(&own).map(drop)
}
