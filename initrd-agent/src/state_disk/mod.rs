//! The state disk of a node (design section 6; research 2.7 and 2.8): which device it is, what is on it, and, with the
//! broker's release, making or opening it and putting it where the running system has its `/var`.
//!
//! A disk is the host's, so nothing on it is believed. Its header is read once, compared with the broker's digest,
//! checked field by field, and opened from memory; the kernel's table is read back; the volume's generation is judged
//! before anything of its file system is used. Whatever is wrong ends the boot with a code, and leaves the disk alone.
//!
//! The order: [`find`], a conversation about [`Found::state`] for one of [`Found::purposes`], [`open`],
//! [`Opened::mount`], which writes the generation's tag into the file system, then [`Opened::advance`], the commit, and
//! after the broker's acknowledgement [`Opened::acknowledged`]. All of it on the main thread: libcryptsetup takes no other.

mod contents;
mod device;
mod filesystem;
mod grant;
mod luks;
mod provision;
mod table;
mod volume;

use std::fs::{File, OpenOptions};

use attest::cluster::{Cluster, Slot};
use attest::message::{DiskGrant, DiskState, Purpose};
use attest::recovery::SignedStatement;
use state_disk::generation::Block;
use state_disk::keys::{self, DiskKeys};
use state_disk::layout::Profile;
use state_disk::{header, id, statement};
use zeroize::Zeroizing;

use crate::code::Code;
use crate::console;
use crate::failure::Failure;
use crate::image_disks::ImageDisks;
use crate::inventory::Places;
use crate::machine_id;

use contents::Contents;
use device::Disk;
use luks::VolumeKey;
use table::Mapping;
use volume::Volume;

/// The disk of a slot, and what is on it.
pub struct Found<'a> {
    cluster: &'a Cluster,
    slot: String,
    profile: Profile,
    disk: Disk,
    /// Kept open, so that its device number stays its own.
    file: File,
    contents: Contents,
}

/// Waits for the slot's disk, and reads the area of its header, once.
///
/// # Errors
/// `DISK_MISSING`, `DISK_AMBIGUOUS`, `DISK_TOO_SMALL`, `DISK_UNREADABLE`, `IMAGE_DISK_ALTERED`, `DEVICE_EVENTS_FAILED`.
pub fn find<'a>(cluster: &'a Cluster, slot: &Slot, image_disks: &mut ImageDisks) -> Result<Found<'a>, Failure> {
    let disk = device::wait(slot, image_disks)?;
    let name = disk.node.display().to_string();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&disk.node)
        .map_err(|error| Failure::new(Code::DiskUnreadable, format!("opening disk {name}: {error}")))?;
    let contents = contents::read(&file, disk.bytes, &name)?;
    // Disks of some buses appear one after the other: a second one may have come meanwhile.
    if device::look(&Places::default(), slot, image_disks)? != disk {
        return Err(Failure::new(Code::DiskAmbiguous, format!("disk {name} was exchanged while it was read")));
    }
    let state = match (&contents.state, contents.unfinished) {
        (_, Some(disk)) => format!("was being made as {}", id::write(&disk)),
        (DiskState::Blank, _) => "is blank".to_owned(),
        (DiskState::Foreign, _) => "holds something that is not ours".to_owned(),
        (DiskState::Luks { uuid, .. }, _) => format!("says that it is {uuid}"),
    };
    console::line(&format!("state disk {name} {state}"));
    Ok(Found { cluster, slot: slot.name.clone(), profile: slot.profile(), disk, file, contents })
}

impl Found<'_> {
    /// What a node says in its hello. A disk that is being made is described as if it were made already.
    pub const fn state(&self) -> &DiskState {
        &self.contents.state
    }

    /// What the broker is to be asked for, in this order: the next one after a refusal. Only for a disk whose making
    /// was cut off there are two, because only the broker knows whether it was committed.
    pub const fn purposes(&self) -> &'static [Purpose] {
        match (&self.contents.unfinished, &self.contents.state) {
            (Some(_), _) => &[Purpose::Provision, Purpose::Unlock],
            (None, DiskState::Luks { .. }) => &[Purpose::Unlock],
            (None, _) => &[Purpose::Provision],
        }
    }
}

/// A disk that is open and whose generation is right.
pub struct Opened<'a> {
    cluster: &'a Cluster,
    /// SHA-256 of its header's whole area.
    pub header: [u8; 32],
    /// Name of its volume key, which PCR 15 is extended with.
    pub volume: [u8; 32],
    /// What the generation block says after [`Opened::advance`]: to be committed.
    pub generation: u64,
    granted: Granted,
    disk: Disk,
    file: File,
    mapping: Mapping,
    block: Block,
    kind: Kind,
}

/// What the release says of the disk.
struct Granted {
    id: [u8; 16],
    keys: DiskKeys,
    /// What the broker knows, before this boot.
    generation: u64,
}

/// What has to be done with it yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It was made now, and carries the mark.
    Made,
    /// It was opened.
    Kept,
    /// It was opened, and is larger than its file system.
    Grown,
}

/// Makes or unlocks the disk with the broker's release. Nothing of it is mounted.
///
/// # Errors
/// `GRANT_INVALID`, `DISK_FOREIGN`, `HEADER_DIGEST`, `HEADER_INVALID`, `DISK_KEY_WRONG`, `DISK_OPEN_FAILED`,
/// `DISK_TABLE_MISMATCH`, `GENERATION_INVALID`, `DISK_ROLLBACK`, `BROKER_BEHIND`, `DISK_TOO_SMALL`,
/// `FILESYSTEM_DAMAGED`, `DISK_FORMAT_FAILED`, `DISK_WRITE_FAILED`, `DISK_UNREADABLE`.
pub fn open<'a>(
    found: Found<'a>,
    purpose: Purpose,
    grant: &DiskGrant,
    share: &Zeroizing<[u8; 32]>,
) -> Result<Opened<'a>, Failure> {
    let id = grant::check(grant, &found.slot, purpose)?;
    let granted = Granted { id, keys: keys::derive(share, &id), generation: grant.generation };
    match purpose {
        Purpose::Provision => make(found, grant, granted),
        Purpose::Unlock => unlock(found, grant, granted),
    }
}

fn make<'a>(found: Found<'a>, grant: &DiskGrant, granted: Granted) -> Result<Opened<'a>, Failure> {
    let Found { cluster, disk, file, contents, profile, .. } = found;
    let (area, key) = provision::make_header(&disk, &file, &contents, grant, &granted.keys, profile)?;
    let mut header = luks::Header::load(&area, &disk.node)?;
    if header.volume_key(profile, &granted.keys.passphrase)? != key {
        return Err(Failure::new(Code::DiskFormatFailed, "the new keyslot does not hold the volume key"));
    }
    let mapping = map(header, &key, &disk, &grant.id, profile)?;
    if profile == Profile::XtsHmac {
        volume::write_first_tags(&mapping)?;
    }
    filesystem::make(&mapping.node, volume::filesystem_bytes(mapping.bytes))?;
    let Granted { id, generation: number, .. } = granted;
    let block = Block::new(&granted.keys.generation, &id, number);
    volume::write(&mapping, &block)?;
    console::line(&format!("state disk {} is made as {}", disk.node.display(), grant.id));
    let (header, volume) = (header::digest(&area), keys::volume(&key[..], &id));
    let generation = number + 1;
    Ok(Opened { cluster, header, volume, generation, granted, disk, file, mapping, block, kind: Kind::Made })
}

fn unlock<'a>(found: Found<'a>, grant: &DiskGrant, granted: Granted) -> Result<Opened<'a>, Failure> {
    let Found { cluster, disk, file, contents: Contents { area, statements, unfinished, .. }, profile, .. } = found;
    let digest = known_header(&area, grant, profile)?;
    acknowledged_before(&statements, cluster, &digest, grant)?;
    let mut header = luks::Header::load(&area, &disk.node)?;
    let key = header.volume_key(profile, &granted.keys.passphrase)?;
    let mapping = map(header, &key, &disk, &grant.id, profile)?;
    let Granted { id, generation: number, .. } = granted;
    let device = volume::open(&mapping)
        .map_err(|error| Failure::new(Code::DiskOpenFailed, format!("opening {}: {error}", mapping.node)))?;
    let Volume { block, grown } = volume::judge(&device, mapping.bytes, &granted.keys, &id, number)?;
    if grown {
        // At the new end before anything changes the file system, behind which it stands now.
        volume::write(&mapping, &block)?;
    }
    if unfinished.is_some() {
        // The broker unlocks only what was committed.
        erase_mark(&disk, &file)?;
    }
    console::line(&format!("state disk {} is open as {}", disk.node.display(), grant.id));
    let volume = keys::volume(&key[..], &id);
    let (generation, kind) = (number + 1, if grown { Kind::Grown } else { Kind::Kept });
    Ok(Opened { cluster, header: digest, volume, generation, granted, disk, file, mapping, block, kind })
}

/// The digest of a header that the broker knows and that is one of ours.
fn known_header(area: &[u8], grant: &DiskGrant, profile: Profile) -> Result<[u8; 32], Failure> {
    let digest = header::digest(area);
    if !grant.headers.iter().any(|known| known.0 == digest) {
        let what =
            format!("the header of the disk has the digest {}, which is not that of {}", hex::encode(digest), grant.id);
        return Err(Failure::new(Code::HeaderDigest, what));
    }
    let invalid = |what: String| Failure::new(Code::HeaderInvalid, format!("disk {}: {what}", grant.id));
    let checked = header::check(area, &digest, &grant.id).map_err(|error| invalid(error.to_string()))?;
    if checked.profile() != profile {
        let (found, wanted) = (checked.profile().name(), profile.name());
        return Err(invalid(format!("its layout is {found}, cluster.json demands {wanted}")));
    }
    Ok(*checked.digest())
}

/// Compares the broker's statements about the disk with its grant: a statement is written only after a broker has acknowledged its generation, so no later grant may be of an earlier one. A
/// commit that was lost leaves no statement.
fn acknowledged_before(
    statements: &[Vec<u8>],
    cluster: &Cluster,
    header: &[u8; 32],
    grant: &DiskGrant,
) -> Result<(), Failure> {
    let verified = statements.iter().filter_map(|statement| SignedStatement::verify(statement, cluster).ok());
    let of_this_disk = verified.filter(|statement| statement.disk == grant.id && statement.header.0 == *header);
    match of_this_disk.map(|statement| statement.generation).max() {
        Some(acknowledged) if acknowledged > grant.generation => {
            let what = format!(
                "a broker has acknowledged generation {acknowledged} of the disk, the broker knows of {}",
                grant.generation
            );
            Err(Failure::new(Code::BrokerBehind, what))
        }
        _ => Ok(()),
    }
}

/// Both copies of a broker's statement, if a broker of the cluster has signed it about this disk, header and generation: another one would end later boots, or have `cairn recover` refuse the disk.
fn statement_about(
    (disk, header, generation): (&str, &[u8; 32], u64),
    document: Option<Vec<u8>>,
    cluster: &Cluster,
) -> Option<[(usize, Vec<u8>); 2]> {
    let document = document?;
    let said = SignedStatement::verify(&document, cluster).ok()?;
    let is_about = said.disk == disk && said.header.0 == *header && said.generation == generation;
    is_about.then(|| statement::copies(&document)).flatten()
}

/// Maps the disk, and believes the kernel only after its table was compared.
fn map(mut header: luks::Header, key: &VolumeKey, disk: &Disk, id: &str, profile: Profile) -> Result<Mapping, Failure> {
    header.map(key)?;
    let checked = table::check(disk, id, profile).and_then(|mapping| luks::forget_key().map(|()| mapping));
    if checked.is_err() {
        header.unmap();
    }
    checked
}

fn erase_mark(disk: &Disk, file: &File) -> Result<(), Failure> {
    provision::erase_mark(&mut { file }).map_err(|error| {
        let what = format!("taking the mark of an unfinished disk from {}: {error}", disk.node.display());
        Failure::new(Code::DiskWriteFailed, what)
    })
}

impl Opened<'_> {
    /// Repairs the file system, gives it the tag of this boot's generation, mounts it as the running system's `/var`,
    /// grows it to its disk, and gives the system its machine id.
    ///
    /// # Errors
    /// `FILESYSTEM_DAMAGED`, `DISK_WRITE_FAILED`, `STATE_MOUNT_FAILED`.
    pub fn mount(&self) -> Result<(), Failure> {
        let device = &self.mapping.node;
        if self.kind != Kind::Made {
            filesystem::check(device)?;
        }
        // Behind the journal's replay, which may write the superblock; before the mount, whose journal keeps the tag.
        let checked = volume::tag(&self.mapping, &self.granted.keys, &self.granted.id, self.generation)?;
        filesystem::mount_var(device)?;
        drop(checked);
        if self.kind == Kind::Grown {
            filesystem::grow(device, volume::filesystem_bytes(self.mapping.bytes));
        }
        machine_id::bind_of_disk(&self.granted.id)
    }

    /// Writes the generation block of this boot, whose tag the file system must have by now. Done twice, it changes
    /// nothing more.
    ///
    /// # Errors
    /// `DISK_WRITE_FAILED`, `GENERATION_INVALID`.
    pub fn advance(&self) -> Result<(), Failure> {
        let Granted { id, keys, .. } = &self.granted;
        volume::write(&self.mapping, &volume::next(&self.block, &keys.generation, id, self.generation)?)
    }

    /// To be called once the broker has acknowledged the commit: what it says of the disk is written beside the header, and a disk that was made now is finished.
    ///
    /// # Errors
    /// `DISK_WRITE_FAILED`.
    pub fn acknowledged(&self, said: Option<&str>, broker: &[u8]) -> Result<(), Failure> {
        if let Some(said) = said {
            let about = (&id::write(&self.granted.id)[..], &self.header, self.generation);
            match statement_about(about, SignedStatement::write(broker, said).ok(), self.cluster) {
                Some(copies) => provision::write_statement(&mut { &self.file }, &copies).map_err(|error| {
                    let what = format!("writing the broker's statement to {}: {error}", self.disk.node.display());
                    Failure::new(Code::DiskWriteFailed, what)
                })?,
                None => console::line(
                    "the broker's statement is too long, not signed by it, or not about this disk, header and generation: nothing was written",
                ),
            }
        }
        if self.kind == Kind::Made { erase_mark(&self.disk, &self.file) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
