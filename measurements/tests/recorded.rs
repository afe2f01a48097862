//! Logs of real machines, made by other firmware than ours: they are read whole, and replayed to what the machine attested.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use measurements::Bank;
use measurements::boot::{Measured, Point};
use measurements::compose::{Configuration, compose};
use measurements::document::machine::MachineReference;
use measurements::parse::pcrs;
use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};

/// TD report body in a quote of version 4 (Intel TDX DCAP Quoting Library API, appendix 3): header, then fields up to the RTMRs.
const RTMR: usize = 48 + 328;

#[test]
fn the_registers_of_a_trust_domain_follow_from_its_log() {
    let log = Log::parse(include_bytes!("recorded/tdx-cos113-ccel.bin")).unwrap();
    let quote = include_bytes!("recorded/tdx-cos113-quote.bin");
    assert_eq!(log.banks, [Bank::Sha384]);
    for index in 0..3 {
        // In such a log, register 0 is MRTD and 1 is RTMR 0.
        let replayed = log.replay(Bank::Sha384, index + 1);
        let start = RTMR + 48 * index as usize;
        assert_eq!(hex::encode(&replayed), hex::encode(&quote[start..start + 48]), "RTMR {index}");
    }
}

#[test]
fn logs_of_other_machines_are_read_to_their_end() {
    for (name, bytes, least) in [
        ("GCP, UKI", &include_bytes!("recorded/tpm-gcp-uki-eventlog.bin")[..], 20),
        ("systemd-boot of Fedora", include_bytes!("recorded/tpm-sdboot-fedora37-eventlog.bin"), 5),
        ("systemd-boot of Arch", include_bytes!("recorded/tpm-arch-sdboot-eventlog.bin"), 20),
        ("RHEL 8, shim and grub", include_bytes!("recorded/tpm-rhel8-eventlog.bin"), 20),
    ] {
        let log = Log::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(log.events.len() >= least, "{name}: {} events", log.events.len());
        // What firmware measures as its own words has the digest of these words: digests and data belong together.
        let actions = log.events.iter().filter(|event| event.kind == measurements::event::kind::ACTION);
        for event in actions {
            for (bank, digest) in &event.digests {
                assert_eq!(digest, &bank.digest(&event.data), "{name}: {}", String::from_utf8_lossy(&event.data));
            }
        }
    }
}

/// Registers beside the logs, as those who published the logs give them: read from the TPM of the machine (Arch, RHEL), calculated by tpm2-tools (Fedora).
#[test]
fn logs_of_other_machines_replay_to_their_registers() {
    for (log, registers) in [
        (
            &include_bytes!("recorded/tpm-rhel8-eventlog.bin")[..],
            &include_bytes!("recorded/tpm-rhel8-registers.txt")[..],
        ),
        (
            include_bytes!("recorded/tpm-arch-sdboot-eventlog.bin"),
            include_bytes!("recorded/tpm-arch-sdboot-registers.txt"),
        ),
        (
            include_bytes!("recorded/tpm-sdboot-fedora37-eventlog.bin"),
            include_bytes!("recorded/tpm-sdboot-fedora37-registers.txt"),
        ),
    ] {
        let (log, registers) = (Log::parse(log).unwrap(), pcrs::parse(registers).unwrap());
        let registers = &registers[&Bank::Sha256];
        assert!(registers.len() >= 9);
        for (register, value) in registers {
            let replayed = log.replay(Bank::Sha256, u32::from(*register));
            assert_eq!(hex::encode(replayed), hex::encode(value), "PCR {register}");
        }
    }
}

/// The machines whose recorded boot is kept: each with another firmware.
const MACHINES: [&str; 3] = ["q35-ovmf-2022.11-1cpu-1gib", "q35-ovmf-2025.02-2cpus-1gib", "q35-ovmf-2026.08-1cpu-1gib"];

#[test]
fn the_logs_of_our_own_machines_begin_as_their_references_say_and_replay_to_what_is_composed() {
    for name in MACHINES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines");
        let log = std::fs::read(folder.join(name).join("log")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (log, reference) = (Log::parse(&log).unwrap(), std::fs::read(folder.join(format!("{name}.machine.json"))));
        let machine = MachineReference::parse(&reference.unwrap()).unwrap().machine().unwrap();
        assert_eq!(log.banks, Bank::ALL, "{name}");
        let logged: Vec<_> = log.events.iter().filter(|event| event.kind != NO_ACTION).collect();
        for (event, logged) in machine.events().iter().zip(&logged) {
            assert_eq!(
                (u32::from(event.register), event.kind),
                (logged.register, logged.kind),
                "{name}: {}",
                event.input
            );
            for (bank, digest) in &logged.digests {
                assert_eq!(event.digest(*bank), Some(&digest[..]), "{name}: {} ({bank})", event.input);
            }
        }
        for (event, logged) in machine.events().iter().zip(&logged) {
            assert!(event.data.as_ref().is_none_or(|data| *data == logged.data), "{name}: data of {}", event.input);
        }
        same_data_of_an_image(name, &logged);
        let nothing = Measured { uki: [0; 32], boot: vec![], initrd: vec![], running: vec![] };
        let composition = compose(&nothing, &machine, &Configuration::Stateless).unwrap();
        // What the image adds is in 4, 5, 9 and 11.
        for register in [0, 1, 2, 3, 6, 7, 8, 12, 13, 14] {
            let value = &composition.registers(Point::Firmware)[&register];
            for bank in Bank::ALL {
                let replayed = log.replay(bank, register.into());
                assert_eq!(value.in_bank(bank), Some(&replayed[..]), "{name}: PCR {register} ({bank})");
            }
        }
    }
}

/// What a stub and a kernel say in the log does not depend on the image.
fn same_data_of_an_image(name: &str, logged: &[&LogEvent]) {
    let sections = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"];
    let units = |section: &str| section.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let expected: Vec<Vec<u8>> = sections.iter().flat_map(|section| [units(section), units(section)]).collect();
    let of = |register: u32| logged.iter().filter(move |event| event.register == register).map(|event| &event.data);
    assert_eq!(of(11).cloned().collect::<Vec<_>>(), expected, "{name}");
    let tags: Vec<&str> = of(9).map(|data| std::str::from_utf8(&data[8..]).unwrap()).collect();
    assert_eq!(tags, ["LOADED_IMAGE::LoadOptions\0", "Linux initrd\0"], "{name}");
}
