//! What is made of quoted registers: they must be those of one image, one machine and one configuration at the point where a node attests, all of them and nothing mixed.
//!
//! The log is not believed: it must replay to the quoted registers, and its events must be the predicted ones. It is there to say why a register differs.

use measurements::boot::Point;
use measurements::compose::Composition;
use measurements::explain::neighbours::Neighbours;
use measurements::explain::{self, Verdict};
use measurements::parse::tcg_log::Log;

use crate::tpm::Quoted;
use crate::{Code, Refusal};

/// The register that is zero until the boot is closed.
pub const CAP: u8 = 15;
/// What firmware, stub and kernel measure is in the firmware's log; PCR 10 and above are the kernel's and user space's, but for 11.
const IN_LOG: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];

/// That the quoted registers are those of `expected` at the point where a node attests, and that the log leads there.
///
/// # Errors
/// [`Code::BootCapped`], [`Code::LogReplay`], [`Code::LogUnexpectedEvent`], [`Code::PcrMismatch`], [`Code::NotPredicted`].
pub fn check(quoted: &Quoted, log: &Log, expected: &Composition) -> Result<(), Refusal> {
    if quoted.registers.get(&CAP).is_none_or(|value| value.iter().any(|byte| *byte != 0)) {
        return Err(Refusal::new(Code::BootCapped, "PCR 15 is not zero: this boot was closed before"));
    }
    as_predicted(quoted, log, expected, Point::Initrd, &[])
}

/// That the log leads to the quoted registers, that its events are those of `expected`, and that the registers are at `point`, all but those of `except`.
///
/// # Errors
/// [`Code::LogReplay`], [`Code::LogUnexpectedEvent`], [`Code::PcrMismatch`], [`Code::NotPredicted`].
pub fn as_predicted(
    quoted: &Quoted,
    log: &Log,
    expected: &Composition,
    point: Point,
    except: &[u8],
) -> Result<(), Refusal> {
    for register in IN_LOG {
        if quoted.registers.get(&register) != Some(&log.replay(quoted.bank, register.into())) {
            let found = format!("the log does not lead to the quoted PCR {register}");
            return Err(Refusal::new(Code::LogReplay, found));
        }
    }
    match explain::log(expected.sequences(Point::Firmware), log, &Neighbours::default()) {
        Verdict::Match { unknown, .. } if unknown.is_empty() => {}
        Verdict::Match { unknown, .. } => {
            return Err(Refusal::new(Code::NotPredicted, format!("PCR {unknown:?} is not predicted")));
        }
        Verdict::Mismatch(mismatch) => {
            return Err(Refusal::new(Code::LogUnexpectedEvent, format!("{}: {}", mismatch.register, mismatch.cause)));
        }
        Verdict::CannotTell(reason) => return Err(Refusal::new(Code::NotPredicted, reason)),
    }
    for (register, value) in expected.registers(point).into_iter().filter(|(register, _)| !except.contains(register)) {
        let found = quoted.registers.get(&register).map(Vec::as_slice).unwrap_or_default();
        match value.allows(quoted.bank, found) {
            Some(true) => {}
            Some(false) => {
                let found = format!("PCR {register} is {}", hex::encode(found));
                return Err(Refusal::new(Code::PcrMismatch, found));
            }
            None => return Err(Refusal::new(Code::NotPredicted, format!("PCR {register} is not predicted"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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

    fn composition(configuration: &Configuration, uki: &[u8]) -> Composition {
        let machine = Machine::with_events(vec![event(0, kind::CRTM_VERSION, b"1"), separator(7)]);
        let image = Measured {
            uki: [0; 32],
            boot: vec![event(4, kind::APPLICATION, uki), event(11, kind::IPL, b"section")],
            initrd: vec![event(11, kind::USER_SPACE, b"enter-initrd")],
            running: vec![event(15, kind::USER_SPACE, b"stateless")],
        };
        compose(&image, &machine, configuration).unwrap()
    }

    /// A boot that measured the first legal sequence of this, as a quote and a log.
    fn boot(of: &Composition) -> (Quoted, Log) {
        let sequence = of.sequences(Point::Initrd).next().unwrap();
        let mut registers = BTreeMap::new();
        for (register, value) in measurements::tpm::registers(sequence) {
            let Value::Exact(values) = value else { panic!("{value:?}") };
            registers.insert(register, values[&Bank::Sha256].clone());
        }
        let events = of.events(Point::Firmware).iter().map(|event| LogEvent {
            register: event.register.into(),
            kind: event.kind,
            digests: event.digests.legal()[0].clone().into_iter().collect(),
            data: event.data.clone().unwrap_or_default(),
        });
        let log = Log { banks: vec![Bank::Sha256], events: events.collect(), locality: 0 };
        let mut area = vec![0, 0x23, 0, 0x0b];
        area.extend(0x5_0072_u32.to_be_bytes());
        area.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0, 0, 0]);
        let key = AttestationKey::parse(&area).unwrap().name();
        (Quoted { bank: Bank::Sha256, registers, boot: BootId { key, reset: 0, restart: 0 } }, log)
    }

    #[test]
    fn a_boot_as_predicted_passes_and_one_change_is_refused_with_its_code() {
        let stateless = Configuration::Stateless;
        let expected = composition(&stateless, b"the UKI");
        let (quoted, log) = boot(&expected);
        assert_eq!(check(&quoted, &log, &expected), Ok(()));

        let (other, other_log) = boot(&composition(&stateless, b"another UKI"));
        assert_eq!(check(&other, &other_log, &expected).unwrap_err().code, Code::LogUnexpectedEvent);
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
