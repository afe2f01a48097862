//! Why a machine did not measure what was predicted: walks a firmware log beside the prediction and names the first event that differs, the input behind it, whose doing it is, and the next step.
//!
//! Final registers are never compared: one differing event changes a register for good, and says nothing about the events behind it.

use crate::event::kind;
use crate::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use crate::{Bank, Event, Source};

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every event is as predicted.
    Match {
        /// How many were compared.
        events: usize,
        /// Registers that were not, because the prediction does not know them.
        unknown: Vec<u8>,
    },
    /// One is not.
    Mismatch(Box<Mismatch>),
    /// Nothing can be compared.
    CannotTell(&'static str),
}

/// The first event that is not as predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its position in the log, from 0, without events that extend nothing.
    pub position: usize,
    /// Its register.
    pub register: u32,
    /// The bank that was compared.
    pub bank: Bank,
    /// The digest that was expected; none where no further event was.
    pub expected: Option<String>,
    /// The digest in the log; none where the log has no such event.
    pub found: Option<String>,
    /// What differs, in words.
    pub cause: String,
    /// Whose doing it is.
    pub whose: Source,
    /// What to do.
    pub next: &'static str,
}

/// Compares a log with a prediction of the firmware's point in time.
pub fn explain(predicted: &[Event], log: &Log) -> Verdict {
    let Some(bank) =
        [Bank::Sha384, Bank::Sha256, Bank::Sha512, Bank::Sha1].into_iter().find(|bank| log.banks.contains(bank))
    else {
        return Verdict::CannotTell("the log has no bank that is known here");
    };
    let mut unknown: Vec<u8> =
        predicted.iter().filter(|event| event.digests.is_err()).map(|event| event.register).collect();
    unknown.sort_unstable();
    unknown.dedup();
    let known = |register: u32| !unknown.iter().any(|unknown| u32::from(*unknown) == register);
    let predicted: Vec<&Event> = predicted.iter().filter(|event| known(event.register.into())).collect();
    // The position is that in the whole log, whatever is left out of the comparison.
    let all = log.events.iter().filter(|event| event.kind != NO_ACTION).enumerate();
    let logged: Vec<(usize, &LogEvent)> = all.filter(|(_, event)| known(event.register)).collect();
    if predicted.is_empty() {
        return Verdict::CannotTell("the prediction knows no register: give a machine");
    }
    let pairs = predicted.iter().zip(&logged);
    let same = pairs.take_while(|(event, (_, logged))| is(event, logged, bank)).count();
    let (event, found) = (predicted.get(same).copied(), logged.get(same).copied());
    match (event, found) {
        (None, None) => Verdict::Match { events: same, unknown },
        _ => {
            let mut mismatch = mismatch(event, found, predicted.get(same + 1).copied(), logged.len(), bank);
            if let (Some(event), Some((_, logged_event))) = (event, found)
                && (event.register, event.source, is_at(event, logged_event)) == (4, Source::Image, true)
            {
                mismatch.cause =
                    format!("it is not this one: {}; {}", event.input, section_that_differs(&predicted, &logged, bank));
            }
            Verdict::Mismatch(Box::new(mismatch))
        }
    }
}

/// The stub measures each section of a UKI as its name and its content: which of them is not as predicted.
fn section_that_differs(predicted: &[&Event], logged: &[(usize, &LogEvent)], bank: Bank) -> String {
    let ours: Vec<&&Event> = predicted.iter().filter(|event| event.register == 11 && event.kind == kind::IPL).collect();
    let theirs: Vec<&LogEvent> = logged
        .iter()
        .map(|(_, event)| *event)
        .filter(|event| event.register == 11 && event.kind == kind::IPL)
        .collect();
    let differs = ours.iter().zip(&theirs).find(|(event, logged)| event.digest(bank) != digest(logged, bank));
    match differs {
        Some((event, _)) => format!("the first part of it that differs is the {}", event.input),
        None if ours.len() == theirs.len() => {
            "every section that its stub measures is as predicted: the stub or a header differs".into()
        }
        None => "it has more or fewer sections".into(),
    }
}

fn digest(event: &LogEvent, bank: Bank) -> Option<&[u8]> {
    event.digests.iter().find(|(found, _)| *found == bank).map(|(_, digest)| digest.as_slice())
}

fn is(event: &Event, logged: &LogEvent, bank: Bank) -> bool {
    is_at(event, logged) && event.digest(bank) == digest(logged, bank)
}

fn is_at(event: &Event, logged: &LogEvent) -> bool {
    (u32::from(event.register), event.kind) == (logged.register, logged.kind)
}

fn mismatch(
    expected: Option<&Event>,
    found: Option<(usize, &LogEvent)>,
    after: Option<&Event>,
    length: usize,
    bank: Bank,
) -> Mismatch {
    let (cause, whose, next) = match (expected, found) {
        (Some(event), Some((_, logged))) if is_at(event, logged) => differs(event, logged),
        (Some(_), Some((_, logged))) if after.is_some_and(|after| is(after, logged, bank)) => missing(expected),
        (_, Some((_, logged))) => extra(logged),
        _ => missing(expected),
    };
    Mismatch {
        position: found.map_or(length, |(position, _)| position),
        register: found.map(|(_, logged)| logged.register).or(expected.map(|event| event.register.into())).unwrap_or(0),
        bank,
        expected: expected.and_then(|event| event.digest(bank)).map(hex::encode),
        found: found.and_then(|(_, logged)| digest(logged, bank)).map(hex::encode),
        cause,
        whose,
        next,
    }
}

type Cause = (String, Source, &'static str);

const OTHER_IMAGE: &str = "compare the image that this machine boots with the release: `cairn measure` shows both; if nobody changed it on purpose, do not trust the machine";
const OTHER_MACHINE: &str = "compare the machine with its reference: firmware file, VMM and its version, CPUs, memory, devices; use or record the reference of this shape";
const FROM_OUTSIDE: &str =
    "remove it from the disk or the machine's settings: a machine that adds to its own boot gets no keys";

fn differs(event: &Event, logged: &LogEvent) -> Cause {
    match (event.register, event.kind) {
        (5, kind::GPT) => {
            (format!("the partition table differs: {}", entry_that_differs(event, logged)), event.source, OTHER_IMAGE)
        }
        (7, _) => (
            format!("{} has another value", event.input),
            event.source,
            "Secure Boot is on or has other keys: set it as the reference says",
        ),
        (1, kind::BOOT_VARIABLE) => (
            format!("{} has another value: other boot entries, another order, or another device", event.input),
            event.source,
            OTHER_MACHINE,
        ),
        _ => {
            let next = if event.source == Source::Image { OTHER_IMAGE } else { OTHER_MACHINE };
            (format!("it is not this one: {}", event.input), event.source, next)
        }
    }
}

fn missing(expected: Option<&Event>) -> Cause {
    let (input, source) =
        expected.map_or(("the end of the log", Source::Machine), |event| (&event.input, event.source));
    let next = "the log may be cut short; read it again, and if it is whole, something was left out of this boot";
    (format!("the log does not have it: {input}"), source, next)
}

/// An event that nobody predicted.
fn extra(logged: &LogEvent) -> Cause {
    match (logged.register, logged.kind) {
        (12, kind::IPL) => {
            let text = utf16(&logged.data);
            (
                format!(
                    "something was added to the boot from outside the UKI (add-on, SMBIOS, or credential): {text:?}"
                ),
                Source::Machine,
                FROM_OUTSIDE,
            )
        }
        (13, _) => ("a system extension was put beside the UKI".into(), Source::Machine, FROM_OUTSIDE),
        (4, kind::APPLICATION) => {
            ("one more image was loaded: an add-on, or another boot loader".into(), Source::Machine, FROM_OUTSIDE)
        }
        (register, kind) => (
            format!("PCR {register} has an event of type {kind:#x} that nobody predicted"),
            Source::Machine,
            OTHER_MACHINE,
        ),
    }
}

/// The first used entry of two partition tables that differs, by its number and name.
fn entry_that_differs(event: &Event, logged: &LogEvent) -> String {
    const HEADER: usize = 92 + 8;
    let Some(expected) = &event.data else { return "how is not known".into() };
    let name = |entry: &[u8]| utf16(entry.get(56..).unwrap_or_default());
    let entries =
        |data: &[u8]| data.get(HEADER..).unwrap_or_default().chunks(128).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (ours, theirs) = (entries(expected), entries(&logged.data));
    for (number, pair) in (1..).zip(ours.iter().zip(&theirs)) {
        if pair.0 != pair.1 {
            return format!("entry {number} ({:?}, now {:?})", name(pair.0), name(pair.1));
        }
    }
    match ours.len().cmp(&theirs.len()) {
        std::cmp::Ordering::Less => format!("there is one more entry ({:?})", name(&theirs[ours.len()])),
        std::cmp::Ordering::Greater => format!("an entry is missing ({:?})", name(&ours[theirs.len()])),
        std::cmp::Ordering::Equal => "only its header (disk id or size)".into(),
    }
}

/// Text in UTF-16 up to its NUL, at most 200 characters.
fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or('\u{fffd}')).take(200).collect()
}

/// The verdict for people.
pub fn text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Match { events, unknown } if unknown.is_empty() => {
            format!("MATCH: all {events} events are as predicted\n")
        }
        Verdict::Match { events, unknown } => {
            let list: Vec<String> = unknown.iter().map(u8::to_string).collect();
            format!(
                "MATCH as far as can be told: {events} events are as predicted; PCR {} was not compared, give a machine\n",
                list.join(", ")
            )
        }
        Verdict::CannotTell(reason) => format!("CANNOT TELL: {reason}\n"),
        Verdict::Mismatch(mismatch) => {
            let Mismatch { position, register, bank, expected, found, cause, whose, next } = &**mismatch;
            let shown = |digest: &Option<String>| {
                digest.as_ref().map_or("no event".to_owned(), |digest| format!("{bank}:{digest}"))
            };
            let whose = match whose {
                Source::Image => "the image",
                Source::Machine => "the machine, or whoever runs it",
                Source::Configuration => "the cluster's configuration",
            };
            format!(
                "MISMATCH at event {position}, PCR {register}\ncause     {cause}\nexpected  {}\nfound     {}\nwhose     {whose}\nnext      {next}\n",
                shown(expected),
                shown(found)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::{pcr05, separator};

    fn table(names: &[&str]) -> Vec<u8> {
        let mut data = vec![0; 100];
        for name in names {
            let mut entry = vec![7; 56];
            entry.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
            entry.resize(128, 0);
            data.extend(entry);
        }
        data
    }

    fn predicted() -> Vec<Event> {
        let image = |register, kind, input: &str| Event::of(register, kind, Source::Image, input, input.as_bytes());
        vec![
            Event::of(0, kind::CRTM_VERSION, Source::Machine, "version of the firmware", b"1"),
            Event::of(1, kind::BOOT_VARIABLE, Source::Machine, "variable BootOrder of the firmware", b"order"),
            separator(4),
            pcr05::table(&table(&["ESP", "root"])),
            image(4, kind::APPLICATION, "the UKI"),
            image(11, kind::IPL, "content of section .cmdline of the UKI"),
        ]
    }

    fn log(events: &[Event]) -> Log {
        let events = events.iter().map(|event| LogEvent {
            register: event.register.into(),
            kind: event.kind,
            digests: event.digests.clone().unwrap_or_default().into_iter().collect(),
            data: event.data.clone().unwrap_or_default(),
        });
        Log { banks: vec![Bank::Sha1, Bank::Sha256], events: events.collect(), locality: 0 }
    }

    fn after(change: impl FnOnce(&mut Vec<Event>)) -> String {
        let mut events = predicted();
        change(&mut events);
        text(&explain(&predicted(), &log(&events)))
    }

    #[test]
    fn what_is_as_predicted_matches() {
        assert_eq!(after(|_| ()), "MATCH: all 6 events are as predicted\n");
    }

    #[test]
    fn a_changed_section_is_named_with_both_digests_and_the_next_step() {
        let other = Event::of(11, kind::IPL, Source::Image, "x", b"x");
        let expected = format!(
            "MISMATCH at event 5, PCR 11\ncause     it is not this one: content of section .cmdline of the UKI\n\
             expected  sha256:{}\nfound     sha256:{}\nwhose     the image\nnext      {OTHER_IMAGE}\n",
            hex::encode(Bank::Sha256.digest(b"content of section .cmdline of the UKI")),
            hex::encode(Bank::Sha256.digest(b"x"))
        );
        assert_eq!(after(|events| events[5] = other), expected);
    }

    #[test]
    fn each_change_is_named() {
        let at = |register, kind, bytes: &[u8]| Event::of(register, kind, Source::Machine, "x", bytes);
        let addition: Vec<u8> = "debug\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        type Change = Box<dyn FnOnce(&mut Vec<Event>)>;
        let rows: Vec<(&str, Change, &[&str])> = vec![
            (
                "firmware",
                Box::new(move |events| events[0] = at(0, kind::CRTM_VERSION, b"2")),
                &["event 0, PCR 0", "version of the firmware", "whoever runs it"],
            ),
            (
                "boot order",
                Box::new(move |events| events[1] = at(1, kind::BOOT_VARIABLE, b"x")),
                &["event 1, PCR 1", "BootOrder", "boot entries"],
            ),
            (
                "partition name",
                Box::new(|events| events[3] = pcr05::table(&table(&["ESP", "r00t"]))),
                &["PCR 5", "entry 2 (\"root\", now \"r00t\")"],
            ),
            (
                "new partition",
                Box::new(|events| events[3] = pcr05::table(&table(&["ESP", "root", "home"]))),
                &["one more entry (\"home\")"],
            ),
            (
                "lost partition",
                Box::new(|events| events[3] = pcr05::table(&table(&["ESP"]))),
                &["an entry is missing (\"root\")"],
            ),
            (
                "disk id",
                Box::new(|events| {
                    let mut data = table(&["ESP", "root"]);
                    data[60] = 1;
                    events[3] = pcr05::table(&data);
                }),
                &["only its header"],
            ),
            (
                "another UKI",
                Box::new(move |events| events[4] = at(4, kind::APPLICATION, b"x")),
                &["event 4, PCR 4", "the UKI", "the image"],
            ),
            (
                "add-on",
                Box::new(move |events| events.push(at(4, kind::APPLICATION, b"x"))),
                &["event 6, PCR 4", "one more image was loaded", "no event"],
            ),
            (
                "addition",
                Box::new(move |events| events.insert(5, at(12, kind::IPL, b"x").with_data(addition))),
                &["PCR 12", "\"debug\"", "gets no keys"],
            ),
            (
                "missing event",
                Box::new(|events| drop(events.remove(2))),
                &["event 2, PCR 5", "the log does not have it: separator"],
            ),
            (
                "cut short",
                Box::new(|events| drop(events.pop())),
                &["event 5, PCR 11", "cut short", "found     no event"],
            ),
        ];
        for (name, change, words) in rows {
            let text = after(change);
            for word in words {
                assert!(text.contains(word), "{name}: {word:?} is not in {text}");
            }
        }
    }

    #[test]
    fn registers_that_nobody_predicts_are_left_out_and_named() {
        let mut predicted = predicted();
        let real = log(&predicted);
        predicted[0] = Event::unknown(0, kind::FIRMWARE_BLOB, Source::Machine, "the firmware", "give it");
        let verdict = explain(&predicted, &real);
        assert_eq!(verdict, Verdict::Match { events: 5, unknown: vec![0] });
        assert!(text(&verdict).contains("PCR 0 was not compared"));
        let none = Log { banks: vec![], ..real };
        assert!(matches!(explain(&predicted, &none), Verdict::CannotTell(_)));
    }
}
