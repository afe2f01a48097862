//! A monitor and a log that grows, forks, forgets, freezes, and has an entry that nobody has published. The log is a fake; its files are those of the specification.

#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::{BTreeSet, HashMap};

use fake::{Fake, NOW, ORIGIN};
use measurements::bytes::Bytes32;
use measurements::canonical;
use transparency::Code;
use transparency::checkpoint::Checkpoint;
use transparency::monitor::{Alarm, Before, Error, Followed, Look, look, signed};
use transparency::tiles::{Files, Problem};
use transparency::tree::{Frontier, leaf};
use transparency::trust_root::TrustRoot;

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
    assert_eq!((kept.size, kept.ours), (301, 1));
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
    assert_eq!((first.size, first.ours), (0, 0));
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
