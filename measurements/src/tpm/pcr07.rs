//! PCR 7: "the Secure Boot policy" (section 3.3.4.8): the variables SecureBoot, PK, KEK, db and dbx, each with its name and its GUID also where it is absent, then the separator.

use crate::event::kind;
use crate::parse::variables::Variables;
use crate::tpm::{GLOBAL, variable_data};
use crate::{Event, Source};

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

/// The variables behind SecureBoot.
const KEYS: [(&str, [u8; 16]); 4] = [("PK", GLOBAL), ("KEK", GLOBAL), ("db", DATABASE), ("dbx", DATABASE)];

/// The five variables of a firmware with this store, whose build may not be known: then SecureBoot is absent or 0, as no other state is legal without a platform key.
///
/// # Errors
/// That keys are enrolled, so that Secure Boot is on: what is measured then is not modelled yet.
pub fn events(state: Option<SecureBootOff>, store: &Variables) -> Result<Vec<Event>, &'static str> {
    if store.get("PK", GLOBAL).is_some_and(|key| !key.is_empty()) {
        return Err("its variable store has a platform key: Secure Boot is on, which is not modelled yet");
    }
    let secure_boot = |data: &[u8]| variable_data("SecureBoot", GLOBAL, data);
    let first = match state {
        Some(SecureBootOff::NotBuilt) => variable("SecureBoot", &secure_boot(&[])),
        Some(SecureBootOff::Disabled) => variable("SecureBoot", &secure_boot(&[0])),
        None => {
            let (absent, off) = (secure_boot(&[]), secure_boot(&[0]));
            Event::one_of(7, kind::VARIABLE, Source::Machine, input("SecureBoot"), &[&absent, &off])
        }
    };
    let keys =
        KEYS.map(|(name, guid)| variable(name, &variable_data(name, guid, store.get(name, guid).unwrap_or_default())));
    Ok([first].into_iter().chain(keys).collect())
}

fn input(name: &str) -> String {
    format!("variable {name} of the firmware")
}

fn variable(name: &str, bytes: &[u8]) -> Event {
    Event::of(7, kind::VARIABLE, Source::Machine, input(name), bytes).with_data(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bank;
    use crate::parse::variables::tests::flash;
    use crate::tpm::{separator, value};

    const NOT_BUILT: &str = "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439";
    const DISABLED: &str = "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068";

    fn register(state: Option<SecureBootOff>) -> crate::tpm::Value {
        let flash = flash(&[]);
        let mut all = events(state, &Variables::parse(&flash).unwrap()).unwrap();
        all.push(separator(7));
        value(7, all.iter())
    }

    /// Observed with Debian's builds (SHA-256): OVMF 2025.02 and 2026.08 without Secure Boot, OVMF 2022.11 with Secure Boot off.
    #[test]
    fn both_states_have_the_values_that_machines_have() {
        for (state, expected) in [(SecureBootOff::NotBuilt, NOT_BUILT), (SecureBootOff::Disabled, DISABLED)] {
            assert_eq!(hex::encode(register(Some(state)).in_bank(Bank::Sha256).unwrap()), expected);
        }
    }

    #[test]
    fn a_build_that_is_not_known_has_one_of_both() {
        let value = register(None);
        assert_eq!(value.in_bank(Bank::Sha256), None);
        for legal in [NOT_BUILT, DISABLED] {
            assert_eq!(value.allows(Bank::Sha256, &hex::decode(legal).unwrap()), Some(true));
        }
        assert_eq!(value.allows(Bank::Sha256, &[0; 32]), Some(false));
    }

    #[test]
    fn enrolled_keys_are_not_taken_for_secure_boot_off() {
        let flash = flash(&[(0x3f, "PK", GLOBAL, b"key")]);
        assert!(events(None, &Variables::parse(&flash).unwrap()).unwrap_err().contains("platform key"));
    }

    #[test]
    fn what_is_in_the_store_is_what_is_measured() {
        let other = flash(&[(0x3f, "dbx", DATABASE, b"revoked")]);
        let events = events(Some(SecureBootOff::NotBuilt), &Variables::parse(&other).unwrap()).unwrap();
        assert!(events[4].data.as_ref().unwrap().ends_with(b"revoked"));
    }
}
