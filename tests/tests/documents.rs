//! Every document that is kept in the repository keeps to its schema in `docs/formats`, and what `cairn` prints does, too. That the schemas can refuse is tested beside each.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use attest::bytes::{Bytes32, Hex};
use attest::cluster::{Assurance, Cluster, Device, Hints, Keys, Slot, StaticNetwork};
use attest::message::{
    Ack, Challenge, Commit, CommitResult, Credential, DiskGrant, DiskState, Evidence, Hello, Hold, Purpose, Receipt,
    Refused, Release, Resume, Sealed,
};
use attest::recovery::{Recovery, ToKey};
use measurements::canonical::{self, Document};
use state_disk::layout::Profile;

use cairn_tests::formats::Schema;
use serde_json::Value;
use transparency::air_gap::{AirGap, NamedBundle};
use transparency::statement::Statement;
use transparency::statement::channel::Standing;
use transparency::statement::measured_boot::Reference;
use transparency::trust_root::{TrustRootDocument, Witnesses};

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_machine_reference_keeps_to_its_schema() {
    let schema = Schema::get("machine").unwrap();
    let machines = std::fs::read_dir(checkout().join("measurements/machines")).unwrap();
    let paths = machines.map(|entry| entry.unwrap().path());
    let paths: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(".machine.json")).collect();
    assert!(paths.len() > 8, "{paths:?}");
    for path in paths {
        let good = json(&path);
        schema.check(&good).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
        for (field, value) in [("boot", Value::from("floppy")), ("unknown", Value::from(1)), ("events", Value::from(1))]
        {
            let mut bad = good.clone();
            bad[field] = value;
            assert!(schema.check(&bad).is_err(), "{field} of {}", path.display());
        }
    }
}

#[test]
fn every_schema_is_listed_and_refuses_what_is_no_document() {
    let folder = checkout().join("docs/formats");
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".schema.json") else { continue };
        assert!(list.contains(&format!("[`{name}`]({name}.schema.json)")), "{name} is not listed");
        assert!(Schema::get(name).unwrap().check(&serde_json::json!({})).is_err(), "{name}");
    }
}

/// A document as it is written keeps to its schema, and one with another field does not.
fn keeps_to<D: Document>(schema: &Schema, document: &D) {
    let mut value: Value = serde_json::from_slice(&canonical::write(document).unwrap()).unwrap();
    let checked = schema.check(&value).map_err(|problem| problem.to_string());
    assert_eq!(checked, Ok(()), "{}", D::NAME);
    value["unknown"] = Value::from(1);
    assert!(schema.check(&value).is_err(), "{}", D::NAME);
}

#[path = "../../crates/transparency/tests/fake/mod.rs"]
mod fake;

#[test]
fn what_is_published_keeps_to_its_schema() {
    let mut fake = fake::Fake::new();
    let machine = Reference::Machine(Box::new(fake::documents::machine()));
    let measured_boot = Schema::get("measured-boot").unwrap();
    for (statement, name, kind) in [
        (fake::documents::release(), "image-reference", "image"),
        (fake::documents::measured_boot(machine), "machine", "machine"),
    ] {
        keeps_to(&measured_boot, &statement);
        let statement: Value = serde_json::from_slice(&statement.write().unwrap()).unwrap();
        Schema::get(name).unwrap().check(&statement["predicate"]["reference"][kind]).unwrap();
        let mut without = statement.clone();
        without["predicate"]["reference"] = serde_json::json!({});
        assert!(measured_boot.check(&without).is_err(), "{name}");
    }
    keeps_to(&Schema::get("provenance").unwrap(), &fake::documents::provenance());
    keeps_to(&Schema::get("rebuild").unwrap(), &fake::documents::rebuild());
    let digest = transparency::statement::digest(b"");
    for standing in [Standing::Good, Standing::Revoked] {
        let channel = Statement::channel(fake::documents::channel(digest, standing)).unwrap();
        keeps_to(&Schema::get("channel").unwrap(), &channel);
    }
    let (schema, document) = (Schema::get("trust-root").unwrap(), fake.trust_root());
    keeps_to(&schema, &document);
    let none = Witnesses { keys: Vec::new(), threshold: 0 };
    keeps_to(&schema, &TrustRootDocument { witnesses: none, timestamp_authorities: Vec::new(), ..document });
    let text = |name: &str| NamedBundle { name: name.into(), text: "{}\n".into() };
    for channel in [None, Some("{}\n".to_owned())] {
        let air_gap = AirGap::new(vec!["{}".into()], vec![text("a.json"), text("b~1.json")], channel).unwrap();
        keeps_to(&Schema::get("air-gap").unwrap(), &air_gap);
    }
    // Bundles are Sigstore's format; that ours are read by Sigstore's own readers is tested in `second-opinion`.
    assert!(fake.publish(b"{}").write().is_ok());
}

#[test]
fn what_belongs_to_a_cluster_keeps_to_its_schema() {
    let keys = |byte| Keys { keys: vec![Bytes32([byte; 32])], threshold: 1 };
    for device in [Device::OnlyOther, Device::Serial("disk1".into())] {
        let cluster = Cluster {
            assurance: Assurance::TpmVirtual,
            broker: keys(1),
            epoch: 1,
            id: Hex(vec![7; 16]),
            recovery: keys(2),
            schema: Cluster::SCHEMA.into(),
            slots: vec![Slot { device, layout: Some(Profile::XtsHmac), mount: "/var".into(), name: "state".into() }],
        };
        keeps_to(&Schema::get("cluster").unwrap(), &cluster);
    }
    let network = StaticNetwork { address: "10.0.2.15/24".into(), gateway: Some("10.0.2.2".into()) };
    for network in [None, Some(network)] {
        let hints = Hints {
            brokers: vec!["10.0.2.2:7443".into()],
            release: network.is_some().then_some(Bytes32([7; 32])),
            network,
            schema: Hints::SCHEMA.into(),
        };
        keeps_to(&Schema::get("hints").unwrap(), &hints);
    }
}

#[test]
fn every_message_keeps_to_the_schema_of_messages() {
    let schema = Schema::get("messages").unwrap();
    let (bytes, digest, session) = (Hex(vec![1, 2]), Bytes32([3; 32]), Hex(vec![4; 16]));
    let sealed = Sealed { ciphertext: bytes.clone(), encapsulated: digest };
    let receipt = Receipt { checkpoint: "cairn/audit".into(), root: digest, size: 9 };
    let registers = vec![Hex(vec![0; 32]); 16];
    let luks = DiskState::Luks { digest, uuid: "0b5f6c6e-0000-4000-8000-000000000001".into() };
    for disk in [DiskState::Blank, DiskState::Foreign, luks] {
        keeps_to(
            &schema,
            &Hello {
                ak: bytes.clone(),
                disk,
                ek: bytes.clone(),
                hpke_key: digest,
                nonce: digest,
                purpose: Purpose::Provision,
                schema: Hello::SCHEMA.into(),
                slot: "state".into(),
                versions: [1, 1],
            },
        );
    }
    for credential in [None, Some(Credential { blob: bytes.clone(), seed: bytes.clone() })] {
        keeps_to(
            &schema,
            &Challenge {
                bank: measurements::Bank::Sha384,
                credential,
                epoch: 1,
                hello: digest,
                nonce: digest,
                schema: Challenge::SCHEMA.into(),
                session: session.clone(),
                ttl: 60,
                version: 1,
            },
        );
    }
    for activation in [None, Some(digest)] {
        keeps_to(
            &schema,
            &Evidence {
                activation,
                event_log: bytes.clone(),
                quote: bytes.clone(),
                registers: registers.clone(),
                release: activation,
                schema: Evidence::SCHEMA.into(),
                session: session.clone(),
                signature: bytes.clone(),
                user_space_log: String::new(),
            },
        );
    }
    let shares = vec![ToKey { key: digest, share: sealed.clone() }];
    let recovery = Recovery { disk: "id".into(), schema: Recovery::SCHEMA.into(), shares };
    for recovery in [None, Some(recovery)] {
        keeps_to(
            &schema,
            &Release {
                assurance: "development".into(),
                commit_within: 600,
                disk: DiskGrant {
                    generation: 1,
                    headers: vec![digest],
                    id: "id".into(),
                    overwrite: false,
                    recovery,
                    slot: "state".into(),
                },
                receipt: receipt.clone(),
                request: "0".repeat(32),
                schema: Release::SCHEMA.into(),
                share: sealed.clone(),
                transcript: digest,
            },
        );
    }
    keeps_to(
        &schema,
        &Hold { answers: Bytes32([1; 32]), request: "0".repeat(32), retry_after: 5, schema: Hold::SCHEMA.into() },
    );
    keeps_to(&schema, &Refused { answers: Bytes32([1; 32]), request: "0".repeat(32), schema: Refused::SCHEMA.into() });
    keeps_to(&schema, &Resume { schema: Resume::SCHEMA.into(), session: session.clone() });
    for result in [
        CommitResult::Formatted { header: digest, volume: digest },
        CommitResult::Opened { header: digest, volume: digest },
        CommitResult::Failed { code: "DISK_ROLLBACK".into() },
    ] {
        keeps_to(
            &schema,
            &Commit {
                generation: 2,
                quote: bytes.clone(),
                registers: registers.clone(),
                release: digest,
                result,
                schema: Commit::SCHEMA.into(),
                session: session.clone(),
                signature: bytes.clone(),
                stages: [("network".to_owned(), 120)].into(),
            },
        );
    }
    keeps_to(
        &schema,
        &Ack {
            certificate: Some("{}".into()),
            commit: digest,
            disk: Some("{}".into()),
            generation: 2,
            receipt,
            schema: Ack::SCHEMA.into(),
        },
    );
}
