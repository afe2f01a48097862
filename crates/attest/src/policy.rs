//! What is made of quoted registers: they must be those of one image, one machine and one configuration at the point where a node attests, all of them and nothing mixed.
//!
//! The log is not believed: it must replay to the quoted registers, and its events must be the predicted ones. It is there to say why a register differs.

use measurements::Bank;
use measurements::Event;
use measurements::boot::Point;
use measurements::compose::Composition;
use measurements::explain::neighbours::Neighbours;
use measurements::explain::{self, Mismatch, Verdict};
use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};

use crate::tpm::Quoted;
use crate::{Code, Refusal};

/// The register that is zero until the boot is closed.
pub const CAP: u8 = 15;
/// What nothing but the cluster's configuration may have moved, and what nothing may.
const FROM_OUTSIDE: [u8; 2] = [12, 13];
/// What firmware, stub and kernel measure is in the firmware's log; PCR 10 and above are the kernel's and user space's, but for 11.
const IN_LOG: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];

/// That the quoted registers are those of `expected` at the point where a node attests, and that the log leads there.
///
/// # Errors
/// [`Code::BootCapped`], and those of [`as_predicted`].
pub fn check(quoted: &Quoted, log: &Log, expected: &Composition) -> Result<(), Refusal> {
    if quoted.registers.get(&CAP).is_none_or(|value| value.iter().any(|byte| *byte != 0)) {
        return Err(Refusal::new(Code::BootCapped, "PCR 15 is not zero: this boot was closed before"));
    }
    as_predicted(quoted, log, expected, Point::Initrd, &[])
}

/// That the log leads to the quoted registers, that its events are those of `expected`, and that the registers are at `point`, all but those of `except`.
///
/// # Errors
/// In this order: [`Code::PcrBank`], [`Code::LogReplay`], [`Code::PcrMismatch`] of PCR 12 and 13, [`Code::LogGrammar`], [`Code::LogUnexpectedEvent`], [`Code::PcrMismatch`]; [`Code::NotPredicted`].
pub fn as_predicted(
    quoted: &Quoted,
    log: &Log,
    expected: &Composition,
    point: Point,
    except: &[u8],
) -> Result<(), Refusal> {
    if !log.banks.contains(&quoted.bank) {
        let found = format!("the firmware extends no bank {}: its registers say nothing", quoted.bank);
        return Err(Refusal::new(Code::PcrBank, found));
    }
    for register in IN_LOG {
        if quoted.registers.get(&register) != Some(&log.replay(quoted.bank, register.into())) {
            let found = format!("the log does not lead to the quoted PCR {register}");
            return Err(Refusal::new(Code::LogReplay, found));
        }
    }
    // That all are of one legal sequence follows from the order of the log, which leads to them: a quote does not cover the order between registers.
    let predicted = expected.legal_registers(point);
    let compare = |register: u8| {
        let found = quoted.registers.get(&register).map(Vec::as_slice).unwrap_or_default();
        match predicted.get(&register).and_then(|value| value.allows(quoted.bank, found)) {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::new(Code::PcrMismatch, format!("PCR {register} is {}", hex::encode(found)))),
            None => Err(Refusal::new(Code::NotPredicted, format!("PCR {register} is not predicted"))),
        }
    };
    for register in FROM_OUTSIDE {
        compare(register)?;
    }
    grammar(quoted, log, expected)?;
    let sequences = expected.sequences(Point::Firmware);
    match explain::log_in(quoted.bank, sequences, log, &Neighbours::default()) {
        Verdict::Match { unknown, .. } if unknown.is_empty() => {}
        Verdict::Match { unknown, .. } => {
            return Err(Refusal::new(Code::NotPredicted, format!("PCR {unknown:?} is not predicted")));
        }
        Verdict::Mismatch(mismatch) => {
            let found = format!("{}: {}", mismatch.register, mismatch.cause);
            return Err(Refusal::new(code(&mismatch, quoted.bank, log, expected), found));
        }
        Verdict::CannotTell(reason) => return Err(Refusal::new(Code::NotPredicted, reason)),
    }
    predicted.keys().filter(|register| !except.contains(register)).try_for_each(|register| compare(*register))
}

/// The types of events are in no register: a predicted digest under another type is a log that somebody rewrote.
fn grammar(quoted: &Quoted, log: &Log, expected: &Composition) -> Result<(), Refusal> {
    let all = events(expected);
    for event in extending(log) {
        let Some((_, digest)) = event.digests.iter().find(|(bank, _)| *bank == quoted.bank) else { continue };
        let alike = || {
            let at = |predicted: &&Event| u32::from(predicted.register) == event.register;
            all.iter().filter(at).filter(|predicted| predicted.allows(quoted.bank, digest))
        };
        if alike().next().is_some() && alike().all(|predicted| predicted.kind != event.kind) {
            let found =
                format!("an event of PCR {} has the type {:#x}, which is another's", event.register, event.kind);
            return Err(Refusal::new(Code::LogGrammar, found));
        }
    }
    Ok(())
}

/// Whether a predicted event has another digest, or something happened that was not predicted at all.
fn code(mismatch: &Mismatch, bank: Bank, log: &Log, expected: &Composition) -> Code {
    let Some(found) = mismatch.event.and_then(|position| extending(log).nth(position)) else {
        return Code::LogUnexpectedEvent;
    };
    let is_predicted = |event: &Event| {
        let digest = event.digest(bank).map(hex::encode);
        digest.is_some() && digest == mismatch.expected
    };
    let all = events(expected);
    let place = all.iter().find(|event| is_predicted(event));
    let is_in_its_place =
        place.is_some_and(|event| (u32::from(event.register), event.kind) == (found.register, found.kind));
    let comes_later = place.is_some_and(|event| {
        let quoted = |logged: &LogEvent| {
            logged.digests.iter().any(|(found, digest)| *found == bank && event.allows(bank, digest))
        };
        extending(log).any(quoted)
    });
    if is_in_its_place && !comes_later { Code::PcrMismatch } else { Code::LogUnexpectedEvent }
}

/// All events of all legal sequences.
fn events(expected: &Composition) -> Vec<Event> {
    expected.sequences(Point::Firmware).flat_map(|sequence| sequence.into_owned()).collect()
}

fn extending(log: &Log) -> impl Iterator<Item = &LogEvent> {
    log.events.iter().filter(|event| event.kind != NO_ACTION)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use measurements::boot::{Machine, Measured};
    use measurements::compose::{Configuration, compose};
    use measurements::event::kind;
    use measurements::parse::tcg_log::LogEvent;
    use measurements::tpm::{Value, separator};
    use measurements::{Bank, Event, Source};

    use super::*;
    use crate::tpm::{AttestationKey, BootId};

    fn event(register: u8, kind: u32, bytes: &[u8]) -> Event {
        Event::of(register, kind, Source::Image, format!("{bytes:?}"), bytes)
    }

    pub(crate) fn composition(configuration: &Configuration, uki: &[u8]) -> Composition {
        with_boot(configuration, vec![event(4, kind::APPLICATION, uki), event(11, kind::IPL, b"section")])
    }

    fn with_boot(configuration: &Configuration, boot: Vec<Event>) -> Composition {
        let machine = Machine::with_events(vec![event(0, kind::CRTM_VERSION, b"1"), separator(7)]);
        let image = Measured {
            uki: [0; 32],
            boot,
            initrd: vec![event(11, kind::USER_SPACE, b"enter-initrd")],
            running: vec![event(15, kind::USER_SPACE, b"stateless")],
        };
        compose(&image, &machine, configuration).unwrap()
    }

    /// A boot that measured the first legal sequence of this, as a quote and a log.
    fn boot(of: &Composition) -> (Quoted, Log) {
        let sequence = of.sequences(Point::Initrd).next().unwrap();
        let mut registers = BTreeMap::new();
        for (register, value) in measurements::tpm::registers(&sequence) {
            let Value::Exact(values) = value else { panic!("{value:?}") };
            registers.insert(register, values[&Bank::Sha256].clone());
        }
        let events = of.events(Point::Firmware).iter().map(|event| LogEvent {
            register: event.register.into(),
            kind: event.kind,
            digests: event.digests.legal()[0].clone().into_iter().collect(),
            data: event.data.clone().unwrap_or_default(),
        });
        let log = Log { banks: vec![Bank::Sha256], events: events.collect(), is_confidential: false, locality: 0 };
        let mut area = vec![0, 0x23, 0, 0x0b];
        area.extend(0x5_0072_u32.to_be_bytes());
        area.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0, 0, 0]);
        let key = AttestationKey::parse(&area).unwrap().name();
        (Quoted { bank: Bank::Sha256, registers, boot: BootId { key, reset: 0, restart: 0 } }, log)
    }

    #[test]
    fn digests_of_a_bank_that_was_not_quoted_decide_nothing() {
        let expected = composition(&Configuration::Stateless, b"the UKI");
        let (quoted, mut log) = boot(&expected);
        // A better bank, which no quote covers.
        log.banks.insert(0, Bank::Sha384);
        for event in &mut log.events {
            event.digests.insert(0, (Bank::Sha384, vec![0; 48]));
        }
        assert_eq!(check(&quoted, &log, &expected), Ok(()));
        let (_, other) = boot(&composition(&Configuration::Stateless, b"another UKI"));
        for (event, other) in log.events.iter_mut().zip(other.events) {
            event.digests = vec![event.digests[0].clone(), other.digests[0].clone()];
        }
        assert_eq!(check(&quoted, &log, &expected).unwrap_err().code, Code::LogReplay);
    }

    #[test]
    fn a_boot_as_predicted_passes_and_one_change_is_refused_with_its_code() {
        let stateless = Configuration::Stateless;
        let expected = composition(&stateless, b"the UKI");
        let (quoted, log) = boot(&expected);
        assert_eq!(check(&quoted, &log, &expected), Ok(()));

        let (other, other_log) = boot(&composition(&stateless, b"another UKI"));
        let refusal = check(&other, &other_log, &expected).unwrap_err();
        assert!(refusal.code == Code::PcrMismatch && refusal.found.starts_with("PCR 4"), "{refusal}");
        assert_eq!(check(&other, &log, &expected).unwrap_err().code, Code::LogReplay, "a log that lies");
        let mut cut = log.clone();
        cut.events.pop();
        assert_eq!(check(&quoted, &cut, &expected).unwrap_err().code, Code::LogReplay);

        let mut capped = quoted.clone();
        capped.registers.insert(15, vec![1; 32]);
        assert_eq!(check(&capped, &log, &expected).unwrap_err().code, Code::BootCapped);
        for register in [11, 12, 13] {
            let mut moved = quoted.clone();
            moved.registers.insert(register, vec![1; 32]);
            let refusal = check(&moved, &log, &expected).unwrap_err();
            assert_eq!(refusal.code, Code::PcrMismatch, "{refusal}");
            assert!(refusal.found.contains(&format!("PCR {register} ")), "{refusal}");
        }
    }

    /// A boot in which so many boot options failed before the right one, and where in the log they did.
    fn boot_after_failures(expected: &Composition, count: usize) -> (Quoted, Log, usize) {
        let (mut quoted, mut log) = boot(expected);
        let place = log.events.iter().rposition(|event| event.kind == kind::SEPARATOR).unwrap() + 1;
        let failed = measurements::tpm::pcr04::next_attempt();
        for action in (0..count).flat_map(|_| failed.clone()).rev() {
            let digests = action.digests.legal()[0].clone().into_iter().collect();
            log.events.insert(place, LogEvent { register: 4, kind: action.kind, digests, data: Vec::new() });
        }
        let all: Vec<Event> = expected.sequences(Point::Initrd).nth(2 * count.min(2)).unwrap().to_vec();
        for register in [4, 10] {
            let value = measurements::tpm::value(register, all.iter());
            quoted.registers.insert(register, value.in_bank(Bank::Sha256).unwrap().to_vec());
        }
        quoted.registers.insert(4, log.replay(Bank::Sha256, 4));
        (quoted, log, place)
    }

    #[test]
    fn boot_option_that_fails_before_the_right_one_passes_up_to_twice() {
        let expected = composition(&Configuration::Stateless, b"the UKI");
        for (count, passes) in [(1, true), (2, true), (3, false)] {
            let (quoted, log, _) = boot_after_failures(&expected, count);
            let verdict = check(&quoted, &log, &expected);
            assert_eq!(verdict.is_ok(), passes, "{count}: {verdict:?}");
        }
    }

    /// The firmware measures one partition table, and perhaps that of a disk which it could not start. The registers are the same then; the log has another order.
    #[test]
    fn partition_table_of_a_disk_that_failed_is_refused() {
        let table = event(5, kind::GPT, b"table");
        let expected = with_boot(&Configuration::Stateless, vec![table, event(4, kind::APPLICATION, b"the UKI")]);
        let (quoted, mut log, place) = boot_after_failures(&expected, 1);
        assert_eq!(check(&quoted, &log, &expected), Ok(()));
        let at = log.events.iter().position(|event| event.kind == kind::GPT).unwrap();
        let table = log.events.remove(at);
        log.events.insert(place, table);
        assert_eq!(check(&quoted, &log, &expected).unwrap_err().code, Code::LogUnexpectedEvent);
    }

    #[test]
    fn a_log_that_replays_and_says_something_else_is_refused() {
        let expected = composition(&Configuration::Stateless, b"the UKI");
        let (quoted, log) = boot(&expected);
        let mut renamed = log.clone();
        for event in renamed.events.iter_mut().filter(|event| event.kind == kind::APPLICATION) {
            event.kind = kind::FIRMWARE_BLOB;
        }
        assert_eq!(check(&quoted, &renamed, &expected).unwrap_err().code, Code::LogGrammar);
        let without_bank = Log { banks: vec![Bank::Sha1], ..log };
        assert_eq!(check(&quoted, &without_bank, &expected).unwrap_err().code, Code::PcrBank);

        let applications = [&b"another"[..], b"the UKI"].map(|bytes| event(4, kind::APPLICATION, bytes));
        let one_more = [&applications[..], &[event(11, kind::IPL, b"section")]].concat();
        let (quoted, log) = boot(&with_boot(&Configuration::Stateless, one_more));
        let refusal = check(&quoted, &log, &expected).unwrap_err();
        assert!(refusal.code == Code::LogUnexpectedEvent && refusal.found.contains("one more image"), "{refusal}");
    }

    #[test]
    fn a_node_of_another_cluster_is_refused_by_pcr_12() {
        let (ours, theirs) = (Configuration::cluster(b"ours\n"), Configuration::cluster(b"theirs\n"));
        let (quoted, log) = boot(&composition(&theirs, b"the UKI"));
        assert_eq!(check(&quoted, &log, &composition(&theirs, b"the UKI")), Ok(()));
        let refusal = check(&quoted, &log, &composition(&ours, b"the UKI")).unwrap_err();
        assert!(refusal.code == Code::PcrMismatch && refusal.found.contains("PCR 12"), "{refusal}");
    }

    #[test]
    fn what_is_not_predicted_is_no_reason_to_trust() {
        let image = Measured { uki: [0; 32], boot: vec![], initrd: vec![], running: vec![] };
        let unknown = compose(&image, &Machine::unknown(), &Configuration::Stateless).unwrap();
        let (quoted, log) = boot(&composition(&Configuration::Stateless, b"the UKI"));
        let code = check(&quoted, &log, &unknown).unwrap_err().code;
        assert!(matches!(code, Code::NotPredicted | Code::LogUnexpectedEvent), "{code}");
    }
}
