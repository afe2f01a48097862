//! Disks for attacks: a copy of an image with one thing changed, or a new disk with partitions that the image does not know.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition as Entry;
use gpt::partition_types::{OperatingSystem, Type};
use uuid::Uuid;

use crate::image::Image;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Swap, in the Discoverable Partitions Specification.
pub const SWAP: Uuid = Uuid::from_u128(0x0657fd6d_a4ab_43c4_84e5_0933c84b4f4f);
/// /home, there.
pub const HOME: Uuid = Uuid::from_u128(0x933ac7e1_2eb4_4f13_b844_0e14e2aef915);
/// /var, there.
pub const VAR: Uuid = Uuid::from_u128(0x4d21b016_b534_45c2_a9fb_5c16e091fd2d);

/// A disk image of a test's own, gone with it.
pub struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// A copy of an image's disk.
    pub fn copy_of(image: &Image) -> Result<Self> {
        let disk = Self { folder: tempfile::tempdir().context("Failed to make a temporary folder")? };
        let raw = image.file("raw");
        fs::copy(&raw, disk.path()).with_context(|| format!("Failed to copy {}", raw.display()))?;
        Ok(disk)
    }

    /// A new disk with one partition per entry: type, and what it holds (padded to whole MiB).
    pub fn with_partitions(partitions: &[(Uuid, &[u8])]) -> Result<Self> {
        Self::with_blocks(partitions, LogicalBlockSize::Lb512)
    }

    /// The same with blocks of another size.
    pub fn with_blocks(partitions: &[(Uuid, &[u8])], block: LogicalBlockSize) -> Result<Self> {
        let sector = u64::from(block);
        let disk = Self { folder: tempfile::tempdir().context("Failed to make a temporary folder")? };
        let mut entries = BTreeMap::new();
        let mut start = MIB;
        for (index, (type_guid, content)) in (1..).zip(partitions) {
            let size = (content.len() as u64).next_multiple_of(MIB);
            let unique = Uuid::from_u128(0x6361_6972_6e00_4000_8000_0000_0000_0000 | u128::from(index));
            entries.insert(index, entry(*type_guid, unique, (start, size), sector));
            start += size;
        }
        let mut file = File::create_new(disk.path()).context("Failed to make a disk image")?;
        file.set_len(start + MIB).context("Failed to make a disk image")?;
        protect(&mut file, start + MIB, sector)?;
        let config = gpt::GptConfig::new().writable(true).logical_block_size(block);
        let mut table = config
            .create_from_device(file, Some(Uuid::from_u128(0x63_6169_726e)))
            .context("Failed to make a partition table")?;
        table.update_partitions(entries.clone()).context("Failed to set the partitions")?;
        table.write().context("Failed to write the partition table")?;
        for (entry, (_, content)) in entries.values().zip(partitions) {
            disk.write_at(entry.first_lba * sector, content)?;
        }
        Ok(disk)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk.raw")
    }

    /// Inverts one bit.
    pub fn flip(&self, offset: u64) -> Result<()> {
        let mut byte = [0];
        self.file()?.read_exact_at(&mut byte, offset).with_context(|| format!("Failed to read byte {offset}"))?;
        self.write_at(offset, &[byte[0] ^ 1])
    }

    /// Overwrites.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file()?.write_all_at(bytes, offset).with_context(|| format!("Failed to write at byte {offset}"))
    }

    /// Cuts off what is behind `length`.
    pub fn truncate(&self, length: u64) -> Result<()> {
        self.file()?.set_len(length).context("Failed to cut the disk")
    }

    /// Changes the partition table; checksums and the backup are right afterwards. Entries close up: what follows a removed one is renumbered.
    pub fn edit_table(&self, edit: impl FnOnce(&mut BTreeMap<u32, Entry>)) -> Result<()> {
        let config = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
        let mut table = config.open(self.path()).context("Failed to read the partition table")?;
        let mut entries = table.partitions().clone();
        edit(&mut entries);
        table.update_partitions(entries).context("Failed to change the partitions")?;
        table.write().context("Failed to write the partition table").map(drop)
    }

    /// Makes the disk larger by a new last partition.
    pub fn append_partition(&self, type_guid: Uuid, content: &[u8]) -> Result<()> {
        let start = self.file()?.metadata()?.len().next_multiple_of(MIB);
        let size = (content.len() as u64).next_multiple_of(MIB);
        self.truncate(start + size + MIB)?;
        let config =
            gpt::GptConfig::new().writable(true).only_valid_headers(false).logical_block_size(LogicalBlockSize::Lb512);
        let old = config.open(self.path()).context("Failed to read the partition table")?;
        let (mut entries, guid) = (old.partitions().clone(), *old.guid());
        // The second table is written anew behind the new partition: what is left of the old one would be in a gap.
        let old_end = entries.values().map(|entry| (entry.last_lba + 1) * SECTOR).max().unwrap_or(start);
        self.write_at(old_end, &vec![0; usize::try_from(start.saturating_sub(old_end))?])?;
        let index = entries.keys().max().map_or(1, |last| last + 1);
        protect(&mut self.file()?, start + size + MIB, SECTOR)?;
        let unique = Uuid::from_u128(0x6361_6972_6e00_4000_8000_0000_0000_0100 | u128::from(index));
        entries.insert(index, entry(type_guid, unique, (start, size), SECTOR));
        let config = gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
        let mut table =
            config.create_from_device(self.file()?, Some(guid)).context("Failed to make a partition table")?;
        table.update_partitions(entries).context("Failed to set the partitions")?;
        table.write().context("Failed to write the partition table")?;
        self.write_at(start, content)
    }

    /// Puts files on the ESP, in folders that are made; replaces what is there.
    pub fn put_on_esp(&self, image: &Image, files: &[(&str, &[u8])]) -> Result<()> {
        put_on_esp(&self.path(), image, files).map(drop)
    }

    fn file(&self) -> Result<File> {
        open(&self.path())
    }
}

/// Puts files on the ESP of a disk with this image, in folders that are made; replaces what is there. The bytes of the ESP before that.
pub fn put_on_esp(disk: &Path, image: &Image, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let esp = image.partition("ESP")?;
    let mut before = vec![0; usize::try_from(esp.size).context("the ESP is too large")?];
    open(disk)?.read_exact_at(&mut before, esp.start).context("Failed to read the ESP")?;
    let mut cursor = Cursor::new(before.clone());
    let system = fatfs::FileSystem::new(&mut cursor, fatfs::FsOptions::new()).context("Failed to open the ESP")?;
    for (path, content) in files {
        put(&system, path, content).with_context(|| format!("Failed to write {path} on the ESP"))?;
    }
    system.unmount().context("Failed to finish the ESP")?;
    write_esp(disk, image, cursor.get_ref())?;
    Ok(before)
}

/// Overwrites the ESP of a disk with this image.
pub fn write_esp(disk: &Path, image: &Image, bytes: &[u8]) -> Result<()> {
    open(disk)?.write_all_at(bytes, image.partition("ESP")?.start).context("Failed to write the ESP")
}

fn open(disk: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(disk);
    file.with_context(|| format!("Failed to open {}", disk.display()))
}

/// Writes the protective MBR of a disk with so many bytes.
fn protect(disk: &mut File, bytes: u64, sector: u64) -> Result<()> {
    let sectors = u32::try_from(bytes / sector - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(disk).context("Failed to write a protective MBR").map(drop)
}

fn entry(type_guid: Uuid, unique: Uuid, (start, size): (u64, u64), sector: u64) -> Entry {
    Entry {
        part_type_guid: Type { guid: type_guid, os: OperatingSystem::None },
        part_guid: unique,
        first_lba: start / sector,
        last_lba: (start + size) / sector - 1,
        flags: 0,
        name: String::new(),
    }
}

fn put<T: Read + Write + Seek>(system: &fatfs::FileSystem<T>, path: &str, content: &[u8]) -> std::io::Result<()> {
    let mut folder = system.root_dir();
    let path = Path::new(path);
    for part in path.parent().into_iter().flat_map(Path::components) {
        folder = folder.create_dir(&part.as_os_str().to_string_lossy())?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = folder.create_file(&name)?;
    file.truncate()?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(content)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_disk_has_the_partitions_it_was_asked_for() {
        let disk = Disk::with_partitions(&[(SWAP, b"one"), (HOME, &vec![7; 3 << 20])]).unwrap();
        let table = gpt::GptConfig::new().open(disk.path()).unwrap();
        let found: Vec<(Uuid, u64)> =
            table.partitions().values().map(|entry| (entry.part_type_guid.guid, entry.first_lba * SECTOR)).collect();
        assert_eq!(found, [(SWAP, MIB), (HOME, 2 * MIB)]);
        let bytes = fs::read(disk.path()).unwrap();
        assert_eq!(&bytes[MIB as usize..][..3], b"one");
        assert_eq!(bytes[2 * MIB as usize], 7);
    }

    #[test]
    fn an_edited_table_is_valid_in_both_copies() {
        let disk = Disk::with_partitions(&[(SWAP, b"x"), (HOME, b"y")]).unwrap();
        disk.edit_table(|entries| drop(entries.remove(&1))).unwrap();
        let table = gpt::GptConfig::new().only_valid_headers(true).open(disk.path()).unwrap();
        let left: Vec<Uuid> = table.partitions().values().map(|entry| entry.part_type_guid.guid).collect();
        assert_eq!(left, [HOME]);
    }

    #[test]
    fn a_partition_is_appended_behind_the_others() {
        let disk = Disk::with_partitions(&[(SWAP, b"x")]).unwrap();
        disk.append_partition(VAR, b"content").unwrap();
        let table = gpt::GptConfig::new().only_valid_headers(true).open(disk.path()).unwrap();
        assert_eq!(table.partitions()[&2].part_type_guid.guid, VAR);
        let start = table.partitions()[&2].first_lba * SECTOR;
        let bytes = fs::read(disk.path()).unwrap();
        assert_eq!(&bytes[start as usize..][..7], b"content");
        assert_eq!(&bytes[MIB as usize..][..1], b"x");
    }
}
