//! The attester against brokers that lie, fail, drip or are not there, in one process and without a TPM: what ends a boot, and what does not.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use attest::bytes::Bytes32;
use attest::hpke::PrivateKey;
use attest::message::{CommitResult, DiskState, Purpose};
use attest::recovery::SignedStatement;
use attester::{Acknowledged, Attester, Error, Machine, Quote, Settings};
use cairn_tests::attester::SLOT;
use cairn_tests::lying_broker::{Identity, Lie, LyingBroker, Then};
use measurements::Bank;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(5);
const RESULT: CommitResult = CommitResult::Formatted { header: Bytes32([1; 32]), volume: Bytes32([2; 32]) };

/// A machine whose quotes nobody verifies, and that does not sleep.
#[derive(Default)]
struct Recorder {
    /// First random byte: it selects the address that is asked first.
    start: u8,
    lines: Vec<String>,
    pauses: usize,
}

impl Machine for Recorder {
    type Error = Infallible;

    fn endorsement_key(&self) -> &[u8] {
        b"an endorsement key"
    }

    fn attestation_key(&self) -> &[u8] {
        b"an attestation key"
    }

    fn banks(&self) -> &[Bank] {
        &[Bank::Sha256, Bank::Sha384]
    }

    fn quote(&mut self, bank: Bank, _: &[u8; 32]) -> Result<Quote, Infallible> {
        Ok(Quote { attest: vec![1], signature: vec![2], registers: vec![vec![0; bank.length()]; 16] })
    }

    fn activate(&mut self, _: &[u8], _: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        None
    }

    fn random(&mut self) -> Result<[u8; 32], Infallible> {
        let mut bytes = cairn_tests::attester::random().unwrap();
        bytes[0] = self.start;
        Ok(bytes)
    }

    fn event_log(&self) -> Result<Vec<u8>, Infallible> {
        Ok(vec![3])
    }

    fn user_space_log(&self) -> Result<String, Infallible> {
        Ok(String::new())
    }

    fn print(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }

    fn sleep(&mut self, pause: Duration) {
        assert!(pause >= Duration::from_millis(500), "a pause of {pause:?}");
        self.pauses += 1;
        assert!(self.pauses < 100, "it waits for ever: {:?}", self.lines);
    }
}

/// A whole conversation that begins at the first address, and the machine afterwards.
fn boot(
    identity: &Identity,
    addresses: &[SocketAddr],
    patience: Duration,
) -> (Result<Acknowledged, Error<Infallible>>, Recorder) {
    boot_machine(Recorder::default(), identity, addresses, patience)
}

fn boot_machine(
    machine: Recorder,
    identity: &Identity,
    addresses: &[SocketAddr],
    patience: Duration,
) -> (Result<Acknowledged, Error<Infallible>>, Recorder) {
    let settings = Settings { cluster: &identity.cluster, bundle: None, min_version: 1, patience };
    let hpke = PrivateKey::from_seed(&Zeroizing::new([4; 32]));
    let mut attester = Attester::new(machine, settings, addresses, hpke).ok().unwrap();
    let acknowledged = attester.release(SLOT, &DiskState::Blank, &[Purpose::Provision]).and_then(|released| {
        assert_eq!(*released.share, [3; 32]);
        let commit = attester.report(&released, &RESULT, 1, &BTreeMap::new())?;
        attester.must_commit(&released, &commit)
    });
    (acknowledged, attester.into_machine())
}

#[test]
fn honest_broker_is_asked_once_and_without_a_wait() {
    let identity = Identity::new().unwrap();
    let broker = LyingBroker::start(&identity, &[], Then::Honest).unwrap();
    let (acknowledged, machine) = boot(&identity, &[broker.address()], PATIENCE);
    assert_eq!(acknowledged.ok().unwrap().ack.generation, 1);
    assert_eq!((machine.lines, machine.pauses), (vec![], 0));
    assert_eq!(broker.requests(), ["/krp/1/hello", "/krp/1/evidence", "/krp/1/commit"]);
}

/// Nodes that boot at the same time spread over the brokers.
#[test]
fn attester_begins_at_the_address_that_its_first_random_byte_selects() {
    let identity = Identity::new().unwrap();
    for (start, selected) in [(0, 0), (1, 1), (2, 2), (3, 0), (254, 2), (255, 0)] {
        let brokers = [(); 3].map(|()| LyingBroker::start(&identity, &[], Then::Honest).unwrap());
        let addresses = brokers.each_ref().map(LyingBroker::address);
        let machine = Recorder { start, ..Recorder::default() };
        let (acknowledged, machine) = boot_machine(machine, &identity, &addresses, PATIENCE);
        assert!(acknowledged.is_ok(), "{start}: {:?}", acknowledged.err());
        assert_eq!(machine.pauses, 0, "{start}");
        let asked = brokers.each_ref().map(|broker| !broker.requests().is_empty());
        assert_eq!(asked, [0, 1, 2].map(|broker| broker == selected), "{start}");
    }
}

#[test]
fn whatever_is_not_signed_for_this_conversation_is_a_wait() {
    let identity = Identity::new().unwrap();
    for lie in Lie::WAITS {
        let broker = LyingBroker::start(&identity, &[lie], Then::Honest).unwrap();
        let (acknowledged, machine) = boot(&identity, &[broker.address()], PATIENCE);
        assert!(acknowledged.is_ok(), "{lie:?}: {:?}", acknowledged.err());
        assert_eq!(machine.pauses, 1, "{lie:?}");
        assert!(machine.lines.iter().all(|line| line.starts_with("waiting: ")), "{lie:?}: {:?}", machine.lines);
    }
}

#[test]
fn decision_of_a_broker_of_the_cluster_ends_the_boot() {
    let identity = Identity::new().unwrap();
    for lie in Lie::ENDS {
        let broker = LyingBroker::start(&identity, &[lie], Then::Honest).unwrap();
        let (acknowledged, machine) = boot(&identity, &[broker.address()], PATIENCE);
        let error = acknowledged.err().unwrap_or_else(|| panic!("{lie:?} was accepted"));
        let is_expected = match lie {
            Lie::Refusal => matches!(error, Error::AttestationRefused(_)),
            Lie::RefusalOfCommit => matches!(error, Error::CommitRefused(_)),
            Lie::ForeignRecoveryKey => matches!(error, Error::GrantInvalid(_)),
            _ => matches!(error, Error::ReleaseInvalid(_)),
        };
        assert!(is_expected, "{lie:?}: {error:?}");
        assert_eq!(machine.pauses, 0, "{lie:?}");
    }
}

#[test]
fn release_that_was_lost_is_requested_again_before_a_new_one() {
    let identity = Identity::new().unwrap();
    for lie in [Lie::Status(503), Lie::Status(408), Lie::Closed] {
        let broker = LyingBroker::start(&identity, &[lie], Then::Honest).unwrap();
        let (acknowledged, _) = boot(&identity, &[broker.address()], PATIENCE);
        assert!(acknowledged.is_ok(), "{lie:?}");
        let expected = ["/krp/1/hello", "/krp/1/evidence", "/krp/1/resume", "/krp/1/commit"];
        assert_eq!(broker.requests(), expected, "{lie:?}");
    }
}

#[test]
fn evidence_that_reaches_the_broker_late_does_not_end_the_boot() {
    let identity = Identity::new().unwrap();
    // Two pieces of evidence are held back, and each resumption is refused; the first one latches the boot before the third is read.
    let script = [Lie::HeldBack, Lie::Refusal, Lie::HeldBack, Lie::Refusal, Lie::Latched];
    let broker = LyingBroker::start(&identity, &script, Then::Honest).unwrap();
    let (acknowledged, machine) = boot(&identity, &[broker.address()], PATIENCE);
    assert!(acknowledged.is_ok(), "{:?}", acknowledged.err());
    assert_eq!(machine.pauses, 2, "a refusal is not followed by a wait");
    let conversation = ["/krp/1/hello", "/krp/1/evidence", "/krp/1/resume"];
    let end = ["/krp/1/resume", "/krp/1/commit"];
    assert_eq!(broker.requests(), [&conversation[..], &conversation, &conversation, &end].concat());
}

#[test]
fn refusal_ends_the_boot_when_no_session_has_a_stored_release() {
    let identity = Identity::new().unwrap();
    // The first refusal is of the resumption, the second of the evidence. The broker is away once, then refuses the resumption again.
    let script = [Lie::HeldBack, Lie::Refusal, Lie::Refusal, Lie::Status(503)];
    let broker = LyingBroker::start(&identity, &script, Then::Honest).unwrap();
    let (acknowledged, _) = boot(&identity, &[broker.address()], PATIENCE);
    assert!(matches!(acknowledged, Err(Error::AttestationRefused(_))), "{:?}", acknowledged.err());
    let conversation = ["/krp/1/hello", "/krp/1/evidence", "/krp/1/resume"];
    assert_eq!(broker.requests(), [&conversation[..], &conversation, &["/krp/1/resume"]].concat());
}

/// A hold is a decision, and the pauses of a held node are short: its sessions are as many as its challenges live.
#[test]
fn evidence_that_reaches_the_broker_late_does_not_end_the_boot_of_a_held_node() {
    let identity = Identity::new().unwrap();
    let held = [Lie::Hold, Lie::HeldBack, Lie::Refusal];
    let script = [&[Lie::HeldBack, Lie::Refusal], &held.repeat(16)[..], &[Lie::Latched]].concat();
    let broker = LyingBroker::start(&identity, &script, Then::Honest).unwrap();
    let (acknowledged, _) = boot(&identity, &[broker.address()], PATIENCE);
    assert!(acknowledged.is_ok(), "{:?}", acknowledged.err());
}

#[test]
fn every_session_without_a_decision_is_resumed_before_a_refusal_is_final() {
    let identity = Identity::new().unwrap();
    let lost = [Lie::HeldBack, Lie::Refusal];
    let script = [&lost.repeat(17)[..], &[Lie::Refusal]].concat();
    let broker = LyingBroker::start(&identity, &script, Then::Honest).unwrap();
    let (acknowledged, _) = boot(&identity, &[broker.address()], PATIENCE);
    assert!(matches!(acknowledged, Err(Error::AttestationRefused(_))), "{:?}", acknowledged.err());
    let resumed = broker.requests().iter().filter(|path| *path == "/krp/1/resume").count();
    assert_eq!(resumed, 17 + 17);
}

#[test]
fn after_each_wait_another_broker_is_asked() {
    let identity = Identity::new().unwrap();
    let failing = LyingBroker::start(&identity, &[Lie::Status(500); 50], Then::Honest).unwrap();
    let healthy = LyingBroker::start(&identity, &[], Then::Honest).unwrap();
    let (acknowledged, machine) = boot(&identity, &[failing.address(), healthy.address()], PATIENCE);
    assert!(acknowledged.is_ok());
    assert_eq!(machine.pauses, 1);
    let expected = ["/krp/1/resume", "/krp/1/hello", "/krp/1/evidence", "/krp/1/commit"];
    assert_eq!(healthy.requests(), expected, "a broker without a stored reply gets a new hello at once");
}

#[test]
fn broker_without_its_store_is_left_for_the_next_address_at_once() {
    let identity = Identity::new().unwrap();
    let away = LyingBroker::start(&identity, &[Lie::NoCertificate(503); 50], Then::Honest).unwrap();
    let healthy = LyingBroker::start(&identity, &[], Then::Honest).unwrap();
    let (acknowledged, machine) = boot(&identity, &[away.address(), healthy.address()], PATIENCE);
    assert!(acknowledged.is_ok(), "{:?}", acknowledged.err());
    assert_eq!((machine.pauses, away.requests().len()), (0, 0));
    assert_eq!(healthy.requests(), ["/krp/1/hello", "/krp/1/evidence", "/krp/1/commit"]);
}

#[test]
fn release_that_one_broker_signed_is_accepted_from_another() {
    let identity = Identity::new().unwrap();
    let lost = LyingBroker::start(&identity, &[Lie::Closed; 50], Then::Honest).unwrap();
    let other = LyingBroker::start(&identity, &[], Then::Honest).unwrap();
    let (acknowledged, machine) = boot(&identity, &[lost.address(), other.address()], PATIENCE);
    assert!(acknowledged.is_ok(), "{:?}", acknowledged.err());
    assert_eq!((machine.pauses, other.requests()), (1, vec!["/krp/1/resume".to_owned(), "/krp/1/commit".to_owned()]));
}

#[test]
fn statement_about_the_disk_comes_with_the_certificate_of_its_signer() {
    let identity = Identity::new().unwrap();
    let script = [&[Lie::ClosedAfterCommit][..], &[Lie::NoCertificate(503); 50]].concat();
    let lost = LyingBroker::start(&identity, &script, Then::Honest).unwrap();
    let other = LyingBroker::start(&identity, &[], Then::Honest).unwrap();
    for addresses in [vec![lost.address(), other.address()], vec![other.address()]] {
        let (acknowledged, _) = boot(&identity, &addresses, PATIENCE);
        let Acknowledged { ack, broker } = acknowledged.ok().unwrap();
        let document = SignedStatement::write(&broker, &ack.disk.unwrap()).unwrap();
        let statement = SignedStatement::verify(&document, &identity.cluster);
        assert_eq!(statement.map(|statement| statement.generation), Ok(1));
    }
    assert_eq!(lost.requests(), ["/krp/1/hello", "/krp/1/evidence", "/krp/1/commit"]);
}

#[test]
fn store_that_is_away_for_hours_delays_a_boot_and_prints_one_line() {
    let identity = Identity::new().unwrap();
    let broker = LyingBroker::start(&identity, &[Lie::Status(503); 40], Then::Honest).unwrap();
    let (acknowledged, machine) = boot(&identity, &[broker.address()], PATIENCE);
    assert!(acknowledged.is_ok());
    assert_eq!((machine.pauses, machine.lines.len()), (40, 1), "{:?}", machine.lines);
}

#[test]
fn peer_that_drips_is_left_and_the_next_broker_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            // The head of a record, and then a byte at a time, for 12 s.
            let _ = socket.write_all(&[0x16, 3, 3, 0x40, 0]);
            for _ in 0..400 {
                if socket.write_all(&[0]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(30));
            }
        }
    });
    let identity = Identity::new().unwrap();
    let broker = LyingBroker::start(&identity, &[], Then::Honest).unwrap();
    let begun = Instant::now();
    let (acknowledged, _) = boot(&identity, &[address, broker.address()], Duration::from_millis(500));
    assert!(acknowledged.is_ok(), "{:?}", acknowledged.err());
    assert!(begun.elapsed() < Duration::from_secs(8), "held for {:?}", begun.elapsed());
}
