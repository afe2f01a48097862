//! Which machine a node is, and which boot: names that change hands, keys that change, TPMs that are cleared, boots that never report.

use anyhow::{Context as _, Result, bail, ensure};
use attest::bytes::Bytes32;
use attest::message::{CommitResult, DiskState, Purpose};
use cairn_tests::attester::hpke_key;
use cairn_tests::broker::Broker;
use cairn_tests::records;
use cairn_tests::suite::Suite;
use xtask::vm::tpm_commands::SigningKey;

use crate::Row;
use crate::holds::{must_hold, resets};
use crate::operation::{plain, with_metrics};
use crate::scene::{Node, Scene, ask, provision, release};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("predictions_of_a_revoked_release_are_dropped", predictions),
        Row::new("retired_machine_gets_nothing_of_its_successor", successor),
        Row::new("second_attestation_key_of_one_boot_gets_no_second_share", second_key),
        Row::new("disk_granted_in_a_released_boot_gets_no_share", granted_in_the_boot),
        Row::new("another_header_or_a_foreign_disk_gets_nothing_without_a_grant", other_contents),
        Row::new("cleared_tpm_is_held_until_approval", cleared),
        Row::new("boots_that_never_report_are_held", unreported),
        Row::new("failed_report_does_not_reset_the_count_of_unreported_boots", failures),
        Row::new("held_node_adds_one_row_to_the_audit_log", held_once),
        Row::new("database_that_gives_a_key_to_another_node_is_refused", changed_index),
        Row::new("machine_that_the_index_gives_to_another_node_gets_nothing", index_changed_meanwhile),
    ]
}

/// A name is retired and given to a new machine; the old one boots with a copy of the new one's disk.
fn successor(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    scene.broker.admin(&["node", "retire", "one"])?;
    let mut new = scene.stranger()?;
    scene.enrol("one", &new)?;
    // The index is checked when the broker opens: the old key is in it no more.
    scene.broker.kill();
    scene.broker.run()?;
    scene.broker.admin(&["disk", "grant", "one", "--overwrite"])?;
    provision(&scene.broker, &mut new)?;
    scene.node.disk = new.disk.clone();
    for purpose in [Purpose::Unlock, Purpose::Provision] {
        let (_, response) = ask(&scene.broker, &mut scene.node, purpose)?;
        scene.broker.must_refuse(&response, "EK_UNTRUSTED")?;
    }
    new.reboot(&scene.boot)?;
    release(&scene.broker, &mut new, Purpose::Unlock).map(drop)
}

/// A TPM has as many attestation keys as it is asked for; the boot is the machine's.
fn second_key(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    scene.must_still_unlock()?;
    let commands = &mut scene.node.tpm.tpm.commands;
    commands.flush(scene.node.tpm.ak.handle)?;
    scene.node.tpm.ak = commands.signing_key(SigningKey::Attestation(1))?;
    scene.node.hpke = hpke_key()?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    ensure!(response.status == 202, "another key of a node is answered with {}", response.status);
    scene.broker.must_refuse(&response, "AK_CHANGED")?;
    // Also where the operator approves the key, the boot has had its share.
    scene.broker.admin(&["node", "approve", "one"])?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, "BOOT_LATCHED")?;
    scene.reboot()?;
    let commands = &mut scene.node.tpm.tpm.commands;
    commands.flush(scene.node.tpm.ak.handle)?;
    scene.node.tpm.ak = commands.signing_key(SigningKey::Attestation(1))?;
    scene.must_still_unlock()
}

/// A grant removes the disk's record: only the latch knows then that the boot has had a share.
fn granted_in_the_boot(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    scene.must_still_unlock()?;
    scene.broker.admin(&["disk", "grant", "one", "--overwrite"])?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, "BOOT_LATCHED")?;
    scene.reboot()?;
    scene.must_still_release().map(drop)
}

/// The record decides which header is the disk's own, and one grant overwrites a foreign disk once.
fn other_contents(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let own = scene.node.disk.clone();
    let DiskState::Luks { uuid, .. } = own.clone() else { bail!("the node has no disk: {own:?}") };
    scene.node.disk = DiskState::Luks { uuid, digest: Bytes32([7; 32]) };
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, "HEADER_DIGEST")?;
    scene.node.disk = own;
    scene.must_still_unlock()?;

    let mut new = scene.another("two")?;
    new.disk = DiskState::Foreign;
    let must_hold = |new: &mut Node| -> Result<()> {
        let (_, response) = ask(&scene.broker, new, Purpose::Provision)?;
        ensure!(response.status == 202, "a foreign disk is answered with {}", response.status);
        scene.broker.must_refuse(&response, "DISK_FOREIGN")
    };
    must_hold(&mut new)?;
    scene.broker.admin(&["disk", "grant", "two", "--overwrite"])?;
    release(&scene.broker, &mut new, Purpose::Provision)?;
    // The boot ended without a report, and the disk was exchanged for another one.
    new.reboot(&scene.boot)?;
    must_hold(&mut new)?;
    new.disk = DiskState::Blank;
    release(&scene.broker, &mut new, Purpose::Provision).map(drop)
}

/// TPM2_Clear takes the counts back to zero: boots of today have the names of earlier ones.
fn cleared(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    for _ in 0..3 {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        crate::scene::commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
        scene.reboot()?;
    }
    scene.must_still_unlock()?;
    let last = resets(&mut scene.node)?;
    scene.node.tpm.tpm.commands.clear()?;
    scene.reboot()?;
    must_hold(&mut scene, "TPM_CLEARED")?;
    // Also when its counts have passed those of the last release.
    while resets(&mut scene.node)? <= last + 1 {
        scene.reboot()?;
        must_hold(&mut scene, "TPM_CLEARED").with_context(|| format!("the last release had {last} resets"))?;
    }
    scene.broker.admin(&["node", "approve", "one"])?;
    // The boot that was held is not the one that is released.
    scene.reboot()?;
    scene.must_still_unlock()?;
    scene.reboot()?;
    scene.must_still_unlock()
}

/// What an operator and an alarm see of boots without a report.
fn must_show_unreported(broker: &Broker, boots: usize) -> Result<()> {
    for shown in
        [broker.disk("one", "unreported_boots")?, broker.admin(&["disk", "list"])?[0]["unreported_boots"].take()]
    {
        ensure!(shown == boots, "{shown} boots without a report are shown, not {boots}");
    }
    let metrics = plain(broker, "/metrics")?;
    let line = format!("\ncairn_broker_unreported_boots {boots}\n");
    ensure!(metrics.contains(&line), "no {line:?} in {metrics}");
    Ok(())
}

/// A prediction is as large as its release makes it: a release that nobody gets any more leaves none.
fn predictions(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::new("")?;
    with_metrics(&broker)?;
    broker.run()?;
    let mut scene = Scene::with(suite, broker)?;
    let kept = |scene: &Scene, count: usize| -> Result<()> {
        let metrics = plain(&scene.broker, "/metrics")?;
        ensure!(metrics.contains(&format!("\ncairn_broker_predictions {count}\n")), "not {count}: {metrics}");
        Ok(())
    };
    kept(&scene, 0)?;
    scene.must_still_release()?;
    kept(&scene, 1)?;
    let allowed = scene.broker.admin(&["release", "list"])?[0]["release"].as_str().unwrap_or_default().to_owned();
    scene.broker.admin(&["release", "revoke", &allowed])?;
    kept(&scene, 0)
}

/// Whoever drops the reports would keep the generation where it is, for ever.
fn unreported(suite: &Suite, _: &str) -> Result<()> {
    const ALLOWED: usize = 3;
    let mut broker = Broker::new("")?;
    with_metrics(&broker)?;
    broker.run()?;
    let mut scene = Scene::with(suite, broker)?;
    scene.provision()?;
    scene.reboot()?;
    must_show_unreported(&scene.broker, 0)?;
    for number in 1..=ALLOWED {
        scene.must_still_unlock()?;
        // Before the hold, while there is time to look for what drops the reports.
        must_show_unreported(&scene.broker, number)?;
        scene.reboot()?;
    }
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    ensure!(response.status == 202, "a node that never reports is answered with {}", response.status);
    scene.broker.must_refuse(&response, "COMMIT_MISSING")?;
    scene.broker.admin(&["node", "approve", "one"])?;
    must_show_unreported(&scene.broker, 0)?;
    // With a report after each, there is no end.
    for _ in 0..=ALLOWED {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        crate::scene::commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
        scene.reboot()?;
    }
    scene.must_still_unlock()
}

/// A failure that is reported raises no generation, so it excuses no boot but its own.
fn failures(suite: &Suite, _: &str) -> Result<()> {
    const ALLOWED: usize = 3;
    let fail = |scene: &mut Scene| -> Result<()> {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        let result = CommitResult::Failed { code: "DISK_OPEN_FAILED".into() };
        let commit = scene.node.commit(&released, result, 0)?;
        scene.broker.wire()?.must_acknowledge(&commit)?;
        scene.reboot()
    };
    let mut scene = Scene::known(suite)?;
    // Failures alone are reports: there is no end.
    for _ in 0..=ALLOWED {
        fail(&mut scene)?;
    }
    for number in 0..ALLOWED {
        scene.must_still_unlock()?;
        scene.reboot()?;
        if number + 1 < ALLOWED {
            fail(&mut scene)?;
        }
    }
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, "COMMIT_MISSING")?;
    scene.broker.admin(&["node", "approve", "one"])?;
    scene.must_still_unlock()
}

fn held_once(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let ek = scene.node.tpm.endorsement_key_digest();
    let machine = cairn_tests::node::Node::machine_reference()?.display().to_string();
    scene.broker.admin(&["node", "enrol", "one", "--ek", &ek, "--machine", &machine, "--hold"])?;
    let leaves = |scene: &Scene| -> Result<u64> {
        Ok(scene.broker.admin(&["audit", "verify"])?["leaves"].as_u64().unwrap_or_default())
    };
    let before = leaves(&scene)?;
    let mut bodies = Vec::new();
    for _ in 0..4 {
        let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
        scene.broker.must_refuse(&response, "NODE_HELD")?;
        bodies.push(scene.broker.decision::<attest::message::Hold>(&response)?.request);
    }
    ensure!(leaves(&scene)? == before + 1, "each question of a held node is a row");
    ensure!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "the request changes while the reason does not");
    scene.broker.admin(&["node", "approve", "one"])?;
    scene.must_still_release().map(drop)
}

/// A row that no command writes: the index says that this machine is node `one`, which has another key.
fn add_to_index(scene: &Scene, machine: &Node) -> Result<Vec<u8>> {
    let key = hex::decode(machine.tpm.endorsement_key_digest())?;
    records::write(&scene.broker, "endorsement_keys", &key, b"one")?;
    Ok(key)
}

fn changed_index(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let stranger = scene.stranger()?;
    scene.broker.kill();
    let key = add_to_index(&scene, &stranger)?;
    let words = scene.broker.run_refusing_rows()?;
    ensure!(words.contains("names node \"one\""), "the broker says {words}");
    let trusted = scene.broker.trust_database().err().context("the operator accepts all rows")?;
    let words = format!("{trusted:#}");
    ensure!(words.contains("names node \"one\""), "the broker says {words}");
    records::remove(&scene.broker, "endorsement_keys", &key)?;
    scene.broker.unseal()?;
    scene.must_still_release().map(drop)
}

/// The same while the broker runs: it has checked the index before.
fn index_changed_meanwhile(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let mut stranger = scene.stranger()?;
    stranger.disk = scene.node.disk.clone();
    add_to_index(&scene, &stranger)?;
    for purpose in [Purpose::Unlock, Purpose::Provision] {
        let (_, response) = ask(&scene.broker, &mut stranger, purpose)?;
        scene.broker.must_refuse(&response, "EK_UNTRUSTED")?;
        // It was refused as an unknown machine, before its evidence was appraised as that of the node.
        ensure!(scene.broker.last_node()?.is_empty(), "the refusal is recorded under the node's name");
    }
    scene.must_still_unlock()
}
