//! What is predicted from documents is what machines measure: every event of the firmware's log and of user space's in order, every register at every point in time, on every machine without
//! confidential hardware. The registers are the emulator's, so that no code of the guest is believed.

use anyhow::{Result, ensure};
use cairn_tests::machine::{self, KnownMachine};
use cairn_tests::settled::settled;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use measurements::boot::Point;
use measurements::compose::{Composition, Configuration, compose};
use measurements::document::image::ImageReference;
use measurements::explain::neighbours::Neighbours;
use measurements::explain::{self, text};
use measurements::parse::cel;
use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use measurements::{Bank, Event};
use xtask::machine::record::LOG;
use xtask::vm::expected::same_registers;
use xtask::vm::shell::Shell;

use crate::Row;

/// Where user space writes what it measures.
const USER_SPACE_LOG: &str = "/run/log/systemd/tpm2-measure.log";
/// `explain` tells every machine from these.
const TOLD_APART: [&str; 5] = [
    "q35-ovmf-2022.11-2cpus-2gib",
    "q35-ovmf-2025.02-1cpu-1gib",
    "q35-ovmf-2025.02-2cpus-1gib",
    "q35-ovmf-2025.02-2cpus-1gib-tis",
    "q35-ovmf-2026.08-2cpus-2gib",
];

/// Each differs from a machine that is always booted in less than that one from the others.
const IN_FULL: [&str; 5] = [
    "every_event_with_ovmf_2022_11_and_more_of_everything_is_predicted",
    "every_event_with_ovmf_2025_02_is_predicted",
    "every_event_with_ovmf_2025_02_and_two_cpus_is_predicted",
    "every_event_with_ovmf_2025_02_and_more_memory_is_predicted",
    "every_event_with_ovmf_2026_08_is_predicted",
];

pub fn rows() -> Vec<Row> {
    let row =
        |name: &'static str, machine: &'static str| Row::new(name, move |suite, row| predicted(suite, row, machine));
    machine::with_tpm().iter().map(|(name, machine)| row(name, machine).in_full_if_among(&IN_FULL)).collect()
}

fn predicted(suite: &Suite, row: &str, name: &str) -> Result<()> {
    let known = KnownMachine::get(name)?;
    let reference = ImageReference::parse(&suite.debug.read("reference.json")?)?;
    let image = reference.measured()?;
    let composition = compose(&image, &known.reference.machine()?, &Configuration::Stateless)?;

    let mut watched = Watched::start(suite, row, &known.real(&suite.debug.file("raw"))?)?;
    watched.must_run()?;
    let pcrs = settled(&watched, &suite.debug.read("efi")?)?;
    ensure!(pcrs.banks().count() == Bank::ALL.len(), "not every bank is active");
    let states = watched.vm.pcr_states()?;
    let mut shell = Shell::log_in(&mut watched.vm)?;
    let log = Log::parse(&shell.read_file(LOG)?)?;
    let user_space = cel::parse(&shell.read_file(USER_SPACE_LOG)?)?;

    same_events(composition.events(Point::Firmware), &log)?;
    same_user_space(&composition, &user_space)?;
    same_registers(&composition, Point::Running, &pcrs)?;
    for point in [Point::Firmware, Point::Initrd] {
        let failures: Vec<String> = states
            .iter()
            .filter_map(|state| same_registers(&composition, point, state).err())
            .map(|error| error.to_string())
            .collect();
        let last = failures.last().cloned().unwrap_or_default();
        ensure!(failures.len() < states.len(), "the TPM never held what is predicted for {point:?}: {last}");
    }
    explained(&reference, &log, name)
}

/// `explain` agrees with the machine's own reference, and says of other machines that the machine is not theirs.
fn explained(reference: &ImageReference, log: &Log, name: &str) -> Result<()> {
    for other in TOLD_APART.into_iter().chain([name]) {
        let machine = KnownMachine::get(other)?.reference.machine()?;
        let composition = compose(&reference.measured()?, &machine, &Configuration::Stateless)?;
        let text = text(&explain::log(composition.sequences(Point::Firmware), log, &Neighbours::default()));
        if other == name {
            ensure!(text.starts_with("MATCH: all "), "against {other}: {text}");
        } else {
            ensure!(
                text.contains("MISMATCH") && text.contains("whose     the machine"),
                "the log of {name} against {other}: {text}"
            );
        }
    }
    Ok(())
}

/// Every event in its place, with its digests in all banks and, where they are known, its data.
fn same_events(predicted: &[Event], log: &Log) -> Result<()> {
    let logged: Vec<&LogEvent> = log.events.iter().filter(|event| event.kind != NO_ACTION).collect();
    for (index, (event, logged)) in predicted.iter().zip(&logged).enumerate() {
        let what = format!("event {index}, {}", event.input);
        let place = (u32::from(event.register), event.kind);
        ensure!(
            (logged.register, logged.kind) == place,
            "{what}: PCR and type are {:?}, not {place:?}",
            (logged.register, logged.kind)
        );
        for bank in Bank::ALL {
            let found = logged.digests.iter().find(|(found, _)| *found == bank).map(|(_, digest)| digest.as_slice());
            ensure!(found == event.digest(bank), "{what}: the {bank} digest differs: {found:?}");
        }
        if let Some(data) = &event.data {
            ensure!(logged.data == *data, "{what}: its data is {:?}, not {data:?}", logged.data);
        }
    }
    ensure!(predicted.len() == logged.len(), "{} events are predicted, the log has {}", predicted.len(), logged.len());
    Ok(())
}

/// What agent and systemd measured; the kernel's own aggregate (PCR 10) is in no log of theirs.
fn same_user_space(composition: &Composition, records: &[cel::Record]) -> Result<()> {
    let firmware = composition.events(Point::Firmware).len();
    let predicted: Vec<&Event> =
        composition.events(Point::Running)[firmware..].iter().filter(|event| event.register != 10).collect();
    for (event, record) in predicted.iter().zip(records) {
        ensure!(record.register == event.register, "{}: PCR {}", event.input, record.register);
        for (bank, digest) in &record.digests {
            ensure!(event.digest(*bank) == Some(digest), "{}: the {bank} digest differs", event.input);
        }
        ensure!(record.digests.len() == Bank::ALL.len(), "{}: a bank is missing", event.input);
    }
    ensure!(predicted.len() == records.len(), "{} events are predicted, {} logged", predicted.len(), records.len());
    Ok(())
}
