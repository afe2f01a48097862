//! What is predicted from files is what machines measure: every event of the firmware's log in order, and every register.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_tests::settled::settled;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use measurements::boot::{self, Image, Machine, Point};
use measurements::machine::MachineReference;
use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use measurements::{Bank, Event, explain};
use xtask::config::read_toml;
use xtask::record::{LOG, MachineConfig};
use xtask::vm::shell::Shell;

use crate::Row;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("every_event_of_a_machine_with_two_cpus_is_predicted", |suite, row| {
            predicted(suite, row, "2cpus-1gib")
        }),
        Row::new("every_event_of_a_machine_with_one_cpu_is_predicted", |suite, row| predicted(suite, row, "1cpu-1gib")),
        Row::new("every_event_of_a_machine_with_more_memory_is_predicted", |suite, row| {
            predicted(suite, row, "2cpus-2gib")
        }),
    ]
}

fn file(shape: &str, suffix: &str) -> Result<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are not in a checkout")?;
    Ok(checkout.join(format!("measurements/machines/q35-ovmf-2025.02-{shape}.{suffix}")))
}

/// Boots the debug image, which shows the log that the guest saw; the registers are the emulator's.
fn predicted(suite: &Suite, row: &str, shape: &str) -> Result<()> {
    let config: MachineConfig = read_toml(&file(shape, "toml")?)?;
    let path = file(shape, "machine.json")?;
    let reference =
        MachineReference::parse(&fs::read(&path).with_context(|| format!("Failed to read {}", path.display()))?)?;
    let (image, machine) = (Image::parse(&suite.debug.read("raw")?)?, Machine::try_from(&reference)?);
    let user_space = image.user_space()?;

    let real = xtask::vm::Machine { accelerator: suite.accelerator(), ..config.machine(&suite.debug.file("raw")) };
    let mut watched = Watched::start(suite, row, &real)?;
    watched.must_run()?;
    let pcrs = settled(&watched, &suite.debug.read("efi")?)?;
    let log = Log::parse(&Shell::log_in(&mut watched.vm)?.read_file(LOG)?)?;

    same_events(&boot::events(&image, &machine, user_space, Point::Firmware)?, &log)?;
    explained(&image, &log, shape)?;
    let registers = boot::registers(&image, &machine, user_space, Point::Running)?;
    for (register, value) in &registers {
        for bank in Bank::ALL {
            let expected =
                value.in_bank(bank).with_context(|| format!("PCR {register} is not predicted: {value:?}"))?;
            let found = pcrs.get(bank, usize::from(*register)).context("a bank is missing")?;
            ensure!(
                found == expected,
                "PCR {register} ({bank}) is {}, not {}",
                hex::encode(found),
                hex::encode(expected)
            );
        }
    }
    Ok(())
}

/// `explain` agrees with the machine's own reference, and says of every other shape that the machine's tables are not its.
fn explained(image: &Image, log: &Log, shape: &str) -> Result<()> {
    for other in ["1cpu-1gib", "2cpus-1gib", "2cpus-2gib"] {
        let reference = MachineReference::parse(&fs::read(file(other, "machine.json")?)?)?;
        let predicted = boot::events(image, &Machine::try_from(&reference)?, image.user_space()?, Point::Firmware)?;
        let text = explain::text(&explain::explain(&predicted, log));
        let expected = if other == shape {
            "MATCH: all "
        } else {
            "PCR 1\ncause     it is not this one: ACPI DATA of the machine"
        };
        ensure!(text.contains(expected), "against {other}: {text}");
    }
    Ok(())
}

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
