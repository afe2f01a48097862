//! The registers of a TPM, one file each: who measures what into it, and in which order (TCG PC Client Platform Firmware Profile, section 3.3.4; UAPI Group, Linux TPM PCR Registry).

pub mod pcr00;
pub mod pcr02;
pub mod pcr04;
pub mod pcr05;
pub mod pcr07;
pub mod pcr09;
pub mod pcr10;
pub mod pcr11;
pub mod pcr15;

use std::collections::BTreeMap;

use crate::event::kind;
use crate::{Bank, Event, Source};

/// Registers that are predicted.
pub const REGISTERS: std::ops::Range<u8> = 0..16;

/// The value of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// It is known, in every bank.
    Exact(BTreeMap<Bank, Vec<u8>>),
    /// It depends on something that the given files do not say.
    HostDependent(String),
}

impl Value {
    /// The value in a bank, if it is known.
    pub fn in_bank(&self, bank: Bank) -> Option<&[u8]> {
        match self {
            Self::Exact(values) => values.get(&bank).map(Vec::as_slice),
            Self::HostDependent(_) => None,
        }
    }
}

/// The registers after these events.
pub fn registers(events: &[Event]) -> BTreeMap<u8, Value> {
    REGISTERS.map(|register| (register, value(register, events.iter()))).collect()
}

/// One register after those of these events that concern it.
pub fn value<'a>(register: u8, events: impl Iterator<Item = &'a Event>) -> Value {
    let mut values: BTreeMap<Bank, Vec<u8>> =
        Bank::ALL.into_iter().map(|bank| (bank, vec![0; bank.length()])).collect();
    for event in events.filter(|event| event.register == register) {
        match &event.digests {
            Err(reason) => return Value::HostDependent(format!("{}: {reason}", event.input)),
            Ok(digests) => {
                for (bank, value) in &mut values {
                    if let Some(digest) = digests.get(bank) {
                        *value = bank.extend(value, digest);
                    }
                }
            }
        }
    }
    Value::Exact(values)
}

/// EV_SEPARATOR: four zero bytes between what the firmware measures and what it starts (section 3.3.2.2).
pub fn separator(register: u8) -> Event {
    const BYTES: [u8; 4] = [0; 4];
    Event::of(register, kind::SEPARATOR, Source::Machine, "separator of the firmware", &BYTES).with_data(BYTES)
}

/// EV_EFI_ACTION: the words themselves, without a NUL (section 10.4.4).
pub(crate) fn action(register: u8, words: &str) -> Event {
    Event::of(register, kind::ACTION, Source::Machine, format!("action {words:?} of the firmware"), words.as_bytes())
        .with_data(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_with_an_unknown_event_has_no_value() {
        let known = separator(2);
        let unknown = Event::unknown(2, kind::IPL, Source::Machine, "x", "nobody knows");
        assert_eq!(value(2, [&known, &unknown].into_iter()), Value::HostDependent("x: nobody knows".into()));
        let value = value(2, [&known].into_iter());
        let digest = hex::encode(value.in_bank(Bank::Sha256).unwrap());
        assert_eq!(digest, "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969");
    }
}
