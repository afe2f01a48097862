//! `cargo xtask record-machine`: boots a debug image in a machine of `measurements/machines/<name>.toml`, reads the firmware's log, and writes `<name>.machine.json`.
//!
//! What can be calculated from the firmware's file is calculated, and must be what the log says; only what follows from the machine's shape is taken from the log.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use measurements::boot;
use measurements::event::kind;
use measurements::machine::{FirmwareReference, Known, MachineEvent, MachineReference, SCHEMA, Shape};
use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use measurements::tpm::pcr00;
use measurements::{Bank, Event, Source};
use serde::Deserialize;

use crate::build::tools::Tools;
use crate::checkout::Checkout;
use crate::config::read_toml;
use crate::digest::Sha256Digest;
use crate::sandbox::Sandbox;
use crate::vm::shell::Shell;
use crate::vm::{Accelerator, Machine, Tpm, TpmInterface, Vm};

/// Where a guest's kernel shows the firmware's log.
pub const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// Record what a machine of a shape measures
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask record-machine q35-ovmf-2025.02-2cpus-1gib --image target/test-images/debug/cairn-debug_0.1.0.raw"
)]
pub struct RecordArgs {
    /// Name of a file in measurements/machines, without .toml
    machine: String,
    /// A debug image
    #[arg(long, value_name = "IMAGE")]
    image: PathBuf,
}

/// `measurements/machines/<name>.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Code part of the firmware, in the build root.
    pub firmware: PathBuf,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

impl MachineConfig {
    /// The machine of `cargo xtask boot` in this shape.
    pub fn machine(&self, image: &std::path::Path) -> Machine {
        let tpm = Tpm { interface: TpmInterface::Crb, banks: Bank::ALL.to_vec() };
        Machine { memory_mib: self.memory_mib, cpus: self.cpus, tpm: Some(tpm), ..Machine::with_disk(image) }
    }
}

/// Records.
pub fn run(args: &RecordArgs, checkout: &Checkout, tools: &Tools) -> Result<PathBuf> {
    let folder = checkout.join("measurements/machines");
    let config: MachineConfig = read_toml(&folder.join(format!("{}.toml", args.machine)))?;
    let inside = config.firmware.strip_prefix("/").unwrap_or(&config.firmware);
    let firmware = tools.tree.join(inside);
    let code = fs::read(&firmware).with_context(|| format!("Failed to read {}", firmware.display()))?;

    let sandbox = Sandbox::new(&tools.tree);
    let machine = Machine { accelerator: Accelerator::detect(&sandbox), ..config.machine(&args.image) };
    let mut vm = Vm::start(&sandbox, &machine, Box::new(|_, _| {}))?;
    let log = Shell::log_in(&mut vm)?.read_file(LOG)?;
    drop(vm);

    let log = Log::parse(&log).context("The firmware's log cannot be used")?;
    let version = sandbox.command("qemu-system-x86_64").arg("--version").output().context("Failed to start QEMU")?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
    let volumes = measurements::parse::fv::Volumes::unpack(&code)?;
    let build =
        pcr00::build(&volumes).context("This build of the firmware is not known to measurements/src/tpm/pcr00.rs")?;
    let reference = MachineReference {
        events: events(&log, &code)?,
        firmware: FirmwareReference { sha256: Sha256Digest::of(&code).to_string(), version: build.version.into() },
        name: args.machine.clone(),
        schema: SCHEMA.into(),
        shape: Shape { cpus: config.cpus, memory_mib: config.memory_mib, tpm: "crb".into() },
        vmm: version,
    };
    let path = folder.join(format!("{}.machine.json", args.machine));
    fs::write(&path, reference.to_bytes()?).with_context(|| format!("Failed to write {}", path.display()))?;
    Ok(path)
}

/// The machine's part of a log: calculated events first checked against it.
fn events(log: &Log, code: &[u8]) -> Result<Vec<MachineEvent>> {
    let calculated = boot::Machine::with_firmware(code)?;
    let mut calculated = calculated.events().iter().filter(|event| event.digests.is_ok());
    let mut events = Vec::new();
    for logged in log.events.iter().filter(|event| event.kind != NO_ACTION) {
        let known = match logged.register {
            1 if logged.kind == kind::SEPARATOR => break,
            1 => MachineEvent::new(&recorded(logged, events.len())?, Known::Recorded),
            0 | 7 if logged.kind == kind::SEPARATOR && logged.register == 0 => continue,
            0 | 7 => {
                let event = calculated.next().context("The log has more events of PCR 0 or 7 than were calculated")?;
                let same = Bank::ALL.into_iter().all(|bank| event.digest(bank) == digest(logged, bank));
                ensure!(same, "{} was calculated otherwise than the machine measures it", event.input);
                MachineEvent::new(event, Known::Calculated)
            }
            _ => continue,
        };
        events.push(known.context("a measurement lacks a bank")?);
    }
    Ok(events)
}

fn digest(event: &LogEvent, bank: Bank) -> Option<&[u8]> {
    event.digests.iter().find(|(found, _)| *found == bank).map(|(_, digest)| digest.as_slice())
}

/// An event of PCR 1 with the input that it is about.
fn recorded(logged: &LogEvent, index: usize) -> Result<Event> {
    let input = match logged.kind {
        kind::CONFIG_FLAGS => format!(
            "{} of the machine, number {index} of its events",
            String::from_utf8_lossy(&logged.data).trim_end_matches('\0')
        ),
        kind::BOOT_VARIABLE => format!(
            "variable {} of the firmware",
            variable_name(&logged.data).context("a boot variable without a name")?
        ),
        other => bail!("PCR 1 has an event of type {other:#x}, which is not understood"),
    };
    let digests = logged.digests.iter().cloned().collect();
    let (register, kind, source) = (1, logged.kind, Source::Machine);
    Ok(Event { register, kind, digests: Ok(digests), data: None, source, input })
}

/// The name in UEFI_VARIABLE_DATA: GUID, length of the name, length of the data, name in UTF-16.
fn variable_name(data: &[u8]) -> Option<String> {
    let length = u64::from_le_bytes(data.get(16..24)?.try_into().ok()?);
    let units = data.get(32..32 + usize::try_from(length).ok()?.checked_mul(2)?)?;
    let units: Vec<u16> = units.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}
