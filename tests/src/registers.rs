//! A small model of PCR 11, 12 and 15: what systemd-stub 257, the agent and systemd extend into them.
//!
//! Written from the descriptions (systemd-stub(7), systemd-pcrphase.service(8), design sections 4 and 5), not from the code that is tested.

use anyhow::Result;
use xtask::vm::pcr::Bank;

use crate::pe;

/// The sections that stub 257 measures, in its order. Others are not measured.
const MEASURED: [&str; 13] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile",
    ".dtbauto", ".hwids",
];

/// Boot phases of a system that runs.
pub const PHASES: [&str; 4] = ["enter-initrd", "leave-initrd", "sysinit", "ready"];

/// A register that is still zero, and then extended with each of `events`.
pub fn after(bank: Bank, events: &[&[u8]]) -> Vec<u8> {
    let zero = vec![0; bank.length()];
    events.iter().fold(zero, |value, event| bank.extend(&value, &bank.digest(event)))
}

/// PCR 11 after the stub has measured `uki` and the phases are over.
pub fn pcr11(bank: Bank, uki: &[u8], phases: &[&str]) -> Result<Vec<u8>> {
    let sections = pe::sections(uki)?;
    let mut names = vec![];
    let mut events: Vec<&[u8]> = vec![];
    for name in MEASURED {
        names.extend(
            sections.iter().filter(|section| section.name == name).map(|section| (format!("{name}\0"), section.data)),
        );
    }
    for (name, data) in &names {
        events.extend([name.as_bytes(), data]);
    }
    events.extend(phases.iter().map(|phase| phase.as_bytes()));
    Ok(after(bank, &events))
}

/// PCR 12 after the stub has taken `addition` to the command line from outside: UTF-16 with its NUL.
pub fn pcr12_command_line(bank: Bank, addition: &str) -> Vec<u8> {
    let text: Vec<u8> = addition.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    after(bank, &[&text])
}

/// PCR 15 of a boot without cluster configuration.
pub fn pcr15_stateless(bank: Bank) -> Vec<u8> {
    after(bank, &[b"stateless"])
}

/// PCR 15 of a boot that the agent ended.
pub fn pcr15_failed(bank: Bank, code: &str) -> Vec<u8> {
    after(bank, &[format!("failed:{code}").as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_the_digest_that_systemd_records() {
        let digest = hex::encode(Bank::Sha256.digest(PHASES[2].as_bytes()));
        assert!(digest.starts_with("730bb5a5"), "{digest}");
    }

    #[test]
    fn events_are_extended_in_order() {
        let bank = Bank::Sha384;
        let first = bank.extend(&[0; 48], &bank.digest(b"a"));
        assert_eq!(after(bank, &[b"a", b"b"]), bank.extend(&first, &bank.digest(b"b")));
        assert_ne!(after(bank, &[b"a", b"b"]), after(bank, &[b"b", b"a"]));
        assert_eq!(after(bank, &[]), [0; 48]);
    }

    #[test]
    fn an_addition_is_measured_as_utf_16_with_its_nul() {
        assert_eq!(pcr12_command_line(Bank::Sha256, "a"), after(Bank::Sha256, &[b"a\0\0\0"]));
    }
}
