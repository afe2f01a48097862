//! Messages that are sent again, too late, to another broker, in another order.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attest::bytes::Hex;
use attest::message::{self, CommitResult, Purpose};
use cairn_tests::attacks::{code, codes};
use cairn_tests::attester::HEADER;
use cairn_tests::broker::Broker;
use cairn_tests::suite::Suite;

use crate::Row;
use crate::scene::{self, Scene, begin, release, report};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("evidence_is_taken_once_by_all_brokers", spent),
        Row::new("two_brokers_release_once", two_brokers),
        Row::new("a_session_is_of_one_connection_and_its_time", sessions),
        Row::new("a_boot_is_released_once", latched),
        Row::new("messages_have_their_order", order),
        Row::new("a_lost_reply_is_sent_again_byte_for_byte", resumed),
        Row::new("release_of_a_latched_boot_is_sent_again_after_a_later_session_was_refused", late),
        Row::new("an_attestation_key_is_activated_once", known_key),
        Row::new("a_retired_or_held_node_gets_nothing", administered),
    ]
}

fn spent(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let replica = scene.broker.replica()?;
    let mut talk = scene.begin(Purpose::Provision)?;
    let evidence = scene.node.evidence(&talk)?;
    let first = talk.show(&evidence)?;
    ensure!(first.status == 200, "no release: {}", scene.broker.judged(&first)?);
    let again = talk.show(&evidence)?;
    scene.broker.must_refuse(&again, code(1))?;
    let elsewhere = replica.wire()?.say("/krp/1/evidence", &evidence)?;
    replica.must_refuse(&elsewhere, code(1))?;
    scene.broker.kill();
    scene.broker.run()?;
    let later = scene.broker.wire()?.say("/krp/1/evidence", &evidence)?;
    scene.broker.must_refuse(&later, code(1))
}

fn two_brokers(suite: &Suite, _: &str) -> Result<()> {
    const ROUNDS: usize = 5;
    let mut scene = Scene::new(suite)?;
    let replica = scene.broker.replica()?;
    for round in 0..ROUNDS {
        let purpose = if round == 0 { Purpose::Provision } else { Purpose::Unlock };
        let brokers = [&scene.broker, &replica];
        let mut talks =
            brokers.map(|broker| begin(broker, &scene.node, purpose)).into_iter().collect::<Result<Vec<_>>>()?;
        let evidence = talks.iter().map(|talk| scene.node.evidence(talk)).collect::<Result<Vec<_>>>()?;
        let start = Barrier::new(brokers.len());
        let responses = thread::scope(|scope| {
            let threads: Vec<_> = talks
                .iter_mut()
                .zip(&evidence)
                .map(|(talk, evidence)| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        talk.show(evidence)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().ok().context("a thread panicked")?)
                .collect::<Result<Vec<_>>>()
        })?;
        let judged = responses.iter().map(|response| scene.broker.judged(response)).collect::<Result<Vec<_>>>()?;
        let winner = judged.iter().position(|verdict| verdict == "RELEASED").context("nobody releases")?;
        ensure!(judged[1 - winner] == code(3), "round {round}: {judged:?}");
        let released = scene.node.open(&talks[winner], &responses[winner].body)?;
        scene::commit(&scene.broker, &mut scene.node, &released, purpose)?;
        scene.reboot()?;
    }
    let generation = scene.broker.disk("one", "generation")?;
    ensure!(generation.as_u64() == Some(ROUNDS as u64), "{ROUNDS} commits gave generation {generation}");
    scene.broker.admin(&["audit", "verify"]).map(drop)
}

fn sessions(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::with(suite, Broker::start_with("challenge_seconds = 1")?)?;
    let other = Broker::start()?;
    let mut shapes = Vec::new();
    let mut must_refuse = |broker: &Broker, response: &connection::Response| -> Result<()> {
        shapes.push((response.status, response.body.len()));
        broker.must_refuse(response, code(4))
    };
    let mut talk = scene.begin(Purpose::Provision)?;
    let evidence = scene.node.evidence(&talk)?;
    thread::sleep(Duration::from_millis(1500));
    must_refuse(&scene.broker, &talk.show(&evidence)?)?;
    let mut talk = scene.begin(Purpose::Provision)?;
    let mut evidence = scene.node.evidence(&talk)?;
    evidence.session.0[0] ^= 1;
    must_refuse(&scene.broker, &talk.show(&evidence)?)?;
    let theirs = begin(&other, &scene.node, Purpose::Provision)?;
    let mut talk = scene.begin(Purpose::Provision)?;
    evidence.session = theirs.challenge.session.clone();
    must_refuse(&scene.broker, &talk.show(&evidence)?)?;
    // A session of another connection of the same broker.
    let (one, mut two) = (scene.begin(Purpose::Provision)?, scene.begin(Purpose::Provision)?);
    let evidence = scene.node.evidence(&one)?;
    must_refuse(&scene.broker, &two.show(&evidence)?)?;
    ensure!(shapes.windows(2).all(|pair| pair[0] == pair[1]), "the refusals differ: {shapes:?}");
    scene.must_still_release().map(drop)
}

fn latched(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let released = scene.must_still_release()?;
    for _ in 0..2 {
        // The registers are still those of the initrd: somebody else in it asks with a key of his own.
        let ours = std::mem::replace(&mut scene.node.hpke, cairn_tests::attester::hpke_key()?);
        let (_, response) = scene::ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
        scene.broker.must_refuse(&response, code(25))?;
        scene.node.hpke = ours;
    }
    scene::commit(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    // After the report the boot is closed, which says so before the latch does; a TPM whose registers came back would be latched.
    scene.reboot()?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let earlier = scene.begin(Purpose::Unlock)?;
    let evidence = scene.node.evidence(&earlier)?;
    scene::commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    let mut earlier = earlier;
    let response = earlier.show(&evidence)?;
    scene.broker.must_refuse(&response, code(25))
}

fn order(suite: &Suite, _: &str) -> Result<()> {
    let [state, session, spent] = codes(58) else { anyhow::bail!("three codes") };
    let mut scene = Scene::new(suite)?;
    let mut talk = scene.begin(Purpose::Provision)?;
    let evidence = scene.node.evidence(&talk)?;
    // Evidence without a hello in this connection.
    let response = scene.broker.wire()?.say("/krp/1/evidence", &evidence)?;
    scene.broker.must_refuse(&response, session)?;
    // A report before there is a release.
    let released = {
        let other = scene.another("two")?;
        let mut other = other;
        let released = release(&scene.broker, &mut other, Purpose::Provision)?;
        let mut early = report(&scene.broker, &mut other, &released, Purpose::Provision)?;
        early.session = talk.challenge.session.clone();
        let response = scene.broker.wire()?.say("/krp/1/commit", &early)?;
        scene.broker.must_refuse(&response, state)?;
        released
    };
    let first = talk.show(&evidence)?;
    ensure!(first.status == 200, "no release: {}", scene.broker.judged(&first)?);
    let response = talk.show(&evidence)?;
    scene.broker.must_refuse(&response, spent)?;
    let own = scene.node.open(&talk, &first.body)?;
    ensure!(own.release.disk.id != released.release.disk.id, "two nodes have one disk");
    let commit = report(&scene.broker, &mut scene.node, &own, Purpose::Provision)?;
    // Twice is once; another report of the same boot is none.
    let acks = (0..2).map(|_| scene.broker.wire()?.say("/krp/1/commit", &commit)).collect::<Result<Vec<_>>>()?;
    ensure!(acks.iter().all(|ack| ack.status == 200) && acks[0].body == acks[1].body, "the acknowledgements differ");
    let other = scene.node.commit(&own, CommitResult::Failed { code: "DISK_OPEN_FAILED".into() }, 0)?;
    let response = scene.broker.wire()?.say("/krp/1/commit", &other)?;
    scene.broker.must_refuse(&response, state)?;
    let generation = scene.broker.disk("one", "generation")?;
    ensure!(generation == 1, "one commit gave generation {generation}");
    // A hello in the middle begins anew: what was asked before is forgotten.
    scene.reboot()?;
    scene.node.disk = attest::message::DiskState::Luks { uuid: own.release.disk.id, digest: HEADER };
    let mut talk = scene.begin(Purpose::Unlock)?;
    let evidence = scene.node.evidence(&talk)?;
    let hello = message::write(&scene.node.hello(Purpose::Unlock)?)?;
    ensure!(talk.wire.post("/krp/1/hello", &hello.bytes)?.status == 200, "a second hello is refused");
    let response = talk.show(&evidence)?;
    scene.broker.must_refuse(&response, session)
}

fn resumed(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let released = scene.must_still_release()?;
    scene.broker.kill();
    scene.broker.run()?;
    for _ in 0..2 {
        let again = scene.broker.wire()?.resume(&released.session)?;
        ensure!(again.status == 200 && again.body == released.body, "another reply than before");
    }
    let response = scene.broker.wire()?.resume(&Hex(vec![7; 16]))?;
    scene.broker.must_refuse(&response, "SESSION_INVALID")
}

/// Evidence of a first session is on its way while a second one begins: its release is sent again after the second session was refused.
fn late(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut first = scene.begin(Purpose::Provision)?;
    let evidence = scene.node.evidence(&first)?;
    let session = first.challenge.session.clone();
    let response = scene.broker.wire()?.resume(&session)?;
    scene.broker.must_refuse(&response, "SESSION_INVALID")?;
    let mut second = scene.begin(Purpose::Provision)?;
    let late = first.show(&evidence)?;
    ensure!(late.status == 200, "no release: {}", scene.broker.judged(&late)?);
    let evidence = scene.node.evidence(&second)?;
    let response = second.show(&evidence)?;
    scene.broker.must_refuse(&response, "BOOT_LATCHED")?;
    let response = scene.broker.wire()?.resume(&second.challenge.session)?;
    scene.broker.must_refuse(&response, "SESSION_INVALID")?;
    let again = scene.broker.wire()?.resume(&session)?;
    ensure!(again.status == 200 && again.body == late.body, "another reply than before");
    let released = scene.node.open(&first, &again.body)?;
    scene::commit(&scene.broker, &mut scene.node, &released, Purpose::Provision).map(drop)
}

fn known_key(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    ensure!(scene.begin(Purpose::Provision)?.challenge.credential.is_some(), "an unknown key is believed");
    scene.provision()?;
    scene.reboot()?;
    ensure!(scene.begin(Purpose::Unlock)?.challenge.credential.is_none(), "a known key is activated again");
    // Another key of the same TPM must be activated, too.
    let commands = &mut scene.node.tpm.tpm.commands;
    commands.flush(scene.node.tpm.ak.handle)?;
    scene.node.tpm.ak = commands.signing_key(xtask::vm::tpm_commands::SigningKey::Attestation(1))?;
    ensure!(scene.begin(Purpose::Unlock)?.challenge.credential.is_some(), "another key is believed");
    let (_, response) = scene::ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    ensure!(response.status == 202, "a changed key is answered with {}", response.status);
    scene.broker.must_refuse(&response, "AK_CHANGED")?;
    scene.broker.admin(&["node", "approve", "one"])?;
    scene.must_still_unlock()
}

fn administered(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let ek = scene.node.tpm.endorsement_key_digest();
    let machine = cairn_tests::node::Node::machine_reference()?.display().to_string();
    scene.broker.admin(&["node", "enrol", "one", "--ek", &ek, "--machine", &machine, "--hold"])?;
    let (_, response) = scene::ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    ensure!(response.status == 202 && response.retry_after.is_some(), "a held node is told {}", response.status);
    scene.broker.must_refuse(&response, "NODE_HELD")?;
    scene.broker.admin(&["node", "approve", "one"])?;
    scene.provision()?;
    scene.broker.admin(&["node", "retire", "one"])?;
    scene.reboot()?;
    let (_, response) = scene::ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, "NODE_RETIRED")?;
    let state = scene.broker.disk("one", "state")?;
    ensure!(state == "retired", "the disk is {state}");
    Ok(())
}
