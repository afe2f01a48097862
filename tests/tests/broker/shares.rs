//! Shares that were taken away, and records of disks that somebody moved in the database: neither gives a share to a machine that it is not for.

use anyhow::{Context, Result, ensure};
use attest::message::{DiskState, Purpose};
use cairn_tests::attester::Attester;
use cairn_tests::node::Node as Machine;
use cairn_tests::records;
use cairn_tests::suite::Suite;

use crate::Row;
use crate::scene::{Scene, ask, release, report};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("reply_is_not_sent_again_after_its_share_was_taken_away", taken_away),
        Row::new("reply_of_a_held_node_is_sent_again_after_approval", held),
        Row::new("reply_of_a_node_whose_tpm_was_cleared_is_not_sent_again", cleared),
        Row::new("disk_record_that_was_moved_to_another_node_gives_no_share", moved),
        Row::new("disk_is_not_moved_to_a_retired_node", to_retired),
    ]
}

fn taken_away(suite: &Suite, _: &str) -> Result<()> {
    const COMMANDS: [(&[&str], &str); 3] = [
        (&["node", "retire", "one"], "RETIRED"),
        (&["disk", "grant", "one", "--overwrite"], "STATE"),
        (&["disk", "grant", "two", "--rebind-from", "one"], "STATE"),
    ];
    for (words, code) in COMMANDS {
        let mut scene = Scene::known(suite)?;
        let mut two = scene.another("two")?;
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        let again = scene.broker.wire()?.resume(&released.session)?;
        ensure!(again.status == 200 && again.body == released.body, "{words:?}: another reply than before");
        let moves = words.contains(&"--rebind-from");
        if moves {
            // For the disk that node two does not get.
            scene.broker.admin(&["disk", "grant", "two", "--overwrite"])?;
        }
        scene.broker.admin(words)?;
        for _ in 0..2 {
            let response = scene.broker.wire()?.resume(&released.session)?;
            scene.broker.must_refuse(&response, "SESSION_INVALID").with_context(|| format!("{words:?}"))?;
            // Also when the machine is used again.
            scene.enrol("one", &scene.node)?;
        }
        let commit = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
        let response = scene.broker.wire()?.say("/krp/1/commit", &commit)?;
        scene.broker.must_refuse(&response, code).with_context(|| format!("{words:?}"))?;
        if moves {
            two.disk = scene.node.disk.clone();
            let new = release(&scene.broker, &mut two, Purpose::Unlock)?;
            ensure!(new.share == released.share, "the disk has another share than before");
            ensure!(!new.release.disk.overwrite, "a grant for another disk overwrites this one");
        }
    }
    Ok(())
}

/// Nobody could open it there, and the shares of a retired node are destroyed.
fn to_retired(suite: &Suite, _: &str) -> Result<()> {
    const MOVE: [&str; 5] = ["disk", "grant", "two", "--rebind-from", "one"];
    let mut scene = Scene::known(suite)?;
    let mut two = scene.another("two")?;
    scene.broker.admin(&["node", "retire", "two"])?;
    let refused = scene.broker.admin(&MOVE).err().context("a disk is moved to a retired node")?.to_string();
    ensure!(refused.contains("\"two\" is retired") && refused.contains("node enrol"), "{refused}");
    scene.must_still_unlock()?;
    scene.enrol("two", &two)?;
    scene.broker.admin(&MOVE)?;
    two.disk = scene.node.disk.clone();
    release(&scene.broker, &mut two, Purpose::Unlock).map(drop)
}

/// A hold delays: the release that was decided before it is there afterwards.
fn held(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let ek = scene.node.tpm.endorsement_key_digest();
    let machine = Machine::machine_reference()?.display().to_string();
    scene.broker.admin(&["node", "enrol", "one", "--ek", &ek, "--machine", &machine, "--hold"])?;
    let response = scene.broker.wire()?.resume(&released.session)?;
    scene.broker.must_refuse(&response, "SESSION_INVALID")?;
    scene.broker.admin(&["node", "approve", "one", "--code", "NODE_HELD"])?;
    let again = scene.broker.wire()?.resume(&released.session)?;
    ensure!(again.status == 200 && again.body == released.body, "another reply than before");
    Ok(())
}

fn cleared(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let again = scene.broker.wire()?.resume(&released.session)?;
    ensure!(again.status == 200 && again.body == released.body, "another reply than before");
    scene.node.tpm.tpm.commands.clear()?;
    scene.reboot()?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, "TPM_CLEARED")?;
    for _ in 0..2 {
        let response = scene.broker.wire()?.resume(&released.session)?;
        scene.broker.must_refuse(&response, "SESSION_INVALID")?;
        scene.broker.admin(&["node", "approve", "one"])?;
    }
    scene.must_still_unlock()
}

/// Gives the only disk of the database to this node, as no command does.
fn move_disk(scene: &mut Scene, from: &str, to: &str) -> Result<()> {
    scene.broker.kill();
    let (old, record) = records::first(&scene.broker, "disks")?;
    let (id, _) = records::first(&scene.broker, "disk_ids")?;
    let node = |name: &str| format!("\"node\":\"{name}\"");
    let record = String::from_utf8(record)?;
    let moved = record.replace(&node(from), &node(to));
    ensure!(moved != record, "the disk is not of node {from}");
    let key = format!("{to}/state").into_bytes();
    records::remove(&scene.broker, "disks", &old)?;
    records::write(&scene.broker, "disks", &key, moved.as_bytes())?;
    records::write(&scene.broker, "disk_ids", &id, &key)?;
    scene.broker.run()
}

fn moved(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let tpm = cairn_tests::attester::emulated::Emulated::new(&suite.sandbox)?;
    let mut two = Attester::booted(tpm, &scene.boot)?;
    scene.enrol("two", &two)?;
    two.disk = scene.node.disk.clone();
    ensure!(two.disk != DiskState::Blank, "the node has no disk");
    move_disk(&mut scene, "one", "two")?;
    let (_, response) = ask(&scene.broker, &mut two, Purpose::Unlock)?;
    ensure!(response.status == 503, "a moved record: {}", scene.broker.judged(&response)?);
    let printed = String::from_utf8_lossy(&scene.broker.printed()?).into_owned();
    ensure!(printed.contains("is not wrapped for the TPM of node two"), "the broker prints {printed}");
    move_disk(&mut scene, "two", "one")?;
    scene.must_still_unlock()
}
