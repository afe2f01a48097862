//! The report and its second quote, one thing changed at a time.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attest::bytes::Bytes32;
use attest::message::{Ack, Commit, CommitResult, Purpose};
use cairn_tests::attester::{HEADER, Released, VOLUME};
use cairn_tests::broker::Broker;
use cairn_tests::suite::Suite;
use measurements::Bank;

use crate::Row;
use crate::scene::{self, Scene, ask, commit, release, report};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("report_of_a_boot_that_was_not_closed_is_refused", not_closed),
        Row::new("report_with_a_register_that_has_moved_is_refused", moved),
        Row::new("report_of_another_boot_is_refused", another_boot),
        Row::new("report_after_its_deadline_is_refused", late),
        Row::new("report_with_another_generation_is_refused", another_generation),
        Row::new("report_on_another_release_is_refused", another_release),
        Row::new("failed_report_gets_no_certificate", failed),
        Row::new("report_that_was_changed_on_its_way_does_not_refuse_the_report_of_the_node", changed_on_its_way),
        Row::new("report_that_was_changed_where_its_quote_covers_it_is_refused", changed_under_the_quote),
        Row::new("report_of_another_result_than_was_released_is_refused", another_result),
        Row::new("quarantined_disk_without_data_is_made_after_a_grant", quarantined),
        Row::new("alarm_of_a_node_holds_its_disk_until_an_operator_grants_it", alarms),
        Row::new("report_after_its_deadline_is_refused_by_a_broker_that_was_restarted", late_after_restart),
    ]
}

fn opened() -> CommitResult {
    CommitResult::Opened { header: HEADER, volume: VOLUME }
}

/// What the node's boot says in PCR 15, in this order.
fn words(scene: &Scene, released: &Released) -> Result<[String; 3]> {
    Ok([
        format!("cluster:{}", hex::encode(&scene.broker.cluster_document()?.id.0)),
        format!("release:{}", hex::encode(released.digest)),
        format!("volume:{}", hex::encode(VOLUME.0)),
    ])
}

/// Sends this report, which must be refused with this code.
fn must_refuse(scene: &mut Scene, released: &Released, result: CommitResult, code: &str) -> Result<()> {
    let commit = scene.node.commit(released, result, released.release.disk.generation + 1)?;
    let response = scene.broker.wire()?.say("/krp/1/commit", &commit)?;
    scene.broker.must_refuse(&response, code)
}

/// The same node, boot and report, with nothing changed.
fn must_still_commit(scene: &mut Scene) -> Result<()> {
    scene.reboot()?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock).map(drop)
}

/// PCR 15 must have cluster, release and volume, in this order, and nothing else.
fn not_closed(suite: &Suite, _: &str) -> Result<()> {
    type Change = fn(&mut Vec<String>);
    const CHANGES: [(&str, Change); 7] = [
        ("nothing", |words| words.clear()),
        ("no cluster", |words| drop(words.remove(0))),
        ("no release", |words| drop(words.remove(1))),
        ("no volume", |words| drop(words.remove(2))),
        ("another release", |words| words[1] = format!("release:{}", "00".repeat(32))),
        ("another order", |words| words.swap(0, 1)),
        ("something behind", |words| words.push("failed:X".into())),
    ];
    let mut scene = Scene::known(suite)?;
    for (what, change) in CHANGES {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        let mut said = words(&scene, &released)?.to_vec();
        change(&mut said);
        said.iter().try_for_each(|word| scene.node.say(word))?;
        must_refuse(&mut scene, &released, opened(), "CAP_MISMATCH").context(what)?;
        must_still_commit(&mut scene)?;
        scene.reboot()?;
    }
    // The volume of the message is the one that was measured.
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    words(&scene, &released)?.iter().try_for_each(|word| scene.node.say(word))?;
    let other = CommitResult::Opened { header: HEADER, volume: Bytes32([9; 32]) };
    must_refuse(&mut scene, &released, other, "CAP_MISMATCH")?;
    must_still_commit(&mut scene)
}

fn moved(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    for register in [0, 8, 12, 14] {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        let digests: Vec<_> = Bank::ALL.into_iter().map(|bank| (bank, bank.digest(b"something else runs"))).collect();
        attester_extend(&mut scene, register, &digests)?;
        words(&scene, &released)?.iter().try_for_each(|word| scene.node.say(word))?;
        must_refuse(&mut scene, &released, opened(), "CAP_MISMATCH").with_context(|| format!("PCR {register}"))?;
        must_still_commit(&mut scene)?;
        scene.reboot()?;
    }
    Ok(())
}

fn attester_extend(scene: &mut Scene, register: u8, digests: &[(Bank, Vec<u8>)]) -> Result<()> {
    cairn_tests::attester::AttesterTpm::extend(&mut scene.node.tpm, register, digests)
}

/// The boot is closed as it must be, and it is the next one.
fn another_boot(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.reboot()?;
    words(&scene, &released)?.iter().try_for_each(|word| scene.node.say(word))?;
    must_refuse(&mut scene, &released, opened(), "STATE")?;
    must_still_commit(&mut scene)
}

fn late(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::with(suite, Broker::start_with("commit_seconds = 1")?)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Provision)?;
    let commit = report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    // Seconds are whole ones.
    thread::sleep(Duration::from_millis(2500));
    let response = scene.broker.wire()?.say("/krp/1/commit", &commit)?;
    scene.broker.must_refuse(&response, "COMMIT_LATE")?;
    scene.reboot()?;
    scene.provision().map(drop)
}

fn another_generation(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    words(&scene, &released)?.iter().try_for_each(|word| scene.node.say(word))?;
    let right = released.release.disk.generation + 1;
    for generation in [0, right - 1, right + 1, u64::from(u32::MAX)] {
        let commit = scene.node.commit(&released, opened(), generation)?;
        let response = scene.broker.wire()?.say("/krp/1/commit", &commit)?;
        scene.broker.must_refuse(&response, "GENERATION").with_context(|| generation.to_string())?;
    }
    let commit = scene.node.commit(&released, opened(), right)?;
    scene.broker.wire()?.must_acknowledge(&commit).map(drop)
}

fn another_release(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let mut released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let digest = released.digest;
    released.digest[0] ^= 1;
    words(&scene, &released)?.iter().try_for_each(|word| scene.node.say(word))?;
    must_refuse(&mut scene, &released, opened(), "STATE")?;
    scene.reboot()?;
    let again = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    ensure!(again.digest != digest, "two releases are one");
    commit(&scene.broker, &mut scene.node, &again, Purpose::Unlock).map(drop)
}

/// The broker vouches for what was opened, and for nothing else.
fn failed(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let commit = scene.node.commit(&released, CommitResult::Failed { code: "DISK_OPEN_FAILED".into() }, 0)?;
    let ack = scene.broker.wire()?.must_acknowledge(&commit)?;
    ensure!(ack.certificate.is_none() && ack.disk.is_none(), "a failed boot is certified");
    scene.reboot()?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let ack = scene::commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    ensure!(ack.certificate.is_some() && ack.disk.is_some(), "a boot that opened its disk is not certified");
    Ok(())
}

/// A holder of the TLS key changes what the quote does not cover, and delivers the report before the node does.
fn changed_on_its_way(suite: &Suite, _: &str) -> Result<()> {
    type Change = fn(&mut Commit) -> Result<()>;
    const CHANGES: [(&str, Change); 3] = [
        ("a stage", |commit| {
            commit.stages.insert("later".into(), 2);
            Ok(())
        }),
        ("the other signature", |commit| negate(&mut commit.signature.0)),
        ("the code", |commit| {
            commit.result = CommitResult::Failed { code: "ROOT_NOT_FOUND".into() };
            Ok(())
        }),
    ];
    let mut scene = Scene::known(suite)?;
    let mut receipts = Vec::new();
    for (what, change) in CHANGES {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        let own = if what == "the code" {
            scene.node.commit(&released, CommitResult::Failed { code: "DISK_OPEN_FAILED".into() }, 0)?
        } else {
            report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?
        };
        let mut changed = own.clone();
        change(&mut changed)?;
        ensure!(changed != own, "{what} was not changed");
        let first = scene.broker.wire()?.must_acknowledge(&changed).context(what)?;
        for _ in 0..2 {
            let ack = scene.broker.wire()?.must_acknowledge(&own).context(what)?;
            ensure!(Ack { commit: first.commit, ..ack } == first, "{what}: another acknowledgement");
        }
        receipts.extend([released.release.receipt.size, first.receipt.size]);
        scene.reboot()?;
    }
    ensure!(receipts.windows(2).all(|sizes| sizes[1] == sizes[0] + 1), "rows were added: {receipts:?}");
    Ok(())
}

/// A holder of the TLS key changes what the quote covers after it was made, or puts another quote there.
fn changed_under_the_quote(suite: &Suite, _: &str) -> Result<()> {
    type Change = fn(&mut Commit);
    const CHANGES: [(&str, Change, &str); 6] = [
        ("the header", |commit| *fields(commit).0 = Bytes32([9; 32]), "BINDER_MISMATCH"),
        ("the volume", |commit| *fields(commit).1 = Bytes32([9; 32]), "BINDER_MISMATCH"),
        ("the generation", |commit| commit.generation += 1, "BINDER_MISMATCH"),
        (
            "the result",
            |commit| commit.result = CommitResult::Failed { code: "DISK_KEY_WRONG".into() },
            "BINDER_MISMATCH",
        ),
        ("a register", |commit| commit.registers[3].0[0] ^= 1, "PCR_DIGEST"),
        ("the signature", |commit| *commit.signature.0.last_mut().unwrap_or(&mut 0) ^= 1, "QUOTE_SIGNATURE"),
    ];
    let mut scene = Scene::new(suite)?;
    let mut other = scene.another("two")?;
    for purpose in [Purpose::Provision, Purpose::Unlock] {
        let released = release(&scene.broker, &mut scene.node, purpose)?;
        let own = report(&scene.broker, &mut scene.node, &released, purpose)?;
        for (what, change, code) in CHANGES {
            let mut changed = own.clone();
            change(&mut changed);
            ensure!(changed != own, "{what} was not changed");
            let response = scene.broker.wire()?.say("/krp/1/commit", &changed)?;
            scene.broker.must_refuse(&response, code).with_context(|| format!("{purpose:?}, {what}"))?;
        }
        // All is as the node says it, and another TPM quotes it.
        let response =
            scene.broker.wire()?.say("/krp/1/commit", &other.commit(&released, own.result.clone(), own.generation)?)?;
        scene.broker.must_refuse(&response, "AK_MISMATCH").with_context(|| format!("{purpose:?}, another TPM"))?;
        scene.broker.wire()?.must_acknowledge(&own)?;
        scene.node.keep(&released);
        scene.reboot()?;
    }
    Ok(())
}

/// Header and volume of a report on a disk that was made or opened.
fn fields(commit: &mut Commit) -> (&mut Bytes32, &mut Bytes32) {
    match &mut commit.result {
        CommitResult::Formatted { header, volume } | CommitResult::Opened { header, volume } => (header, volume),
        CommitResult::Failed { .. } => unreachable!("the report is on an open disk"),
    }
}

/// The second valid signature (r, n - s) of a TPMT_SIGNATURE of ECDSA with P-256, which ends with s.
fn negate(signature: &mut [u8]) -> Result<()> {
    /// Order of the group of P-256 (SEC 2, section 2.4.2).
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let start = signature.len().checked_sub(32).context("the signature is too short")?;
    let mut borrow = 0;
    for (byte, order) in signature[start..].iter_mut().zip(hex::decode(ORDER)?).rev() {
        let difference = i16::from(order) - i16::from(*byte) - borrow;
        borrow = i16::from(difference < 0);
        *byte = difference.rem_euclid(256) as u8;
    }
    Ok(())
}

/// A disk that was released to be opened was not made, and the other way round: the quote covers the purpose, and not the word of the result.
fn another_result(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let made = CommitResult::Formatted { header: HEADER, volume: VOLUME };
    for (purpose, result) in [(Purpose::Provision, opened()), (Purpose::Unlock, made)] {
        let released = release(&scene.broker, &mut scene.node, purpose)?;
        let own = report(&scene.broker, &mut scene.node, &released, purpose)?;
        let changed = Commit { result, ..own.clone() };
        let response = scene.broker.wire()?.say("/krp/1/commit", &changed)?;
        scene.broker.must_refuse(&response, "STATE")?;
        scene.broker.wire()?.must_acknowledge(&own)?;
        scene.node.keep(&released);
        scene.reboot()?;
    }
    Ok(())
}

/// Codes of the agent that show a changed disk or an older database, and two that show neither.
fn alarms(suite: &Suite, _: &str) -> Result<()> {
    const ALARMS: [&str; 7] = [
        "BROKER_BEHIND",
        "DISK_KEY_WRONG",
        "DISK_ROLLBACK",
        "DISK_TABLE_MISMATCH",
        "GENERATION_INVALID",
        "HEADER_DIGEST",
        "HEADER_INVALID",
    ];
    const OTHERS: [&str; 2] = ["DISK_OPEN_FAILED", "FILESYSTEM_DAMAGED"];
    let mut scene = Scene::known(suite)?;
    for code in ALARMS.into_iter().chain(OTHERS) {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        let failed = scene.node.commit(&released, CommitResult::Failed { code: code.into() }, 0)?;
        scene.broker.wire()?.must_acknowledge(&failed)?;
        scene.reboot()?;
        if ALARMS.contains(&code) {
            let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
            scene.broker.must_refuse(&response, "HOLD").context(code)?;
            scene.broker.admin(&["disk", "grant", "one"])?;
        }
        must_still_commit(&mut scene).context(code)?;
        scene.reboot()?;
    }
    Ok(())
}

/// After a restart, the deadline is a time of the calendar. The host's clock is set, so that the row waits for nothing.
fn late_after_restart(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::with(suite, Broker::start_with("commit_seconds = 300")?)?;
    let restart = |scene: &mut Scene, offset: &str| -> Result<()> {
        scene.broker.kill();
        scene.broker.run_with(&[("CAIRN_CLOCK_OFFSET", offset)])
    };
    let released = release(&scene.broker, &mut scene.node, Purpose::Provision)?;
    let in_time = report(&scene.broker, &mut scene.node, &released, Purpose::Provision)?;
    restart(&mut scene, "0")?;
    scene.broker.wire()?.must_acknowledge(&in_time).context("the control: a report in time")?;
    scene.node.keep(&released);
    scene.reboot()?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let late = report(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    restart(&mut scene, "310")?;
    let response = scene.broker.wire()?.say("/krp/1/commit", &late)?;
    scene.broker.must_refuse(&response, "COMMIT_LATE")?;
    must_still_commit(&mut scene)
}

/// The node raised an alarm before its new disk was finished: there is no header to open it by, and no data to lose.
fn quarantined(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Provision)?;
    let commit = scene.node.commit(&released, CommitResult::Failed { code: "DISK_KEY_WRONG".into() }, 0)?;
    scene.broker.wire()?.must_acknowledge(&commit)?;
    scene.reboot()?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Provision)?;
    scene.broker.must_refuse(&response, "HOLD")?;
    scene.broker.admin(&["disk", "grant", "one"])?;
    let again = scene.provision()?;
    ensure!(*again.share == *released.share, "the quarantined disk was given another share");
    scene.reboot()?;
    scene.must_still_unlock()
}
