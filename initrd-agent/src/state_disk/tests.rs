use std::slice;

use attest::bytes::{Bytes32, Hex};
use attest::cluster::{Assurance, BrokerCertificate, CERTIFICATE_TYPE, Keys};
use attest::message;
use attest::recovery::DiskStatement;
use measurements::canonical::{self, Document as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use state_disk::layout::{HEADER, METADATA};

use super::*;

/// Both copies of a header as cryptsetup wrote them, of each profile.
const RECORDED: [(Profile, &[u8]); 2] = [
    (Profile::Xts, include_bytes!("../../../crates/state-disk/tests/recorded/luks2-header.bin")),
    (Profile::XtsHmac, include_bytes!("../../../crates/state-disk/tests/recorded/luks2-header-xts-hmac.bin")),
];
const DISK: &str = "0b5f6c6e-0000-4000-8000-000000000001";

fn grant(id: &str, areas: &[&[u8]]) -> DiskGrant {
    let headers = areas.iter().map(|area| Bytes32(header::digest(area))).collect();
    DiskGrant { generation: 1, headers, id: id.into(), overwrite: false, recovery: None, slot: "state".into() }
}

/// A cluster, and statements that its broker has signed: by disk, header and generation.
fn cluster() -> (Cluster, impl Fn(&str, [u8; 32], u64) -> Vec<u8>) {
    let [root, broker] = [1, 5].map(|seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap());
    let public = |key: &Ed25519KeyPair| Bytes32(key.public_key().as_ref().try_into().unwrap());
    let cluster = Cluster {
        assurance: Assurance::TpmVirtual,
        broker: Keys { keys: vec![public(&root)], threshold: 1 },
        epoch: 0,
        id: Hex(vec![7; 16]),
        recovery: Keys { keys: vec![Bytes32([8; 32])], threshold: 1 },
        schema: Cluster::SCHEMA.into(),
        slots: vec![],
    };
    let certificate = BrokerCertificate {
        audit_key: None,
        cluster: cluster.id.clone(),
        epoch: 0,
        message_key: public(&broker),
        schema: BrokerCertificate::SCHEMA.into(),
        tls_key: Bytes32([6; 32]),
    };
    let certificate = canonical::write(&certificate).unwrap();
    let certificate = envelope::Envelope::sign(CERTIFICATE_TYPE, &certificate, "root", &root);
    let certificate = serde_json::to_vec(&certificate).unwrap();
    let statement = move |disk: &str, header: [u8; 32], generation: u64| {
        let statement = DiskStatement {
            cluster: hex::encode([7; 16]),
            disk: disk.into(),
            generation,
            header: Bytes32(header),
            node: "one".into(),
            schema: DiskStatement::SCHEMA.into(),
            slot: "state".into(),
        };
        let signed = message::sign(&statement, "broker", &broker).unwrap().bytes;
        SignedStatement::write(&certificate, std::str::from_utf8(&signed).unwrap()).unwrap()
    };
    (cluster, statement)
}

/// The disk itself may be one generation ahead: a commit that was lost has no statement.
#[test]
fn statement_of_a_later_generation_than_the_grant_is_an_older_broker() {
    const HEADER: [u8; 32] = [3; 32];
    let (cluster, statement) = cluster();
    let grant = DiskGrant { generation: 5, ..grant(DISK, &[]) };
    let judged = |statements: &[Vec<u8>]| {
        acknowledged_before(statements, &cluster, &HEADER, &grant).map_err(|failure| failure.code())
    };
    let (old, same, later) = (statement(DISK, HEADER, 4), statement(DISK, HEADER, 5), statement(DISK, HEADER, 6));
    for accepted in [&[][..], slice::from_ref(&old), &[same.clone(), same.clone()], &[same.clone(), old.clone()]] {
        assert_eq!(judged(accepted), Ok(()));
    }
    // A write of the second copy was cut.
    for refused in [slice::from_ref(&later), &[later.clone(), same.clone()], &[same, later.clone()]] {
        assert_eq!(judged(refused), Err(Code::BrokerBehind));
    }
    let mut forged = later;
    let digit = forged.len() - 20;
    forged[digit] ^= 1;
    let another = statement("0b5f6c6e-0000-4000-8000-000000000002", HEADER, 6);
    for (case, ignored) in [
        ("not signed by a broker", forged),
        ("another disk", another),
        ("an earlier header of the disk", statement(DISK, [4; 32], 6)),
        ("other bytes", b"{}".to_vec()),
    ] {
        assert_eq!(judged(&[ignored]), Ok(()), "{case}");
    }
}

#[test]
fn statement_about_another_disk_header_or_generation_is_not_written() {
    const HEADER: [u8; 32] = [3; 32];
    let (cluster, statement) = cluster();
    let written = |document: Vec<u8>| statement_about((DISK, &HEADER, 5), Some(document), &cluster).is_some();
    assert!(written(statement(DISK, HEADER, 5)));
    assert!(!written(statement("0b5f6c6e-0000-4000-8000-000000000002", HEADER, 5)), "another disk");
    assert!(!written(statement(DISK, [4; 32], 5)), "another header");
    for generation in [4, 6, (1 << 53) - 1] {
        assert!(!written(statement(DISK, HEADER, generation)), "generation {generation}");
    }
    let mut forged = statement(DISK, HEADER, 5);
    let digit = forged.len() - 20;
    forged[digit] ^= 1;
    assert!(!written(forged), "another signature");
}

#[test]
fn header_is_accepted_only_with_a_digest_of_the_grant_and_its_profile() {
    for (profile, copies) in RECORDED {
        let mut area = copies.to_vec();
        area.resize(HEADER, 0);
        let accepted = |area: &[u8], grant: &DiskGrant, profile| {
            known_header(area, grant, profile).map_err(|failure| failure.code())
        };
        let digest = header::digest(&area);
        assert_eq!(accepted(&area, &grant(DISK, &[&area]), profile), Ok(digest));
        assert_eq!(accepted(&area, &grant(DISK, &[b"another header", &area]), profile), Ok(digest));

        // Every byte of the area counts, also behind the copies.
        assert_eq!(accepted(&area, &grant(DISK, &[]), profile), Err(Code::HeaderDigest));
        for at in [0, METADATA, HEADER - 1] {
            let mut changed = area.clone();
            changed[at] ^= 1;
            assert_eq!(accepted(&changed, &grant(DISK, &[&area]), profile), Err(Code::HeaderDigest), "{at}");
        }
        // A digest that the broker knows is not enough: a commit may have reported any.
        let mut changed = area.clone();
        changed[METADATA] ^= 1;
        assert_eq!(accepted(&changed, &grant(DISK, &[&changed]), profile), Err(Code::HeaderInvalid));
        let other = grant("0b5f6c6e-0000-4000-8000-000000000002", &[&area]);
        assert_eq!(accepted(&area, &other, profile), Err(Code::HeaderInvalid), "the header of another disk");
        for other in Profile::ALL.into_iter().filter(|other| *other != profile) {
            assert_eq!(accepted(&area, &grant(DISK, &[&area]), other), Err(Code::HeaderInvalid));
        }
    }
}
