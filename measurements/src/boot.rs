//! The two halves of a boot, read from files: what an image brings (partition table, UKI, user space), and what a machine measures before it. [`crate::compose`] puts them together.

use serde::{Deserialize, Serialize};

use crate::compose::{LaunchParameters, image_digest};
use crate::event::kind;
use crate::parse::fat::{self, Fat};
use crate::parse::fv::{self, Volumes};
use crate::parse::gpt::{self, Gpt};
use crate::parse::uki::{self, Uki};
use crate::parse::variables::{self, Variables};
use crate::tpm::pcr00::Size;
use crate::tpm::pcr05::Exit;
use crate::tpm::{self, pcr00, pcr01, pcr04, pcr05, pcr07, pcr09, pcr11, pcr15};
use crate::{Event, Source};

/// Where firmware looks on a disk that it knows nothing of (UEFI 2.10, section 3.5.1.1).
const REMOVABLE: &str = "EFI/BOOT/BOOTX64.EFI";
/// Type of an EFI system partition, as stored.
const ESP: [u8; 16] = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

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

/// What boots: a disk, or a UKI alone.
#[derive(Clone, Debug)]
pub struct Image {
    table: Option<Vec<u8>>,
    uki: Vec<u8>,
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

/// What boots it: the measurements that follow from firmware and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub(crate) events: Vec<Event>,
    pub(crate) boot: BootMethod,
    /// All ways in which boot services may end.
    pub(crate) exits: Vec<Exit>,
    pub(crate) launch: Option<LaunchParameters>,
}

impl Machine {
    /// With a TPM, these measurements before the first image, and a disk; how its boot services end is not known.
    pub fn with_events(events: Vec<Event>) -> Self {
        Self { events, boot: BootMethod::Disk, exits: Exit::ALL.into(), launch: None }
    }

    /// Nothing is known of it.
    pub fn unknown() -> Self {
        let events = [
            (0, kind::FIRMWARE_BLOB, "the firmware"),
            (7, kind::VARIABLE, "Secure Boot variables of the firmware"),
            (1, kind::CONFIG_FLAGS, SHAPE),
        ];
        Self::with_events(events.map(|(register, kind, input)| unknown(register, kind, input)).into())
    }

    /// A machine of type q35 with this firmware, whose shape is not known.
    ///
    /// # Errors
    /// As [`firmware_events`].
    pub fn with_firmware(code: &[u8], store: Option<&[u8]>) -> Result<Self, Error> {
        let mut events = firmware_events(code, store, None)?;
        events.push(unknown(1, kind::CONFIG_FLAGS, SHAPE));
        Ok(Self::with_events(events))
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
            let reason = format!(
                "what this build's first code writes into itself cannot be told from the file; known are {packages}"
            );
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

/// Why an image is refused. What a part says is in its words already, so it is no source: whoever prints both would say it twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The firmware volumes.
    #[error("the firmware: {0}")]
    Volumes(fv::Error),
    /// The variable store.
    #[error("the variable store: {0}")]
    Variables(variables::Error),
    /// Secure Boot is on.
    #[error("the firmware: {0}")]
    SecureBoot(&'static str),
    /// The partition table.
    #[error(transparent)]
    Gpt(#[from] gpt::Error),
    /// The EFI system partition.
    #[error("the EFI system partition: {0}")]
    Fat(fat::Error),
    /// The UKI.
    #[error("the UKI: {0}")]
    Uki(uki::Error),
    /// There is nothing to boot.
    #[error("{0}")]
    Nothing(&'static str),
}

impl Image {
    /// A raw disk image with a partition table, or a UKI.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.starts_with(b"MZ") && bytes.get(512..520) != Some(b"EFI PART") {
            Uki::parse(bytes).map_err(Error::Uki)?;
            return Ok(Self { table: None, uki: bytes.to_vec() });
        }
        let gpt = Gpt::parse(bytes)?;
        let mut systems = gpt.entries.iter().filter(|entry| entry.type_guid == ESP);
        let esp = systems.next().ok_or(Error::Nothing("the disk has no EFI system partition"))?;
        if systems.next().is_some() {
            return Err(Error::Nothing(
                "the disk has several EFI system partitions: which one boots depends on the firmware",
            ));
        }
        let volume = esp.range().and_then(|(start, length)| bytes.get(start..start.checked_add(length)?));
        let volume = volume.ok_or(Error::Nothing("the EFI system partition ends behind the disk"))?;
        let uki = Fat::parse(volume).and_then(|fat| fat.read(REMOVABLE)).map_err(Error::Fat)?;
        let uki = uki.ok_or(Error::Nothing("the EFI system partition has no EFI/BOOT/BOOTX64.EFI"))?;
        Uki::parse(&uki).map_err(Error::Uki)?;
        Ok(Self { table: Some(gpt.event()), uki })
    }

    /// The UKI.
    ///
    /// # Errors
    /// [`uki::Error`].
    pub fn uki(&self) -> Result<Uki<'_>, uki::Error> {
        Uki::parse(&self.uki)
    }

    /// What is measured of it.
    ///
    /// # Errors
    /// [`uki::Error`].
    pub fn measured(&self) -> Result<Measured, uki::Error> {
        let uki = self.uki()?;
        let mut boot: Vec<Event> = self.table.as_deref().map(pcr05::table).into_iter().collect();
        boot.push(pcr04::uki(&uki));
        boot.extend(pcr11::sections(&uki));
        boot.extend(pcr01::smbios_by_stub(&uki));
        boot.extend(pcr04::kernel(&uki)?);
        boot.extend([pcr09::load_options(&uki), pcr09::initrd(&uki)]);
        let (initrd, running) = user_space(&uki);
        Ok(Measured { uki: image_digest(&self.uki), boot, initrd, running })
    }
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
