mod cut;
mod paging;

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::KeyPair as _;
use transparency::checkpoint::Note;
use transparency::proof::is_consistent;
use transparency::verifier_key::{Role, VerifierKey};

use super::*;
use crate::store::{Sqlite, Store as _};

const ORIGIN: &str = "cairn/test/audit";

/// A log in a directory of its own.
struct Log {
    folder: tempfile::TempDir,
    store: Sqlite,
    bundles: Bundles,
    key: Ed25519KeyPair,
    heads: Vec<KeptHead>,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("database");
        let store = Sqlite::create(&database).unwrap().with_test_key();
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        Self { bundles: Bundles::of(&database), folder, store, key, heads: Vec::new() }
    }

    /// Appends leaves until there are so many. Each third one is a change by an operator, which has no request.
    fn grow(&mut self, size: u64) {
        let signer = Signer { origin: ORIGIN, key: &self.key, now: 7 };
        let heads = &mut self.heads;
        self.store
            .transact(&mut |open| {
                for number in head_of(open)?.size..size {
                    let receipt = append(open, leaf(number), &signer)?;
                    heads.push(KeptHead { size: receipt.size, root: receipt.root });
                }
                Ok(())
            })
            .unwrap();
    }

    fn check(&self, kept: &[KeptHead]) -> Result<u64, String> {
        let public: [u8; 32] = self.key.public_key().as_ref().try_into().unwrap();
        verify(&self.store, &self.bundles, ORIGIN, &public, kept).map_err(|problem| problem.to_string())
    }

    fn change(&self, number: u64) {
        let mut changed = leaf(number);
        (changed.number, changed.code) = (number, "COMMITTED".into());
        self.store.transact(&mut |open| put(open, Table::Audit, &number.to_be_bytes(), &changed)).unwrap();
    }

    fn find(&self, request: &str) -> Result<Option<u64>, String> {
        let found = of_request(&self.store, &self.bundles, request);
        found.map(|leaf| leaf.map(|leaf| leaf.number)).map_err(|problem| problem.to_string())
    }

    fn rows(&self) -> u64 {
        let mut count = 0;
        self.store
            .look(&mut |open| {
                count = open.count(Table::Audit)?;
                Ok(())
            })
            .unwrap();
        count
    }

    fn move_leaves(&self) -> Result<(), String> {
        move_leaves(&self.store, &self.bundles).map_err(|problem| problem.to_string())
    }
}

fn leaf(number: u64) -> Leaf {
    Leaf {
        number: 0,
        time: "now".into(),
        request: if number % 3 == 2 { String::new() } else { format!("request {number}") },
        node: String::new(),
        code: "RELEASED".into(),
        found: String::new(),
    }
}

#[test]
fn a_log_that_was_changed_is_noticed() {
    let mut log = Log::new();
    assert_eq!(log.check(&[]), Ok(0));
    log.grow(3);
    assert_eq!(log.check(&[]), Ok(3));
    assert_eq!((log.find("request 1"), log.find("x")), (Ok(Some(1)), Ok(None)));
    log.change(1);
    assert!(log.check(&[]).unwrap_err().contains("leaves 0 to 1 are not those of the signed head"));
    log.store.transact(&mut |open| open.remove(Table::Audit, &1_u64.to_be_bytes())).unwrap();
    assert!(log.check(&[]).unwrap_err().contains("leaves 1 to 1 of the audit log are missing"));
}

/// The last leaves are deleted, and the head that was signed before them is put back.
#[test]
fn log_that_was_cut_is_found_by_a_head_that_was_given_out() {
    let mut log = Log::new();
    log.grow(700);
    let mut saved = None;
    log.store
        .look(&mut |open| {
            saved = Some(head_of(open)?);
            Ok(())
        })
        .unwrap();
    log.grow(1200);
    assert_eq!(log.check(&log.heads), Ok(1200));
    let other = KeptHead { root: Bytes32([9; 32]), ..log.heads[600] };
    assert!(log.check(&[other]).unwrap_err().contains("the first 601 leaves"));
    log.store
        .transact(&mut |open| {
            put(open, Table::State, HEAD, saved.as_ref().unwrap())?;
            (700..1200_u64).try_for_each(|number| open.remove(Table::Audit, &number.to_be_bytes()))
        })
        .unwrap();
    assert_eq!(log.check(&[]), Ok(700), "the log alone does not tell");
    assert_eq!(log.check(&log.heads[..700]), Ok(700));
    assert!(log.check(&log.heads[999..1000]).unwrap_err().contains("it was cut"));
}

#[test]
fn index_has_the_newest_requests() {
    let log = Log::new();
    let size = MAX_INDEXED_LEAVES + 600;
    log.store
        .transact(&mut |open| (0..size).try_for_each(|number| index(open, &Leaf { number, ..leaf(number) })))
        .unwrap();
    log.store
        .look(&mut |open| {
            let newest = (600..size).filter(|number| number % 3 != 2).count() as u64;
            assert_eq!((open.count(Table::Requests)?, open.count(Table::RecentRequests)?), (newest, newest));
            for (number, is_indexed) in [(597, false), (600, true), (size - 1, true)] {
                let found = open.get(Table::Requests, format!("request {number}").as_bytes())?;
                assert_eq!(found, is_indexed.then(|| u64::to_be_bytes(number).to_vec()), "{number}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn request_that_left_the_index_is_found_in_bundles_and_database() {
    let mut log = Log::new();
    log.grow(1500);
    log.move_leaves().unwrap();
    for left in [false, true] {
        for number in [0, 255, 256, 511, 598, 600, 1000, 1300, 1499] {
            let request = format!("request {number}");
            if left {
                log.store.transact(&mut |open| open.remove(Table::Requests, request.as_bytes())).unwrap();
            }
            assert_eq!(log.find(&request), Ok((number % 3 != 2).then_some(number)), "{number}");
        }
    }
}

#[test]
fn older_leaves_move_to_bundles_and_the_log_is_the_same() {
    let mut log = Log::new();
    log.grow(511);
    log.move_leaves().unwrap();
    assert_eq!(log.rows(), 511, "too few are newer");
    for size in [512, 513, 1500] {
        log.grow(size);
        log.move_leaves().unwrap();
        assert!((256..512).contains(&log.rows()), "{} of {size} leaves in the database", log.rows());
        assert_eq!(first_in_database(&log.store).unwrap(), size - log.rows());
        assert_eq!(log.check(&log.heads), Ok(size));
    }
    for count in [1, 256, 700, 1500, 9999] {
        let leaves = tail(&log.store, &log.bundles, count).unwrap();
        let numbers: Vec<u64> = leaves.iter().map(|leaf| leaf.number).collect();
        assert_eq!(numbers, (1500_u64.saturating_sub(count as u64)..1500).collect::<Vec<_>>());
    }
    log.grow(1501);
    log.change(1500);
    assert!(log.check(&[]).unwrap_err().contains("leaves 1500 to 1500 are not those"));
}

#[test]
fn bundle_that_is_missing_or_changed_is_named_by_verify() {
    let mut log = Log::new();
    log.grow(1500);
    log.move_leaves().unwrap();
    let path = log.bundles.entries(2);
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for found in [log.check(&[]), log.find("x").map(|_| 0), log.find("request 600").map(|_| 0)] {
        let found = found.unwrap_err();
        let next = first_in_database(&log.store).unwrap() - 1;
        assert!(found.contains(&format!("to {next} of the audit log are missing")), "{found}");
        assert!(found.contains(&path.display().to_string()), "{found}");
        assert!(found.contains(&format!("to {}", log.bundles.directory().display())), "{found}");
    }
    fs::write(&path, &good[1..]).unwrap();
    assert!(log.check(&[]).unwrap_err().contains(&format!("{} was changed", path.display())));
    // Another leaf and its hash: only the signed head does not fit.
    fs::remove_file(&path).unwrap();
    fs::remove_file(log.folder.path().join("audit/tile/0/002")).unwrap();
    let other: Vec<Vec<u8>> = (0..256).map(|number: u32| bytes(&number).unwrap()).collect();
    log.bundles.write(2, &other).unwrap();
    let found = log.check(&[]).unwrap_err();
    assert!(found.contains("leaves 0 to 1023 are not those of the signed head"), "{found}");
    assert!(found.contains("tile/entries/000 to ") && found.contains("tile/entries/003"), "{found}");
}

/// A broker that ends after the bundle is written, and two brokers that move the same leaves.
#[test]
fn bundle_that_exists_is_used_and_another_one_is_left_alone() {
    let mut log = Log::new();
    log.grow(1100);
    let page = |first: u64| -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        log.store
            .look(&mut |open| {
                rows = open.after(
                    Table::Audit,
                    first.checked_sub(1).map(u64::to_be_bytes).as_ref().map(|it| &it[..]),
                    256,
                )?;
                Ok(())
            })
            .unwrap();
        rows.into_iter().map(|(_, leaf)| leaf).collect()
    };
    log.bundles.write(0, &page(0)).unwrap();
    log.bundles.write(1, &page(0)).unwrap();
    let refused = log.move_leaves().unwrap_err();
    assert!(refused.starts_with("AUDIT_BUNDLE_CONFLICT: ") && refused.contains("tile/0/001"), "{refused}");
    assert_eq!((log.rows(), log.check(&log.heads)), (1100 - 256, Ok(1100)), "no leaf is lost");
    log.bundles.set_aside(1, &log.folder.path().join("aside")).unwrap();
    log.move_leaves().unwrap();
    assert_eq!((log.rows(), log.check(&log.heads)), (1100 - 768, Ok(1100)));
    let other = Sqlite::open(&log.folder.path().join("database")).unwrap().with_test_key();
    log.grow(3000);
    std::thread::scope(|scope| {
        for store in [&log.store, &other] {
            scope.spawn(|| move_leaves(store, &log.bundles).unwrap());
        }
    });
    assert_eq!(log.check(&log.heads), Ok(3000));
    assert!((256..512).contains(&log.rows()));
}

#[test]
fn directory_that_cannot_be_written_delays_moving_and_nothing_else() {
    let mut log = Log::new();
    log.grow(1000);
    let directory = log.bundles.directory().to_owned();
    fs::write(&directory, "a file in its place").unwrap();
    assert!(log.move_leaves().unwrap_err().contains(&directory.display().to_string()));
    log.grow(1001);
    assert_eq!((log.rows(), log.check(&log.heads)), (1001, Ok(1001)));
    fs::remove_file(&directory).unwrap();
    log.move_leaves().unwrap();
    assert_eq!((log.rows(), log.check(&log.heads)), (1001 - 512, Ok(1001)));
}

#[test]
fn leaf_is_never_longer_than_an_entry_of_a_bundle() {
    let log = Log::new();
    let signer = Signer { origin: ORIGIN, key: &log.key, now: 7 };
    let found = "\u{1}".repeat(100_000);
    log.store.transact(&mut |open| append(open, Leaf { found: found.clone(), ..leaf(0) }, &signer).map(drop)).unwrap();
    log.store
        .look(&mut |open| {
            assert!(open.after(Table::Audit, None, 1)?[0].1.len() <= usize::from(u16::MAX));
            Ok(())
        })
        .unwrap();
    assert_eq!(log.check(&[]), Ok(1));
}

fn witness_key(seed: u8) -> (Ed25519KeyPair, VerifierKey) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let key = pair.public_key().as_ref().try_into().unwrap();
    (pair, VerifierKey { name: "witness.example".into(), role: Role::Witness, key })
}

impl Log {
    fn submission(&self, key: &VerifierKey, has: Option<u64>) -> witness::Submission {
        match witness::next(&self.store, &self.bundles, key, has, false).unwrap() {
            witness::Next::Submit(submission) => submission,
            witness::Next::Nothing => panic!("nothing is sent"),
            witness::Next::Ahead { size } => panic!("{size} leaves are too few"),
        }
    }

    /// What a witness does with a request: the sizes before and after, if the proof holds.
    fn judged(&self, submission: &witness::Submission) -> Option<(u64, u64)> {
        let (request, note) = submission.body.split_once("\n\n").unwrap();
        let mut lines = request.lines();
        let old: u64 = lines.next().unwrap().strip_prefix("old ").unwrap().parse().unwrap();
        let hash = |line| STANDARD.decode(line).unwrap().try_into().unwrap();
        let proof: Vec<tree::Hash> = lines.map(hash).collect();
        let public: [u8; 32] = self.key.public_key().as_ref().try_into().unwrap();
        let head = Checkpoint::open(note, ORIGIN, &public).unwrap();
        let known = match old.checked_sub(1) {
            None => Frontier::default().root(),
            Some(last) => self.heads[usize::try_from(last).unwrap()].root.0,
        };
        is_consistent((old, known), (head.size, head.root), &proof).then_some((old, head.size))
    }

    /// The witness signs the newest head.
    fn cosign(&self, (pair, key): &(Ed25519KeyPair, VerifierKey), has: Option<u64>) -> Result<(), &'static str> {
        let submission = self.submission(key, has);
        let (_, note) = submission.body.split_once("\n\n").unwrap();
        let line = Note::parse(note).unwrap().checkpoint.cosign(&key.name, pair, 1_700_000_000);
        witness::keep(&self.store, key, &submission, &line).unwrap()
    }

    fn cosigned(&self, key: &VerifierKey) -> witness::Cosigned {
        let mut cosigned = witness::Cosigned::default();
        self.store
            .look(&mut |open| {
                cosigned = witness::cosigned(open, key)?;
                Ok(())
            })
            .unwrap();
        cosigned
    }
}

#[test]
fn witness_gets_a_proof_from_each_head_that_it_may_know() {
    let (mut log, witness) = (Log::new(), witness_key(2));
    let next = |log: &Log, has| witness::next(&log.store, &log.bundles, &witness.1, has, false).unwrap();
    assert!(matches!(next(&log, None), witness::Next::Nothing), "an empty log has no head");
    for size in [1, 2, 3, 7, 8, 11, 20] {
        log.grow(size);
        for old in 0..=size {
            let submission = log.submission(&witness.1, Some(old));
            assert_eq!((submission.old, log.judged(&submission)), (old, Some((old, size))));
        }
        let last = log.cosigned(&witness.1).size;
        assert_eq!(log.judged(&log.submission(&witness.1, None)), Some((last, size)));
        log.cosign(&witness, None).unwrap();
        assert!(matches!(next(&log, None), witness::Next::Nothing), "it has signed the newest head");
        // Unless what is kept of it may be of an older database.
        let again = witness::next(&log.store, &log.bundles, &witness.1, None, true).unwrap();
        let witness::Next::Submit(again) = again else { panic!("a witness of {size} leaves is not asked") };
        assert_eq!(log.judged(&again), Some((size, size)));
        assert!(matches!(next(&log, Some(size + 1)), witness::Next::Ahead { size: found } if found == size));
    }
    // Leaves that have moved to files are read from there.
    log.grow(1100);
    log.move_leaves().unwrap();
    for old in [None, Some(0), Some(19), Some(255), Some(256), Some(700), Some(1099)] {
        let submission = log.submission(&witness.1, old);
        assert_eq!(log.judged(&submission), Some((old.unwrap_or(20), 1100)));
    }
    log.cosign(&witness, None).unwrap();
    let cosigned = log.cosigned(&witness.1);
    assert_eq!((cosigned.time, cosigned.head().unwrap()), (1_700_000_000, log.heads[1099]));
    let note = Note::parse(&cosigned.checkpoint).unwrap();
    assert_eq!(note.seen_by(&witness.1.name, witness.1.key), Some(1_700_000_000));
}

#[test]
fn answer_without_the_signature_of_the_witness_is_not_kept() {
    let (mut log, witness, other) = (Log::new(), witness_key(2), witness_key(3));
    log.grow(5);
    let submission = log.submission(&witness.1, None);
    let (_, note) = submission.body.split_once("\n\n").unwrap();
    let head = Note::parse(note).unwrap().checkpoint;
    let line = |pair: &Ed25519KeyPair, head: &Checkpoint| head.cosign(&witness.1.name, pair, 7);
    let longer = Checkpoint { size: 6, ..head.clone() };
    let lies = [String::new(), "\n\n\n".into(), line(&other.0, &head), line(&witness.0, &longer), "x".repeat(20_000)];
    for answer in lies {
        let kept = witness::keep(&log.store, &witness.1, &submission, &answer).unwrap();
        assert!(kept.is_err(), "{answer:?}");
        assert_eq!(log.cosigned(&witness.1), witness::Cosigned::default());
    }
    let answer = format!("{}{}", line(&other.0, &head), line(&witness.0, &head));
    witness::keep(&log.store, &witness.1, &submission, &answer).unwrap().unwrap();
    let cosigned = log.cosigned(&witness.1);
    assert_eq!((cosigned.size, cosigned.time), (5, 7));
    assert!(!cosigned.checkpoint.contains(line(&other.0, &head).trim()), "a line of others is kept");
}

#[test]
fn log_that_does_not_begin_with_what_a_witness_has_signed_is_found_before_anything_is_sent() {
    let (mut log, witness) = (Log::new(), witness_key(2));
    log.grow(9);
    log.cosign(&witness, None).unwrap();
    log.grow(12);
    log.change(10);
    let Err(problem) = witness::next(&log.store, &log.bundles, &witness.1, None, false) else { panic!("it is sent") };
    assert!(matches!(problem, Problem::Changed(_)), "{problem}");
}
