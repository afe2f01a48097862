use std::path::Path;

use attest::message;
use attest::recovery::SignedStatement;
use measurements::canonical::Document as _;

use super::super::records::{Grant, Latch};
use super::super::tests::{enrol_with, init, open};
use super::super::{AdminCommand, audit};
use super::*;

const OWNER: Bytes32 = Bytes32([1; 32]);
const SHARE: [u8; 32] = [7; 32];
const DISK: &str = "0b5f6c6e-0000-4000-8000-000000000001";

fn broker(folder: &Path) -> Engine {
    let engine = open(&init(folder)).unwrap();
    enrol_with(&engine, "one", OWNER).unwrap();
    engine
}

pub(in super::super) fn statement(engine: &Engine) -> DiskStatement {
    DiskStatement {
        cluster: hex::encode(&engine.cluster.id.0),
        disk: DISK.into(),
        generation: 7,
        header: Bytes32([3; 32]),
        node: "one".into(),
        schema: DiskStatement::SCHEMA.into(),
        slot: "state".into(),
    }
}

/// A document whose statement this broker signed.
fn document(signer: &Engine, statement: &DiskStatement, share: [u8; 32]) -> SecretText {
    let open = signer.keys().unwrap();
    let signed = message::sign(statement, "broker", &open.keys.message).unwrap().bytes;
    let signed = SignedStatement::write(&open.keys.certificate, std::str::from_utf8(&signed).unwrap()).unwrap();
    SecretText::new(String::from_utf8(Adoption::write(&share, &signed).unwrap().to_vec()).unwrap())
}

/// An adoption of this disk by the broker that signed its statement.
pub(in super::super) fn adoption(engine: &Engine, statement: &DiskStatement, replace: bool) -> Adopt {
    let document = document(engine, statement, SHARE);
    Adopt { node: "one".into(), slot: "state".into(), generation: 7, replace, document }
}

fn adopt(engine: &Engine, document: SecretText, change: impl FnOnce(&mut Adopt)) -> Result<String, String> {
    let mut adopt = Adopt { node: "one".into(), slot: "state".into(), generation: 7, replace: false, document };
    change(&mut adopt);
    engine.admin(&AdminCommand::DiskAdopt(adopt)).map(|done| done["done"].as_str().unwrap().to_owned())
}

fn disk(engine: &Engine, node: &str) -> Option<Disk> {
    let mut found = None;
    let look = &mut |open: &dyn Transaction| {
        found = get(open, Table::Disks, &Disk::key(node, "state"))?;
        Ok(())
    };
    engine.store.look(look).unwrap();
    found
}

fn leaves(engine: &Engine) -> u64 {
    let mut size = 0;
    engine
        .store
        .look(&mut |open| {
            size = audit::size(open)?;
            Ok(())
        })
        .unwrap();
    size
}

#[test]
fn adopted_disk_is_active_with_its_share_and_a_row_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let engine = broker(folder.path());
    let (grant, key) = (Grant { overwrite: true }, Disk::key("one", "state"));
    engine.store.transact(&mut |open| put(open, Table::Grants, &key, &grant)).unwrap();
    let before = leaves(&engine);
    let done = adopt(&engine, document(&engine, &statement(&engine), SHARE), |_| {}).unwrap();
    assert!(done.contains(DISK) && done.contains("generation 7"), "{done}");
    assert_eq!(leaves(&engine), before + 1);
    let mut disk = disk(&engine, "one").unwrap();
    assert_eq!((&*disk.state, disk.generation, disk.header), ("active", 7, Some(Bytes32([3; 32]))));
    assert_eq!(*engine.share(&engine.keys().unwrap(), &mut disk, &OWNER).unwrap(), SHARE);
    let mut granted: Option<Grant> = None;
    engine
        .store
        .look(&mut |open| {
            granted = get(open, Table::Grants, &key)?;
            let _: Option<Latch> = get(open, Table::Latches, b"one")?;
            Ok(())
        })
        .unwrap();
    assert_eq!(granted, None, "an adopted disk is never overwritten by an older grant");
    assert_eq!(engine.check_rows().unwrap().disks, 1);
    let text = format!(
        "{:?}",
        AdminCommand::DiskAdopt(Adopt {
            node: String::new(),
            slot: String::new(),
            generation: 0,
            replace: false,
            document: document(&engine, &statement(&engine), SHARE),
        })
    );
    assert!(!text.contains("0707"), "{text}");
}

#[test]
fn disk_that_its_statement_does_not_describe_is_not_adopted() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [engine, other] = folders.each_ref().map(|folder| broker(folder.path()));
    enrol_with(&engine, "two", Bytes32([2; 32])).unwrap();
    let good = statement(&engine);
    let of = |statement: &DiskStatement| document(&engine, statement, SHARE);
    let before = leaves(&engine);
    type Change = fn(&mut Adopt);
    let rows: Vec<(&str, SecretText, Change)> = vec![
        ("is of generation 7, expected 8", of(&good), |adopt| adopt.generation = 8),
        ("is of generation 7, expected 6", of(&good), |adopt| adopt.generation = 6),
        ("belongs to node \"one\"", of(&good), |adopt| adopt.node = "two".into()),
        ("is not enrolled", of(&good), |adopt| adopt.node = "three".into()),
        ("belongs to slot \"state\"", of(&good), |adopt| adopt.slot = "other".into()),
        ("belongs to slot", of(&DiskStatement { slot: "other".into(), ..good.clone() }), |adopt| {
            adopt.slot = "other".into()
        }),
        ("no disk has", of(&DiskStatement { disk: "x".into(), ..good.clone() }), |_| {}),
        ("no disk has", of(&DiskStatement { generation: 0, ..good.clone() }), |adopt| adopt.generation = 0),
        ("another cluster", of(&DiskStatement { cluster: "00".repeat(16), ..good.clone() }), |_| {}),
        ("signatures", document(&other, &good, SHARE), |_| {}),
        ("the document", SecretText::new("{}".into()), |_| {}),
    ];
    for (words, document, change) in rows {
        let error = adopt(&engine, document, change).unwrap_err();
        assert!(error.starts_with("cannot adopt a disk for node") && error.contains(words), "{words}: {error}");
    }
    let mut text = of(&good).0.clone();
    let at = text.find(&"07".repeat(32)).unwrap();
    text.replace_range(at..at + 2, "");
    adopt(&engine, SecretText::new(text), |_| {}).unwrap_err();
    engine.admin(&AdminCommand::NodeRetire { name: "two".into() }).unwrap();
    let retired = of(&DiskStatement { node: "two".into(), ..good.clone() });
    assert!(adopt(&engine, retired, |adopt| adopt.node = "two".into()).unwrap_err().contains("is retired"));
    assert_eq!((disk(&engine, "one"), disk(&engine, "two")), (None, None));
    assert_eq!(leaves(&engine), before + 1, "only the retirement");
    adopt(&engine, of(&good), |_| {}).unwrap();
}

#[test]
fn record_that_is_there_is_never_lowered_and_another_disk_needs_to_be_meant() {
    let folder = tempfile::tempdir().unwrap();
    let engine = broker(folder.path());
    let good = statement(&engine);
    let at = |generation, share| {
        let newer = DiskStatement { generation, ..good.clone() };
        adopt(&engine, document(&engine, &newer, share), |adopt| adopt.generation = generation)
    };
    at(7, SHARE).unwrap();
    assert!(at(6, SHARE).unwrap_err().contains("was put back"));
    assert!(at(8, [8; 32]).unwrap_err().contains("another share"));
    at(8, SHARE).unwrap();
    assert_eq!(disk(&engine, "one").unwrap().generation, 8);
    let other = DiskStatement { disk: DISK.replace("01", "02"), ..good.clone() };
    let error = adopt(&engine, document(&engine, &other, SHARE), |_| {}).unwrap_err();
    assert!(error.contains("--replace"), "{error}");
    enrol_with(&engine, "two", Bytes32([2; 32])).unwrap();
    let moved = DiskStatement { node: "two".into(), ..good.clone() };
    let error = adopt(&engine, document(&engine, &moved, SHARE), |adopt| adopt.node = "two".into()).unwrap_err();
    assert!(error.contains("is recorded as one/state"), "{error}");
    let done = adopt(&engine, document(&engine, &other, SHARE), |adopt| adopt.replace = true).unwrap();
    assert!(done.contains("forgotten, its share destroyed"), "{done}");
    assert_eq!(disk(&engine, "one").unwrap().id, other.disk);
    assert_eq!(engine.check_rows().unwrap().disks, 1);
    engine.admin(&AdminCommand::NodeRetire { name: "one".into() }).unwrap();
    enrol_with(&engine, "one", OWNER).unwrap();
    let error = adopt(&engine, document(&engine, &other, SHARE), |_| {}).unwrap_err();
    assert!(error.contains("destroyed on purpose"), "{error}");
}
