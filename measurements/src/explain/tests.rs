//! Golden text: what people read.

use super::release::Releases;
use super::{Verdict, cause::OTHER_IMAGE, text};
use crate::event::kind;
use crate::parse::tcg_log::{Log, LogEvent};
use crate::tpm::{pcr05, separator};
use crate::{Bank, Event, Source};

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
        digests: event.digests.legal()[0].clone().into_iter().collect(),
        data: event.data.clone().unwrap_or_default(),
    });
    Log { banks: vec![Bank::Sha1, Bank::Sha256], events: events.collect(), locality: 0 }
}

fn after(change: impl FnOnce(&mut Vec<Event>)) -> String {
    let mut events = predicted();
    change(&mut events);
    text(&super::log(&predicted(), &log(&events), &Releases::default()))
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
        ("cut short", Box::new(|events| drop(events.pop())), &["event 5, PCR 11", "cut short", "found     no event"]),
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
    let verdict = super::log(&predicted, &real, &Releases::default());
    assert_eq!(verdict, Verdict::Match { compared: "all 5 events are".into(), unknown: vec![0] });
    assert!(text(&verdict).contains("PCR 0 was not compared"));
    let none = Log { banks: vec![], ..real };
    assert!(matches!(super::log(&predicted, &none, &Releases::default()), Verdict::CannotTell(_)));
}
