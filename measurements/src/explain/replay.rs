//! A log beside registers that were read or quoted in the same boot: a log alone proves nothing, because who wrote it may have written anything. Its events must lead to the registers.

use std::collections::BTreeMap;

use super::registers::Registers;
use super::{Mismatch, Verdict};
use crate::parse::tcg_log::Log;
use crate::{Bank, Source};

/// Registers that nothing but firmware, stub and kernel extends, all of which is in the firmware's log.
const IN_LOG: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];
/// What systemd 261 and later extends when user space takes over (systemd-pcrosseparator.service(8)).
const SEPARATOR: &[u8] = b"os-separator";
const NEXT: &str = "read log and registers in one boot of one machine; if they are of one boot, somebody changed the log or cut it: do not trust it";

/// Whether the log leads to the registers; the verdict where it does not, or where that cannot be told.
///
/// # Errors
/// The verdict.
pub fn replay(log: &Log, registers: &Registers) -> Result<Bank, Verdict> {
    let banks = [Bank::Sha384, Bank::Sha256, Bank::Sha512, Bank::Sha1];
    let common =
        banks.into_iter().find_map(|bank| Some((bank, registers.get(&bank).filter(|_| log.banks.contains(&bank))?)));
    let Some((bank, found)) = common else {
        return Err(Verdict::CannotTell(
            "log and registers have no bank in common: read the registers of every bank".into(),
        ));
    };
    if !IN_LOG.iter().any(|register| found.contains_key(register)) {
        return Err(Verdict::CannotTell(
            "the registers that a log leads to are not among those given: PCR 0 to 9".into(),
        ));
    }
    match IN_LOG.into_iter().find(|register| !leads_to(log, bank, found, *register)) {
        None => Ok(bank),
        Some(register) => Err(Verdict::Mismatch(Box::new(Mismatch {
            event: None,
            register: format!("PCR {register}"),
            algorithm: bank.name(),
            expected: found.get(&register).map(hex::encode),
            found: Some(hex::encode(log.replay(bank, register.into()))),
            cause: "the log does not lead to the register: it is of another boot, was cut, or was changed".into(),
            whose: Source::Machine,
            next: NEXT,
        }))),
    }
}

fn leads_to(log: &Log, bank: Bank, registers: &BTreeMap<u8, Vec<u8>>, register: u8) -> bool {
    let Some(found) = registers.get(&register) else { return true };
    let replayed = log.replay(bank, register.into());
    *found == replayed || *found == bank.extend(&replayed, &bank.digest(SEPARATOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tcg_log::tests::log_of;
    use crate::tpm::separator;

    fn scene() -> (Log, Registers) {
        let log = log_of(&[separator(4), separator(7)], &[Bank::Sha1, Bank::Sha256]);
        let values = (0..24).map(|register| (register, log.replay(Bank::Sha256, register.into()))).collect();
        (log, BTreeMap::from([(Bank::Sha256, values)]))
    }

    #[test]
    fn log_of_the_same_boot_leads_to_its_registers() {
        let (log, mut registers) = scene();
        assert_eq!(replay(&log, &registers), Ok(Bank::Sha256));
        let values = registers.get_mut(&Bank::Sha256).unwrap();
        // User space extends 11 and 15, and systemd 261 marks where it begins.
        values.insert(11, vec![7; 32]);
        let marked = Bank::Sha256.extend(&values[&7], &Bank::Sha256.digest(SEPARATOR));
        values.insert(7, marked);
        assert_eq!(replay(&log, &registers), Ok(Bank::Sha256));
    }

    #[test]
    fn changed_or_cut_log_is_a_mismatch_of_the_first_register() {
        let (mut log, registers) = scene();
        log.events.truncate(1);
        let Err(Verdict::Mismatch(found)) = replay(&log, &registers) else { panic!() };
        assert_eq!((found.register.as_str(), found.algorithm, found.whose), ("PCR 7", "sha256", Source::Machine));
    }

    #[test]
    fn registers_of_no_common_bank_or_of_user_space_alone_cannot_be_told() {
        let (log, registers) = scene();
        let other = BTreeMap::from([(Bank::Sha512, BTreeMap::from([(4, vec![0; 64])]))]);
        let few = BTreeMap::from([(Bank::Sha256, BTreeMap::from([(11, registers[&Bank::Sha256][&11].clone())]))]);
        for registers in [other, few, Registers::new()] {
            assert!(matches!(replay(&log, &registers), Err(Verdict::CannotTell(_))));
        }
    }
}
