//! What QEMU handed to the firmware of a machine, and the boot variables that the firmware made of it: recorded once, kept as files in `measurements/machines/<name>`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use measurements::event::kind;
use measurements::parse::tcg_log::Log;
use measurements::tpm::pcr01;
use measurements::tpm::pcr05::{self, Exit};

use crate::vm::FwCfg;

const SMBIOS: &str = "smbios";
const BOOT: &str = "boot-variables";
const LOG: &str = "log";
/// The TPM's own log area, which QEMU hands over empty.
const TPM_LOG: usize = 0x1_0000;

/// The files of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blobs {
    /// Files of fw_cfg in the order of [`pcr01::ACPI`]; empty where the firmware measures none.
    pub acpi: Vec<Vec<u8>>,
    /// The SMBIOS table, where the firmware measures it.
    pub smbios: Option<Vec<u8>>,
    /// Boot variables in the order of measuring: name and value.
    pub boot: Vec<(String, Vec<u8>)>,
    /// How boot services ended.
    pub exit: Exit,
    /// The firmware's log of the recorded boot.
    pub log: Vec<u8>,
}

/// The file name of a file of fw_cfg; none for the TPM's log area, which is always the same.
fn file_name(fw_cfg: &str) -> Option<&str> {
    (fw_cfg != "etc/tpm/log").then(|| fw_cfg.rsplit('/').next()).flatten()
}

impl Blobs {
    /// Takes what the log says was measured, from where it comes from; `table` is the SMBIOS table as the guest sees it.
    pub fn record(bytes: Vec<u8>, fw_cfg: &mut FwCfg, table: Vec<u8>) -> Result<Self> {
        let log = Log::parse(&bytes).context("The firmware's log cannot be used")?;
        let measured = |kind| log.events.iter().any(|event| (event.register, event.kind) == (1, kind));
        let mut acpi = Vec::new();
        if measured(kind::CONFIG_FLAGS) {
            for name in pcr01::ACPI {
                let blob = fw_cfg.read(name).with_context(|| format!("Failed to read {name}"))?;
                acpi.push(blob.with_context(|| format!("QEMU hands over no {name}"))?);
            }
            ensure!(acpi[2] == vec![0; TPM_LOG], "the TPM's log area is not empty");
        }
        let variables = log.events.iter().filter(|event| (event.register, event.kind) == (1, kind::BOOT_VARIABLE));
        let boot = variables.map(|event| variable(&event.data).context("a boot variable of the log is damaged"));
        let smbios = measured(kind::HANDOFF_TABLES).then_some(table);
        Ok(Self { acpi, smbios, boot: boot.collect::<Result<_>>()?, exit: exit(&log)?, log: bytes })
    }

    /// Reads a machine's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("Failed to read {}", path.display()));
        let mut acpi = Vec::new();
        if folder.join("table-loader").exists() {
            for name in pcr01::ACPI {
                let kept = file_name(name).map(|name| read(&folder.join(name))).transpose()?;
                acpi.push(kept.unwrap_or_else(|| vec![0; TPM_LOG]));
            }
        }
        let smbios = folder.join(SMBIOS);
        let smbios = smbios.exists().then(|| read(&smbios)).transpose()?;
        let path = folder.join(BOOT);
        let text = String::from_utf8(read(&path)?).with_context(|| format!("{} is no text", path.display()))?;
        let boot = text.lines().map(|line| {
            let (name, value) = line.split_once(' ').with_context(|| format!("{}: {line:?}", path.display()))?;
            Ok((name.to_owned(), hex::decode(value).with_context(|| format!("{}: {line:?}", path.display()))?))
        });
        let bytes = read(&folder.join(LOG))?;
        let log = Log::parse(&bytes).with_context(|| format!("{}: its log", folder.display()))?;
        Ok(Self { acpi, smbios, boot: boot.collect::<Result<_>>()?, exit: exit(&log)?, log: bytes })
    }

    /// Writes a machine's folder anew.
    pub fn write(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("Failed to remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| format!("Failed to write {}", path.display()))
        };
        for (name, blob) in pcr01::ACPI.iter().zip(&self.acpi) {
            if let Some(name) = file_name(name) {
                write(name, blob)?;
            }
        }
        if let Some(table) = &self.smbios {
            write(SMBIOS, table)?;
        }
        let lines: String = self.boot.iter().map(|(name, value)| format!("{name} {}\n", hex::encode(value))).collect();
        write(BOOT, lines.as_bytes())?;
        write(LOG, &self.log)
    }

    /// The events of PCR 1, in order.
    pub fn events(&self) -> Result<Vec<measurements::Event>> {
        let mut events = Vec::new();
        if !self.acpi.is_empty() && self.acpi.len() != pcr01::ACPI.len() {
            bail!("some ACPI files are missing");
        }
        events.extend(pcr01::ACPI.iter().zip(&self.acpi).map(|(name, blob)| pcr01::acpi(name, blob)));
        events.extend(self.smbios.as_deref().map(pcr01::smbios).transpose()?);
        events.extend(self.boot.iter().map(|(name, value)| pcr01::boot_variable(name, value)));
        Ok(events)
    }
}

/// How boot services ended.
fn exit(log: &Log) -> Result<Exit> {
    let failures = log.events.iter().filter(|event| event.data == pcr05::FAILURE.as_bytes()).count();
    match failures {
        0 => Ok(Exit::AtOnce),
        1 => Ok(Exit::AtSecondAttempt),
        _ => bail!("the firmware refused {failures} times to end boot services, and Linux asks twice"),
    }
}

/// Name and value in UEFI_VARIABLE_DATA: GUID, length of the name, length of the value, name in UTF-16, value.
fn variable(data: &[u8]) -> Option<(String, Vec<u8>)> {
    let number = |at: usize| Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?) as usize);
    let (name, value) = (number(16)?.checked_mul(2)?, number(24)?);
    let units = data.get(32..32_usize.checked_add(name)?)?.chunks_exact(2);
    let units: Vec<u16> = units.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let value = data.get(32 + name..(32 + name).checked_add(value)?)?;
    Some((String::from_utf16(&units).ok()?, value.to_vec()))
}
