//! What an honest publisher makes is believed; one change of anything is refused, with one code.

#![allow(clippy::unwrap_used, clippy::panic)]

mod fake;

use fake::{Fake, NOW, ORIGIN, documents};
use transparency::statement::Statement;
use transparency::statement::channel::{Channel, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::provenance::Provenance;
use transparency::verify::{About, Current, Known, logged};

#[test]
fn what_is_published_is_verified() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    let found = logged::<MeasuredBoot>(&bundle, &root, NOW).unwrap();
    assert_eq!(found.statement, documents::release());
    assert_eq!((found.evidence.origin.as_str(), found.evidence.index, found.evidence.time), (ORIGIN, 5, Some(NOW)));
    assert_eq!(found.evidence.witnesses.len(), 2);

    let state = Statement::channel(documents::channel(found.digest, Standing::Good)).unwrap();
    let state = fake.publish(&state.write().unwrap()).write().unwrap();
    let current = Current::new(logged::<Channel>(&state, &root, NOW).unwrap(), 4, NOW).unwrap();
    let known = Known { now: NOW, channel: Some(&current), newest: Some(documents::PREVIOUS) };
    found.judge(About::Anything, &known).unwrap();
    let pcr11 = found.statement.subjects().iter().find(|subject| subject.name == "tpm:pcr11@initrd").unwrap();
    let about = About::Value { algorithm: "sha384", digest: &pcr11.digest["sha384"].0 };
    assert_eq!(found.is_about(about).unwrap(), Some(pcr11));

    let made = fake.publish(&documents::provenance().write().unwrap()).write().unwrap();
    assert_eq!(logged::<Provenance>(&made, &root, NOW).unwrap().statement, documents::provenance());
}

#[test]
fn values_of_an_image_do_not_depend_on_machine_or_cluster() {
    let names = |statement: &Statement<MeasuredBoot>| {
        let values = statement.subjects().iter().filter(|subject| subject.is_value());
        values.map(|subject| subject.name.clone()).collect::<Vec<_>>()
    };
    let image = names(&documents::release());
    assert_eq!(
        image,
        ["firmware", "initrd", "running"]
            .iter()
            .flat_map(|at| [format!("tpm:pcr4@{at}"), format!("tpm:pcr11@{at}")])
            .collect::<Vec<_>>(),
        "PCR 15 is another one in a cluster"
    );
    let machine = names(&documents::measured_boot(Reference::Machine(Box::new(documents::machine()))));
    assert_eq!(machine, ["tpm:pcr0@firmware", "tpm:pcr1@firmware", "tpm:pcr7@firmware"]);
}

#[test]
fn statements_are_the_same_bytes_whoever_makes_them() {
    let bytes = documents::release().write().unwrap();
    assert_eq!(bytes, documents::release().write().unwrap());
    let again = Statement::<MeasuredBoot>::read(&bytes).unwrap();
    assert_eq!(again.write().unwrap(), bytes);
    assert!(bytes.starts_with(b"{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicate\":{\"notAfter\":"));
}
