//! The registers of a TPM, one file each: who measures what into it, and in which order (TCG PC Client Platform Firmware Profile, section 3.3.4; UAPI Group, Linux TPM PCR Registry).

pub mod pcr00;
pub mod pcr01;
pub mod pcr02;
pub mod pcr04;
pub mod pcr05;
pub mod pcr07;
pub mod pcr09;
pub mod pcr10;
pub mod pcr11;
pub mod pcr12;
pub mod pcr15;

use std::collections::BTreeMap;

use crate::event::{ByBank, Digests, kind};
use crate::{Bank, Event, Source};

/// Registers that are predicted.
pub const REGISTERS: std::ops::Range<u8> = 0..16;

/// The value of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// It is known, in every bank.
    Exact(ByBank),
    /// It is one of these, and all of them are legal.
    OneOf(Vec<ByBank>),
    /// It depends on something that the given files do not say.
    HostDependent(String),
}

impl Value {
    /// The value in a bank, if it is known.
    pub fn in_bank(&self, bank: Bank) -> Option<&[u8]> {
        match self {
            Self::Exact(values) => values.get(&bank).map(Vec::as_slice),
            Self::OneOf(_) | Self::HostDependent(_) => None,
        }
    }

    /// All legal values in a bank; none where they are not known.
    pub fn all_in_bank(&self, bank: Bank) -> Vec<&[u8]> {
        let all = match self {
            Self::Exact(values) => std::slice::from_ref(values),
            Self::OneOf(all) => all,
            Self::HostDependent(_) => &[],
        };
        all.iter().filter_map(|values| values.get(&bank).map(Vec::as_slice)).collect()
    }

    /// What is legal where this or another value is.
    pub fn or(self, other: Self) -> Self {
        let legal = |value| match value {
            Self::Exact(value) => Ok(vec![value]),
            Self::OneOf(all) => Ok(all),
            Self::HostDependent(reason) => Err(reason),
        };
        match (legal(self), legal(other)) {
            (Err(reason), _) | (_, Err(reason)) => Self::HostDependent(reason),
            (Ok(mut all), Ok(others)) => {
                for other in others {
                    if !all.contains(&other) {
                        all.push(other);
                    }
                }
                Self::of(all)
            }
        }
    }

    fn of(legal: Vec<ByBank>) -> Self {
        match <[ByBank; 1]>::try_from(legal) {
            Ok([value]) => Self::Exact(value),
            Err(all) if all.is_empty() => Self::HostDependent("no value is legal".into()),
            Err(all) => Self::OneOf(all),
        }
    }

    /// Whether this is a legal value in a bank; `None` where that cannot be told.
    pub fn allows(&self, bank: Bank, value: &[u8]) -> Option<bool> {
        let is = |legal: &ByBank| legal.get(&bank).is_some_and(|legal| legal == value);
        match self {
            Self::Exact(legal) => Some(is(legal)),
            Self::OneOf(all) => Some(all.iter().any(is)),
            Self::HostDependent(_) => None,
        }
    }
}

/// The registers after these events.
pub fn registers(events: &[Event]) -> BTreeMap<u8, Value> {
    REGISTERS.map(|register| (register, value(register, events.iter()))).collect()
}

/// More legal values than this are as good as none.
const MOST_VALUES: usize = 16;

/// One register after those of these events that concern it.
pub fn value<'a>(register: u8, events: impl Iterator<Item = &'a Event>) -> Value {
    let start: ByBank = Bank::ALL.into_iter().map(|bank| (bank, vec![0; bank.length()])).collect();
    let mut values = vec![start];
    for event in events.filter(|event| event.register == register) {
        if let Digests::Unknown(reason) = &event.digests {
            return Value::HostDependent(format!("{}: {reason}", event.input));
        }
        let after = |value| event.digests.legal().iter().map(move |digests| extended(value, digests));
        values = values.iter().flat_map(after).collect();
        if values.len() > MOST_VALUES {
            return Value::HostDependent(format!("{}: more than {MOST_VALUES} values are legal", event.input));
        }
    }
    Value::of(values)
}

fn extended(value: &ByBank, digests: &ByBank) -> ByBank {
    let next = |(bank, value): (&Bank, &Vec<u8>)| {
        let digest = digests.get(bank)?;
        Some((*bank, bank.extend(value, digest)))
    };
    value.iter().filter_map(next).collect()
}

/// EV_SEPARATOR: four zero bytes between what the firmware measures and what it starts (section 3.3.2.2).
pub fn separator(register: u8) -> Event {
    const BYTES: [u8; 4] = [0; 4];
    Event::of(register, kind::SEPARATOR, Source::Machine, "separator of the firmware", &BYTES).with_data(BYTES)
}

/// EFI_GLOBAL_VARIABLE, as stored.
pub(crate) const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];

/// UEFI_VARIABLE_DATA: GUID, lengths of name and value, name in UTF-16 without NUL, value (section 10.4.6).
pub(crate) fn variable_data(name: &str, guid: [u8; 16], value: &[u8]) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = guid.to_vec();
    bytes.extend((name.encode_utf16().count() as u64).to_le_bytes());
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(units);
    bytes.extend(value);
    bytes
}

/// Text in UTF-16 with its NUL, as firmware and stub write it into the log.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
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
    fn a_register_with_an_event_of_several_has_several_values() {
        let event = Event::one_of(7, kind::VARIABLE, Source::Machine, "x", &[b"a", b"b"]);
        let Value::OneOf(values) = value(7, [&event, &separator(7)].into_iter()) else { panic!() };
        assert_eq!(values.len(), 2);
        let all = Value::OneOf(values.clone());
        assert_eq!(all.allows(Bank::Sha256, &values[1][&Bank::Sha256]), Some(true));
        assert_eq!(all.allows(Bank::Sha256, &[0; 32]), Some(false));
        assert!(matches!(value(7, [&event; 5].into_iter()), Value::HostDependent(reason) if reason.contains("16")));
    }

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
