//! The raw disk image: partition table (UEFI 2.10, section 5) and the parts of an image, with holes where nothing is.
//!
//! Partitions begin at multiples of 1 MiB, and 1 MiB stays free at the end. No id is invented: disk and partition GUIDs
//! come from the plan. The root is marked read-only and not to be mounted by itself (UAPI, Discoverable Partitions
//! Specification).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;
use uuid::{Uuid, uuid};

/// Partitions begin at multiples of this.
const ALIGNMENT: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// Size of the configuration partition in bytes.
pub const CONFIGURATION_SIZE: u64 = 1 << 20;

/// Type of the ESP.
pub const ESP_TYPE: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// Type of the configuration partition; the agent looks for it.
pub const CONFIGURATION_TYPE: Uuid = uuid!("f4b5a1a0-7d3c-4b57-9a4e-c1a1a0c0f151");
/// Type of a root for x86-64.
pub const ROOT_TYPE: Uuid = uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
/// Type of such a root's hash tree.
pub const VERITY_TYPE: Uuid = uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5");
/// Attributes of root and hash tree: read-only (bit 60), not mounted by itself (bit 63).
const SEALED: u64 = 1 << 60 | 1 << 63;

/// What goes onto a disk.
pub struct Plan<'a> {
    /// GUID of the disk.
    pub disk_id: Uuid,
    /// GUID of the ESP.
    pub esp_id: Uuid,
    /// GUID of the configuration partition.
    pub configuration_id: Uuid,
    /// GUID of the root: first half of the root hash.
    pub root_id: Uuid,
    /// GUID of the hash tree: second half of the root hash.
    pub verity_id: Uuid,
    /// Bytes of the ESP.
    pub esp: &'a [u8],
    /// The root file system.
    pub root: &'a Path,
    /// Its hash tree.
    pub verity: &'a Path,
}

/// A partition as it was laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number, from 1.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Type GUID.
    pub type_guid: Uuid,
    /// Own GUID.
    pub uuid: Uuid,
    /// Attributes.
    pub attributes: u64,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// Why a disk could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The partition table could not be written.
    #[error("failed to write the partition table of {path}: {reason}")]
    Table {
        /// The image.
        path: String,
        /// What went wrong.
        reason: String,
    },
}

/// Writes the disk image at `path` and gives its partitions.
pub fn write(path: &Path, plan: &Plan) -> Result<Vec<Partition>, Error> {
    let size_of = |file: &Path| Ok(fs::metadata(file).map_err(io("inspect", file))?.len());
    let mut start = ALIGNMENT;
    let mut partitions = Vec::new();
    for (name, type_guid, uuid, attributes, size) in [
        ("ESP", ESP_TYPE, plan.esp_id, 0, plan.esp.len() as u64),
        ("configuration", CONFIGURATION_TYPE, plan.configuration_id, 0, CONFIGURATION_SIZE),
        ("root", ROOT_TYPE, plan.root_id, SEALED, size_of(plan.root)?),
        ("root-verity", VERITY_TYPE, plan.verity_id, SEALED, size_of(plan.verity)?),
    ] {
        let (index, size) = (partitions.len() as u32 + 1, size.next_multiple_of(ALIGNMENT));
        partitions.push(Partition { index, name: name.to_owned(), type_guid, uuid, attributes, start, size });
        start += size;
    }
    let mut disk = File::options().read(true).write(true).create_new(true).open(path).map_err(io("make", path))?;
    disk.set_len(start + ALIGNMENT).map_err(io("size", path))?;
    copy_sparse(&mut &plan.esp[..], Path::new("the ESP"), &mut disk, path, partitions[0].start)?;
    for (file, partition) in [(plan.root, &partitions[2]), (plan.verity, &partitions[3])] {
        let mut source = File::open(file).map_err(io("open", file))?;
        copy_sparse(&mut source, file, &mut disk, path, partition.start)?;
    }
    write_table(disk, path, plan.disk_id, &partitions)?;
    Ok(partitions)
}

fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { action, path: path.display().to_string(), source }
}

/// Copies a raw image to `to`, which must not be there; pieces that are zero become holes.
///
/// # Errors
/// [`Error::Io`].
pub fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = File::open(from).map_err(io("open", from))?;
    let mut copy = File::options().write(true).create_new(true).open(to).map_err(io("make", to))?;
    copy.set_len(source.metadata().map_err(io("inspect", from))?.len()).map_err(io("size", to))?;
    copy_sparse(&mut source, from, &mut copy, to, 0)
}

/// Copies to `start`, leaving holes where whole pieces are zero.
fn copy_sparse(source: &mut dyn Read, from: &Path, disk: &mut File, path: &Path, start: u64) -> Result<(), Error> {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = start;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match source.read(&mut buffer[filled..]).map_err(io("read", from))? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        let piece = &buffer[..filled];
        if piece.iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(at)).and_then(|_| disk.write_all(piece)).map_err(io("write", path))?;
        }
        at += filled as u64;
    }
}

/// The protective MBR first, which the table's writer does not write.
fn write_table(mut disk: File, path: &Path, disk_id: Uuid, partitions: &[Partition]) -> Result<(), Error> {
    let fail =
        |reason: &dyn std::fmt::Display| Error::Table { path: path.display().to_string(), reason: reason.to_string() };
    let sectors = disk.metadata().map_err(io("inspect", path))?.len() / SECTOR;
    let protective = ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    protective.overwrite_lba0(&mut disk).map_err(|error| fail(&error))?;
    let configuration = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table = configuration.create_from_device(disk, Some(disk_id)).map_err(|error| fail(&error))?;
    let mut entries = BTreeMap::new();
    for partition in partitions {
        let part_type_guid =
            partition_types::Type { guid: partition.type_guid, os: partition_types::OperatingSystem::None };
        let entry = gpt::partition::Partition {
            part_type_guid,
            part_guid: partition.uuid,
            first_lba: partition.start / SECTOR,
            last_lba: (partition.start + partition.size) / SECTOR - 1,
            flags: partition.attributes,
            name: partition.name.clone(),
        };
        entries.insert(partition.index, entry);
    }
    table.update_partitions(entries).map_err(|error| fail(&error))?;
    let file = table.write().map_err(|error| fail(&error))?;
    file.sync_all().map_err(io("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use sha2::{Digest, Sha256};

    use super::*;

    fn sample(folder: &Path) -> (std::path::PathBuf, Vec<Partition>) {
        let (root, verity, image) = (folder.join("root"), folder.join("verity"), folder.join("image"));
        fs::write(&root, [vec![5; 5000], vec![0; 3 << 20], vec![6; 4096]].concat()).unwrap();
        fs::write(&verity, [9; 8192]).unwrap();
        let id = |number| Uuid::from_u128(number);
        let plan = Plan {
            disk_id: id(1),
            esp_id: id(2),
            configuration_id: id(3),
            root_id: id(4),
            verity_id: id(5),
            esp: &[1; 2 << 20],
            root: &root,
            verity: &verity,
        };
        let partitions = write(&image, &plan).unwrap();
        (image, partitions)
    }

    #[test]
    fn the_bytes_of_a_disk_are_frozen() {
        let folder = tempfile::tempdir().unwrap();
        let (image, _) = sample(folder.path());
        assert_eq!(
            hex::encode(Sha256::digest(fs::read(image).unwrap())),
            "19274af939009339b8a74728717735a94a1881dcf1ea09610f4072f4ddca5877"
        );
    }

    #[test]
    fn partitions_are_aligned_and_hold_their_parts() {
        let folder = tempfile::tempdir().unwrap();
        let (image, partitions) = sample(folder.path());
        let bytes = fs::read(&image).unwrap();
        let starts: Vec<u64> = partitions.iter().map(|partition| partition.start >> 20).collect();
        assert_eq!(starts, [1, 3, 4, 8]);
        assert_eq!(bytes.len() as u64, 10 << 20);
        assert_eq!(bytes[4 << 20..(4 << 20) + 5000], [5; 5000]);
        assert_eq!(bytes[8 << 20..(8 << 20) + 8192], [9; 8192]);
        assert!(bytes[3 << 20..4 << 20].iter().all(|byte| *byte == 0), "the configuration is not empty");
        let disk = gpt::GptConfig::new().open(&image).unwrap();
        let found: Vec<(Uuid, String, u64)> =
            disk.partitions().values().map(|entry| (entry.part_guid, entry.name.clone(), entry.flags)).collect();
        let expected: Vec<(Uuid, String, u64)> =
            partitions.iter().map(|entry| (entry.uuid, entry.name.clone(), entry.attributes)).collect();
        assert_eq!(found, expected);
        assert_eq!(disk.guid(), &Uuid::from_u128(1));
    }

    #[test]
    fn holes_stay_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (image, _) = sample(folder.path());
        let metadata = fs::metadata(image).unwrap();
        assert!(metadata.blocks() * 512 < metadata.len() / 2, "{} of {}", metadata.blocks() * 512, metadata.len());
    }

    #[test]
    fn an_image_is_not_written_over_another() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("image"), "precious").unwrap();
        let plan = Plan {
            disk_id: Uuid::nil(),
            esp_id: Uuid::nil(),
            configuration_id: Uuid::nil(),
            root_id: Uuid::nil(),
            verity_id: Uuid::nil(),
            esp: &[0; 512],
            root: Path::new("/dev/null"),
            verity: Path::new("/dev/null"),
        };
        assert!(write(&folder.path().join("image"), &plan).is_err());
        assert_eq!(fs::read(folder.path().join("image")).unwrap(), b"precious");
    }
}
