//! What we believe, others believe, too; and what breaks a proof, they refuse as well.

#![allow(clippy::unwrap_used)]

#[path = "../../transparency/tests/fake/mod.rs"]
mod fake;

use fake::{Fake, NOW, documents};
use second_opinion::{ask, opinions};
use transparency::bundle::Bundle;
use transparency::statement::Statement;
use transparency::statement::channel::Standing;
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::verify::logged;

#[test]
fn all_statements_that_are_published_are_believed_by_all() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let machine = Reference::Machine(Box::new(documents::machine()));
    let digest = transparency::statement::digest(b"");
    for statement in [
        documents::release().write().unwrap(),
        documents::measured_boot(machine).write().unwrap(),
        documents::provenance().write().unwrap(),
        Statement::channel(documents::channel(digest, Standing::Good)).unwrap().write().unwrap(),
    ] {
        let bundle = fake.publish(&statement).write().unwrap();
        assert_eq!(ask(&bundle, &root), Ok(()));
    }
}

#[test]
fn the_others_refuse_what_breaks_signature_or_proof_each_with_gaps_of_its_own() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap());
    let other = fake.publish(&documents::provenance().write().unwrap());
    let refused = |change: fn(&mut Bundle, &Bundle)| {
        let mut changed = bundle.clone();
        change(&mut changed, &other);
        opinions(&changed.write().unwrap(), &root).unwrap().map(|opinion| opinion.refusal.is_some())
    };
    assert_eq!(refused(|_, _| ()), [false, false]);
    type Change = fn(&mut Bundle, &Bundle);
    let rows: [(&str, Change, [bool; 2]); 7] = [
        ("a hash of the proof", |bundle, _| bundle.entry.path[0][0] ^= 1, [true, true]),
        ("the body", |bundle, _| bundle.entry.body[20] ^= 1, [true, true]),
        ("the path of another", |bundle, other| bundle.entry.path = other.entry.path.clone(), [true, true]),
        ("the head of another", |bundle, other| bundle.entry.checkpoint = other.entry.checkpoint.clone(), [true, true]),
        // `sigstore-verify` takes size and root from the signed head alone.
        ("the size", |bundle, _| bundle.entry.size += 1, [false, true]),
        ("the root", |bundle, _| bundle.entry.root[0] ^= 1, [false, true]),
        // `sigstore` does not make the entry again from the envelope, and so takes a proof of anything.
        ("the statement of another", |bundle, other| bundle.envelope = other.envelope.clone(), [true, false]),
    ];
    for (what, change, expected) in rows {
        assert_eq!(refused(change), expected, "{what}");
    }
    let changed = Bundle { envelope: other.envelope.clone(), ..bundle.clone() };
    assert!(ask(&changed.write().unwrap(), &root).is_err());
    // What only we look at.
    let mut alone = bundle.clone();
    alone.entry.checkpoint = alone.entry.checkpoint.lines().take(5).collect::<Vec<_>>().join("\n") + "\n";
    let alone = alone.write().unwrap();
    assert_eq!(ask(&alone, &root), Ok(()));
    let own = logged::<MeasuredBoot>(&alone, &root, NOW).unwrap_err();
    assert_eq!(own.code, transparency::Code::Witnesses);
}
