//! Which of the partitions that the boot needs exist right now. A partition is identified by the GPT that we read
//! ourselves, and its device by the kernel's sysfs: number, start and size must agree with the GPT, or the partition
//! counts as not there. Disk names and their order mean nothing. Everything is bounded: disks, entries, and candidates
//! for one purpose.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::gpt::{self, Entry, GptError, Guid};

/// Candidates for one purpose; further ones are not looked at.
pub const MOST_CANDIDATES: usize = 8;
const MOST_DISKS: usize = 256;
/// Unit of sysfs for starts and sizes, whatever the disk's block is.
const SECTOR: u64 = 512;
/// Block devices that hold no image: they would be read in vain, or not at all.
const NOT_DISKS: [&str; 6] = ["dm-", "loop", "ram", "zram", "sr", "fd"];

/// Type of the partition that holds a deployment's `cluster.json`; a GUID of our own.
pub const CONFIGURATION_TYPE: Guid = Guid::from_u128(0xf4b5_a1a0_7d3c_4b57_9a4e_c1a1_a0c0_f151);

/// A partition that can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its device node.
    pub device: PathBuf,
    /// The kernel's name of its disk.
    pub disk: String,
    /// Its device number, as `major:minor`.
    pub number: String,
    /// Its size.
    pub bytes: u64,
}

/// One place where a wanted partition was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// The kernel has it.
    Ready(Partition),
    /// The table names it and the disk ends before it does.
    BeyondDisk(String),
    /// The table names it and the kernel does not have it (yet).
    NotThere(String),
}

/// What is wanted, and later what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Candidates for the root filesystem.
    pub data: Vec<Candidate>,
    /// Candidates for the hash tree.
    pub hash: Vec<Candidate>,
    /// Configuration partitions.
    pub configuration: Vec<Candidate>,
    /// Disks without a usable table, and why.
    pub ignored: Vec<String>,
    /// The kernel's names of all disks with a table that names a part of the root, whether or not the partition can be
    /// used: the firmware may have started from any of them.
    pub root_disks: BTreeSet<String>,
}

/// Where the kernel shows its devices.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/sys/class/block`
    pub classes: PathBuf,
    /// `/dev`
    pub nodes: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { classes: "/sys/class/block".into(), nodes: "/dev".into() }
    }
}

/// Looks at all disks for the two partitions with these UUIDs and for configuration partitions.
///
/// # Errors
/// Only when the kernel does not list its block devices; a broken disk is among `ignored`.
pub fn take(places: &Places, data: Guid, hash: Guid) -> io::Result<Inventory> {
    let mut names = Vec::new();
    for device in fs::read_dir(&places.classes)? {
        names.push(device?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let mut inventory = Inventory::default();
    let disks = names.iter().filter(|name| is_disk(places, name));
    for (index, disk) in disks.enumerate() {
        if index == MOST_DISKS {
            inventory.ignored.push(format!("disk {disk} and those after it: more than {MOST_DISKS}"));
            break;
        }
        match entries(places, disk) {
            Ok(entries) => {
                for entry in entries {
                    let wanted = match entry {
                        Entry { kind: CONFIGURATION_TYPE, .. } => &mut inventory.configuration,
                        Entry { partuuid, .. } if partuuid == data => &mut inventory.data,
                        Entry { partuuid, .. } if partuuid == hash => &mut inventory.hash,
                        _ => continue,
                    };
                    if [data, hash].contains(&entry.partuuid) {
                        inventory.root_disks.insert(disk.clone());
                    }
                    // One more than is used: whoever cares can see that there were too many.
                    if wanted.len() <= MOST_CANDIDATES {
                        wanted.push(candidate(places, disk, &names, &entry));
                    }
                }
            }
            Err(GptError::Absent) => {}
            Err(error) => inventory.ignored.push(format!("disk {disk}: {error}")),
        }
    }
    Ok(inventory)
}

/// A whole disk with a medium and a node.
pub fn is_disk(places: &Places, name: &str) -> bool {
    let class = places.classes.join(name);
    !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix))
        && !class.join("partition").exists()
        && number(&class, "hidden") != Some(1)
        && number(&class, "size").is_some_and(|sectors| sectors > 0)
}

/// The used entries of a disk's partition table.
///
/// # Errors
/// [`GptError`].
pub fn entries(places: &Places, disk: &str) -> Result<Vec<Entry>, GptError> {
    gpt::entries(&File::open(node(places, disk))?, block_size(places, disk)?)
}

/// Bytes of a disk's logical block.
///
/// # Errors
/// [`GptError::Invalid`] where it is not a power of two from 512 to 65536.
pub fn block_size(places: &Places, disk: &str) -> Result<u64, GptError> {
    let block = number(&places.classes.join(disk), "queue/logical_block_size").unwrap_or(SECTOR);
    if !block.is_power_of_two() || !(SECTOR..=65536).contains(&block) {
        return Err(GptError::Invalid("logical blocks of an unknown size"));
    }
    Ok(block)
}

fn candidate(places: &Places, disk: &str, names: &[String], entry: &Entry) -> Candidate {
    let disk_bytes = number(&places.classes.join(disk), "size").unwrap_or_default().saturating_mul(SECTOR);
    let label = format!("partition {} of disk {disk}", entry.number);
    if entry.start + entry.bytes > disk_bytes {
        return Candidate::BeyondDisk(label);
    }
    let device = names.iter().find(|name| name.starts_with(disk) && is_device_of(places, disk, name, entry));
    match device.and_then(|name| Some((name, text(&places.classes.join(name), "dev")?))) {
        Some((name, number)) => Candidate::Ready(Partition {
            device: node(places, name),
            disk: disk.to_owned(),
            number,
            bytes: entry.bytes,
        }),
        None => Candidate::NotThere(label),
    }
}

fn is_device_of(places: &Places, disk: &str, name: &str, entry: &Entry) -> bool {
    let class = places.classes.join(name);
    let is = |attribute, value: u64| number(&class, attribute) == Some(value);
    places.classes.join(disk).join(name).exists()
        && is("partition", entry.number.into())
        && is("start", entry.start / SECTOR)
        && is("size", entry.bytes / SECTOR)
}

/// sysfs writes `!` where a device name has a slash.
pub fn node(places: &Places, name: &str) -> PathBuf {
    places.nodes.join(name.replace('!', "/"))
}

fn text(class: &Path, attribute: &str) -> Option<String> {
    Some(fs::read_to_string(class.join(attribute)).ok()?.trim_end().to_owned())
}

fn number(class: &Path, attribute: &str) -> Option<u64> {
    text(class, attribute)?.parse().ok()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::gpt::tests::{KIND, PARTUUID, disk};

    pub const HASH: Guid = Guid::from_u128(7);

    /// A sysfs and a /dev in a temporary folder.
    pub struct Machine {
        folder: tempfile::TempDir,
        pub places: Places,
    }

    impl Machine {
        pub fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let places = Places { classes: folder.path().join("class"), nodes: folder.path().join("dev") };
            fs::create_dir_all(&places.classes).unwrap();
            fs::create_dir_all(&places.nodes).unwrap();
            Self { folder, places }
        }

        pub fn device(&self, name: &str, attributes: &[(&str, &str)]) {
            for (attribute, value) in attributes {
                let path = self.places.classes.join(name).join(attribute);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{value}\n")).unwrap();
            }
        }

        /// A disk of 1 MiB, with a partition 1 of blocks 40 to 47 that the kernel has seen.
        pub fn disk(&self, name: &str, bytes: &[u8], sectors: &str) {
            self.device(name, &[("size", sectors), ("queue/logical_block_size", "512"), ("dev", "253:0")]);
            self.partition(&format!("{name}1"), name, "253:1", "40");
            fs::write(self.places.nodes.join(name), bytes).unwrap();
        }

        fn partition(&self, name: &str, disk: &str, dev: &str, start: &str) {
            self.device(name, &[("partition", "1"), ("start", start), ("size", "8"), ("dev", dev)]);
            fs::create_dir_all(self.places.classes.join(disk).join(name)).unwrap();
        }

        fn take(&self) -> Inventory {
            take(&self.places, PARTUUID, HASH).unwrap()
        }
    }

    pub fn root_disk() -> Vec<u8> {
        disk(512, &[(0, KIND, PARTUUID, 40, 47)])
    }

    #[test]
    fn a_partition_is_found_by_its_uuid_on_any_disk() {
        let machine = Machine::new();
        machine.disk("vda", &disk(512, &[(0, KIND, KIND, 40, 47)]), "2048");
        machine.disk("vdb", &root_disk(), "2048");
        let device = machine.folder.path().join("dev/vdb1");
        let expected = Partition { device, disk: "vdb".into(), number: "253:1".into(), bytes: 4096 };
        let root_disks = BTreeSet::from(["vdb".to_owned()]);
        let data = vec![Candidate::Ready(expected)];
        assert_eq!(machine.take(), Inventory { data, root_disks, ..Inventory::default() });
    }

    #[test]
    fn each_disk_with_a_part_of_the_root_is_named_whatever_its_state() {
        let machine = Machine::new();
        let with = |partuuid| disk(512, &[(0, KIND, partuuid, 40, 47)]);
        machine.disk("vda", &with(PARTUUID), "2048");
        machine.disk("vdb", &with(HASH), "2048");
        machine.disk("vdc", &with(PARTUUID), "47");
        machine.disk("vdd", &with(HASH), "2048");
        machine.partition("vdd1", "vdd", "253:1", "41");
        machine.disk("vde", &with(KIND), "2048");
        // More than are candidates.
        let many: Vec<String> = (0..=2 * MOST_CANDIDATES).map(|index| format!("vdf{index:02}x")).collect();
        for name in &many {
            machine.disk(name, &with(PARTUUID), "2048");
        }
        let inventory = machine.take();
        assert!(matches!(inventory.data[1], Candidate::BeyondDisk(_)), "{:?}", inventory.data);
        assert!(matches!(inventory.hash[1], Candidate::NotThere(_)), "{:?}", inventory.hash);
        let expected = ["vda", "vdb", "vdc", "vdd"].map(str::to_owned).into_iter().chain(many).collect();
        assert_eq!(inventory.root_disks, expected);
    }

    #[test]
    fn a_configuration_partition_is_found_by_its_type() {
        let machine = Machine::new();
        machine.disk("vda", &disk(512, &[(0, CONFIGURATION_TYPE, PARTUUID, 40, 47)]), "2048");
        let inventory = machine.take();
        assert!(matches!(inventory.configuration[..], [Candidate::Ready(_)]));
        assert_eq!(inventory.data, []);
    }

    #[test]
    fn a_partition_that_ends_beyond_its_disk_is_named() {
        let machine = Machine::new();
        machine.disk("vda", &root_disk(), "47");
        assert_eq!(machine.take().data, [Candidate::BeyondDisk("partition 1 of disk vda".into())]);
    }

    #[test]
    fn a_kernel_that_disagrees_with_the_table_does_not_count() {
        let machine = Machine::new();
        machine.disk("vda", &root_disk(), "2048");
        machine.partition("vda1", "vda", "253:1", "41");
        assert_eq!(machine.take().data, [Candidate::NotThere("partition 1 of disk vda".into())]);
    }

    #[test]
    fn a_broken_table_is_ignored_with_its_reason_and_a_blank_disk_without() {
        let machine = Machine::new();
        let mut broken = root_disk();
        broken[1024] ^= 1;
        machine.disk("vda", &broken, "2048");
        machine.disk("vdb", &[0; 1 << 20], "2048");
        let ignored = ["disk vda: the GPT is not valid: wrong checksum of the entries".to_owned()];
        assert_eq!(machine.take(), Inventory { ignored: ignored.into(), ..Inventory::default() });
    }

    #[test]
    fn devices_that_are_no_disks_are_not_read() {
        let machine = Machine::new();
        for name in ["dm-0", "loop0", "sr0"] {
            machine.disk(name, &root_disk(), "2048");
        }
        machine.disk("vda", &root_disk(), "0");
        machine.disk("nvme0c0n1", &root_disk(), "2048");
        machine.device("nvme0c0n1", &[("hidden", "1")]);
        assert_eq!(machine.take(), Inventory::default());
    }

    #[test]
    fn candidates_are_bounded() {
        let machine = Machine::new();
        let many: Vec<_> = (0..128).map(|slot| (slot, KIND, PARTUUID, 40, 47)).collect();
        machine.disk("vda", &disk(512, &many), "2048");
        assert_eq!(machine.take().data.len(), MOST_CANDIDATES + 1);
    }
}
