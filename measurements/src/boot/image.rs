//! What boots: a disk with everything that firmware, boot loader and stub load from it, or a UKI alone.

use super::companions::Companions;
use super::loader::Loader;
use super::{Measured, user_space};
use crate::Event;
use crate::compose::image_digest;
use crate::parse::container::container;
use crate::parse::disk_kind;
use crate::parse::fat::{self, Fat};
use crate::parse::fv;
use crate::parse::gpt::{self, Gpt};
use crate::parse::uki::{self, Uki};
use crate::parse::variables;
use crate::tpm::{pcr01, pcr04, pcr05, pcr09, pcr11};

/// Where firmware looks on a disk that it knows nothing of (UEFI 2.10, section 3.5.1.1).
const REMOVABLE: &str = "EFI/BOOT/BOOTX64.EFI";
/// Type of an EFI system partition, as stored.
pub(super) const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// What boots: a disk, or a UKI alone.
#[derive(Clone, Debug)]
pub struct Image {
    table: Option<Vec<u8>>,
    loader: Option<Loader>,
    uki: Vec<u8>,
    companions: Companions,
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
    /// A file beside the UKI that changes what is measured in a way that is not modelled: its path, and the reason.
    #[error("{0}, which the stub reads: {1}")]
    Companion(String, String),
    /// A boot loader whose choice does not follow from the disk.
    #[error("systemd-boot on the EFI system partition: {0}")]
    Loader(String),
    /// A disk in another form: what it is, and the command that unpacks it.
    #[error("it is {0}, not a raw disk image (hint: {1})")]
    Container(&'static str, &'static str),
    /// Another kind of file: what it is, and what to give.
    #[error("it is {0}, not a raw disk with a GUID partition table\nhint: {1}")]
    Disk(&'static str, &'static str),
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
        if let Some(found) = container(bytes) {
            return Err(Error::Container(found.name, found.command));
        }
        if bytes.starts_with(b"MZ") && bytes.get(512..520) != Some(b"EFI PART") {
            Uki::parse(bytes).map_err(Error::Uki)?;
            return Ok(Self { table: None, loader: None, uki: bytes.to_vec(), companions: Companions::default() });
        }
        let gpt = Gpt::parse(bytes).map_err(|error| match disk_kind::of(bytes) {
            Some((name, hint)) if error == gpt::Error::Missing => Error::Disk(name, hint),
            _ => Error::Gpt(error),
        })?;
        let fat = Fat::parse(system_partition(&gpt, bytes)?).map_err(Error::Fat)?;
        let first = fat.read(REMOVABLE).map_err(Error::Fat)?;
        let first = first.ok_or(Error::Nothing("the EFI system partition has no EFI/BOOT/BOOTX64.EFI"))?;
        let loader = Loader::read(&fat, &first)?;
        let path = if loader.is_some() { Loader::choice(&fat)? } else { REMOVABLE.into() };
        let uki = match &loader {
            Some(_) => fat.read(&path).map_err(Error::Fat)?.unwrap_or_default(),
            None => first,
        };
        let companions = Companions::read(&fat, &path, &Uki::parse(&uki).map_err(Error::Uki)?)?;
        Ok(Self { table: Some(gpt.event()), loader, uki, companions })
    }

    /// The UKI.
    ///
    /// # Errors
    /// [`uki::Error`].
    pub fn uki(&self) -> Result<Uki<'_>, uki::Error> {
        Uki::parse(&self.uki)
    }

    /// Whether the UKI is all that the firmware and the stub load.
    pub fn is_uki_alone(&self) -> bool {
        self.loader.is_none() && self.companions.is_empty()
    }

    /// What is measured of it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn measured(&self) -> Result<Measured, Error> {
        let uki = self.uki().map_err(Error::Uki)?;
        let companions = &self.companions;
        let mut boot: Vec<Event> = vec![self.table.as_deref().map_or_else(pcr05::unknown_table, pcr05::table)];
        if let Some(loader) = &self.loader {
            boot.extend(loader.events()?);
        }
        boot.push(pcr04::uki(&uki));
        boot.extend(pcr11::sections(&uki));
        boot.extend(companions.add_on_events());
        boot.extend(pcr01::smbios_by_stub(&uki));
        boot.extend(companions.archive_events());
        boot.extend(pcr04::kernel(&uki).map_err(Error::Uki)?);
        boot.extend([pcr09::load_options(&uki, companions), pcr09::initrd(&uki, companions)]);
        let (initrd, running) = user_space(&uki);
        Ok(Measured { uki: image_digest(&self.uki), boot, initrd, running })
    }
}

/// The only EFI system partition.
fn system_partition<'a>(gpt: &Gpt, disk: &'a [u8]) -> Result<&'a [u8], Error> {
    let mut systems = gpt.entries.iter().filter(|entry| entry.type_guid == ESP);
    let esp = systems.next().ok_or(Error::Nothing("the disk has no EFI system partition"))?;
    if systems.next().is_some() {
        return Err(Error::Nothing(
            "the disk has several EFI system partitions: which one boots depends on the firmware",
        ));
    }
    let volume = esp.range().and_then(|(start, length)| disk.get(start..start.checked_add(length)?));
    volume.ok_or(Error::Nothing("the EFI system partition ends behind the disk"))
}
