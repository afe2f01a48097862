//! A whole broker in this process, as `init` makes it and an operator uses it.

use std::path::{Path, PathBuf};

use attest::bytes::{Bytes32, Hex};
use attest::cluster::Assurance;
use measurements::Bank;
use transparency::verifier_key::{Role, VerifierKey};

use super::hello::unknown_bank;
use super::ready::MAX_CLOCK_BEHIND_SECONDS;
use super::{AdminCommand, Engine, Settings, Trouble, Unready};
use crate::code::{Code, Own};
use crate::config::Config;
use crate::init::{self, Plan};
use crate::server;
use crate::socket::{self, Files};
use crate::store::Table;

const MACHINE: &[u8] = include_bytes!("../../../measurements/machines/q35-ovmf-2025.02-1cpu-1gib.machine.json");

pub(crate) fn init(folder: &Path) -> PathBuf {
    let plan = Plan {
        folder: folder.join("broker"),
        assurance: Assurance::Development,
        listen: "127.0.0.1:0".parse().unwrap(),
        serial: None,
        layout: None,
        existing: None,
    };
    init::run(&plan, b"a passphrase").unwrap();
    plan.folder
}

pub(crate) fn open(folder: &Path) -> anyhow::Result<Engine> {
    open_with(folder, Settings::default())
}

fn open_with(folder: &Path, settings: Settings) -> anyhow::Result<Engine> {
    let cluster = std::fs::read(folder.join("cluster.json")).unwrap();
    let engine = Engine::open(&folder.join("database"), &cluster, settings)?;
    server::tls(&Config::read(&folder.join("broker.toml"))?, &engine)?;
    let files = Files::beside(&folder.join("broker.toml"));
    socket::unseal(&engine, &files, b"a passphrase")?;
    Ok(engine)
}

/// Writes a value of no meaning into the database of a broker that does not run.
pub(crate) fn put_state(folder: &Path, value: &[u8]) {
    let engine = open(folder).unwrap();
    engine.store.transact(&mut |open| open.put(Table::State, b"x", value)).unwrap();
}

/// The same by a broker that is killed: nothing closes the database, and the row is in its write-ahead log alone.
pub(crate) fn put_state_and_die(folder: &Path, value: &[u8]) {
    let engine = open(folder).unwrap();
    engine.fold().unwrap();
    engine.store.transact(&mut |open| open.put(Table::State, b"x", value)).unwrap();
    std::mem::forget(engine);
}

/// The value that [`put_state`] wrote, in this database of a broker whose keys are beside it.
pub(crate) fn state_of(database: &Path) -> Option<Vec<u8>> {
    let files = Files::beside(&database.with_file_name("broker.toml"));
    let cluster = std::fs::read(database.with_file_name("cluster.json")).unwrap();
    let engine = Engine::open(database, &cluster, Settings::default()).unwrap();
    socket::unseal(&engine, &files, b"a passphrase").unwrap();
    let mut value = None;
    engine.store.look(&mut |open| open.get(Table::State, b"x").map(|found| value = found)).unwrap();
    value
}

fn enrol(engine: &Engine, name: &str) -> Result<(), String> {
    enrol_with(engine, name, Bytes32([1; 32]))
}

/// A node with this endorsement key.
pub(crate) fn enrol_with(engine: &Engine, name: &str, ek: Bytes32) -> Result<(), String> {
    let (name, machine) = (name.to_owned(), Hex(MACHINE.to_vec()));
    engine.admin(&AdminCommand::NodeEnrol { name, ek, machine, bank: Bank::Sha384, hold: false }).map(drop)
}

fn grant(engine: &Engine, overwrite: bool, generation: Option<u64>) -> Result<(), String> {
    let (node, slot, rebind_from) = ("one".into(), "state".into(), None);
    engine.admin(&AdminCommand::DiskGrant { node, slot, overwrite, rebind_from, generation }).map(drop)
}

#[test]
fn broker_without_its_database_is_refused_and_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let broker = init(folder.path());
    open(&broker).unwrap();
    std::fs::remove_file(broker.join("database")).unwrap();
    let error = format!("{:#}", open(&broker).err().unwrap());
    assert!(error.contains("key-broker restore") && error.contains("key-broker init"), "{error}");
    assert!(!broker.join("database").exists());
}

#[test]
fn clock_of_an_accepted_witness_does_not_make_a_broker_unready() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&init(folder.path())).unwrap();
    let now = engine.seconds();
    engine.clock.at_least(now + transparency::verify::SKEW);
    assert_eq!(engine.readiness(), Ok(()));
    engine.clock.at_least(now + MAX_CLOCK_BEHIND_SECONDS + 60);
    assert_eq!(engine.readiness(), Err(Unready::Clock));
}

#[test]
fn conflict_of_a_witness_makes_verification_of_the_audit_log_fail() {
    let folder = tempfile::tempdir().unwrap();
    let broker = init(folder.path());
    let key = VerifierKey { name: "witness.example".into(), role: Role::Witness, key: [7; 32] };
    let engine = open_with(&broker, Settings { witnesses: vec![key.clone()], ..Settings::default() }).unwrap();
    enrol(&engine, "one").unwrap();
    let verify = || engine.admin(&AdminCommand::AuditVerify { heads: vec![] });
    // One that was not asked yet, or does not answer, may know another log.
    let waits = |verified: serde_json::Value| (verified["verified"] == true, verified["not_compared_with"].clone());
    let (none, one) = (serde_json::json!([]), serde_json::json!(["witness.example"]));
    assert_eq!(waits(verify().unwrap()), (true, one.clone()));
    engine.witness_round(&key, None);
    assert_eq!(waits(verify().unwrap()), (true, none));
    engine.witness_round(&key, Some(Trouble::Waiting("away".into())));
    assert_eq!(waits(verify().unwrap()), (true, one));
    engine.witness_round(&key, Some(Trouble::Conflict("it has signed 9 leaves".into())));
    let error = verify().unwrap_err();
    assert!(error.contains("witness.example") && error.contains("it has signed 9 leaves"), "{error}");
    // It does not end with an answer that does not come.
    engine.witness_round(&key, Some(Trouble::Waiting("away".into())));
    assert!(verify().unwrap_err().contains("it has signed 9 leaves"));
    engine.witness_round(&key, None);
    assert_eq!(verify().unwrap()["verified"], true);
}

#[test]
fn generation_that_no_message_can_carry_is_not_granted() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&init(folder.path())).unwrap();
    enrol(&engine, "one").unwrap();
    for generation in [1 << 53, u64::MAX] {
        let error = grant(&engine, true, Some(generation)).unwrap_err();
        assert!(error.contains(&generation.to_string()) && error.contains("below 2^52"), "{error}");
    }
    grant(&engine, true, Some(41)).unwrap();
}

#[test]
fn retired_machine_is_used_again_as_its_code_advises() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&init(folder.path())).unwrap();
    enrol(&engine, "one").unwrap();
    engine.admin(&AdminCommand::NodeRetire { name: "one".into() }).unwrap();
    let refused = enrol(&engine, "two").unwrap_err();
    assert!(refused.starts_with("IDENTITY_CONFLICT"), "{refused}");
    let advice = Code::from(Own::NodeRetired).next();
    assert!(advice.contains("same name") && advice.contains("disk grant NAME --overwrite"), "{advice}");
    enrol(&engine, "one").unwrap();
    grant(&engine, true, None).unwrap();
}

/// Otherwise the bank of a challenge would tell an unauthenticated client which machines are enrolled.
#[test]
fn unknown_machine_is_always_asked_for_the_same_bank_and_both_banks_occur() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [broker, other] = folders.each_ref().map(|folder| init(folder.path()));
    let banks = |broker: &Path| -> Vec<Bank> {
        let open = open(broker).unwrap().keys().unwrap();
        (0..64).map(|number: u8| unknown_bank(&open, &[number; 64])).collect()
    };
    let found = banks(&broker);
    assert!(found.contains(&Bank::Sha384) && found.contains(&Bank::Sha256), "{found:?}");
    assert_eq!(banks(&broker), found);
    assert_ne!(banks(&other), found, "a client can calculate the banks");
}

#[test]
fn sealed_broker_has_nothing_for_a_witness_and_keeps_the_time_of_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let broker = init(folder.path());
    let key = VerifierKey { name: "witness.example".into(), role: Role::Witness, key: [7; 32] };
    enrol(&open(&broker).unwrap(), "one").unwrap();
    let settings = Settings { witnesses: vec![key.clone()], ..Settings::default() };
    let cluster = std::fs::read(broker.join("cluster.json")).unwrap();
    let sealed = Engine::open(&broker.join("database"), &cluster, settings.clone()).unwrap();
    // The round of a sealed broker is none.
    assert!(matches!(sealed.submission(&key, None), Err(Trouble::Waiting(_))));
    sealed.move_leaves();
    sealed.check_store();
    let status = sealed.admin(&AdminCommand::Status).unwrap();
    assert_eq!((&status["state"], &status["sizes"]["nodes"]), (&"sealed".into(), &1.into()));
    for command in [AdminCommand::NodeList, AdminCommand::DiskList, AdminCommand::ReleaseList] {
        assert!(sealed.admin(&command).unwrap_err().contains("key-broker unseal"));
    }
    drop(sealed);
    // The control: an open broker sends its head.
    assert!(open_with(&broker, settings).unwrap().submission(&key, None).unwrap().is_some());
}

#[test]
fn grant_ends_with_its_machine_and_with_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&init(folder.path())).unwrap();
    let grants = || {
        let mut grants = 0;
        engine.store.look(&mut |open| open.count(crate::store::Table::Grants).map(|count| grants = count)).unwrap();
        grants
    };
    enrol(&engine, "one").unwrap();
    grant(&engine, true, None).unwrap();
    assert_eq!(grants(), 1);
    engine.admin(&AdminCommand::NodeRetire { name: "one".into() }).unwrap();
    assert_eq!(grants(), 0);
    enrol(&engine, "one").unwrap();
    grant(&engine, true, None).unwrap();
    // Granted for the machine that is gone.
    engine.admin(&AdminCommand::NodeRetire { name: "one".into() }).unwrap();
    grant(&engine, true, None).unwrap();
    enrol_with(&engine, "one", Bytes32([8; 32])).unwrap();
    assert_eq!(grants(), 0);
}

#[test]
fn cluster_file_that_was_changed_after_init_is_refused_and_the_restored_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let broker = init(folder.path());
    let path = broker.join("cluster.json");
    let before = std::fs::read(&path).unwrap();
    let mut cluster = attest::cluster::Cluster::read(&before).unwrap();
    // The key of somebody else, to whom shares of new disks would be sealed.
    cluster.recovery.keys[0] = Bytes32([9; 32]);
    std::fs::write(&path, cluster.write().unwrap()).unwrap();
    let error = format!("{:#}", open(&broker).err().unwrap());
    assert!(error.contains("cluster.json") && error.contains("hint: "), "{error}");
    std::fs::write(&path, before).unwrap();
    open(&broker).unwrap();
}
