//! What an event that differs means, in words: the input behind it, whose doing it is, and the next step.

use crate::event::{UnderSecureBoot, kind};
use crate::parse::tcg_log::LogEvent;
use crate::{Event, Source};

/// Why something is not as predicted.
pub(super) struct Cause {
    /// What differs, in words.
    pub cause: String,
    /// Whose doing it is.
    pub whose: Source,
    /// What to do.
    pub next: &'static str,
}

impl Cause {
    fn new(cause: impl Into<String>, whose: Source, next: &'static str) -> Self {
        Self { cause: cause.into(), whose, next }
    }
}

pub(super) const OTHER_IMAGE: &str = "compare the image that this machine boots with the release: `cairn measure` shows both; if nobody changed it on purpose, do not trust the machine";
pub(super) const OTHER_MACHINE: &str = "compare the machine with its reference: firmware file, VMM and its version, CPUs, memory, devices; use or record the reference of this shape";
/// A log says nothing by itself.
pub(super) const REGISTERS: &str = "compare the log with the machine's registers: `cairn explain --event-log LOG --pcrs REGISTERS`; a log that does not lead to them was changed or cut";
const FEWER_OPTIONS: &str =
    "remove boot options and disks before the one with the image: up to 2 that fail are predicted";
pub(super) const FROM_OUTSIDE: &str =
    "remove it from the disk or the machine's settings: a machine that adds to its own boot gets no keys";

/// An event of the right register and type with another digest.
pub(super) fn differs(event: &Event, logged: &LogEvent) -> Cause {
    match (event.register, event.kind) {
        (5, kind::GPT) => {
            let entry = entry_that_differs(event, logged);
            Cause::new(format!("the partition table differs: {entry}"), event.source, OTHER_IMAGE)
        }
        (7, _) => Cause::new(
            format!("{} has another value", event.input),
            event.source,
            "Secure Boot is on or has other keys: set it as the reference says",
        ),
        (1, kind::BOOT_VARIABLE) => Cause::new(
            format!("{} has another value: other boot entries, another order, or another device", event.input),
            event.source,
            OTHER_MACHINE,
        ),
        _ => {
            let setting = setting(event).map(|words| format!(": {words}")).unwrap_or_default();
            Cause::new(format!("it is not this one: {}{setting}", event.input), event.source, next_step(event.source))
        }
    }
}

/// The settings of a machine that change an event when those before it are as predicted, as observed with QEMU and OVMF, one change at a time.
fn setting(event: &Event) -> Option<&'static str> {
    if event.source != Source::Machine {
        return None;
    }
    match (event.register, event.kind) {
        (0, kind::CRTM_VERSION) => Some("another build of the firmware"),
        (1, kind::CONFIG_FLAGS) if event.input.contains("etc/table-loader") => {
            Some("another number of CPUs, another device, another interface of the TPM, or another version of the VMM")
        }
        (1, kind::CONFIG_FLAGS) if event.input.contains("etc/acpi/tables") => Some(
            "another size of memory, or another version of the machine type; other CPUs or devices would change etc/table-loader, too",
        ),
        (1, kind::HANDOFF_TABLES) => Some("another model of CPU; other memory or devices would change ACPI files, too"),
        _ => None,
    }
}

/// The volume of the PEI phase differs, which some builds write the machine's size into; `build` is whether the volume of the DXE phase is as predicted.
pub(super) fn pei_volume(is_same_build: bool) -> &'static str {
    if is_same_build {
        ": its other volume is this build's, so it is another number of CPUs or another size of memory, which the first code of some builds writes into this volume"
    } else {
        ": another build of the firmware"
    }
}

/// An event that the log does not have, and whose successor it has; `elsewhere` is another register that has it.
pub(super) fn missing(event: &Event, elsewhere: Option<u32>) -> Cause {
    let there = elsewhere.map(|register| format!("; the firmware measured it into PCR {register}")).unwrap_or_default();
    let cause = format!("the log does not have it: {}{there}", event.input);
    left_out(event).unwrap_or_else(|| Cause::new(cause, event.source, next_step(event.source)))
}

/// The log ends before an event.
pub(super) fn end(expected: Option<&Event>) -> Cause {
    let (input, source) =
        expected.map_or(("the end of the log", Source::Machine), |event| (&event.input, event.source));
    let next = "the log may be cut short; read it again, and if it is whole, something was left out of this boot";
    let cause = format!("the log does not have it: {input}");
    expected.and_then(left_out).unwrap_or_else(|| Cause::new(cause, source, next))
}

/// An event that firmware leaves out with Secure Boot only.
fn left_out(event: &Event) -> Option<Cause> {
    let cause = format!(
        "the log does not have it: {}. Firmware leaves it out with Secure Boot only, and the log says that Secure Boot is off: the log is not whole, or firmware or stub are not what they say",
        event.input
    );
    let is_left_out = event.under_secure_boot == UnderSecureBoot::Absent;
    is_left_out.then(|| Cause::new(cause, Source::Machine, REGISTERS))
}

fn next_step(source: Source) -> &'static str {
    if source == Source::Image { OTHER_IMAGE } else { OTHER_MACHINE }
}

/// Events that nobody predicted, which come before `expected`.
pub(super) fn extras(logged: &[&LogEvent], expected: Option<&Event>) -> Cause {
    let all: Vec<Cause> = logged.iter().map(|event| extra(event)).collect();
    let [first, _, ..] = &all[..] else {
        return all.into_iter().next().unwrap_or_else(|| end(None));
    };
    // What was put there on purpose says more than what follows from it.
    let next = all.iter().find(|cause| cause.next == FROM_OUTSIDE).map_or(first.next, |cause| cause.next);
    let mut words: Vec<&str> = all.iter().map(|cause| &cause.cause[..]).collect();
    words.dedup();
    let before = expected.map(|event| format!(", before {}", event.input)).unwrap_or_default();
    let cause = format!("{} events were not predicted: {}{before}", all.len(), words.join("; "));
    Cause::new(cause, first.whose, next)
}

/// An event that nobody predicted.
fn extra(logged: &LogEvent) -> Cause {
    match (logged.register, logged.kind) {
        (12, kind::IPL) => {
            let text = utf16(&logged.data);
            let what = "something was added to the boot from outside the UKI (add-on, SMBIOS, or credential)";
            Cause::new(format!("{what}: {text:?}"), Source::Machine, FROM_OUTSIDE)
        }
        (13, _) => Cause::new("a system extension was put beside the UKI", Source::Machine, FROM_OUTSIDE),
        (4, kind::APPLICATION) => {
            let what = "one more image was loaded: an add-on, or another boot loader";
            Cause::new(what, Source::Machine, FROM_OUTSIDE)
        }
        (4, kind::ACTION) => {
            let what = "one more boot option failed, and the next was tried";
            Cause::new(what, Source::Machine, FEWER_OPTIONS)
        }
        (register, kind::ACTION) => {
            let words: String = String::from_utf8_lossy(&logged.data).chars().take(100).collect();
            let what = format!("PCR {register} has the action {words:?} of the firmware once more");
            Cause::new(what, Source::Machine, OTHER_MACHINE)
        }
        (register, kind) => {
            let what = format!("PCR {register} has an event of type {kind:#x} that nobody predicted");
            Cause::new(what, Source::Machine, OTHER_MACHINE)
        }
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
            return match field_that_differs(pair.0, pair.1) {
                Some(field) => format!("{field} of entry {number} ({:?})", name(pair.0)),
                None => format!("entry {number} ({:?}, now {:?})", name(pair.0), name(pair.1)),
            };
        }
    }
    match ours.len().cmp(&theirs.len()) {
        std::cmp::Ordering::Less => format!("there is one more entry ({:?})", name(&theirs[ours.len()])),
        std::cmp::Ordering::Greater => format!("an entry is missing ({:?})", name(&ours[theirs.len()])),
        std::cmp::Ordering::Equal => "only its header (disk id or size)".into(),
    }
}

/// The first field of an entry that differs (UEFI 2.10, section 5.3.3), unless that is its name.
fn field_that_differs(ours: &[u8], theirs: &[u8]) -> Option<&'static str> {
    const FIELDS: [(&str, std::ops::Range<usize>); 5] = [
        ("the type", 0..16),
        ("the id", 16..32),
        ("the first block", 32..40),
        ("the last block", 40..48),
        ("an attribute", 48..56),
    ];
    FIELDS.into_iter().find(|(_, range)| ours.get(range.clone()) != theirs.get(range.clone())).map(|(name, _)| name)
}

/// Text in UTF-16 up to its NUL, at most 200 characters.
fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or('\u{fffd}')).take(200).collect()
}
