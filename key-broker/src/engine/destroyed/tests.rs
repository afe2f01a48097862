use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use attest::bytes::{Bytes32, Hex};
use attest::message::Purpose;
use measurements::Bank;
use serde_json::Value;
use state_disk::layout::Profile;

use super::super::adopt::tests::{adoption, statement};
use super::super::records::{Disk, Latch, Node, Waiting, get, put};
use super::super::tests::{enrol_with, init, open};
use super::super::{AdminCommand, Engine};
use crate::backup::members::IDENTITY;
use crate::code::{Code, Own};
use crate::store::Table;

const REPLY: &str = "the reply of the last boot of node one";
/// So many that their records fill several pages of the database.
const NODES: u8 = 30;

/// A broker with nodes and their disks; node `one` has the reply of its last boot, and node `two` has no disk.
fn broker(parent: &Path) -> (PathBuf, Engine) {
    let folder = init(parent);
    let engine = open(&folder).unwrap();
    let names = (3..NODES).map(|number| format!("node-{number}"));
    for (number, name) in (1..NODES).zip(["one".to_owned(), "two".to_owned()].into_iter().chain(names)) {
        let owner = Bytes32([number; 32]);
        enrol_with(&engine, &name, owner).unwrap();
        let mut disk = Disk::new(&name, "state", Profile::default()).unwrap();
        engine.share(&engine.keys().unwrap(), &mut disk, &owner).unwrap();
        let key = Disk::key(&name, "state");
        if name != "two" {
            let keep = &mut |open: &mut dyn crate::store::Transaction| {
                open.put(Table::DiskIds, disk.id.as_bytes(), &key)?;
                put(open, Table::Disks, &key, &disk)
            };
            engine.store.transact(keep).unwrap();
        }
    }
    engine.store.transact(&mut |open| put(open, Table::Latches, b"one", &latch())).unwrap();
    (folder, engine)
}

fn latch() -> Latch {
    Latch {
        ek: Bytes32([1; 32]),
        reset: 7,
        restart: 0,
        cleared: None,
        approved: false,
        session: Hex(vec![5; 16]),
        request: "0".repeat(32),
        node: "one".into(),
        slot: "state".into(),
        purpose: Purpose::Unlock,
        assurance: "development".into(),
        bank: Bank::Sha384,
        ak: Hex(vec![]),
        epoch: None,
        registers: BTreeMap::new(),
        release: Bytes32([0; 32]),
        reply: REPLY.into(),
        deadline: 0,
        acknowledged: None,
        covered: None,
        refused: None,
    }
}

/// The wrapped share of node `one`, as it is in the database.
fn share(engine: &Engine) -> String {
    let mut share = None;
    let look = &mut |open: &dyn crate::store::Transaction| {
        share = get::<Disk>(open, Table::Disks, b"one/state")?.and_then(|disk| disk.share);
        Ok(())
    };
    engine.store.look(look).unwrap();
    hex::encode(share.unwrap().0)
}

/// Files of the database that contain this text.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let contains = |name: &String| {
        let bytes = fs::read(folder.join(name)).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    names.filter(|name| name.starts_with("database")).filter(contains).collect()
}

fn retire(engine: &Engine) -> Value {
    engine.admin(&AdminCommand::NodeRetire { name: "one".into() }).unwrap()
}

fn grant(engine: &Engine, node: &str, overwrite: bool, from: Option<&str>) -> Value {
    let (node, slot, rebind_from) = (node.into(), "state".into(), from.map(str::to_owned));
    engine.admin(&AdminCommand::DiskGrant { node, slot, overwrite, rebind_from, generation: None }).unwrap()
}

fn adopt_another(engine: &Engine) -> Value {
    engine.admin(&AdminCommand::DiskAdopt(adoption(engine, &statement(engine), true))).unwrap()
}

/// A TPM that was cleared ends the last boot, with its reply.
fn approve_cleared(engine: &Engine) -> Value {
    let waiting = Waiting { code: Code::from(Own::TpmCleared).name().into(), request: "0".repeat(32) };
    engine
        .store
        .transact(&mut |open| {
            let mut node: Node = get(open, Table::Nodes, b"one")?.unwrap();
            node.waiting = Some(waiting.clone());
            put(open, Table::Nodes, b"one", &node)?;
            put(open, Table::Latches, b"one", &Latch { cleared: Some((1, 0)), ..latch() })
        })
        .unwrap();
    engine.admin(&AdminCommand::NodeApprove { name: "one".into(), code: None }).unwrap()
}

/// Name of a command, the command, and whether it destroys the share, too.
type Destroys = (&'static str, fn(&Engine) -> Value, bool);

#[test]
fn share_that_was_destroyed_is_in_no_file_of_the_database() {
    const COMMANDS: [Destroys; 5] = [
        ("node retire", retire, true),
        ("disk grant --overwrite", |engine| grant(engine, "one", true, None), true),
        ("disk grant --rebind-from", |engine| grant(engine, "two", false, Some("one")), true),
        ("disk adopt --replace", adopt_another, true),
        ("node approve", approve_cleared, false),
    ];
    for (name, command, destroys_share) in COMMANDS {
        let parent = tempfile::tempdir().unwrap();
        let (folder, engine) = broker(parent.path());
        let share = share(&engine);
        for text in [&share, REPLY] {
            assert!(!files_with(&folder, text).is_empty(), "{name}: the test finds nothing before the command");
        }
        let done = command(&engine);
        assert_eq!(done.get("warning"), None, "{name}");
        assert_eq!(files_with(&folder, REPLY), [""; 0], "{name}: the reply");
        if destroys_share {
            assert_eq!(files_with(&folder, &share), [""; 0], "{name}: the share");
        }
        drop(engine);
        assert_eq!(files_with(&folder, REPLY), [""; 0], "{name}: the reply, after the broker has ended");
    }
}

#[test]
fn write_ahead_log_that_is_cut_after_a_retirement_brings_no_share_back() {
    const FRAME_BYTES: usize = 24 + 4096;
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let share = share(&engine);
    retire(&engine);
    let log = fs::read(folder.join("database-wal")).unwrap();
    for (number, end) in (0..=log.len()).filter(|end| *end == 0 || end % FRAME_BYTES == 32).enumerate() {
        let copy = parent.path().join(number.to_string());
        fs::create_dir(&copy).unwrap();
        for file in IDENTITY.iter().chain(&["database", "broker.toml"]) {
            fs::copy(folder.join(file), copy.join(file)).unwrap();
        }
        fs::write(copy.join("database-wal"), &log[..end]).unwrap();
        // A log that ends in the middle of a transaction ends before it.
        let cut = open(&copy).unwrap();
        let node = cut.admin(&AdminCommand::NodeShow { name: "one".into() }).unwrap();
        assert_eq!(node["state"], "retired", "cut to {end} of {} bytes: {node}", log.len());
        assert_eq!(files_with(&copy, &share), [""; 0], "cut to {end} of {} bytes", log.len());
    }
}

#[test]
fn command_reports_a_destroyed_share_that_stays_in_a_file_which_is_being_read() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let share = share(&engine);
    let reader = rusqlite::Connection::open(folder.join("database")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM disks").unwrap();
    let done = retire(&engine);
    assert!(done["warning"].as_str().is_some_and(|warning| warning.contains("database-wal")), "{done}");
    assert!(done["hint"].as_str().is_some_and(|hint| hint.contains("key-broker status")), "{done}");
    assert!(!files_with(&folder, &share).is_empty(), "the warning is wrong");
    let status = || engine.admin(&AdminCommand::Status).unwrap()["destroyed_shares"].clone();
    assert!(status().as_str().unwrap().contains("database-wal"), "{}", status());
    reader.execute_batch("ROLLBACK").unwrap();
    // The work of each second.
    engine.move_leaves();
    assert_eq!(files_with(&folder, &share), [""; 0]);
    assert_eq!(status(), "overwritten");
}
