use measurements::Bank;
use measurements::canonical;
use measurements::compose::Configuration;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::verify::{closed, of_this_boot};
use super::*;
use crate::cluster::{Assurance, BrokerCertificate, CERTIFICATE_TYPE, Cluster, Device, Keys, Slot};
use crate::message::{self, NodeCertificate};
use crate::policy::tests::composition;
use crate::tpm::quote::tests::FakeTpm;
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

/// systemd's log of a boot of this cluster, and PCR 15 after it.
fn closed_boot(release: &str, volume: &str) -> (String, Vec<u8>) {
    let bank = Bank::Sha384;
    let words = [format!("cluster:{}", hex::encode([7; 16])), format!("release:{release}"), format!("volume:{volume}")];
    let record = |word: &String| {
        let digest = hex::encode(bank.digest(word.as_bytes()));
        format!(
            "\u{1e}{{\"pcr\":15,\"digests\":[{{\"hashAlg\":\"sha384\",\"digest\":\"{digest}\"}}],\"content_type\":\"systemd\",\"content\":{{\"string\":\"{word}\",\"eventType\":\"phase\"}}}}\n"
        )
    };
    let extend = |value: Vec<u8>, word: &String| bank.extend(&value, &bank.digest(word.as_bytes()));
    (words.iter().map(record).collect(), words.iter().fold(vec![0; bank.length()], extend))
}

#[test]
fn certificate_of_another_boot_does_not_vouch_for_this_one() {
    let (release, volume) = (hex::encode([1; 32]), hex::encode([2; 32]));
    let (log, value) = closed_boot(&release, &volume);
    let quoted = |reset, value: &[u8]| {
        let boot = BootId { key: AttestationKey::parse(&area(4)).unwrap().name(), reset, restart: 4 };
        Quoted { bank: Bank::Sha384, boot, registers: [(15, value.to_vec())].into() }
    };
    let vouched = || AkTrust::NodeCertificate(Box::new(certificate()));
    let judge = |quoted: &Quoted, key| closed(quoted, log.as_bytes(), &cluster(), key);
    let verdict = judge(&quoted(3, &value), vouched()).unwrap();
    assert!(verdict.checked.iter().any(|checked| checked.found.contains(&release)), "{verdict:?}");
    assert_eq!(verdict.assurance, Assurance::TpmVirtual);
    let worth = verdict.checked.iter().find(|checked| checked.what == "assurance").unwrap();
    assert!(worth.found.starts_with("tpm-virtual: the host of the machine is trusted"), "{worth:?}");
    // With an endorsement key, the host is trusted all the same.
    let demanding = Cluster { assurance: Assurance::TpmDiscrete, ..cluster() };
    for key in [vouched(), AkTrust::EndorsementKey("ek".into())] {
        let refusal = closed(&quoted(3, &value), log.as_bytes(), &demanding, key).unwrap_err();
        assert!(refusal.code == Code::AkUnverified && refusal.found.contains("demands tpm-discrete"), "{refusal}");
    }
    let refusal = judge(&quoted(5, &value), vouched()).unwrap_err();
    assert!(refusal.code == Code::AkUnverified && refusal.found.contains("another boot"), "{refusal}");
    // Without a certificate, nobody has said which boot it is.
    judge(&quoted(5, &value), AkTrust::EndorsementKey("ek".into())).unwrap();
    let (other, _) = closed_boot(&hex::encode([3; 32]), &volume);
    let refusal = closed(&quoted(3, &value), other.as_bytes(), &cluster(), vouched()).unwrap_err();
    assert!(refusal.code == Code::PcrMismatch && refusal.found.contains("does not lead"), "{refusal}");
    let others = Cluster { id: Hex(vec![9; 16]), ..cluster() };
    let refusal = closed(&quoted(3, &value), log.as_bytes(), &others, vouched()).unwrap_err();
    assert!(refusal.code == Code::PcrMismatch && refusal.found.contains("not this cluster"), "{refusal}");
}

#[test]
fn answer_to_another_question_or_on_another_connection_is_refused() {
    let tpm = FakeTpm::new();
    let (nonce, tls_key) = ([1; 32], [2; 32]);
    let (quote, signature) = tpm.quote(&extra_data(&nonce, &tls_key, tpm.key.name().as_bytes()));
    let answer = Answer {
        ak: Hex(tpm.area.clone()),
        bank: Bank::Sha256,
        quote: Hex(quote),
        registers: tpm.registers.values().cloned().map(Hex).collect(),
        signature: Hex(signature),
        ..answer(&certificate(), &key(5), EPOCH)
    };
    let expected = composition(&Configuration::Stateless, b"the UKI");
    let judge = |nonce, tls_key| {
        let key = AkTrust::EndorsementKey("ek".into());
        verify(&answer, nonce, tls_key, &expected, &cluster(), key).unwrap_err()
    };
    // The control: with the same question, the next check fails.
    let refusal = judge(&nonce, &tls_key);
    assert!(refusal.code == Code::Malformed && refusal.found.contains("the firmware's log"), "{refusal}");
    for refusal in [judge(&[3; 32], &tls_key), judge(&nonce, &[3; 32])] {
        assert_eq!(refusal.code, Code::BinderMismatch, "{refusal}");
    }
}
