//! Channels: signed as releases are, numbered, expiring, and what they say of a release.

use measurements::bytes::Bytes32;
use serde_json::Value;
use transparency::Code;
use transparency::statement::Statement;
use transparency::statement::channel::{Channel, Release, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::verify::{About, Current, Known, logged};

use crate::fake::{Fake, NOW, documents};
use crate::{assert_complete, code, objects, with};

/// What the release gets when its publisher signs this channel.
fn judged(state: &[u8]) -> Option<Code> {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let release = fake.publish(&documents::release().write().unwrap()).write().unwrap();
    let release = logged::<MeasuredBoot>(&release, &root, NOW).unwrap();
    let channel = fake.publish(state).write().unwrap();
    let current = logged::<Channel>(&channel, &root, NOW).and_then(|channel| Current::new(channel, 4, NOW));
    code(
        current.and_then(|current| {
            release.judge(About::Anything, &Known { now: NOW, channel: Some(&current), newest: None })
        }),
    )
}

fn digest() -> Bytes32 {
    transparency::statement::digest(&documents::release().write().unwrap())
}

fn state(change: impl FnOnce(&mut Channel)) -> Vec<u8> {
    let mut channel = documents::channel(digest(), Standing::Good);
    change(&mut channel);
    Statement::channel(channel).unwrap().write().unwrap()
}

#[test]
fn every_field_of_a_channel_counts() {
    let good: Value = serde_json::from_slice(&state(|_| ())).unwrap();
    let judge = |value: &Value| judged(format!("{value}\n").as_bytes());
    assert_eq!(judge(&good), None);
    let own =
        good["predicate"]["releases"].as_array().unwrap().iter().position(|release| release["standing"] == "good");
    let (own, other) = (own.unwrap(), 1 - own.unwrap());
    let release = |number: usize, field: &str| format!("/predicate/releases/{number}/{field}");
    let rows: Vec<(String, Value, Option<Code>)> = vec![
        ("/_type".into(), "x".into(), Some(Code::Statement)),
        ("/predicateType".into(), "x".into(), Some(Code::PredicateType)),
        ("/predicate/expires".into(), NOW.into(), Some(Code::ChannelExpired)),
        ("/predicate/leastEpoch".into(), 4.into(), Some(Code::Epoch)),
        ("/predicate/name".into(), "".into(), Some(Code::Statement)),
        (release(own, "name"), "x".into(), Some(Code::Statement)),
        (release(own, "standing"), "revoked".into(), Some(Code::Revoked)),
        (release(own, "statement"), "ff".repeat(32).into(), Some(Code::Statement)),
        (release(other, "name"), "x".into(), Some(Code::Statement)),
        // Of another release it says another thing, and of this one the same.
        (release(other, "standing"), "good".into(), None),
        (release(other, "statement"), "00".repeat(32).into(), Some(Code::Statement)),
        ("/predicate/version".into(), 3.into(), Some(Code::ChannelRollback)),
        ("/subject/0/name".into(), "x".into(), Some(Code::Statement)),
        ("/subject/0/digest/sha256".into(), "00".repeat(32).into(), Some(Code::Statement)),
        ("/subject/1/name".into(), "x".into(), Some(Code::Statement)),
        ("/subject/1/digest/sha256".into(), "ff".repeat(32).into(), Some(Code::Statement)),
    ];
    assert_complete(&good, rows.iter().map(|(pointer, ..)| pointer.as_str()));
    for (pointer, value, expected) in rows {
        assert_eq!(judge(&with(&good, &pointer, value)), expected, "{pointer}");
    }
    for object in objects(&good) {
        let mut bad = good.clone();
        bad.pointer_mut(&object).unwrap()["more"] = 1.into();
        assert_eq!(judge(&bad), Some(Code::Statement), "{object}");
    }
}

#[test]
fn a_release_is_good_while_a_channel_says_so() {
    let of = |name: &str, statement| Release { name: name.into(), standing: Standing::Good, statement };
    for (what, state, expected) in [
        ("as it is", state(|_| ()), None),
        ("a newer state", state(|channel| channel.version = 5), None),
        ("the same epoch", state(|channel| channel.least_epoch = 2), None),
        ("it is revoked", state(|channel| channel.releases[1].standing = Standing::Revoked), Some(Code::Revoked)),
        ("it is not there", state(|channel| drop(channel.releases.remove(1))), Some(Code::NotReleased)),
        ("another is there", state(|channel| channel.releases[1] = of("x", Bytes32([1; 32]))), Some(Code::NotReleased)),
    ] {
        assert_eq!(judged(&state), expected, "{what}");
    }
    let refused = |change: &dyn Fn(&mut Channel)| {
        let mut channel = documents::channel(digest(), Standing::Good);
        change(&mut channel);
        code(Statement::channel(channel))
    };
    assert_eq!(refused(&|channel| channel.version = 0), Some(Code::Statement));
    assert_eq!(refused(&|channel| channel.releases.clear()), Some(Code::Statement));
    assert_eq!(refused(&|channel| channel.releases[0].statement = digest()), Some(Code::Statement));
    assert_eq!(refused(&|channel| channel.releases[0].name = "tpm:x".into()), Some(Code::Statement));
    assert_eq!(refused(&|channel| channel.releases[0].name = channel.releases[1].name.clone()), Some(Code::Statement));
}

#[test]
fn machines_are_in_no_channel() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let machine = documents::measured_boot(Reference::Machine(Box::new(documents::machine())));
    let machine = fake.publish(&machine.write().unwrap()).write().unwrap();
    let channel = fake.publish(&state(|_| ())).write().unwrap();
    let current = Current::new(logged::<Channel>(&channel, &root, NOW).unwrap(), 0, NOW).unwrap();
    let known = Known { now: NOW, channel: Some(&current), newest: None };
    logged::<MeasuredBoot>(&machine, &root, NOW).unwrap().judge(About::Anything, &known).unwrap();
    // A channel is no release.
    assert_eq!(code(logged::<MeasuredBoot>(&channel, &root, NOW)), Some(Code::PredicateType));
    assert_eq!(code(logged::<Channel>(&machine, &root, NOW)), Some(Code::PredicateType));
}
