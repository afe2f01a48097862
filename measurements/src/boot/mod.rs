//! The two halves of a boot, read from files: what an image brings (partition table, UKI, user space), and what a machine measures before it. [`crate::compose`] puts them together.

pub mod companions;
mod image;
mod loader;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use image::{Error, Image};

use crate::compose::LaunchParameters;
use crate::event::{SecureBoot, kind};
use crate::parse::fv::Volumes;
use crate::parse::tcg_log::Log;
use crate::parse::uki::Uki;
use crate::parse::variables::Variables;
use crate::tpm::pcr00::Size;
use crate::tpm::pcr05::Exit;
use crate::tpm::{self, pcr00, pcr07, pcr11, pcr15};
use crate::{Event, Source};

/// When registers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The firmware has handed over to the kernel.
    Firmware,
    /// In the initrd, where a node attests.
    Initrd,
    /// In the running system.
    Running,
}

/// What is measured of an image, whatever machine boots it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// SHA-256 of the UKI.
    pub uki: [u8; 32],
    /// From the partition table to the kernel's start.
    pub boot: Vec<Event>,
    /// By the initrd, before the point where a node attests.
    pub initrd: Vec<Event>,
    /// After that, in the running system of a node without a cluster.
    pub running: Vec<Event>,
}

/// How a machine starts an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootMethod {
    /// The firmware finds the UKI on the disk.
    Disk,
    /// The VMM hands the UKI over as a kernel, with hashes.
    Kernel,
}

impl BootMethod {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Disk, Self::Kernel];
}

/// What boots it: the measurements that follow from firmware and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub(crate) events: Vec<Event>,
    /// What the firmware measures when it has verified the first image, with Secure Boot.
    pub(crate) authority: Option<Event>,
    /// How it may start an image; both where it is not known.
    pub(crate) boots: Vec<BootMethod>,
    /// All ways in which boot services may end.
    pub(crate) exits: Vec<Exit>,
    /// The legal states.
    pub(crate) secure_boot: Vec<SecureBoot>,
    pub(crate) launch: Option<LaunchParameters>,
}

impl Machine {
    /// With a TPM, these measurements before the first image, and a disk; how its boot services end is not known.
    pub fn with_events(events: Vec<Event>) -> Self {
        let secure_boot = pcr07::states(&events);
        let (boots, exits) = (vec![BootMethod::Disk], Exit::ALL.into());
        Self { events, authority: None, boots, exits, secure_boot, launch: None }
    }

    /// This machine, where it is known how it starts an image.
    #[must_use]
    pub fn booting(self, method: BootMethod) -> Self {
        Self { boots: vec![method], ..self }
    }

    /// This machine, where it is known whether the firmware verifies images.
    #[must_use]
    pub fn with_secure_boot(self, state: SecureBoot) -> Self {
        Self { secure_boot: vec![state], ..self }
    }

    /// Nothing is known of it.
    pub fn unknown() -> Self {
        let events = [
            (0, kind::FIRMWARE_BLOB, "the firmware"),
            (7, kind::VARIABLE, "Secure Boot variables of the firmware"),
            (1, kind::CONFIG_FLAGS, SHAPE),
        ];
        let events = events.map(|(register, kind, input)| unknown(register, kind, input)).into();
        Self { boots: BootMethod::ALL.into(), ..Self::with_events(events) }
    }

    /// A machine of type q35 with this firmware, whose shape is not known.
    ///
    /// # Errors
    /// As [`firmware_events`].
    pub fn with_firmware(code: &[u8], store: Option<&[u8]>) -> Result<Self, Error> {
        let mut events = firmware_events(code, store, None)?;
        events.push(unknown(1, kind::CONFIG_FLAGS, SHAPE));
        let machine = Self { boots: BootMethod::ALL.into(), ..Self::with_events(events) };
        let verifies = machine.secure_boot == [SecureBoot::On];
        // A whole image begins with its store.
        let store = Variables::parse(store.unwrap_or(code)).ok().filter(|_| verifies);
        Ok(Self { authority: store.map(|store| pcr07::authority(&store)), ..machine })
    }

    /// This machine, where its log says whether the firmware verifies images; nothing else of it is taken from the log.
    #[must_use]
    pub fn as_logged(self, log: &Log) -> Self {
        match (self.secure_boot.len(), pcr07::logged_state(log)) {
            (2.., Some(state)) => self.with_secure_boot(state),
            _ => self,
        }
    }

    /// Whether the VMM hands the image over, whatever is on a disk.
    pub fn is_started_by_vmm(&self) -> bool {
        self.boots == [BootMethod::Kernel]
    }

    /// What is measured before the first image is loaded, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

const SHAPE: &str = "tables, boot entries and shape of the machine";

fn unknown(register: u8, kind: u32, input: &str) -> Event {
    let reason = "give the firmware, and the machine's shape, to know it";
    Event::unknown(register, kind, Source::Machine, input, reason)
}

/// PCR 0 and 7 up to the separator of the latter, on a machine of type q35 with this firmware (the code part of an OVMF image, or a whole one), this variable store and this size.
///
/// Of a build that is not known, PCR 0 is unknown and PCR 7 one of two values; without a store, PCR 7 is unknown.
///
/// # Errors
/// What is no OVMF image or no variable store; [`Error::SecureBoot`].
pub fn firmware_events(code: &[u8], store: Option<&[u8]>, size: Option<Size>) -> Result<Vec<Event>, Error> {
    let volumes = Volumes::unpack(code).map_err(Error::Volumes)?;
    let build = pcr00::build(&volumes);
    let mut events = match build {
        Some(build) => pcr00::events(build, &volumes, size),
        None => {
            let packages = pcr00::BUILDS.map(|build| build.package).join(", ");
            let reason =
                format!("this file of OVMF is not a known build: known is OVMF_CODE_4M.fd of the packages {packages}");
            vec![Event::unknown(0, kind::FIRMWARE_BLOB, Source::Machine, "the firmware", reason)]
        }
    };
    // A whole image begins with its store.
    let whole = Variables::parse(code).ok();
    let store = store.map(Variables::parse).transpose().map_err(Error::Variables)?.or(whole);
    events.extend(match store {
        Some(store) => pcr07::events(build.map(|build| build.secure_boot), &store).map_err(Error::SecureBoot)?,
        None => {
            let reason = "give the variable store of the machine to know it";
            vec![Event::unknown(7, kind::VARIABLE, Source::Machine, "Secure Boot variables of the firmware", reason)]
        }
    });
    events.push(tpm::separator(7));
    Ok(events)
}

/// Cairn's agent and systemd where the image's own os-release says so; of others nothing is known.
fn user_space(uki: &Uki) -> (Vec<Event>, Vec<Event>) {
    let ours = String::from_utf8_lossy(uki.section(".osrel")).lines().any(|line| line == "ID=cairn");
    if !ours {
        let unknown = |register| {
            let reason = "what this image's user space measures is not known";
            Event::unknown(register, kind::USER_SPACE, Source::Image, "user space", reason)
        };
        return ([9, 11, 12, 15].map(unknown).into(), Vec::new());
    }
    let running = [pcr15::stateless()].into_iter().chain(pcr11::LATER.map(pcr11::phase)).collect();
    (vec![pcr11::phase(pcr11::ENTER_INITRD)], running)
}
