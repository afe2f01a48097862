//! Trust roots: who signed them, what they say, and which follows which.

use envelope::Envelope;
use measurements::bytes::{Bytes32, Hex};
use measurements::canonical::Document;
use serde_json::Value;
use sha2::{Digest, Sha256};
use transparency::Code;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::trust_root::{PAYLOAD_TYPE, TrustRoot, TrustRootDocument, Use, Validity};
use transparency::verify::logged;

use crate::fake::authority::FakeAuthority;
use crate::fake::{Fake, NOW, Signer, documents, ed25519, public};
use crate::{assert_complete, code, objects, with};

type Change = fn(&mut TrustRootDocument);

/// What a bundle that its publisher made honestly gets from whoever believes this document, signed by the root keys of the fake.
fn judged(payload: &[u8], fake: &mut Fake) -> Option<Code> {
    let bundle = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    let root = TrustRoot::first(&fake.sign_trust_root(payload));
    code(root.and_then(|root| logged::<MeasuredBoot>(&bundle, &root, NOW)))
}

fn validity(of: &[u8], not_before: u64, not_after: u64) -> Validity {
    Validity { not_after, not_before, of: Bytes32(Sha256::digest(of).into()) }
}

fn value(document: &TrustRootDocument) -> Value {
    serde_json::from_slice(&document.write().unwrap()).unwrap()
}

#[test]
fn every_field_of_a_trust_root_counts() {
    let mut fake = Fake::new();
    let good = value(&fake.trust_root());
    let bytes = |value: &Value| format!("{value}\n").into_bytes();
    assert_eq!(judged(&bytes(&good), &mut fake), None);
    let key = |seed| Value::from(hex::encode(public(&ed25519(seed))));
    let log = hex::encode(transparency::key::Key::ed25519(public(&ed25519(9))).spki());
    let other_authority = hex::encode(FakeAuthority::new(NOW - 1000, NOW + 1000).certificate);
    let rows: Vec<(&str, Value, Code)> = vec![
        ("/keys/0/key", hex::encode(Signer::new().key.spki()).into(), Code::Key),
        ("/keys/0/not_after", NOW.into(), Code::KeyValidity),
        ("/keys/0/not_before", (NOW + 1).into(), Code::KeyValidity),
        ("/keys/0/uses/0", "rebuild".into(), Code::KeyUse),
        ("/keys/0/uses/1", "channel".into(), Code::TrustRoot),
        ("/keys/0/uses/2", "everything".into(), Code::TrustRoot),
        ("/logs/0/key", log.into(), Code::CheckpointSignature),
        ("/logs/0/origin", "other.test.invalid".into(), Code::Origin),
        // Two of the three sign: each must be one of them.
        ("/root/keys/0", key(9), Code::TrustRootSignature),
        ("/root/keys/1", key(9), Code::TrustRootSignature),
        ("/root/keys/2", key(4), Code::TrustRoot),
        ("/root/threshold", 3.into(), Code::TrustRootSignature),
        ("/schema", "cairn.trust-root/2".into(), Code::TrustRoot),
        ("/timestamp_authorities/0", other_authority.into(), Code::Timestamp),
        ("/version", 0.into(), Code::TrustRoot),
        ("/witnesses/keys/0/key", key(9), Code::Witnesses),
        ("/witnesses/keys/0/name", "other.test.invalid".into(), Code::Witnesses),
        ("/witnesses/keys/1/key", key(9), Code::Witnesses),
        ("/witnesses/keys/1/name", "other.test.invalid".into(), Code::Witnesses),
        ("/witnesses/threshold", 3.into(), Code::TrustRoot),
    ];
    assert_complete(&good, rows.iter().map(|(pointer, ..)| *pointer));
    for (pointer, value, expected) in rows {
        let changed = with(&good, pointer, value);
        assert_eq!(judged(&bytes(&changed), &mut fake), Some(expected), "{pointer}");
        // Nobody signed it.
        let signed = String::from_utf8(fake.sign_trust_root(&bytes(&good))).unwrap();
        let (old, new) = (base64(&bytes(&good)), base64(&bytes(&changed)));
        let unsigned = code(TrustRoot::first(signed.replacen(&old, &new, 1).as_bytes()));
        assert!(matches!(unsigned, Some(Code::TrustRootSignature | Code::TrustRoot)), "{pointer}: {unsigned:?}");
    }
    for object in objects(&good) {
        let mut bad = good.clone();
        bad.pointer_mut(&object).unwrap()["more"] = 1.into();
        assert_eq!(judged(&bytes(&bad), &mut fake), Some(Code::TrustRoot), "{object}");
    }
}

#[test]
fn a_trust_root_does_not_contradict_itself() {
    let fake = Fake::new();
    let refused = |change: Change| {
        let mut document = fake.trust_root();
        change(&mut document);
        code(document.write())
    };
    assert_eq!(refused(|_| ()), None);
    let rows: [(&str, Change); 18] = [
        ("no root key is needed", |root| root.root.threshold = 0),
        ("more root keys are needed than there are", |root| root.root.threshold = 4),
        ("a root key twice", |root| root.root.keys[1] = root.root.keys[0]),
        ("witnesses of which none is needed", |root| root.witnesses.threshold = 0),
        ("a witness twice", |root| root.witnesses.keys[1].key = root.witnesses.keys[0].key),
        ("two witnesses with one name", |root| root.witnesses.keys[1].name = root.witnesses.keys[0].name.clone()),
        ("a key twice", |root| root.keys.push(root.keys[0].clone())),
        ("a time of validity of no log and no authority", |root| root.validity.push(validity(&[1], 1, 2))),
        ("two times of validity of one log", |root| {
            let key = root.logs[0].key.0.clone();
            root.validity.extend([validity(&key, 1, 2), validity(&key, 2, 3)]);
        }),
        ("a log that is never valid", |root| root.validity.push(validity(&root.logs[0].key.0.clone(), 2, 2))),
        ("a log's key twice", |root| root.logs.push(root.logs[0].clone())),
        ("a log without an origin", |root| root.logs[0].origin.clear()),
        ("an origin of two lines", |root| root.logs[0].origin = "a\nb".into()),
        ("a signer of Ed25519", |root| root.keys[0].key = root.logs[0].key.clone()),
        ("a key that may sign nothing", |root| root.keys[0].uses.clear()),
        ("a key that is never valid", |root| root.keys[0].not_after = root.keys[0].not_before),
        ("a key that is none", |root| root.logs[0].key = Hex(vec![1])),
        ("an authority that is none", |root| root.timestamp_authorities[0] = Hex(vec![1])),
    ];
    for (what, change) in rows {
        assert_eq!(refused(change), Some(Code::TrustRoot), "{what}");
    }
}

#[test]
fn a_key_says_only_what_it_may() {
    for (uses, expected) in [
        (vec![Use::Image], None),
        (vec![Use::Machine, Use::Image], None),
        (vec![Use::Machine], Some(Code::KeyUse)),
        (vec![Use::Channel], Some(Code::KeyUse)),
    ] {
        let mut fake = Fake::new();
        let mut document = fake.trust_root();
        document.keys[0].uses = uses;
        assert_eq!(judged(&document.write().unwrap(), &mut fake), expected);
    }
}

#[test]
fn the_next_trust_root_is_signed_by_the_old_and_the_new_and_is_newer() {
    let fake = Fake::new();
    let first = fake.trusted(&fake.trust_root());
    let (others, mut next) = ([ed25519(7), ed25519(8), ed25519(9)], fake.trust_root());
    next.version = 2;
    let sign = |document: &TrustRootDocument, keys: &[&ring::signature::Ed25519KeyPair]| {
        let payload = document.write().unwrap();
        let mut envelope = Envelope::sign(PAYLOAD_TYPE, &payload, "", keys[0]);
        for key in &keys[1..] {
            envelope.join(Envelope::sign(PAYLOAD_TYPE, &payload, "", key)).unwrap();
        }
        serde_json::to_vec(&envelope).unwrap()
    };
    let old = [&fake.roots[0], &fake.roots[1]];
    assert_eq!(first.next(&sign(&next, &old)).unwrap().document().version, 2);
    for version in [0_u64, 1] {
        let mut document = fake.trust_root();
        document.version = version.max(1);
        let expected = Some(Code::TrustRootVersion);
        assert_eq!(code(first.next(&sign(&document, &old))), expected, "{version}");
    }
    // The root keys themselves change hands.
    next.root.keys = others.iter().map(|key| Bytes32(public(key))).collect();
    let new = [&others[0], &others[1]];
    for (keys, expected) in [
        ([&old[..], &new[..]].concat(), None),
        (new.to_vec(), Some(Code::TrustRootSignature)),
        (old.to_vec(), Some(Code::TrustRootSignature)),
        (vec![old[0], new[0], new[1]], Some(Code::TrustRootSignature)),
        (vec![old[0], old[1], new[0]], Some(Code::TrustRootSignature)),
        (vec![old[0], old[0], new[0], new[1]], Some(Code::TrustRootSignature)),
    ] {
        assert_eq!(code(first.next(&sign(&next, &keys))), expected);
    }
    // Signed as something else, it is no trust root.
    let payload = next.write().unwrap();
    let other = Envelope::sign("application/vnd.cairn.release+json", &payload, "", &others[0]);
    let other = code(TrustRoot::first(&serde_json::to_vec(&other).unwrap()));
    assert_eq!(other, Some(Code::TrustRootSignature));
    assert_eq!(code(TrustRoot::first(b"{}")), Some(Code::TrustRoot));
    assert_eq!(next.schema, TrustRootDocument::SCHEMA);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
