//! PCR 7: "the Secure Boot policy" (section 3.3.4.8): the variables SecureBoot, PK, KEK, db and dbx, each with its name and its GUID also where it is absent, then the separator.

use crate::event::kind;
use crate::{Event, Source};

/// EFI_GLOBAL_VARIABLE, as stored.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// EFI_IMAGE_SECURITY_DATABASE_GUID, as stored.
const DATABASE: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];

/// The legal states of a firmware that does not verify what it boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBootOff {
    /// Built without it: the variable is absent.
    NotBuilt,
    /// Built with it, and off: the variable is 0.
    Disabled,
}

/// The five variables.
pub fn events(state: SecureBootOff) -> Vec<Event> {
    let secure_boot: &[u8] = match state {
        SecureBootOff::NotBuilt => &[],
        SecureBootOff::Disabled => &[0],
    };
    [
        ("SecureBoot", GLOBAL, secure_boot),
        ("PK", GLOBAL, &[]),
        ("KEK", GLOBAL, &[]),
        ("db", DATABASE, &[]),
        ("dbx", DATABASE, &[]),
    ]
    .map(|(name, guid, data)| variable(name, guid, data))
    .into()
}

/// UEFI_VARIABLE_DATA (section 10.4.6).
fn variable(name: &str, guid: [u8; 16], data: &[u8]) -> Event {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = guid.to_vec();
    bytes.extend((name.encode_utf16().count() as u64).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(units);
    bytes.extend(data);
    Event::of(7, kind::VARIABLE, Source::Machine, format!("variable {name} of the firmware"), &bytes).with_data(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bank;
    use crate::tpm::{separator, value};

    /// Observed with Debian's builds (SHA-256): OVMF 2025.02 and 2026.08 without Secure Boot, OVMF 2022.11 with Secure Boot off.
    #[test]
    fn both_states_have_the_values_that_machines_have() {
        for (state, expected) in [
            (SecureBootOff::NotBuilt, "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439"),
            (SecureBootOff::Disabled, "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068"),
        ] {
            let mut all = events(state);
            all.push(separator(7));
            let register = value(7, all.iter());
            assert_eq!(hex::encode(register.in_bank(Bank::Sha256).unwrap()), expected);
        }
    }
}
