use measurements::Bank;
use measurements::canonical;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::verify::of_this_boot;
use super::*;
use crate::cluster::{Assurance, BrokerCertificate, CERTIFICATE_TYPE, Cluster, Device, Keys, Slot};
use crate::message::{self, NodeCertificate};
use crate::tpm::{AttestationKey, BootId, Quoted};
use crate::{Code, Refusal};

const EPOCH: u64 = 2;
const END: u64 = 2_000_000_000;

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(key: &Ed25519KeyPair) -> Bytes32 {
    Bytes32(key.public_key().as_ref().try_into().unwrap())
}

fn cluster() -> Cluster {
    Cluster {
        assurance: Assurance::TpmVirtual,
        broker: Keys { keys: vec![public(&key(1))], threshold: 1 },
        epoch: EPOCH,
        id: Hex(vec![7; 16]),
        recovery: Keys { keys: vec![Bytes32([8; 32])], threshold: 1 },
        schema: Cluster::SCHEMA.into(),
        slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() }],
    }
}

/// Public area of an attestation key as the agent creates it, with this coordinate.
fn area(coordinate: u8) -> Vec<u8> {
    const HEAD: &str = "0023000b00050472000000100018000b00030010";
    let number = [&[0, 32][..], &[coordinate; 32]].concat();
    [hex::decode(HEAD).unwrap(), number.clone(), number].concat()
}

fn certificate() -> NodeCertificate {
    NodeCertificate {
        ak_name: Hex(AttestationKey::parse(&area(4)).unwrap().name().as_bytes().to_vec()),
        assurance: Assurance::TpmVirtual.name().into(),
        cluster: hex::encode([7; 16]),
        epoch: EPOCH,
        node: "one".into(),
        not_after: END,
        release: Bytes32([1; 32]),
        reset: 3,
        restart: 4,
        schema: NodeCertificate::SCHEMA.into(),
        volume: Bytes32([2; 32]),
    }
}

/// An answer with this certificate, signed with `signer`, of a broker of this epoch.
fn answer(certificate: &NodeCertificate, signer: &Ed25519KeyPair, epoch: u64) -> Answer {
    let broker = BrokerCertificate {
        audit_key: None,
        cluster: Hex(vec![7; 16]),
        epoch,
        message_key: public(&key(5)),
        schema: BrokerCertificate::SCHEMA.into(),
        tls_key: Bytes32([6; 32]),
    };
    let broker = canonical::write(&broker).unwrap();
    let broker = envelope::Envelope::sign(CERTIFICATE_TYPE, &broker, "root", &key(1));
    let text = |bytes| Some(String::from_utf8(bytes).unwrap());
    Answer {
        ak: Hex(area(4)),
        bank: Bank::Sha384,
        certificate: text(message::sign(certificate, "broker", signer).unwrap().bytes),
        broker: text(serde_json::to_vec(&broker).unwrap()),
        ek: Hex(vec![]),
        ek_certificate: None,
        event_log: Hex(vec![]),
        quote: Hex(vec![]),
        receipt: None,
        registers: vec![],
        schema: Answer::SCHEMA.into(),
        signature: Hex(vec![]),
        user_space_log: String::new(),
    }
}

fn judge(answer: &Answer, name: Option<&str>, now: u64) -> Result<AkTrust, Refusal> {
    by_certificate(answer, &cluster(), name, now)
}

#[test]
fn node_certificate_of_another_key_cluster_epoch_assurance_node_or_time_is_rejected() {
    let good = || answer(&certificate(), &key(5), EPOCH);
    let accepted = AkTrust::NodeCertificate(Box::new(certificate()));
    assert_eq!(judge(&good(), None, END).unwrap(), accepted);
    assert_eq!(judge(&good(), Some("one"), 0).unwrap(), accepted);

    type Change = fn(&mut NodeCertificate);
    let changes: [(Change, &str); 6] = [
        (|certificate| certificate.ak_name.0[33] ^= 1, "another key"),
        (|certificate| certificate.cluster = hex::encode([9; 16]), "another cluster"),
        (|certificate| certificate.epoch -= 1, "another epoch"),
        (|certificate| certificate.epoch += 1, "another epoch"),
        (|certificate| certificate.assurance = Assurance::Development.name().into(), "cluster.json demands"),
        (|certificate| certificate.assurance = "perfect".into(), "cluster.json demands"),
    ];
    for (change, words) in changes {
        let mut changed = certificate();
        change(&mut changed);
        let refusal = judge(&answer(&changed, &key(5), EPOCH), None, 0).unwrap_err();
        assert!(refusal.code == Code::AkUnverified && refusal.found.contains(words), "{words}: {refusal}");
    }
    let refusal = judge(&good(), None, END + 1).unwrap_err();
    assert!(refusal.code == Code::AkUnverified && refusal.found.contains("has ended"), "{refusal}");
    let refusal = judge(&good(), Some("two"), 0).unwrap_err();
    assert!(refusal.code == Code::AkUnverified && refusal.found.contains("\"one\""), "{refusal}");

    let forged = answer(&certificate(), &key(6), EPOCH);
    assert_eq!(judge(&forged, None, 0).unwrap_err().code, Code::EnvelopeSignature);
    let old = NodeCertificate { epoch: EPOCH - 1, ..certificate() };
    let refusal = judge(&answer(&old, &key(5), EPOCH - 1), None, 0).unwrap_err();
    assert_eq!(refusal.code, Code::BrokerCertificate, "a broker of an epoch that is over");
    for missing in [Answer { certificate: None, ..good() }, Answer { broker: None, ..good() }] {
        assert_eq!(judge(&missing, None, 0).unwrap_err().code, Code::AkUnverified);
    }
}

#[test]
fn node_certificate_of_another_boot_release_or_volume_is_rejected() {
    let quoted = |reset, restart| {
        let boot = BootId { key: AttestationKey::parse(&area(4)).unwrap().name(), reset, restart };
        Quoted { bank: Bank::Sha384, boot, registers: [].into() }
    };
    let (release, volume, other) = (hex::encode([1; 32]), hex::encode([2; 32]), hex::encode([3; 32]));
    assert_eq!(of_this_boot(&certificate(), &quoted(3, 4), &release, &volume), Ok(()));
    for (quoted, release, volume, words) in [
        (quoted(4, 4), &release, &volume, "another boot"),
        (quoted(3, 5), &release, &volume, "another boot"),
        (quoted(3, 4), &other, &volume, "another release"),
        (quoted(3, 4), &release, &other, "another volume"),
    ] {
        let refusal = of_this_boot(&certificate(), &quoted, release, volume).unwrap_err();
        assert!(refusal.code == Code::AkUnverified && refusal.found.contains(words), "{refusal}");
    }
}
