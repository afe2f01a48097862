//! The broker is killed where it hurts most, and started again: nothing is released twice, no disk is lost, and the node gets on.

use anyhow::{Result, ensure};
use attest::message::Purpose;
use cairn_tests::attacks::code;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;

use crate::Row;
use crate::scene::{self, Scene, ask, report};

/// Places where the broker dies while it answers evidence, and whether the release is in the database by then.
const IN_EVIDENCE: [(&str, bool); 3] = [("after-verify", false), ("after-insert", false), ("after-transaction", true)];
/// The same for a report.
const IN_COMMIT: [(&str, bool); 3] =
    [("after-commit-verify", false), ("after-commit-insert", false), ("after-commit-transaction", true)];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_broker_killed_at_any_step_releases_once_and_loses_nothing", crashes),
        Row::new("broker_killed_while_leaves_move_loses_and_repeats_no_leaf", leaves_move),
    ]
}

/// Places where the broker dies while it moves leaves of the audit log from the database to a file.
const IN_MOVING: [&str; 4] =
    ["after-bundle-write", "after-bundle-rename", "after-bundle-removal", "after-bundle-transaction"];

/// Starts the broker anew, so that it dies at this place; or nowhere.
fn restart(scene: &mut Scene, place: Option<&str>) -> Result<()> {
    scene.broker.kill();
    let variables: Vec<_> = place.map(|place| ("CAIRN_FAULT", place)).into_iter().collect();
    scene.broker.run_with(&variables)
}

fn generation(scene: &Scene, expected: u64) -> Result<()> {
    let found = scene.broker.disk("one", "generation")?;
    ensure!(found.as_u64() == Some(expected), "{code} commits gave generation {found}", code = expected);
    Ok(())
}

fn crashes(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let mut commits = 0;
    let mut share = None;
    // The disk is made in the first round, and opened in all others.
    for (place, written) in IN_EVIDENCE.into_iter().chain(IN_EVIDENCE) {
        let purpose = if commits == 0 { Purpose::Provision } else { Purpose::Unlock };
        restart(&mut scene, Some(place))?;
        let mut talk = scene.begin(purpose)?;
        let evidence = scene.node.evidence(&talk)?;
        ensure!(talk.show(&evidence).is_err(), "the broker did not die at {place}");
        restart(&mut scene, None)?;
        let resumed = scene.broker.wire()?.resume(&talk.challenge.session)?;
        let released = if written {
            ensure!(resumed.status == 200, "{place}: the release is lost");
            let (_, again) = ask(&scene.broker, &mut scene.node, purpose)?;
            scene.broker.must_refuse(&again, "BOOT_LATCHED")?;
            scene.node.open(&talk, &resumed.body)?
        } else {
            scene.broker.must_refuse(&resumed, "SESSION_INVALID")?;
            scene::release(&scene.broker, &mut scene.node, purpose)?
        };
        let first = share.get_or_insert_with(|| released.share.clone());
        ensure!(*first == released.share, "{place}: the disk has another share than before");
        scene::commit(&scene.broker, &mut scene.node, &released, purpose)?;
        commits += 1;
        generation(&scene, commits)?;
        scene.reboot()?;
    }
    for (place, written) in IN_COMMIT {
        let released = scene::release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        let commit = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
        restart(&mut scene, Some(place))?;
        ensure!(scene.broker.wire()?.say("/krp/1/commit", &commit).is_err(), "the broker did not die at {place}");
        restart(&mut scene, None)?;
        generation(&scene, commits + u64::from(written))?;
        let ack = scene.broker.wire()?.must_acknowledge(&commit)?;
        commits += 1;
        ensure!(ack.generation == commits, "{place}: generation {} was acknowledged, not {commits}", ack.generation);
        generation(&scene, commits)?;
        scene.reboot()?;
    }
    ensure!(code(54) == "COMMITTED" && commits == 9, "{commits} commits");
    scene.broker.admin(&["audit", "verify"]).map(drop)
}

fn leaves_move(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.broker.enrol_idle(&Machine::machine_reference()?)?;
    let mut decided = 0;
    for place in IN_MOVING {
        restart(&mut scene, Some(place))?;
        let mut alive = 0;
        while alive < 3000 && scene.broker.fill_audit(1).is_ok() {
            alive += 1;
        }
        ensure!(alive < 3000, "the broker did not die at {place}");
        decided += alive;
        restart(&mut scene, None)?;
        let rows = scene.broker.audit_rows()?;
        let verified = scene.broker.admin(&["audit", "verify"])?;
        let leaves = scene.broker.admin(&["audit", "tail", "1000000"])?;
        let numbers = leaves.as_array().into_iter().flatten().map(|leaf| leaf["number"].as_u64());
        ensure!(numbers.clone().eq((0..).map(Some).take(numbers.clone().count())), "{place}: leaves are not in order");
        let (count, size) = (numbers.count() as u64, verified["leaves"].as_u64().unwrap_or_default());
        ensure!(
            count == size && size >= decided && size > rows,
            "{place}: {count} of {size} leaves, {decided} decided"
        );
    }
    let left = std::fs::read_dir(scene.broker.file("audit"))?.count();
    // The directory `tile`, and what the deaths before renaming left, which a later start removes.
    ensure!(left <= 1 + IN_MOVING.len(), "{left} files are left");
    Ok(())
}
