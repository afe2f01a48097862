//! `cargo xtask record-machine`: boots a debug image in a machine of `measurements/machines/<name>.toml`, keeps what QEMU handed to its firmware, and writes `<name>.machine.json`.
//!
//! The firmware's log says which files to keep; the digests are calculated from them and must be what the log says, all of them and in the same order, or nothing is written. A confidential machine is
//! not booted: its launch is calculated from its firmware.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use measurements::Event;
use measurements::boot::firmware_events;
use measurements::event::kind;
use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use measurements::tpm::pcr00::Size;
use tempfile::NamedTempFile;

use super::blobs::Blobs;
use super::config::{FOLDER, MachineConfig, TpmConfig};
use super::firmware::Firmware;
use super::reference;
use crate::build::tools::Tools;
use crate::checkout::Checkout;
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::store::Store;
use crate::vm::pcr::Bank;
use crate::vm::shell::Shell;
use crate::vm::{Accelerator, Machine, Tpm, TpmInterface, Vm};

/// Where a guest's kernel shows the firmware's log.
pub const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Where it shows the SMBIOS table.
const SMBIOS: &str = "/sys/firmware/dmi/tables/DMI";

/// Record what a machine of a shape measures
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Example: cargo xtask record-machine q35-ovmf-2025.02-2cpus-1gib --image target/test-images/debug/cairn-debug_0.1.0.raw"
)]
pub struct RecordArgs {
    /// Name of a file in measurements/machines, without .toml
    machine: String,
    /// A debug image to boot; without it, the reference is calculated anew from what was recorded before
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,
}

impl MachineConfig {
    /// The machine of `cargo xtask boot` in this shape. Its CPU is always emulated: some firmware measures what a host's own CPU is like.
    pub fn machine(&self, image: &Path, firmware: &Firmware) -> Result<Machine> {
        let tpm = self.tpm.map(|tpm| Tpm {
            interface: match tpm {
                TpmConfig::Crb => TpmInterface::Crb,
                TpmConfig::Tis => TpmInterface::Tis,
            },
            banks: Bank::ALL.to_vec(),
            state: None,
        });
        let firmware = Some(firmware.files()?);
        let accelerator = Accelerator::Emulation;
        let (memory_mib, cpus, network) = (self.memory_mib, self.cpus, self.network);
        Ok(Machine { memory_mib, cpus, tpm, network, firmware, accelerator, ..Machine::with_disk(image) })
    }

    /// A blank state disk, if the machine has one. It takes no room, and is gone when it is dropped.
    pub fn blank_disk(&self) -> Result<Option<NamedTempFile>> {
        const SIZE: u64 = 1 << 30;
        if !self.state_disk {
            return Ok(None);
        }
        let disk = NamedTempFile::with_prefix("cairn-state-").context("Failed to make a state disk")?;
        disk.as_file().set_len(SIZE).context("Failed to size a state disk")?;
        Ok(Some(disk))
    }
}

/// Records.
pub fn run(args: &RecordArgs, checkout: &Checkout, tools: &Tools, progress: &Progress) -> Result<PathBuf> {
    let config = MachineConfig::read(checkout, &args.machine)?;
    let firmware = Firmware::get(&config.firmware, checkout, &Store::open()?, progress)?;
    let (sandbox, folder) = (Sandbox::new(&tools.tree), checkout.join(FOLDER));
    let blobs = match (&config.tpm, &args.image) {
        (None, _) => None,
        (Some(_), None) => {
            let kept = Blobs::read(&folder.join(&args.machine));
            Some(kept.context("Nothing was recorded of this machine yet: name a debug image with --image")?)
        }
        (Some(_), Some(image)) => {
            let blobs = boot(&config, image, &firmware, &sandbox)?;
            blobs.write(&folder.join(&args.machine))?;
            Some(blobs)
        }
    };
    let reference = reference::make(&args.machine, &config, &firmware, blobs.as_ref(), &vmm(&sandbox, &config)?)?;
    let path = folder.join(format!("{}.machine.json", args.machine));
    fs::write(&path, reference.to_bytes()?).with_context(|| format!("Failed to write {}", path.display()))?;
    Ok(path)
}

/// What QEMU calls itself, and how it runs this machine.
fn vmm(sandbox: &Sandbox, config: &MachineConfig) -> Result<String> {
    let output = sandbox.command("qemu-system-x86_64").arg("--version").output().context("Failed to start QEMU")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().unwrap_or_default();
    let cpu = if config.tpm.is_some() { ", emulated CPU" } else { "" };
    Ok(format!("{version}{cpu}"))
}

/// What was handed to the firmware, and the firmware's log, which agree.
fn boot(config: &MachineConfig, image: &Path, firmware: &Firmware, sandbox: &Sandbox) -> Result<Blobs> {
    let disk = config.blank_disk()?;
    let kept_disks = disk.iter().map(|disk| disk.path().to_owned()).collect();
    let machine = Machine { inspectable: true, kept_disks, ..config.machine(image, firmware)? };
    let mut vm = Vm::start(sandbox, &machine, Box::new(|_, _| {}))?;
    let mut shell = Shell::log_in(&mut vm)?;
    let (bytes, table) = (shell.read_file(LOG)?, shell.read_file(SMBIOS)?);
    let blobs = Blobs::record(bytes, &mut vm.fw_cfg()?, table)?;
    drop(vm);

    let size = Size { cpus: config.cpus, memory_mib: config.memory_mib };
    let mut events = firmware_events(&firmware.read_code()?, firmware.read_variables()?.as_deref(), Some(size))?;
    events.extend(blobs.events()?);
    same(&events, &Log::parse(&blobs.log)?)?;
    Ok(blobs)
}

/// That the log has exactly these events before the separators of the firmware.
fn same(events: &[Event], log: &Log) -> Result<()> {
    let is_machine = |event: &&LogEvent| matches!(event.register, 0 | 1 | 7) && event.kind != NO_ACTION;
    let is_end = |event: &&LogEvent| (event.register, event.kind) == (0, kind::SEPARATOR);
    let logged: Vec<&LogEvent> = log.events.iter().take_while(|event| !is_end(event)).filter(is_machine).collect();
    for (index, (event, logged)) in events.iter().zip(&logged).enumerate() {
        let found = logged.digests.iter().all(|(bank, digest)| event.digest(*bank) == Some(digest));
        let found = found && event.data.as_ref().is_none_or(|data| *data == logged.data);
        let place = (u32::from(event.register), event.kind);
        ensure!(
            found && place == (logged.register, logged.kind),
            "event {index} was calculated otherwise than the machine measures it: {} ({place:x?}); the log has {:x?}",
            event.input,
            (logged.register, logged.kind)
        );
    }
    ensure!(events.len() == logged.len(), "{} events were calculated, the log has {}", events.len(), logged.len());
    Ok(())
}
