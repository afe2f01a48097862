//! Holds and refusals that must not end by themselves: a TPM that was cleared is held until its approval, and approval of one reason approves no other. Evidence of an earlier boot that arrives late holds no node.

use anyhow::{Result, ensure};
use attest::message::Purpose;
use attest::tpm::{self, AttestationKey};
use cairn_tests::attester::AttesterTpm as _;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use measurements::Bank;
use xtask::vm::tpm_commands::SigningKey;

use crate::Row;
use crate::scene::{Node, Scene, ask, commit, release};

/// Boots that may unlock a disk without a report.
const UNREPORTED: usize = 3;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("boot_with_the_counts_of_the_last_release_is_released_after_approval", equal_counts),
        Row::new("tpm_that_is_cleared_while_its_node_is_held_is_held_for_both", cleared_while_held),
        Row::new("approval_of_another_hold_approves_neither_a_cleared_tpm_nor_another_key", another_hold),
        Row::new("late_evidence_of_an_earlier_boot_holds_no_node", earlier_boot),
    ]
}

/// How often its TPM says that it was reset.
pub fn resets(node: &mut Node) -> Result<u32> {
    const EXTRA_DATA: [u8; 32] = [0; 32];
    let quote = node.tpm.quote(Bank::Sha384, &EXTRA_DATA)?;
    let key = AttestationKey::parse(node.tpm.attestation_key())?;
    let registers = (0..).zip(quote.registers).collect();
    let evidence = tpm::Evidence { attest: &quote.attest, signature: &quote.signature, registers: &registers };
    Ok(tpm::check(&evidence, &key, Bank::Sha384, &EXTRA_DATA)?.boot.reset)
}

/// The node is held for this reason.
pub fn must_hold(scene: &mut Scene, code: &str) -> Result<()> {
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let found = scene.broker.judged(&response)?;
    ensure!(response.status == 202 && found == code, "{} {found}, not a hold of {code}", response.status);
    Ok(())
}

/// Boots that report, and one that does not: its counts are those of the node's latch.
fn boots(scene: &mut Scene) -> Result<u32> {
    for _ in 0..3 {
        let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
        commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
        scene.reboot()?;
    }
    scene.must_still_unlock()?;
    resets(&mut scene.node)
}

/// Nobody asks in the boots between approval and the one whose counts are those of the last release.
fn equal_counts(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let last = boots(&mut scene)?;
    scene.node.tpm.tpm.commands.clear()?;
    scene.reboot()?;
    must_hold(&mut scene, "TPM_CLEARED")?;
    scene.broker.admin(&["node", "approve", "one"])?;
    while resets(&mut scene.node)? < last {
        scene.reboot()?;
    }
    ensure!(resets(&mut scene.node)? == last, "the count of the last release was left out");
    scene.must_still_unlock()?;
    let (_, response) = ask(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.broker.must_refuse(&response, "BOOT_LATCHED")?;
    scene.reboot()?;
    scene.must_still_unlock()
}

/// The reason that comes first hides the other one from the node, and not from the broker.
fn cleared_while_held(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let last = boots(&mut scene)?;
    let ek = scene.node.tpm.endorsement_key_digest();
    let machine = Machine::machine_reference()?.display().to_string();
    scene.broker.admin(&["node", "enrol", "one", "--ek", &ek, "--machine", &machine, "--hold"])?;
    scene.node.tpm.tpm.commands.clear()?;
    scene.reboot()?;
    must_hold(&mut scene, "NODE_HELD")?;
    while resets(&mut scene.node)? <= last {
        scene.reboot()?;
    }
    scene.broker.admin(&["node", "approve", "one"])?;
    must_hold(&mut scene, "TPM_CLEARED")?;
    // The reason has changed since the operator read it.
    let output = scene.broker.command(&["node", "approve", "one", "--code", "NODE_HELD"])?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && words.contains("waits for TPM_CLEARED"), "another reason is approved: {words}");
    must_hold(&mut scene, "TPM_CLEARED")?;
    scene.broker.admin(&["node", "approve", "one", "--code", "TPM_CLEARED"])?;
    scene.must_still_unlock()
}

fn another_hold(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    for _ in 0..UNREPORTED {
        scene.must_still_unlock()?;
        scene.reboot()?;
    }
    must_hold(&mut scene, "COMMIT_MISSING")?;
    scene.broker.admin(&["node", "approve", "one"])?;
    let commands = &mut scene.node.tpm.tpm.commands;
    commands.flush(scene.node.tpm.ak.handle)?;
    scene.node.tpm.ak = commands.signing_key(SigningKey::Attestation(1))?;
    must_hold(&mut scene, "AK_CHANGED")?;
    scene.node.tpm.tpm.commands.clear()?;
    scene.reboot()?;
    must_hold(&mut scene, "TPM_CLEARED")?;
    scene.broker.admin(&["node", "approve", "one"])?;
    scene.must_still_unlock()
}

/// A network attacker holds evidence back until the next boot has its release.
fn earlier_boot(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let mut earlier = scene.begin(Purpose::Unlock)?;
    let evidence = scene.node.evidence(&earlier)?;
    scene.reboot()?;
    scene.must_still_unlock()?;
    let response = earlier.show(&evidence)?;
    ensure!(response.status == 408, "evidence of an earlier boot: {}", scene.broker.judged(&response)?);
    scene.reboot()?;
    scene.must_still_unlock()
}
