//! From a machine's configuration, its firmware and its recorded files to its reference. Nothing is taken from a log here: every digest is calculated from bytes that are kept.

use anyhow::{Context, Result};
use measurements::boot::{BootMethod, firmware_events};
use measurements::document::machine::{
    ConfigurationCover, Covers, FirmwareReference, ImageCover, LaunchReference, MachineReference, SCHEMA, Shape,
    SnpReference,
};
use measurements::document::{EventRecord, Known};
use measurements::tpm::pcr00::Size;
use ovmf_measure::sev::{CpuSignature, Layout, Vmm};
use ovmf_measure::tdx::{Order, mrtd};

use super::blobs::Blobs;
use super::config::{LaunchConfig, MachineConfig, TpmConfig};
use super::firmware::Firmware;
use crate::digest::Sha256Digest;

/// Event data up to so many bytes are kept.
const MOST_DATA: usize = 256;

/// Makes a reference; `vmm` is what the VMM calls itself.
pub fn make(
    name: &str,
    config: &MachineConfig,
    firmware: &Firmware,
    blobs: Option<&Blobs>,
    vmm: &str,
) -> Result<MachineReference> {
    let code = firmware.read_code()?;
    let mut events = Vec::new();
    if let Some(blobs) = blobs {
        let size = Size { cpus: config.cpus, memory_mib: config.memory_mib };
        events = firmware_events(&code, firmware.read_variables()?.as_deref(), Some(size))?;
        events.extend(blobs.events()?);
    }
    let launch = config.launch.as_ref().map(|launch| launch_of(launch, &code)).transpose()?;
    Ok(MachineReference {
        boot: config.boot,
        covers: covers(config),
        exit_boot_services: blobs.map(|blobs| blobs.exit),
        events: events.iter().map(|event| EventRecord::new(event, Known::Calculated, MOST_DATA)).collect(),
        firmware: FirmwareReference { package: firmware.package.clone(), sha256: Sha256Digest::of(&code).to_string() },
        launch,
        name: name.to_owned(),
        schema: SCHEMA.into(),
        shape: Shape {
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            tpm: config.tpm.map(|tpm| match tpm {
                TpmConfig::Crb => "crb".into(),
                TpmConfig::Tis => "tis".into(),
            }),
        },
        vmm: vmm.to_owned(),
    })
}

fn launch_of(config: &LaunchConfig, code: &[u8]) -> Result<LaunchReference> {
    let firmware = ovmf_measure::Firmware::parse(code)?;
    Ok(match config {
        LaunchConfig::SevSnp { cpu, features } => {
            let signature = CpuSignature::of_model(cpu)
                .with_context(|| format!("{cpu:?} is no CPU model of QEMU that is known here"))?;
            LaunchReference::SevSnp(SnpReference::new(&Layout::of(&firmware, Vmm::Qemu)?, signature, *features))
        }
        LaunchConfig::Tdx => LaunchReference::Tdx { mrtd: hex::encode(mrtd(&firmware, Order::SinglePass)?) },
    })
}

fn covers(config: &MachineConfig) -> Covers {
    match (&config.launch, config.boot) {
        (None, _) => Covers { configuration: ConfigurationCover::Pcr12, image: ImageCover::Tpm },
        (Some(LaunchConfig::SevSnp { .. }), BootMethod::Kernel) => {
            Covers { configuration: ConfigurationCover::HostData, image: ImageCover::LaunchDigest }
        }
        (Some(LaunchConfig::SevSnp { .. }), BootMethod::Disk) => {
            Covers { configuration: ConfigurationCover::HostData, image: ImageCover::ImageNotCovered }
        }
        (Some(LaunchConfig::Tdx), _) => {
            Covers { configuration: ConfigurationCover::Mrconfigid, image: ImageCover::Rtmr }
        }
    }
}
