//! Walks a firmware log beside the prediction and names the first event that differs. Final registers are never compared: one differing event changes a register for good, and says nothing about the
//! events behind it.

use super::cause::{self, Cause};
use super::neighbours::Neighbours;
use super::{Mismatch, Verdict};
use crate::event::kind;
use crate::parse::tcg_log::{Log, LogEvent};
use crate::tpm::pcr00::{DXE, PEI};
use crate::{Bank, Event, Source};

const CONFIDENTIAL: &str = "it is a CC event log, whose registers are the RTMRs of TDX and not those of a TPM; RTMRs are not predicted yet. Give the log of the machine's TPM (binary_bios_measurements), or compare MRTD";

/// Compares a log with all legal sequences up to the firmware's point in time: if none matches, the one counts that goes along with the log for longest.
pub fn log(legal: impl IntoIterator<Item = impl AsRef<[Event]>>, log: &Log, neighbours: &Neighbours) -> Verdict {
    let best = [Bank::Sha384, Bank::Sha256, Bank::Sha512, Bank::Sha1].into_iter().find(|bank| log.banks.contains(bank));
    let Some(bank) = best else {
        return Verdict::CannotTell("the log has no bank that is known here".into());
    };
    log_in(bank, legal, log, neighbours)
}

/// The same by the digests of one bank, for a log of which nothing else was quoted.
pub fn log_in(
    bank: Bank,
    legal: impl IntoIterator<Item = impl AsRef<[Event]>>,
    log: &Log,
    neighbours: &Neighbours,
) -> Verdict {
    if log.is_confidential {
        return Verdict::CannotTell(CONFIDENTIAL.into());
    }
    let verdicts = legal.into_iter().map(|predicted| walk(predicted.as_ref(), log, bank, neighbours));
    let how_far = |verdict: &Verdict| match verdict {
        Verdict::Match { .. } => (2, None),
        Verdict::Mismatch(mismatch) => (1, mismatch.event),
        Verdict::CannotTell(_) => (0, None),
    };
    // Of equals, the first.
    let furthest = |one: Verdict, other: Verdict| if how_far(&other) > how_far(&one) { other } else { one };
    verdicts.reduce(furthest).unwrap_or_else(|| Verdict::CannotTell("the machine has no TPM, so it has no log".into()))
}

fn walk(predicted: &[Event], log: &Log, bank: Bank, neighbours: &Neighbours) -> Verdict {
    let mut unknown: Vec<u8> =
        predicted.iter().filter(|event| event.digests.legal().is_empty()).map(|event| event.register).collect();
    unknown.sort_unstable();
    unknown.dedup();
    let known = |register: u32| !unknown.iter().any(|unknown| u32::from(*unknown) == register);
    let predicted: Vec<&Event> = predicted.iter().filter(|event| known(event.register.into())).collect();
    // The position is that in the whole log, whatever is left out of the comparison.
    let all = log.extending().enumerate();
    let logged: Vec<(usize, &LogEvent)> = all.filter(|(_, event)| known(event.register)).collect();
    if predicted.is_empty() {
        return Verdict::CannotTell("the prediction knows no register: give a machine".into());
    }
    let pairs = predicted.iter().zip(&logged);
    let same = pairs.take_while(|(event, (_, logged))| is(event, logged, bank)).count();
    if predicted.len().max(logged.len()) == same {
        return Verdict::Match { compared: format!("{} are", compared(&predicted)), unknown };
    }
    let mut mismatch = mismatch(&predicted, &logged, same, (log, bank));
    if let (Some(event), Some((_, found))) = (predicted.get(same), logged.get(same))
        && is_at(event, found)
        && extras(event, &logged[same..], bank) == 0
    {
        mismatch.cause += &more(event, found, (&predicted, &logged), bank, neighbours);
    }
    if mismatch.whose == Source::Machine
        && let Some(name) = neighbours.machine(log, bank)
    {
        mismatch.cause += &format!("; what the firmware measured is that of the machine {name}");
    }
    Verdict::Mismatch(Box::new(mismatch))
}

/// What else is known of an event that differs.
fn more(
    event: &Event,
    found: &LogEvent,
    (predicted, logged): (&[&Event], &[(usize, &LogEvent)]),
    bank: Bank,
    neighbours: &Neighbours,
) -> String {
    let known = neighbours.recognise(event, bank, digest(found, bank).unwrap_or_default());
    let known = known.map(|words| format!("; {words}")).unwrap_or_default();
    if (event.register, event.source) == (4, Source::Image) {
        return format!("; {}{known}", section_that_differs(predicted, logged, bank, neighbours));
    }
    if event.input == PEI {
        let mut pairs = predicted.iter().zip(logged);
        return cause::pei_volume(pairs.any(|(event, (_, logged))| event.input == DXE && is(event, logged, bank)))
            .to_owned()
            + &known;
    }
    known
}

/// The stub measures each section of a UKI as its name and its content: which of them is not as predicted.
fn section_that_differs(
    predicted: &[&Event],
    logged: &[(usize, &LogEvent)],
    bank: Bank,
    neighbours: &Neighbours,
) -> String {
    let ours: Vec<&&Event> = predicted.iter().filter(|event| event.register == 11 && event.kind == kind::IPL).collect();
    let theirs: Vec<&LogEvent> = logged
        .iter()
        .map(|(_, event)| *event)
        .filter(|event| event.register == 11 && event.kind == kind::IPL)
        .collect();
    let differs = ours.iter().zip(&theirs).find(|(event, logged)| event.digest(bank) != digest(logged, bank));
    match differs {
        Some((event, found)) => {
            let found = digest(found, bank).unwrap_or_default();
            let known = neighbours.recognise(event, bank, found).map(|words| format!(": {words}"));
            format!("the first part of it that differs is the {}{}", event.input, known.unwrap_or_default())
        }
        None if theirs.is_empty() && !ours.is_empty() => other_loader(logged),
        None if ours.len() == theirs.len() => {
            "every section that its stub measures is as predicted: the stub or a header differs".into()
        }
        None => "it has more or fewer sections".into(),
    }
}

/// Which boot loader a log without events of systemd-stub seems to be of.
fn other_loader(logged: &[(usize, &LogEvent)]) -> String {
    let has = |found: fn(&LogEvent) -> bool| logged.iter().any(|(_, event)| found(event));
    let shim = has(|event| event.register == 14).then_some("shim");
    let grub = has(|event| event.register == 8 && event.data.starts_with(b"grub_cmd: ")).then_some("GRUB");
    let names: Vec<&str> = shim.into_iter().chain(grub).collect();
    if names.is_empty() {
        return "the log has no event of systemd-stub in PCR 11: another boot loader was started, or the log is cut short".into();
    }
    format!("another boot loader was started ({}): the log has no event of systemd-stub in PCR 11", names.join(", "))
}

fn digest(event: &LogEvent, bank: Bank) -> Option<&[u8]> {
    event.digests.iter().find(|(found, _)| *found == bank).map(|(_, digest)| digest.as_slice())
}

fn is(event: &Event, logged: &LogEvent, bank: Bank) -> bool {
    is_at(event, logged) && digest(logged, bank).is_some_and(|digest| event.allows(bank, digest))
}

fn is_at(event: &Event, logged: &LogEvent) -> bool {
    (u32::from(event.register), event.kind) == (logged.register, logged.kind)
}

/// More events than this that come between are no addition to the predicted boot but another one.
const MAX_EXTRAS: usize = 16;

/// How many events of the log come before the one that is expected, whatever they look like; none where that does not follow soon.
fn extras(expected: &Event, rest: &[(usize, &LogEvent)], bank: Bank) -> usize {
    rest.iter().take(MAX_EXTRAS + 1).position(|(_, logged)| is(expected, logged, bank)).unwrap_or(0)
}

/// What was compared, and what the boot went through.
fn compared(predicted: &[&Event]) -> String {
    let attempts = predicted.iter().filter(|event| (event.register, event.kind) == (4, kind::ACTION)).count();
    let count = predicted.len();
    match attempts.saturating_sub(1) / 2 {
        0 => format!("all {count} events"),
        1 => format!("all {count} events, after 1 boot option that failed,"),
        failed => format!("all {count} events, after {failed} boot options that failed,"),
    }
}

/// Where prediction and log leave each other behind `same` events, and why.
fn mismatch(predicted: &[&Event], logged: &[(usize, &LogEvent)], same: usize, (log, bank): (&Log, Bank)) -> Mismatch {
    let (expected, rest) = (predicted.get(same).copied(), &logged[same.min(logged.len())..]);
    let place = |position: usize| Place { position, bank };
    let Some((position, found)) = rest.first().copied() else {
        return place(logged.len()).mismatch(expected, None, cause::end(expected));
    };
    let place = place(position);
    let Some(event) = expected else {
        return place.mismatch(None, Some(found), cause::extras(&[found], None));
    };
    let extras = extras(event, rest, bank);
    // A digest is shown beside that of the same register only.
    let comparable = expected.filter(|event| u32::from(event.register) == found.register);
    if extras > 0 {
        let extras: Vec<&LogEvent> = rest[..extras].iter().map(|(_, event)| *event).collect();
        return place.mismatch(comparable, Some(found), cause::extras(&extras, expected));
    }
    if is_at(event, found) {
        return place.mismatch(expected, Some(found), cause::differs(event, found));
    }
    let is_next = predicted.get(same + 1).is_some_and(|after| is(after, found, bank));
    if is_next || is_first_image(found, &predicted[..same]) {
        let elsewhere = log.events.iter().find(|logged| is_moved(event, logged, bank));
        return place.mismatch(expected, None, cause::missing(event, elsewhere.map(|logged| logged.register)));
    }
    place.mismatch(comparable, Some(found), cause::extras(&[found], None))
}

/// Whether a log has an image, and had none before.
fn is_first_image(found: &LogEvent, before: &[&Event]) -> bool {
    let is_image = |register: u32, kind: u32| (register, kind) == (4, kind::APPLICATION);
    is_image(found.register, found.kind) && !before.iter().any(|event| is_image(event.register.into(), event.kind))
}

/// Whether it is the same event in another register.
fn is_moved(event: &Event, logged: &LogEvent, bank: Bank) -> bool {
    let is_same = event.kind == logged.kind && digest(logged, bank).is_some_and(|digest| event.allows(bank, digest));
    is_same && event.kind == kind::ACTION && u32::from(event.register) != logged.register
}

/// A position in the log, and the bank of the digests.
struct Place {
    position: usize,
    bank: Bank,
}

impl Place {
    fn mismatch(self, expected: Option<&Event>, found: Option<&LogEvent>, cause: Cause) -> Mismatch {
        let Self { position, bank } = self;
        let register = found.map(|logged| logged.register).or(expected.map(|event| event.register.into()));
        let Cause { cause, whose, next } = cause;
        Mismatch {
            event: Some(position),
            register: format!("PCR {}", register.unwrap_or(0)),
            algorithm: bank.name(),
            expected: expected.and_then(|event| event.digest(bank)).map(hex::encode),
            found: found.and_then(|logged| digest(logged, bank)).map(hex::encode),
            cause,
            whose,
            next,
        }
    }
}
