//! A monitor and a log that grows, forks, forgets, freezes, and has an entry that nobody has published. The log is a fake; its files are those of the specification.

#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake::{Fake, NOW, ORIGIN, public};
use measurements::bytes::Bytes32;
use measurements::canonical;
use transparency::Code;
use transparency::checkpoint::Checkpoint;
use transparency::key::Key;
use transparency::monitor::{Alarm, Before, Error, Followed, Look, look, signed};
use transparency::tiles::{Files, Problem};
use transparency::tree::{Frontier, leaf};
use transparency::trust_root::{TrustRoot, TrustRootDocument, Witnesses};

const PATIENCE: u64 = 1000;

/// The files of a log, and its head.
struct Written {
    files: HashMap<String, Vec<u8>>,
    note: String,
}

impl Files for Written {
    fn file(&self, path: &str) -> Result<Vec<u8>, Problem> {
        self.files.get(path).cloned().ok_or_else(|| Problem(format!("no file {path}")))
    }
}

fn written(fake: &Fake, entries: &[Vec<u8>]) -> Written {
    let mut tree = Frontier::default();
    entries.iter().for_each(|entry| tree.append(leaf(entry)));
    let head = Checkpoint { origin: ORIGIN.into(), size: tree.size(), root: tree.root() };
    let mut files = HashMap::new();
    for (number, bundle) in entries.chunks(256).enumerate() {
        let width = if bundle.len() < 256 { format!(".p/{}", bundle.len()) } else { String::new() };
        let bytes = bundle.iter().flat_map(|entry| [&(entry.len() as u16).to_be_bytes()[..], entry].concat());
        files.insert(format!("tile/entries/{number:03}{width}"), bytes.collect());
    }
    Written { files, note: fake.note(&head) }
}

fn follow(
    root: &TrustRoot,
    followed: Option<Followed>,
    published: &[[u8; 32]],
    now: u64,
    log: &Written,
) -> Result<Look, Error> {
    let published: BTreeSet<_> = published.iter().copied().collect();
    look(Before { root, followed, published: &published, now, patience: PATIENCE }, &log.note, log)
}

fn alarms(followed: &Followed) -> Vec<Alarm> {
    followed.alarms.iter().map(|open| open.alarm.clone()).collect()
}

fn entries(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("entry {number} of others").into_bytes()).collect()
}

#[test]
fn a_log_is_followed_from_head_to_head_and_its_entries_make_its_heads() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let mut all = entries(300);
    let bundle = fake.publish(b"a statement");
    all.insert(7, bundle.entry.body.clone());
    let first = follow(&root, None, &[signed(b"a statement")], NOW, &written(&fake, &all)).unwrap();
    assert_eq!((first.read, alarms(&first.followed)), (301, vec![]));
    let kept = first.followed;
    assert_eq!((kept.size, kept.ours()), (301, 1));
    // What is kept is a document, and goes on as it is read again.
    let kept: Followed = canonical::read(&canonical::write(&kept).unwrap()).unwrap();
    all.extend(entries(600));
    let second = follow(&root, Some(kept.clone()), &[], NOW + 5, &written(&fake, &all)).unwrap();
    assert_eq!((second.read, alarms(&second.followed)), (600, vec![]), "an entry is judged once");
    assert_eq!(second.followed.size, 901);
}

#[test]
fn an_entry_under_our_key_that_nobody_published_is_an_alarm() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let mut all = entries(3);
    all.push(fake.publish(b"made by a thief").entry.body);
    let seen = follow(&root, None, &[signed(b"ours")], NOW, &written(&fake, &all)).unwrap();
    let digest = Bytes32(signed(b"made by a thief"));
    assert_eq!(alarms(&seen.followed), [Alarm::Unpublished { index: 3, digest }]);
    // The same entry under a key that is not ours says nothing.
    let stranger = Fake { signer: fake::Signer::new(), ..Fake::new() };
    let other = stranger.trusted(&stranger.trust_root());
    assert_eq!(alarms(&follow(&other, None, &[], NOW, &written(&fake, &all)).unwrap().followed), []);
}

#[test]
fn an_alarm_stays_in_the_state_until_it_is_acknowledged() {
    let mut fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let mut all = entries(3);
    all.push(fake.publish(b"made by a thief").entry.body);
    let mut kept = follow(&root, None, &[], NOW, &written(&fake, &all)).unwrap().followed;
    let raised = alarms(&kept);
    for later in 1..4 {
        // The state is a document. The statement is published now, which answers nothing.
        let read: Followed = canonical::read(&canonical::write(&kept).unwrap()).unwrap();
        all.extend(entries(2));
        let published = [signed(b"made by a thief")];
        kept = follow(&root, Some(read), &published, NOW + later, &written(&fake, &all)).unwrap().followed;
        assert_eq!((alarms(&kept), kept.size), (raised.clone(), 4 + 2 * later));
    }
    let [open] = &kept.alarms.iter().cloned().collect::<Vec<_>>()[..] else { panic!("one alarm is open") };
    assert_eq!((open.number, open.raised), (1, NOW));
    kept.alarms.acknowledge(&[open.number]).unwrap();
    let after = follow(&root, Some(kept), &[], NOW + 5, &written(&fake, &all)).unwrap().followed;
    assert_eq!(alarms(&after), []);
}

#[test]
fn a_fork_stays_an_alarm_when_the_log_shows_the_old_head_again() {
    let fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let good = written(&fake, &entries(40));
    let other = written(&fake, &entries(39));
    let kept = follow(&root, None, &[], NOW, &good).unwrap().followed;
    let forked = follow(&root, Some(kept), &[], NOW + 1, &other).unwrap().followed;
    let after = follow(&root, Some(forked), &[], NOW + 2, &good).unwrap().followed;
    // With the head that proves it.
    assert!(matches!(&alarms(&after)[..], [Alarm::Fork { head, .. }] if *head == other.note), "{after:?}");
    assert_eq!(after.head, good.note);
}

#[test]
fn a_log_that_forgets_or_changes_an_entry_is_a_fork_and_what_was_known_is_kept() {
    let fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let all = entries(40);
    let kept = Some(follow(&root, None, &[], NOW, &written(&fake, &all)).unwrap().followed);
    let mut changed = entries(50);
    changed[3] = b"another".to_vec();
    for log in [written(&fake, &all[..39]), written(&fake, &changed), written(&fake, &changed[..40])] {
        let seen = follow(&root, kept.clone(), &[], NOW, &log).unwrap();
        assert!(matches!(alarms(&seen.followed)[..], [Alarm::Fork { .. }]), "{:?}", seen.followed);
        let before = Followed { alarms: Default::default(), ..seen.followed };
        assert_eq!(Some(before), kept);
    }
    // Files that are not those of the head.
    let mut log = written(&fake, &all);
    log.files = written(&fake, &changed[..40]).files;
    let first = follow(&root, None, &[], NOW, &log).unwrap().followed;
    assert!(matches!(alarms(&first)[..], [Alarm::Fork { .. }]));
    assert_eq!((first.size, first.ours()), (0, 0));
    log.files.clear();
    assert!(matches!(follow(&root, None, &[], NOW, &log), Err(Error::Log(_))));
}

#[test]
fn a_log_that_does_not_grow_is_frozen_after_a_while() {
    let fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let log = written(&fake, &entries(4));
    let kept = Some(follow(&root, None, &[], NOW, &log).unwrap().followed);
    assert_eq!(alarms(&follow(&root, kept.clone(), &[], NOW + PATIENCE, &log).unwrap().followed), []);
    let late = follow(&root, kept, &[], NOW + PATIENCE + 1, &log).unwrap().followed;
    assert_eq!(alarms(&late), [Alarm::Frozen { seconds: PATIENCE + 1 }]);
}

#[test]
fn a_head_that_is_not_the_log_s_or_that_no_witness_saw_says_nothing() {
    let fake = Fake::new();
    let root = fake.trusted(&fake.trust_root());
    let good = written(&fake, &entries(4));
    let code = |note: &str| {
        let log = Written { files: good.files.clone(), note: note.to_owned() };
        match follow(&root, None, &[], NOW, &log) {
            Err(Error::Head(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code("nothing"), Code::Checkpoint);
    let other = Fake { log: fake::ed25519(9), ..Fake::new() };
    assert_eq!(code(&written(&other, &entries(4)).note), Code::CheckpointSignature);
    let last = good.note.trim_end().rfind('\n').unwrap() + 1;
    assert_eq!(code(&good.note[..last]), Code::Witnesses);
    let kept = follow(&root, None, &[], NOW, &good).unwrap().followed;
    let kept = Followed { origin: "other".into(), ..kept };
    assert_eq!(follow(&root, Some(kept), &[], NOW, &good), Err(Error::State));
}

/// Alarms of a state that went through its file.
fn read_again(followed: &Followed) -> Followed {
    canonical::read(&canonical::write(followed).unwrap()).unwrap()
}

#[test]
fn entries_under_a_key_that_joins_the_trust_root_later_are_judged() {
    let mut fake = Fake::new();
    let before = fake.trusted(&fake.trust_root());
    fake.rebuilders.push(fake::Signer::new());
    let after = fake.trusted(&fake.trust_root());
    let mut all = entries(300);
    all.insert(7, fake.publish(b"ours").entry.body);
    all.insert(8, fake.publish_rebuild(0, b"made by a thief").entry.body);
    let look = |root, kept: Option<Followed>, all: &[Vec<u8>]| {
        let kept = kept.map(|kept| read_again(&kept));
        follow(root, kept, &[signed(b"ours")], NOW, &written(&fake, all)).unwrap().followed
    };
    let kept = look(&before, None, &all);
    assert_eq!((alarms(&kept), kept.ours()), (vec![], 1));
    let mut kept = look(&after, Some(kept), &all);
    let thief = |index| Alarm::Unpublished { index, digest: Bytes32(signed(b"made by a thief")) };
    assert_eq!((alarms(&kept), kept.ours()), (vec![thief(8)], 2));
    kept.alarms.acknowledge(&[1]).unwrap();

    // The key is taken out and put back: an entry from between is judged, and no entry is judged twice.
    all.push(all[8].clone());
    let kept = look(&before, Some(kept), &all);
    assert_eq!((alarms(&kept), kept.ours()), (vec![], 2));
    let kept = look(&after, Some(kept), &all);
    assert_eq!((alarms(&kept), kept.ours()), (vec![thief(302)], 3));
    assert_eq!(look(&after, Some(kept.clone()), &all), kept);
}

#[test]
fn log_that_is_read_again_under_a_new_key_must_have_the_entries_of_before() {
    let mut fake = Fake::new();
    let before = fake.trusted(&fake.trust_root());
    fake.rebuilders.push(fake::Signer::new());
    let after = fake.trusted(&fake.trust_root());
    let kept = follow(&before, None, &[], NOW, &written(&fake, &entries(40))).unwrap().followed;
    let mut changed = entries(50);
    changed[3] = b"another".to_vec();
    let forked = follow(&after, Some(kept.clone()), &[], NOW, &written(&fake, &changed)).unwrap();
    assert!(matches!(alarms(&forked.followed)[..], [Alarm::Fork { .. }]), "{forked:?}");
    let kept = Followed { alarms: Default::default(), ..forked.followed };
    let seen = follow(&after, Some(kept), &[], NOW, &written(&fake, &entries(50))).unwrap();
    assert_eq!((seen.read, seen.read_again, alarms(&seen.followed)), (50, 40, vec![]), "a fork counts as no look");
}

#[test]
fn state_with_heads_that_are_long_when_they_are_written_can_be_read_again() {
    let mut fake = Fake::new();
    let none = Witnesses { keys: vec![], threshold: 0 };
    let root = fake.trusted(&TrustRootDocument { witnesses: none, ..fake.trust_root() });
    for filling in ["\u{1}", "\"", "\\", "\u{9b}"] {
        let head = |size: usize| {
            let mut log = written(&fake, &entries(size));
            let (body, _) = log.note.split_once("\n\n").unwrap();
            // As long as a note may be, of lines that nobody understands.
            let body = format!("{body}\n{}\n", filling.repeat((15 << 10) / filling.len()));
            let id = &Key::ed25519(public(&fake.log)).note_id(ORIGIN)[..4];
            let signature = STANDARD.encode([id, fake.log.sign(body.as_bytes()).as_ref()].concat());
            log.note = format!("{body}\n\u{2014} {ORIGIN} {signature}\n");
            log
        };
        let mut kept = follow(&root, None, &[], NOW, &head(60)).unwrap().followed;
        for size in 42..60 {
            kept = follow(&root, Some(read_again(&kept)), &[], NOW, &head(size)).unwrap().followed;
        }
        assert_eq!(alarms(&read_again(&kept)).len(), 16);
    }
    let mut stolen = entries(0);
    stolen.resize(400, fake.publish(b"made by a thief").entry.body);
    let kept = follow(&root, None, &[], NOW, &written(&fake, &stolen)).unwrap().followed;
    assert_eq!(read_again(&kept), kept);
}
