//! Image references: what will be measured of an image, whatever machine boots it (`cairn.image-reference/1`). A pure function of the image's sources and their lock: it has no date and no signature.

use serde::{Deserialize, Serialize};

use super::{Error, EventRecord, Known, events, sha256};
use crate::boot::{self, Image, Measured};
use crate::canonical::{Document, read, write};
use crate::event::{UnderSecureBoot, kind};
use crate::{Event, Source};

/// The schema that is read and written.
pub const SCHEMA: &str = "cairn.image-reference/1";
/// Event data up to so many bytes are kept: a partition table is the longest that is known.
const MOST_DATA: usize = 4096;

/// An image reference. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageReference {
    /// The kernel command line, as it is in the UKI.
    pub command_line: String,
    /// Whether the image has a way in.
    pub debug: bool,
    /// Whether the sources differed from their revision.
    pub dirty: bool,
    /// Security epoch.
    pub epoch: u64,
    /// What is measured.
    pub events: ImageEvents,
    /// Identifier of the image.
    pub id: String,
    /// Files of the initrd, by path.
    pub initrd: Vec<InitrdFile>,
    /// SHA-256 of the lock.
    pub lock: String,
    /// Whether the packages are those of the lock.
    pub locked: bool,
    /// The raw disk.
    pub raw: FileReference,
    /// Revision of the sources.
    pub revision: String,
    /// Root hash of the verity tree.
    pub root_hash: String,
    /// [`SCHEMA`].
    pub schema: String,
    /// The compiler.
    pub toolchain: Toolchain,
    /// The unified kernel image.
    pub uki: FileReference,
    /// Variant: `production` or the name of a profile.
    pub variant: String,
    /// Version.
    pub version: String,
}

/// What is measured, by stage of the boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEvents {
    /// From the partition table to the kernel's start.
    pub boot: Vec<EventRecord>,
    /// By the initrd, before the point where a node attests.
    pub initrd: Vec<EventRecord>,
    /// After that, in the running system.
    pub running: Vec<EventRecord>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReference {
    /// SHA-256.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// One file of an initrd.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitrdFile {
    /// Path without the first slash.
    pub path: String,
    /// SHA-256 of its content, or of a link's target.
    pub sha256: String,
}

/// The compiler of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// Its commit.
    pub commit: String,
    /// Its release.
    pub rustc: String,
}

impl Document for ImageReference {
    const NAME: &'static str = "image reference";
    const SCHEMA: &'static str = SCHEMA;
}

impl ImageReference {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let reference: Self = read(bytes)?;
        reference.measured()?;
        for (text, field) in [
            (&reference.raw.sha256, "digest of the raw disk"),
            (&reference.lock, "digest of the lock"),
            (&reference.root_hash, "root hash"),
        ] {
            sha256::<Self>(text, field)?;
        }
        Ok(reference)
    }

    /// The document.
    ///
    /// # Errors
    /// [`Error`] where a value cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        write(self)
    }

    /// What is measured of it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn measured(&self) -> Result<Measured, Error> {
        let list = |records| events::<Self>(records, Source::Image);
        Ok(Measured {
            uki: sha256::<Self>(&self.uki.sha256, "digest of the UKI")?,
            boot: list(&self.events.boot)?.into_iter().map(not_under_secure_boot()).collect(),
            initrd: list(&self.events.initrd)?,
            running: list(&self.events.running)?,
        })
    }
}

/// A release has one image beside its UKI: the kernel, which firmware measures when the stub loads it with Secure Boot off.
fn not_under_secure_boot() -> impl FnMut(Event) -> Event {
    let mut images = 0;
    move |event| {
        let is_image = (event.register, event.kind) == (4, kind::APPLICATION);
        images += usize::from(is_image);
        let effect = if is_image && images > 1 { UnderSecureBoot::Absent } else { UnderSecureBoot::Same };
        event.under_secure_boot(effect)
    }
}

impl ImageEvents {
    /// Of an image.
    ///
    /// # Errors
    /// [`boot::Error`]; also where something beside the UKI is loaded, which no release has.
    pub fn of(image: &Image) -> Result<Self, boot::Error> {
        if !image.is_uki_alone() {
            return Err(boot::Error::Nothing("the EFI system partition of a release holds nothing but the UKI"));
        }
        let measured = image.measured()?;
        let list = |events: &[crate::Event]| {
            events.iter().map(|event| EventRecord::new(event, Known::Calculated, MOST_DATA)).collect()
        };
        Ok(Self { boot: list(&measured.boot), initrd: list(&measured.initrd), running: list(&measured.running) })
    }
}
