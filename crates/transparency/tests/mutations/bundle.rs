//! Bundle, envelope, entry and proof.

use serde_json::Value;
use transparency::Code;
use transparency::bundle::Bundle;
use transparency::key::Key;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::trust_root::TrustRoot;
use transparency::verify::logged;

use crate::fake::{Fake, NOW, documents, ed25519, public};
use crate::{assert_complete, code, objects, other_text, with, without};

const ENTRY: &str = "/verificationMaterial/tlogEntries/0";

fn published() -> (TrustRoot, Value) {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    (root, serde_json::from_slice(&bundle).unwrap())
}

fn judged(root: &TrustRoot, bundle: &Value) -> Option<Code> {
    code(logged::<MeasuredBoot>(bundle.to_string().as_bytes(), root, NOW))
}

#[test]
fn every_field_of_a_bundle_counts() {
    let (root, good) = published();
    assert_eq!(judged(&root, &good), None);
    let text = |pointer: &str| good.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let entry = |field: &str| format!("{ENTRY}{field}");
    let flipped = |pointer: &str| other_text(&text(pointer), 20);
    let timestamp = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    let mut rows: Vec<(String, Value, Code)> = vec![
        ("/mediaType".into(), "application/vnd.dev.sigstore.bundle+json;version=0.2".into(), Code::Schema),
        ("/verificationMaterial/publicKey/hint".into(), Key::ed25519([1; 32]).hint().into(), Code::Key),
        (timestamp.into(), other_text(&text(timestamp), text(timestamp).len() - 9).into(), Code::Timestamp),
        ("/dsseEnvelope/payload".into(), flipped("/dsseEnvelope/payload").into(), Code::Signature),
        ("/dsseEnvelope/payloadType".into(), "application/json".into(), Code::Schema),
        ("/dsseEnvelope/signatures/0/keyid".into(), "another".into(), Code::Key),
        ("/dsseEnvelope/signatures/0/sig".into(), flipped("/dsseEnvelope/signatures/0/sig").into(), Code::Signature),
    ];
    rows.extend([
        (entry("/logIndex"), "4".into(), Code::Schema),
        (entry("/logId/keyId"), flipped(&entry("/logId/keyId")).into(), Code::Origin),
        (entry("/kindVersion/kind"), "dsse".into(), Code::Schema),
        (entry("/kindVersion/version"), "0.0.1".into(), Code::Schema),
        (entry("/integratedTime"), NOW.to_string().into(), Code::Schema),
        (entry("/inclusionProof/logIndex"), "4".into(), Code::Schema),
        (entry("/inclusionProof/rootHash"), flipped(&entry("/inclusionProof/rootHash")).into(), Code::Inclusion),
        (entry("/inclusionProof/treeSize"), "7".into(), Code::Inclusion),
        (entry("/inclusionProof/hashes/0"), flipped(&entry("/inclusionProof/hashes/0")).into(), Code::Inclusion),
        (entry("/inclusionProof/hashes/1"), flipped(&entry("/inclusionProof/hashes/1")).into(), Code::Inclusion),
        (entry("/inclusionProof/checkpoint/envelope"), "log.test.invalid\n6\n".into(), Code::Checkpoint),
        (entry("/canonicalizedBody"), flipped(&entry("/canonicalizedBody")).into(), Code::Leaf),
    ]);
    assert_complete(&good, rows.iter().map(|(pointer, ..)| pointer.as_str()));
    for (pointer, value, expected) in rows {
        let found = judged(&root, &with(&good, &pointer, value));
        assert_eq!(found, Some(expected), "{pointer}");
    }
}

#[test]
fn nothing_may_be_missing_but_what_protobuf_leaves_out() {
    let (root, good) = published();
    for pointer in crate::leaves(&good) {
        let expected = match pointer.as_str() {
            "/dsseEnvelope/signatures/0/keyid" => None,
            pointer if pointer.ends_with("/integratedTime") => None,
            pointer if pointer.ends_with("/hashes/0") || pointer.ends_with("/hashes/1") => Some(Code::Inclusion),
            _ => Some(Code::Schema),
        };
        assert_eq!(judged(&root, &without(&good, &pointer)), expected, "{pointer}");
    }
    for (pointer, expected) in [
        ("/verificationMaterial/timestampVerificationData", Code::TimestampMissing),
        ("/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0", Code::TimestampMissing),
        ("/verificationMaterial/tlogEntries/0", Code::Schema),
        ("/verificationMaterial/tlogEntries", Code::Schema),
        ("/verificationMaterial", Code::Schema),
        ("/dsseEnvelope/signatures/0", Code::Schema),
        ("/dsseEnvelope", Code::Schema),
        ("/verificationMaterial/tlogEntries/0/inclusionProof", Code::Schema),
        ("/verificationMaterial/tlogEntries/0/inclusionProof/hashes", Code::Inclusion),
    ] {
        assert_eq!(judged(&root, &without(&good, pointer)), Some(expected), "{pointer}");
    }
}

#[test]
fn nothing_may_be_there_that_is_not_known() {
    let (root, good) = published();
    for object in objects(&good) {
        let mut bad = good.clone();
        bad.pointer_mut(&object).unwrap()["more"] = 1.into();
        assert_eq!(judged(&root, &bad), Some(Code::Schema), "{object}");
    }
    for list in ["/verificationMaterial/tlogEntries", "/dsseEnvelope/signatures"] {
        let mut bad = good.clone();
        let all = bad.pointer_mut(list).unwrap().as_array_mut().unwrap();
        all.push(all[0].clone());
        assert_eq!(judged(&root, &bad), Some(Code::Schema), "{list}");
    }
    let twice = good.to_string().replacen("\"mediaType\"", "\"mediaType\":\"x\",\"mediaType\"", 1);
    assert_eq!(code(logged::<MeasuredBoot>(twice.as_bytes(), &root, NOW)), Some(Code::Schema));
    let long = format!("{}{good}", " ".repeat(1 << 20));
    assert_eq!(code(logged::<MeasuredBoot>(long.as_bytes(), &root, NOW)), Some(Code::Schema));
    for index in ["05", "-5", "+5", "5.0", "18446744073709551616", ""] {
        let bad =
            with(&with(&good, &format!("{ENTRY}/logIndex"), index), &format!("{ENTRY}/inclusionProof/logIndex"), index);
        assert_eq!(judged(&root, &bad), Some(Code::Schema), "{index}");
    }
}

#[test]
fn a_proof_of_another_entry_is_none_of_this() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap());
    let other = fake.publish(&documents::provenance().write().unwrap());
    let judge = |change: &dyn Fn(&mut transparency::bundle::Bundle)| {
        let mut changed = bundle.clone();
        change(&mut changed);
        code(logged::<MeasuredBoot>(&changed.write().unwrap(), &root, NOW))
    };
    assert_eq!(judge(&|_| ()), None);
    assert_eq!(judge(&|bundle| bundle.entry = other.entry.clone()), Some(Code::Leaf));
    assert_eq!(judge(&|bundle| bundle.entry.index -= 1), Some(Code::Inclusion), "both numbers");
    assert_eq!(judge(&|bundle| bundle.entry.path.push([0; 32])), Some(Code::Inclusion));
    assert_eq!(judge(&|bundle| bundle.entry.size = 0), Some(Code::Inclusion));
    assert_eq!(judge(&|bundle| bundle.entry.checkpoint = other.entry.checkpoint.clone()), Some(Code::CheckpointHead));
    assert_eq!(judge(&|bundle| bundle.timestamps = other.timestamps.clone()), Some(Code::Timestamp));
    assert_eq!(judge(&|bundle| bundle.envelope = other.envelope.clone()), Some(Code::Leaf));
    // A tree that somebody made of the entry alone has a right proof, and no signed head.
    let alone = |bundle: &mut transparency::bundle::Bundle| {
        let leaf = transparency::tree::leaf(&bundle.entry.body);
        (bundle.entry.index, bundle.entry.size, bundle.entry.root, bundle.entry.path) = (0, 1, leaf, Vec::new());
    };
    assert_eq!(judge(&alone), Some(Code::CheckpointHead));
    // The hint of a key that signs logs is none of a key that signs releases.
    let hint = Key::ed25519(public(&ed25519(1))).hint();
    assert_eq!(judge(&|bundle| bundle.hint = hint.clone()), Some(Code::Key));
}

#[test]
fn a_signature_of_another_key_is_none() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let hint = fake.signer.key.hint();
    fake.signer = crate::fake::Signer::new();
    let mut bundle = fake.publish(&documents::release().write().unwrap());
    assert_eq!(code(logged::<MeasuredBoot>(&bundle.write().unwrap(), &root, NOW)), Some(Code::Key));
    bundle.hint = hint;
    assert_eq!(code(logged::<MeasuredBoot>(&bundle.write().unwrap(), &root, NOW)), Some(Code::Signature));
}

/// Bundles of other programs: `recorded/README.md` says what they are.
#[test]
fn numbers_are_read_as_text_and_as_numbers() {
    let (_, good) = published();
    let as_numbers = ["/logIndex", "/inclusionProof/logIndex", "/inclusionProof/treeSize"].iter().fold(
        good.clone(),
        |bundle, field| {
            let pointer = format!("{ENTRY}{field}");
            let number: u64 = good.pointer(&pointer).unwrap().as_str().unwrap().parse().unwrap();
            with(&bundle, &pointer, Value::from(number))
        },
    );
    let read = |bundle: &Value| Bundle::parse(bundle.to_string().as_bytes()).unwrap();
    assert_ne!(as_numbers, good);
    assert_eq!(read(&as_numbers), read(&good));
    Bundle::parse(include_bytes!("../recorded/foreign/bundle-int64-as-number.json")).unwrap();
    for number in [Value::from(-4), Value::from(4.5), Value::from(u64::MAX), Value::from("04"), Value::Null] {
        let bundle = with(&good, &format!("{ENTRY}/logIndex"), number);
        assert!(Bundle::parse(bundle.to_string().as_bytes()).is_err(), "{bundle}");
    }
}

#[test]
fn bundle_of_another_shape_is_named_with_the_next_step() {
    let refused = |bytes: &[u8]| Bundle::parse(bytes).unwrap_err().found;
    let found = refused(include_bytes!("../recorded/foreign/bundle-v0.1.sigstore.json"));
    assert!(found.contains("version=0.1") && found.contains("hint: "), "{found}");
    let (_, good) = published();
    let mut of_file = good.as_object().unwrap().clone();
    of_file.remove("dsseEnvelope");
    of_file.insert("messageSignature".into(), serde_json::json!({"signature": ""}));
    let found = refused(Value::from(of_file).to_string().as_bytes());
    assert!(found.contains("signature of a file") && found.contains("cosign verify-blob"), "{found}");
}
