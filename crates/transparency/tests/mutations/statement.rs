//! Statements: what their publisher signs and logs must be whole, and is compared with what is asked.

use measurements::bytes::Bytes32;
use serde_json::Value;
use sha2::{Digest, Sha256};
use transparency::Code;
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::provenance::Provenance;
use transparency::statement::rebuild::Rebuild;
use transparency::statement::{Predicate, Statement};
use transparency::verify::{About, Known, logged, rebuilders};

use crate::fake::{Fake, NOW, Signer, documents};
use crate::{assert_complete, code, leaves, objects, with};

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// What a statement gets that its publisher signs, whatever it is.
fn judged(statement: &[u8]) -> Option<Code> {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(statement).write().unwrap();
    let known = Known { now: NOW, channel: None, newest: Some(documents::PREVIOUS) };
    code(logged::<MeasuredBoot>(&bundle, &root, NOW).and_then(|found| found.judge(About::Anything, &known)))
}

fn bytes(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

#[test]
fn every_field_of_a_statement_counts() {
    let good = value(&documents::release().write().unwrap());
    assert_eq!(judged(&bytes(&good)), None);
    let (own, reference): (Vec<String>, Vec<String>) =
        leaves(&good).into_iter().partition(|pointer| !pointer.starts_with("/predicate/reference"));
    let rows: Vec<(&str, Value, Option<Code>)> = vec![
        ("/_type", "https://in-toto.io/Statement/v0.1".into(), Some(Code::Statement)),
        ("/predicateType", "https://slsa.dev/provenance/v1".into(), Some(Code::PredicateType)),
        ("/predicate/notAfter", NOW.into(), Some(Code::Expired)),
        ("/predicate/notBefore", (NOW + 1).into(), Some(Code::NotYetValid)),
        ("/predicate/previous", "07".repeat(32).into(), Some(Code::Rollback)),
    ];
    for (pointer, value, expected) in &rows {
        assert_eq!(judged(&bytes(&with(&good, pointer, value.clone()))), *expected, "{pointer}");
    }
    for pointer in &own {
        let old = good.pointer(pointer).unwrap();
        let expected = match pointer.as_str() {
            pointer if rows.iter().any(|(row, ..)| *row == pointer) => continue,
            // Only the publisher knows what a file is called; everything else follows from the reference.
            "/subject/0/name" | "/subject/1/name" | "/subject/2/name" => None,
            _ => Some(Code::Statement),
        };
        let text = old.as_str().unwrap_or_else(|| panic!("{pointer} has no row"));
        let other = crate::other_text(text, text.len() - 1);
        assert_eq!(judged(&bytes(&with(&good, pointer, other))), expected, "{pointer}");
    }
    // The reference's digest is that of a subject: none of its fields can be another.
    for pointer in reference {
        let other = match good.pointer(&pointer).unwrap() {
            Value::String(text) => Value::from(crate::other_text(&format!("0{text}"), text.len())),
            Value::Number(number) => (number.as_u64().unwrap() + 1).into(),
            Value::Bool(flag) => (!flag).into(),
            other => panic!("{pointer}: {other}"),
        };
        assert_eq!(judged(&bytes(&with(&good, &pointer, other))), Some(Code::Statement), "{pointer}");
    }
}

#[test]
fn nothing_more_may_be_said_and_only_in_one_way() {
    let good = value(&documents::release().write().unwrap());
    for object in objects(&good).into_iter().filter(|object| !object.ends_with("/digest")) {
        let mut bad = good.clone();
        bad.pointer_mut(&object).unwrap()["more"] = 1.into();
        assert_eq!(judged(&bytes(&bad)), Some(Code::Statement), "{object}");
    }
    let text = good.to_string();
    for (bad, expected) in [
        (text.clone(), Code::Statement),
        (format!("{text}\n\n"), Code::Statement),
        (format!(" {text}\n"), Code::Statement),
        (text.replacen("\"predicateType\"", "\"predicateType\":\"x\",\"predicateType\"", 1) + "\n", Code::Statement),
        (text.replacen("\"notAfter\"", "\"notAfter\":1,\"notAfter\"", 1) + "\n", Code::Statement),
        (String::new(), Code::Statement),
        ("{}\n".into(), Code::Statement),
        ("[".repeat(5000), Code::Statement),
    ] {
        assert_eq!(judged(bad.as_bytes()), Some(expected), "{}", &bad[..bad.len().min(60)]);
    }
    let mut never = good.clone();
    never["predicate"]["notAfter"] = good["predicate"]["notBefore"].clone();
    assert_eq!(judged(&bytes(&never)), Some(Code::Statement));
}

#[test]
fn subjects_are_files_and_exactly_the_values_that_follow() {
    let good = value(&documents::release().write().unwrap());
    let subjects = good["subject"].as_array().unwrap().len();
    for number in 0..subjects {
        let mut fewer = good.clone();
        fewer["subject"].as_array_mut().unwrap().remove(number);
        assert_eq!(judged(&bytes(&fewer)), Some(Code::Statement), "without subject {number}");
    }
    let more = |subject: Value| {
        let mut more = good.clone();
        more["subject"].as_array_mut().unwrap().push(subject);
        judged(&bytes(&more))
    };
    let digest = serde_json::json!({"sha256": "00".repeat(32)});
    assert_eq!(more(serde_json::json!({"name": "another file", "digest": digest})), None);
    for name in ["tpm:pcr13@initrd", "snp:launch", "tdx:mrtd", "", "cairn_0.1.0.raw"] {
        assert_eq!(more(serde_json::json!({"name": name, "digest": digest})), Some(Code::Statement), "{name}");
    }
    assert_eq!(more(serde_json::json!({"name": "no digest", "digest": {}})), Some(Code::Statement));
    for (algorithm, length) in [("sha256", 31), ("sha384", 32), ("sha512", 65), ("sm3", 65), ("sm3", 0)] {
        let digest = serde_json::json!({algorithm: "00".repeat(length)});
        assert_eq!(more(serde_json::json!({"name": "x", "digest": digest})), Some(Code::Statement), "{algorithm}");
    }
    assert_eq!(more(serde_json::json!({"name": "odd", "digest": {"sha256": "0"}})), Some(Code::Statement));
    assert_eq!(more(serde_json::json!({"name": "capitals", "digest": {"sha256": "AA"}})), Some(Code::Statement));
}

#[test]
fn what_cannot_be_a_release_is_not_even_said() {
    let refused = |change: &dyn Fn(&mut measurements::document::image::ImageReference)| {
        let mut image = documents::image();
        change(&mut image);
        let reference = Reference::Image(Box::new(image));
        code(Statement::measured_boot(documents::files(&reference), documents::predicate(reference)))
    };
    assert_eq!(refused(&|_| ()), None);
    assert_eq!(refused(&|image| image.dirty = true), Some(Code::Statement));
    assert_eq!(refused(&|image| image.locked = false), Some(Code::Statement));
    assert_eq!(refused(&|image| image.lock.clear()), Some(Code::Statement));
    assert_eq!(refused(&|image| image.raw.sha256 = "00".repeat(32)), Some(Code::Statement));
    for (dirty, locked) in [(true, true), (false, false)] {
        let build = measurements::document::build::ImageDocument { dirty, locked, ..documents::build() };
        assert_eq!(code(Statement::provenance(&build, Vec::new(), "b", None)), Some(Code::Statement));
    }
}

#[test]
fn a_statement_is_about_its_subjects_alone() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    let found = logged::<MeasuredBoot>(&bundle, &root, NOW).unwrap();
    let raw: [u8; 32] = Sha256::digest(documents::RAW).into();
    let pcr = found.statement.subjects().iter().find(|subject| subject.name == "tpm:pcr4@initrd").unwrap();
    let (sha256, sha384) = (pcr.digest["sha256"].0.clone(), pcr.digest["sha384"].0.clone());
    let as_file: [u8; 32] = sha256.clone().try_into().unwrap();
    let rows = [
        (About::File(&raw), None),
        (About::File(&[0; 32]), Some(Code::Subject)),
        (About::File(&as_file), Some(Code::Subject)),
        (About::Value { algorithm: "sha256", digest: &sha256 }, None),
        (About::Value { algorithm: "sha384", digest: &sha384 }, None),
        (About::Value { algorithm: "sha384", digest: &sha256 }, Some(Code::Subject)),
        (About::Value { algorithm: "sha256", digest: &sha256[..31] }, Some(Code::Subject)),
        (About::Value { algorithm: "sha256", digest: &[] }, Some(Code::Subject)),
        (About::Value { algorithm: "sha256", digest: &[0; 32] }, Some(Code::Subject)),
        (About::Value { algorithm: "sm3", digest: &sha256 }, Some(Code::Subject)),
    ];
    for (about, expected) in rows {
        assert_eq!(code(found.judge(about, &Known { now: NOW, ..Known::default() })), expected, "{about:?}");
    }
}

#[test]
fn a_statement_follows_the_newest_or_is_it() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    let found = logged::<MeasuredBoot>(&bundle, &root, NOW).unwrap();
    for (newest, expected) in [
        (None, None),
        (Some(documents::PREVIOUS), None),
        (Some(found.digest), None),
        (Some(Bytes32([0; 32])), Some(Code::Rollback)),
    ] {
        assert_eq!(code(found.judge(About::Anything, &Known { now: NOW, channel: None, newest })), expected);
    }
    for (now, expected) in
        [(NOW - 301, Some(Code::NotYetValid)), (NOW - 300, None), (NOW + 299, None), (NOW + 300, Some(Code::Expired))]
    {
        assert_eq!(code(found.judge(About::Anything, &Known { now, ..Known::default() })), expected, "{now}");
    }
}

#[test]
fn every_field_of_provenance_counts() {
    let good = value(&documents::provenance().write().unwrap());
    let judged = |value: &Value| {
        let mut fake = Fake::new();
        let root = fake.trusted(&fake.trust_root());
        let bundle = fake.publish(&bytes(value)).write().unwrap();
        code(logged::<Provenance>(&bundle, &root, NOW))
    };
    assert_eq!(judged(&good), None);
    let definition = |field: &str| format!("/predicate/buildDefinition{field}");
    let dependency = |number: u8, field: &str| definition(&format!("/resolvedDependencies/{number}{field}"));
    // What the publisher says and nothing contradicts is the publisher's word; what it says it of are the subjects.
    let mut rows: Vec<(String, Value, Option<Code>)> = vec![
        ("/_type".into(), "x".into(), Some(Code::Statement)),
        ("/predicateType".into(), MeasuredBoot::TYPE.into(), Some(Code::PredicateType)),
        (definition("/buildType"), "x".into(), Some(Code::Statement)),
        (dependency(0, "/name"), "x".into(), Some(Code::Statement)),
        (dependency(1, "/name"), "x".into(), Some(Code::Statement)),
        (dependency(2, "/name"), "x".into(), Some(Code::Statement)),
        (dependency(1, "/digest/sha256"), "x".into(), Some(Code::Statement)),
        ("/subject/0/digest/sha256".into(), "00".repeat(32).into(), None),
        ("/subject/0/name".into(), "tpm:pcr4@initrd".into(), Some(Code::Statement)),
        ("/subject/1/digest/sha256".into(), "x".into(), Some(Code::Statement)),
        ("/subject/1/name".into(), good["subject"][0]["name"].clone(), Some(Code::Statement)),
    ];
    for field in ["/externalParameters/variant", "/internalParameters/id", "/internalParameters/version"] {
        rows.push((definition(field), "x".into(), None));
    }
    for field in ["/internalParameters/epoch", "/internalParameters/sourceDate"] {
        rows.push((definition(field), 7.into(), None));
    }
    rows.extend([
        (dependency(0, "/digest/gitCommit"), "x".into(), None),
        (dependency(0, "/uri"), "x".into(), None),
        (dependency(2, "/digest/gitCommit"), "x".into(), None),
        ("/predicate/runDetails/builder/id".into(), "x".into(), None),
    ]);
    assert_complete(&good, rows.iter().map(|(pointer, ..)| pointer.as_str()));
    for (pointer, value, expected) in rows {
        assert_eq!(judged(&with(&good, &pointer, value)), expected, "{pointer}");
    }
}

/// Two releases' worth of rebuilders: what a release and these rebuilds (by number of the rebuilder) get.
fn rebuilt(fake: &mut Fake, rebuilds: &[(usize, Vec<u8>)], least: u64) -> Option<Code> {
    let root = fake.trusted(&fake.trust_root());
    let release = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    let release = logged::<MeasuredBoot>(&release, &root, NOW).unwrap();
    let bundles: Vec<_> =
        rebuilds.iter().map(|(by, bytes)| fake.publish_rebuild(*by, bytes).write().unwrap()).collect();
    let read = bundles.iter().map(|bundle| logged::<Rebuild>(bundle, &root, NOW)).collect::<Result<Vec<_>, _>>();
    code(read.and_then(|rebuilds| rebuilders(&release, &rebuilds, least)))
}

fn with_rebuilders() -> Fake {
    Fake { rebuilders: vec![Signer::new(), Signer::new()], ..Fake::new() }
}

#[test]
fn every_field_of_a_rebuild_counts() {
    let good = value(&documents::rebuild().write().unwrap());
    let judged = |value: &Value| rebuilt(&mut with_rebuilders(), &[(0, bytes(value))], 1);
    assert_eq!(judged(&good), None);
    let digest = |number: u8| format!("/subject/{number}/digest/sha256");
    let name = |number: u8| format!("/subject/{number}/name");
    let other = "00".repeat(32);
    let rows: Vec<(String, Value, Option<Code>)> = vec![
        ("/_type".into(), "x".into(), Some(Code::Statement)),
        ("/predicateType".into(), Provenance::TYPE.into(), Some(Code::PredicateType)),
        ("/predicate/lock".into(), other.clone().into(), Some(Code::Subject)),
        // Its own subjects do not have it.
        ("/predicate/reference".into(), other.clone().into(), Some(Code::Statement)),
        ("/predicate/revision".into(), "x".into(), Some(Code::Subject)),
        (digest(0), other.clone().into(), Some(Code::Subject)),
        (digest(1), other.clone().into(), Some(Code::Subject)),
        (digest(2), other.into(), Some(Code::Statement)),
        (name(0), "tpm:pcr4@initrd".into(), Some(Code::Statement)),
        // Only digests count.
        (name(1), "x".into(), None),
        (name(2), "x".into(), None),
    ];
    assert_complete(&good, rows.iter().map(|(pointer, ..)| pointer.as_str()));
    for (pointer, value, expected) in rows {
        assert_eq!(judged(&with(&good, &pointer, value)), expected, "{pointer}");
    }
    let mut another = documents::image();
    another.epoch += 1;
    let files = documents::files(&Reference::Image(Box::new(another.clone())));
    let another = Statement::rebuild(&another, files).unwrap().write().unwrap();
    assert_eq!(rebuilt(&mut with_rebuilders(), &[(0, another)], 1), Some(Code::Subject));
}

#[test]
fn rebuilders_are_counted_once_each_and_the_publisher_is_none() {
    let good = documents::rebuild().write().unwrap();
    let by = |number: usize| (number, good.clone());
    for (rebuilds, least, expected) in [
        (vec![], 0, None),
        (vec![], 1, Some(Code::Rebuilders)),
        (vec![by(0)], 1, None),
        (vec![by(0)], 2, Some(Code::Rebuilders)),
        (vec![by(0), by(0)], 2, Some(Code::Rebuilders)),
        (vec![by(0), by(1)], 2, None),
        (vec![by(1), by(0), by(1)], 2, None),
    ] {
        assert_eq!(rebuilt(&mut with_rebuilders(), &rebuilds, least), expected, "{} of {least}", rebuilds.len());
    }
    // A key that may do both counts for releases only; one that may not rebuild is refused.
    let mut fake = with_rebuilders();
    let mut document = fake.trust_root();
    document.keys[0].uses.push(transparency::trust_root::Use::Rebuild);
    let root = fake.trusted(&document);
    let own = fake.publish(&good).write().unwrap();
    let release = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    let release = logged::<MeasuredBoot>(&release, &root, NOW).unwrap();
    let own_read = logged::<Rebuild>(&own, &root, NOW).unwrap();
    assert_eq!(code(rebuilders(&release, &[own_read], 1)), Some(Code::Rebuilders));
    let root = fake.trusted(&fake.trust_root());
    assert_eq!(code(logged::<Rebuild>(&own, &root, NOW)), Some(Code::KeyUse));
}
