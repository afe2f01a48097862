//! The model of a boot from disk: firmware without Secure Boot, systemd-stub, kernel, agent, systemd; every measurement in the order in which it is made.

use std::collections::BTreeMap;

use crate::event::kind;
use crate::machine::{self, MachineReference};
use crate::parse::fat::{self, Fat};
use crate::parse::fv::{self, Volumes};
use crate::parse::gpt::{self, Gpt};
use crate::parse::uki::{self, Uki};
use crate::tpm::{self, Value, pcr00, pcr04, pcr05, pcr07, pcr09, pcr10, pcr11, pcr15};
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

/// What user space measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserSpace {
    /// Cairn's agent and systemd, in a boot without a cluster.
    Stateless,
    /// Not known.
    Unknown,
}

/// What boots: a disk, or a UKI alone.
#[derive(Clone, Debug)]
pub struct Image {
    table: Option<Vec<u8>>,
    uki: Vec<u8>,
}

/// What boots it: the measurements that follow from firmware and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    events: Vec<Event>,
}

impl Machine {
    /// Nothing is known of it.
    pub fn unknown() -> Self {
        let events = [
            (0, kind::FIRMWARE_BLOB, "the firmware"),
            (7, kind::VARIABLE, "Secure Boot variables of the firmware"),
            (1, kind::CONFIG_FLAGS, "tables, boot entries and shape of the machine"),
        ];
        let reason = "give the firmware, and the machine's shape, to know it";
        Self {
            events: events
                .map(|(register, kind, input)| Event::unknown(register, kind, Source::Machine, input, reason))
                .into(),
        }
    }

    /// A machine of type q35 with this firmware (the code part of an OVMF image) and without Secure Boot; its shape is not known.
    ///
    /// # Errors
    /// [`fv::Error`], or [`Error::Firmware`] for a build that is not known.
    pub fn with_firmware(code: &[u8]) -> Result<Self, Error> {
        let volumes = Volumes::unpack(code)?;
        let build = pcr00::build(&volumes).ok_or(Error::Firmware)?;
        let mut events = pcr00::events(build, &volumes);
        events.extend(pcr07::events(build.secure_boot));
        events.push(tpm::separator(7));
        events.extend(Self::unknown().events.into_iter().filter(|event| event.register == 1));
        Ok(Self { events })
    }
}

impl Machine {
    /// What is measured before the first image is loaded, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

impl TryFrom<&MachineReference> for Machine {
    type Error = machine::Error;

    fn try_from(reference: &MachineReference) -> Result<Self, Self::Error> {
        Ok(Self { events: reference.events()? })
    }
}

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The firmware volumes.
    #[error("the firmware: {0}")]
    Volumes(#[from] fv::Error),
    /// A build of the firmware that was never observed.
    #[error(
        "the firmware: this build is not known; what its first code writes into itself cannot be told from the file. Known are OVMF_CODE_4M.fd of Debian's ovmf {}",
        pcr00::BUILDS.map(|build| build.version).join(", ")
    )]
    Firmware,
    /// The partition table.
    #[error(transparent)]
    Gpt(#[from] gpt::Error),
    /// The EFI system partition.
    #[error("the EFI system partition: {0}")]
    Fat(#[from] fat::Error),
    /// The UKI.
    #[error("the UKI: {0}")]
    Uki(#[from] uki::Error),
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
            Uki::parse(bytes)?;
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
        let uki = Fat::parse(volume)?.read(REMOVABLE)?;
        let uki = uki.ok_or(Error::Nothing("the EFI system partition has no EFI/BOOT/BOOTX64.EFI"))?;
        Uki::parse(&uki)?;
        Ok(Self { table: Some(gpt.event()), uki })
    }

    /// The UKI.
    ///
    /// # Errors
    /// [`uki::Error`].
    pub fn uki(&self) -> Result<Uki<'_>, uki::Error> {
        Uki::parse(&self.uki)
    }

    /// What its own os-release says of user space.
    ///
    /// # Errors
    /// [`uki::Error`].
    pub fn user_space(&self) -> Result<UserSpace, uki::Error> {
        let uki = self.uki()?;
        let ours = String::from_utf8_lossy(uki.section(".osrel")).lines().any(|line| line == "ID=cairn");
        Ok(if ours { UserSpace::Stateless } else { UserSpace::Unknown })
    }
}

/// Every measurement up to `point`, in order.
///
/// # Errors
/// [`uki::Error`].
pub fn events(image: &Image, machine: &Machine, user_space: UserSpace, point: Point) -> Result<Vec<Event>, uki::Error> {
    let uki = image.uki()?;
    let mut events = before_images(machine);
    events.extend(image.table.as_deref().map(pcr05::table));
    events.push(pcr04::uki(&uki));
    events.extend(pcr11::sections(&uki));
    events.extend(pcr04::kernel(&uki)?);
    events.extend([pcr09::load_options(&uki), pcr09::initrd(&uki)]);
    events.extend(pcr05::exit_boot_services());
    if point == Point::Firmware {
        return Ok(events);
    }
    events.push(pcr10::boot_aggregate(&tpm::registers(&events)));
    match user_space {
        UserSpace::Unknown => {
            let unknown = |register| {
                let reason = "what this image's user space measures is not known";
                Event::unknown(register, kind::USER_SPACE, Source::Image, "user space", reason)
            };
            events.extend([9, 11, 12, 15].map(unknown));
        }
        UserSpace::Stateless => {
            events.push(pcr11::phase(pcr11::ENTER_INITRD));
            if point == Point::Running {
                events.push(pcr15::stateless());
                events.extend(pcr11::LATER.map(pcr11::phase));
            }
        }
    }
    Ok(events)
}

/// What the firmware measures before it loads anything.
fn before_images(machine: &Machine) -> Vec<Event> {
    let mut events = machine.events.clone();
    events.push(pcr04::attempt());
    events.extend((0..7).map(tpm::separator));
    events
}

/// The registers at a point in time.
///
/// # Errors
/// [`uki::Error`].
pub fn registers(
    image: &Image,
    machine: &Machine,
    user_space: UserSpace,
    point: Point,
) -> Result<BTreeMap<u8, Value>, uki::Error> {
    Ok(tpm::registers(&events(image, machine, user_space, point)?))
}
