//! PCR 7: "the Secure Boot policy" (section 3.3.4.8): the variables SecureBoot, PK, KEK, db and dbx, each with its name and its GUID also where it is absent, then the separator.

use crate::event::{ByBank, SecureBoot, kind};
use crate::parse::bytes::At;
use crate::parse::tcg_log::Log;
use crate::parse::variables::Variables;
use crate::tpm::{GLOBAL, variable_data};
use crate::{Bank, Event, Source};

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

/// EFI_SECURE_BOOT_ENABLE_DISABLE of edk2, as stored.
const ENABLE: [u8; 16] =
    [0xc7, 0x0b, 0xa3, 0xf0, 0x08, 0xaf, 0x56, 0x45, 0x99, 0xc4, 0x00, 0x10, 0x09, 0xc9, 0x3a, 0x44];
/// EFI_CERT_X509_GUID, as stored.
const X509: [u8; 16] = [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// EFI_SIGNATURE_LIST without its entries; and the owner of an entry.
const LIST_HEADER: usize = 28;
const OWNER: usize = 16;

/// The five variables of a firmware with this store, whose build may not be known: then SecureBoot is absent or 0, as no other state is legal without a platform key.
///
/// # Errors
/// That keys are enrolled and the build does not verify images; that there are variables which are measured beside these.
pub fn events(state: Option<SecureBootOff>, store: &Variables) -> Result<Vec<Event>, &'static str> {
    let secure_boot = |data: &[u8]| variable_data("SecureBoot", GLOBAL, data);
    let has_platform_key = store.get("PK", GLOBAL).is_some_and(|key| !key.is_empty());
    let first = match (state, has_platform_key) {
        (Some(SecureBootOff::NotBuilt), true) => {
            return Err(
                "its variable store has a platform key, and the firmware is built without Secure Boot: use the build that the machine has",
            );
        }
        (_, true) if store.get("dbt", DATABASE).is_some() => {
            return Err("its variable store has dbt, which is not modelled");
        }
        (None, true) => {
            let reason = "whether this build has Secure Boot cannot be told from the file";
            Event::unknown(7, kind::VARIABLE, Source::Machine, input("SecureBoot"), reason)
        }
        // Without the variable, edk2 enables Secure Boot as soon as there is a platform key.
        (_, true) => {
            variable("SecureBoot", &secure_boot(&[u8::from(store.get("SecureBootEnable", ENABLE) != Some(&[0]))]))
        }
        (Some(SecureBootOff::NotBuilt), false) => variable("SecureBoot", &secure_boot(&[])),
        (Some(SecureBootOff::Disabled), false) => variable("SecureBoot", &secure_boot(&[0])),
        (None, false) => {
            let (absent, off) = (secure_boot(&[]), secure_boot(&[0]));
            Event::one_of(7, kind::VARIABLE, Source::Machine, input("SecureBoot"), &[&absent, &off])
        }
    };
    let keys =
        KEYS.map(|(name, guid)| variable(name, &variable_data(name, guid, store.get(name, guid).unwrap_or_default())));
    Ok([first].into_iter().chain(keys).collect())
}

/// The states that are legal after these measurements: the first variable is SecureBoot.
pub fn states(events: &[Event]) -> Vec<SecureBoot> {
    let both = vec![SecureBoot::Off, SecureBoot::On];
    let Some(first) = events.iter().find(|event| (event.register, event.kind) == (7, kind::VARIABLE)) else {
        return both;
    };
    let is_on = |digests: &ByBank| {
        digests.get(&Bank::Sha256) == Some(&Bank::Sha256.digest(&variable_data("SecureBoot", GLOBAL, &[1])))
    };
    match first.digests.legal() {
        [] => both,
        all if all.iter().any(is_on) => vec![SecureBoot::On],
        _ => vec![SecureBoot::Off],
    }
}

/// The state that a log says: the value of its variable SecureBoot.
pub fn logged_state(log: &Log) -> Option<SecureBoot> {
    let first = log.events.iter().find(|event| (event.register, event.kind) == (7, kind::VARIABLE))?;
    let is = |value: &[u8]| first.data == variable_data("SecureBoot", GLOBAL, value);
    match (is(&[]) || is(&[0]), is(&[1])) {
        (true, _) => Some(SecureBoot::Off),
        (_, true) => Some(SecureBoot::On),
        _ => None,
    }
}

/// What is measured when the firmware has verified the first image: the entry of `db` that allows it (EFI_SIGNATURE_DATA). One of several does not follow from the store.
pub fn authority(store: &Variables) -> Event {
    let data: Vec<Vec<u8>> = certificates(store.get("db", DATABASE).unwrap_or_default())
        .map(|entry| variable_data("db", DATABASE, entry))
        .collect();
    let input = "entry of db that allows the image";
    match &data[..] {
        [only] => Event::of(7, kind::AUTHORITY, Source::Machine, input, only).with_data(only.clone()),
        [] => Event::unknown(7, kind::AUTHORITY, Source::Machine, input, "db has no certificate"),
        all => {
            let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
            Event::one_of(7, kind::AUTHORITY, Source::Machine, input, &all)
        }
    }
}

/// The certificates in a signature database, each with its owner before it (UEFI 2.10, section 32.4.1). Lists that contradict themselves end it.
fn certificates(database: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = database;
    let lists = std::iter::from_fn(move || {
        let size = rest.word(16).and_then(|size| usize::try_from(size).ok()).filter(|size| *size >= LIST_HEADER)?;
        let (list, behind) = rest.split_at_checked(size)?;
        rest = behind;
        Some(list)
    });
    lists.filter(|list| list.starts_with(&X509)).flat_map(|list| {
        let number = |at| list.word(at).and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
        let entries = number(20).checked_add(LIST_HEADER).and_then(|start| list.get(start..)).unwrap_or_default();
        let size = if number(24) > OWNER { number(24) } else { usize::MAX };
        entries.chunks_exact(size)
    })
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
        let store = Variables::parse(&flash).unwrap();
        let of = |state| states(&events(state, &store).unwrap());
        assert_eq!(of(Some(SecureBootOff::Disabled)), [SecureBoot::On]);
        assert_eq!(of(None), [SecureBoot::Off, SecureBoot::On], "the build may be without Secure Boot");
        assert!(events(Some(SecureBootOff::NotBuilt), &store).unwrap_err().contains("platform key"));
    }

    #[test]
    fn secure_boot_that_is_switched_off_is_off_with_a_platform_key() {
        let flash = flash(&[(0x3f, "PK", GLOBAL, b"key"), (0x3f, "SecureBootEnable", ENABLE, &[0])]);
        let events = events(Some(SecureBootOff::Disabled), &Variables::parse(&flash).unwrap()).unwrap();
        assert_eq!(states(&events), [SecureBoot::Off]);
    }

    #[test]
    fn states_are_both_where_the_variable_is_not_known() {
        let unknown = Event::unknown(7, kind::VARIABLE, Source::Machine, "x", "not known");
        for events in [vec![], vec![unknown]] {
            assert_eq!(states(&events), [SecureBoot::Off, SecureBoot::On]);
        }
    }

    fn list(kind: [u8; 16], entries: &[&[u8]]) -> Vec<u8> {
        let size = entries[0].len() as u32;
        let mut list = kind.to_vec();
        list.extend((LIST_HEADER as u32 + size * entries.len() as u32).to_le_bytes());
        list.extend([0; 4]);
        list.extend(size.to_le_bytes());
        entries.iter().for_each(|entry| list.extend(*entry));
        list
    }

    /// A boot of OVMF 2025.02 with Secure Boot and own keys: the store is put together from the variables in its log.
    #[test]
    fn secure_boot_with_own_keys_has_the_value_of_a_real_boot() {
        let log = Log::parse(include_bytes!("../../tests/foreign/F06-secure-boot-257.evlog")).unwrap();
        let registers = crate::parse::pcrs::parse(include_bytes!("../../tests/foreign/F06-secure-boot-257.pcrs.txt"));
        let real = &registers.unwrap()[&Bank::Sha256][&7];
        let variables = log.events.iter().filter(|event| event.kind == kind::VARIABLE);
        let value = |data: &[u8]| {
            let (name, length) = (data.long(16).unwrap() as usize * 2, data.long(24).unwrap() as usize);
            data[32 + name..32 + name + length].to_vec()
        };
        let values: Vec<Vec<u8>> = variables.map(|event| value(&event.data)).collect();
        let names = KEYS.iter().zip(&values[1..]).map(|((name, guid), value)| (0x3f, *name, *guid, &value[..]));
        let flash = flash(&names.collect::<Vec<_>>());
        let store = Variables::parse(&flash).unwrap();
        let mut all = events(Some(SecureBootOff::Disabled), &store).unwrap();
        assert_eq!(states(&all), [SecureBoot::On]);
        assert_eq!(logged_state(&log), Some(SecureBoot::On));
        all.extend([separator(7), authority(&store)]);
        assert_eq!(hex::encode(crate::tpm::value(7, all.iter()).in_bank(Bank::Sha256).unwrap()), hex::encode(real));
    }

    #[test]
    fn authority_is_the_only_certificate_of_db_or_one_of_several() {
        let (one, two) = ([&[1; 16][..], b"certificate"].concat(), [&[2; 16][..], b"certificatf"].concat());
        let legal = |database: &[u8]| {
            let flash = flash(&[(0x3f, "db", DATABASE, database)]);
            authority(&Variables::parse(&flash).unwrap()).digests.legal().len()
        };
        let digests = list([7; 16], &[&one]);
        assert_eq!(legal(&[digests.clone(), list(X509, &[&one])].concat()), 1);
        assert_eq!(legal(&[list(X509, &[&one]), list(X509, &[&two])].concat()), 2);
        assert_eq!(legal(&list(X509, &[&one, &two])), 2);
        for damaged in [&digests[..], &[], &[0xff; 40], &list(X509, &[&one])[..40]] {
            assert_eq!(legal(damaged), 0, "{damaged:?}");
        }
    }

    #[test]
    fn what_is_in_the_store_is_what_is_measured() {
        let other = flash(&[(0x3f, "dbx", DATABASE, b"revoked")]);
        let events = events(Some(SecureBootOff::NotBuilt), &Variables::parse(&other).unwrap()).unwrap();
        assert!(events[4].data.as_ref().unwrap().ends_with(b"revoked"));
    }
}
