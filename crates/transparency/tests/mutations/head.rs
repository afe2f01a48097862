//! The signed head: log, origin and witnesses.

use measurements::bytes::Hex;
use transparency::Code;
use transparency::bundle::Bundle;
use transparency::checkpoint::{Checkpoint, Note};
use transparency::key::Key;
use transparency::proof::consistency_ranges;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::tree::Hash;
use transparency::trust_root::{TrustRoot, TrustRootDocument};
use transparency::verify::{SKEW, grows, logged};

use crate::code;
use crate::fake::{Fake, NOW, ORIGIN, Signer, WITNESSES, documents, ed25519, public};

struct Scene {
    fake: Fake,
    root: TrustRoot,
    bundle: Bundle,
    head: Checkpoint,
}

fn scene() -> Scene {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let bundle = fake.publish(&documents::release().write().unwrap());
    let head = Checkpoint { origin: ORIGIN.into(), size: bundle.entry.size, root: bundle.entry.root };
    Scene { fake, root, bundle, head }
}

impl Scene {
    fn judge(&self, note: String) -> Option<Code> {
        self.judge_by(&self.root, note)
    }

    fn judge_by(&self, root: &TrustRoot, note: String) -> Option<Code> {
        let mut bundle = self.bundle.clone();
        bundle.entry.checkpoint = note;
        code(logged::<MeasuredBoot>(&bundle.write().unwrap(), root, NOW))
    }
}

#[test]
fn every_line_of_a_head_counts() {
    let scene = scene();
    let note = scene.fake.note(&scene.head);
    assert_eq!(scene.judge(note.clone()), None);
    let lines: Vec<&str> = note.lines().collect();
    assert_eq!(lines.len(), 7, "{note}");
    let flip = |line: &str| crate::other_text(line, line.chars().count() - 9);
    let rows = [
        (0, "other.test.invalid".to_owned(), Code::CheckpointSignature),
        (1, "7".into(), Code::CheckpointSignature),
        (2, flip(lines[2]), Code::CheckpointSignature),
        (3, "more".into(), Code::Checkpoint),
        (4, flip(lines[4]), Code::CheckpointSignature),
        (5, flip(lines[5]), Code::Witnesses),
        (6, flip(lines[6]), Code::Witnesses),
        // The id and the name of a key are hints that must be right.
        (4, lines[4].replacen(ORIGIN, "other.test.invalid", 1), Code::CheckpointSignature),
        (5, lines[5].replacen(WITNESSES[0], WITNESSES[1], 1), Code::Witnesses),
        (5, lines[6].to_owned(), Code::Witnesses),
        (5, "no signature".into(), Code::Checkpoint),
    ];
    for (number, line, expected) in rows {
        let mut changed = lines.clone();
        assert_ne!(changed[number], line);
        changed[number] = &line;
        assert_eq!(scene.judge(changed.join("\n") + "\n"), Some(expected), "line {number}: {line}");
    }
    for number in 0..lines.len() {
        let mut changed = lines.clone();
        changed.remove(number);
        let expected = match number {
            // Two lines of the body are one without a root; three are another body.
            0..=2 => Code::Checkpoint,
            3 => Code::Checkpoint,
            4 => Code::CheckpointSignature,
            _ => Code::Witnesses,
        };
        assert_eq!(scene.judge(changed.join("\n") + "\n"), Some(expected), "without line {number}");
    }
}

#[test]
fn what_the_log_itself_signs_must_be_this_head_of_this_log() {
    let scene = scene();
    let Checkpoint { origin, size, root } = scene.head.clone();
    for (head, expected) in [
        (Checkpoint { origin: "other.test.invalid".into(), size, root }, Code::Origin),
        (Checkpoint { origin: origin.clone(), size: size + 1, root }, Code::CheckpointHead),
        (Checkpoint { origin, size, root: [0; 32] }, Code::CheckpointHead),
    ] {
        assert_eq!(scene.judge(scene.fake.note(&head)), Some(expected), "{head:?}");
    }
}

#[test]
fn a_log_with_an_ecdsa_key_is_held_to_its_origin_too() {
    let mut scene = scene();
    let log = Signer::new();
    scene.bundle.entry.log_id = log.key.fingerprint();
    // The id of such a key does not depend on the name: nothing but the comparison finds another origin.
    let line = |name: &str, body: &str| {
        let signature = [&log.key.fingerprint()[..4], &log.sign(body.as_bytes())].concat();
        format!("\u{2014} {name} {}\n", base64(&signature))
    };
    let signed = |head: &Checkpoint, name: &str| {
        let witnesses: String =
            WITNESSES.iter().zip(&scene.fake.witnesses).map(|(name, key)| head.cosign(name, key, NOW)).collect();
        format!("{}\n{}{witnesses}", head.body(), line(name, &head.body()))
    };
    let mut document = scene.fake.trust_root();
    document.logs[0].key = Hex(log.key.spki());
    let root = scene.fake.trusted(&document);
    assert_eq!(scene.judge_by(&root, signed(&scene.head, ORIGIN)), None);
    assert_eq!(scene.judge_by(&root, signed(&scene.head, "other.test.invalid")), Some(Code::Origin));
    let other = Checkpoint { origin: "other.test.invalid".into(), ..scene.head.clone() };
    assert_eq!(scene.judge_by(&root, signed(&other, ORIGIN)), Some(Code::Origin));
    document.logs[0].origin = "other.test.invalid".into();
    let other = scene.fake.trusted(&document);
    assert_eq!(scene.judge_by(&other, signed(&scene.head, ORIGIN)), Some(Code::Origin));
}

#[test]
fn witnesses_are_counted_once_and_not_before_they_can_have_seen_it() {
    let scene = scene();
    let log = scene.head.sign(&scene.fake.log);
    let line = |number: usize, time| scene.head.cosign(WITNESSES[number], &scene.fake.witnesses[number], time);
    let stranger = scene.head.cosign("stranger.test.invalid", &ed25519(9), NOW);
    for (lines, expected) in [
        (vec![line(0, NOW), line(1, NOW)], None),
        (vec![line(0, NOW), line(1, NOW), stranger.clone()], None),
        (vec![line(0, NOW + SKEW), line(1, 1)], None),
        (vec![line(0, NOW)], Some(Code::Witnesses)),
        (vec![line(0, NOW), line(0, NOW - 1)], Some(Code::Witnesses)),
        (vec![line(0, NOW), stranger], Some(Code::Witnesses)),
        (vec![line(0, NOW), line(1, NOW + SKEW + 1)], Some(Code::Witnesses)),
        (vec![], Some(Code::Witnesses)),
    ] {
        let note = format!("{log}{}", lines.concat());
        assert_eq!(scene.judge(note), expected, "{lines:?}");
    }
    // One is enough where the trust root says so, and none where it has none.
    let with = |threshold, all: bool| {
        let mut document: TrustRootDocument = scene.fake.trust_root();
        document.witnesses.threshold = threshold;
        if !all {
            document.witnesses.keys.clear();
        }
        scene.fake.trusted(&document)
    };
    assert_eq!(scene.judge_by(&with(1, true), format!("{log}{}", line(1, NOW))), None);
    assert_eq!(scene.judge_by(&with(1, true), log.clone()), Some(Code::Witnesses));
    assert_eq!(scene.judge_by(&with(0, false), log.clone()), None);
    // The log is no witness of itself.
    let own = scene.head.cosign(ORIGIN, &scene.fake.log, NOW);
    assert_eq!(scene.judge_by(&with(1, true), log + &own), Some(Code::Witnesses));
    assert_eq!(Key::ed25519(public(&scene.fake.log)).note_id(ORIGIN), scene.bundle.entry.log_id);
}

#[test]
fn a_log_only_grows() {
    let mut fake = Fake::new();
    let old = Note::parse(&fake.publish(b"{}").entry.checkpoint).unwrap().checkpoint;
    let new = Note::parse(&fake.publish(b"[]").entry.checkpoint).unwrap().checkpoint;
    let path: Vec<Hash> = consistency_ranges(old.size, new.size).into_iter().map(|range| fake.root(range)).collect();
    assert_eq!(code(grows(&old, &new, &path)), None);
    assert_eq!(code(grows(&new, &old, &path)), Some(Code::Consistency), "it does not shrink");
    assert_eq!(code(grows(&old, &new, &path[1..])), Some(Code::Consistency));
    let forked = Checkpoint { root: [0; 32], ..old.clone() };
    assert_eq!(code(grows(&forked, &new, &path)), Some(Code::Consistency));
    let other = Checkpoint { origin: "other.test.invalid".into(), ..old };
    assert_eq!(code(grows(&other, &new, &path)), Some(Code::Origin));
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
