//! A message is held between its verification and the transaction that answers it; an operator or the node changes something; then the message goes on. The transaction must not decide by what was verified before the change.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attest::message::Purpose;
use cairn_tests::broker::Broker;
use cairn_tests::node::Node as Machine;
use cairn_tests::records;
use cairn_tests::suite::Suite;

use crate::scene::{self, Scene, ask, release, report};
use crate::{Row, published};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("node_that_is_changed_during_verification_gets_nothing", evidence),
        Row::new("epoch_that_rises_during_verification_refuses_a_lower_release", epoch),
        Row::new("hold_that_is_set_during_verification_holds_the_boot", held),
        Row::new("report_that_is_overtaken_by_a_change_is_refused", commit),
        Row::new("report_that_is_overtaken_by_another_release_is_refused", next_boot),
    ]
}

/// A machine that the nodes of these rows are not.
const OTHER_MACHINE: &str = "q35-ovmf-2025.02-2cpus-1gib-tis.machine.json";

/// A broker that holds the first message that reaches this fault point until the file exists.
fn held_at<'a>(suite: &'a Suite, point: &str) -> Result<(Scene<'a>, PathBuf)> {
    let mut broker = Broker::new("")?;
    let until = hold(&mut broker, point)?;
    Ok((Scene::with(suite, broker)?, until))
}

/// Starts a broker that holds the first message that reaches this fault point until the file exists.
fn hold(broker: &mut Broker, point: &str) -> Result<PathBuf> {
    let until = broker.file("until");
    broker.run_with(&[("CAIRN_HOLD", point), ("CAIRN_HOLD_UNTIL", &until.display().to_string())])?;
    Ok(until)
}

/// Changes something while the message that `send` sends is held.
fn overtaken<T: Send>(
    until: &Path,
    send: impl FnOnce() -> Result<T> + Send,
    change: impl FnOnce() -> Result<()>,
) -> Result<T> {
    let reached = until.with_extension("reached");
    let changed = || -> Result<()> {
        for _ in 0..600 {
            if reached.exists() {
                return change();
            }
            thread::sleep(Duration::from_millis(25));
        }
        anyhow::bail!("the message was not verified")
    };
    thread::scope(|scope| {
        let sent = scope.spawn(send);
        let changed = changed();
        // Whatever went wrong, the broker goes on.
        std::fs::write(until, "")?;
        changed?;
        sent.join().ok().context("a thread panicked")?
    })
}

fn evidence(suite: &Suite, _: &str) -> Result<()> {
    let machine = Machine::machine_reference()?;
    let [machine, other_machine] = [machine.clone(), machine.with_file_name(OTHER_MACHINE)];
    let [machine, other_machine] = [machine, other_machine].map(|path| path.display().to_string());
    let other = "07".repeat(32);
    let enrol = ["node", "enrol", "one", "--ek"];
    let retire: &[&str] = &["node", "retire", "one"];
    // The words OWN and RELEASE stand for the node's endorsement key and the id of the allowed release.
    let another_key = [&enrol[..], &[&other, "--machine", &machine]].concat();
    let another_bank = [&enrol[..], &["OWN", "--machine", &machine, "--bank", "sha256"]].concat();
    let another_machine = [&enrol[..], &["OWN", "--machine", &other_machine]].concat();
    let revoke: &[&str] = &["release", "revoke", "RELEASE"];
    for (changes, code) in [
        (&[retire][..], "NODE_RETIRED"),
        (&[retire, &another_key], "EK_UNTRUSTED"),
        (&[&another_bank], "EK_UNTRUSTED"),
        (&[&another_machine], "EK_UNTRUSTED"),
        (&[revoke], "RELEASE_NONE_ALLOWED"),
        (&[], "RELEASED"),
    ] {
        let (mut scene, until) = held_at(suite, "after-verify")?;
        let own = scene.node.tpm.endorsement_key_digest();
        let (broker, node) = (&scene.broker, &mut scene.node);
        let change = || -> Result<()> {
            let allowed = broker.admin(&["release", "list"])?[0]["release"].as_str().unwrap_or_default().to_owned();
            for words in changes {
                let word = |word: &&'_ str| match *word {
                    "OWN" => own.clone(),
                    "RELEASE" => allowed.clone(),
                    word => word.to_owned(),
                };
                let words: Vec<String> = words.iter().map(word).collect();
                broker.admin(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
            }
            Ok(())
        };
        let (_, response) = overtaken(&until, || ask(broker, node, Purpose::Provision), change)?;
        let found = broker.judged(&response)?;
        ensure!(found == code, "{changes:?}: {found}, not {code}");
    }
    Ok(())
}

/// As where the disk of a node with a higher epoch moves to this one.
fn epoch(suite: &Suite, _: &str) -> Result<()> {
    for (epoch, code) in [(6, "EPOCH_ROLLBACK"), (5, "RELEASED")] {
        let (mut scene, _, _) = published::begin(suite, "")?;
        scene.broker.kill();
        let until = hold(&mut scene.broker, "after-verify")?;
        let (broker, node) = (&scene.broker, &mut scene.node);
        let change = || {
            let (key, value) = records::first(broker, "nodes")?;
            let mut record: serde_json::Value = serde_json::from_slice(&value)?;
            record["epoch"] = epoch.into();
            records::write(broker, "nodes", &key, &serde_json::to_vec(&record)?)
        };
        let (_, response) = overtaken(&until, || ask(broker, node, Purpose::Provision), change)?;
        broker.must_refuse(&response, code).with_context(|| format!("the node has run epoch {epoch}"))?;
    }
    Ok(())
}

fn held(suite: &Suite, _: &str) -> Result<()> {
    let (mut scene, until) = held_at(suite, "after-verify")?;
    let ek = scene.node.tpm.endorsement_key_digest();
    let machine = Machine::machine_reference()?.display().to_string();
    let (broker, node) = (&scene.broker, &mut scene.node);
    let change = || broker.admin(&["node", "enrol", "one", "--ek", &ek, "--machine", &machine, "--hold"]).map(drop);
    let (_, response) = overtaken(&until, || ask(broker, node, Purpose::Provision), change)?;
    broker.must_refuse(&response, "NODE_HELD")?;
    broker.admin(&["node", "approve", "one"])?;
    scene.must_still_release().map(drop)
}

fn commit(suite: &Suite, _: &str) -> Result<()> {
    for (change, code) in [
        (&["node", "retire", "one"][..], "RETIRED"),
        (&["disk", "grant", "one", "--overwrite"], "STATE"),
        (&[], "RELEASED"),
    ] {
        let (mut scene, until) = held_at(suite, "after-commit-verify")?;
        let released = release(&scene.broker, &mut scene.node, Purpose::Provision)?;
        let commit = report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
        let broker = &scene.broker;
        let change = || if change.is_empty() { Ok(()) } else { broker.admin(change).map(drop) };
        let response = overtaken(&until, || broker.wire()?.say("/krp/1/commit", &commit), change)?;
        scene.broker.must_refuse(&response, code).with_context(|| format!("the report before {code}"))?;
    }
    Ok(())
}

/// The node was reset while its report was on the way, and its next boot has been given the share.
fn next_boot(suite: &Suite, _: &str) -> Result<()> {
    let (mut scene, until) = held_at(suite, "after-commit-verify")?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Provision)?;
    let late = report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    let Scene { broker, node, boot, .. } = &mut scene;
    let mut again = None;
    let reboot = || -> Result<()> {
        node.reboot(boot)?;
        again = Some(release(broker, node, Purpose::Provision)?);
        Ok(())
    };
    let response = overtaken(&until, || broker.wire()?.say("/krp/1/commit", &late), reboot)?;
    broker.must_refuse(&response, "STATE")?;
    let again = again.context("no second release")?;
    scene::commit(broker, node, &again, Purpose::Provision).map(drop)
}
