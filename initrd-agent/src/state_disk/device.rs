//! Which device a slot is (design section 6): the only disk that is not the image's, or the one with a serial. Two that
//! fit are never chosen between, and a machine with more disks than are looked at has none. Names and their order mean nothing; partitions on a disk mean nothing either, the
//! state disk is a whole one.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use attest::cluster::{Device, Slot};

use crate::code::Code;
use crate::failure::Failure;
use crate::image_disks::ImageDisks;
use crate::inventory::{self, Places};
use crate::uevents::Uevents;

/// How long a missing disk may take to appear.
const WAIT: Duration = Duration::from_secs(20);
const MOST_DISKS: usize = 256;
/// Unit of sysfs for sizes.
const SECTOR: u64 = 512;

/// A whole disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its device node.
    pub node: PathBuf,
    /// Its device number, as `major:minor`.
    pub number: String,
    /// Its size.
    pub bytes: u64,
}

/// Waits until exactly one disk is the slot's.
///
/// # Errors
/// `DISK_MISSING` once the wait is over; `DISK_AMBIGUOUS`; `IMAGE_DISK_ALTERED`; `DEVICE_EVENTS_FAILED`.
pub fn wait(slot: &Slot, image_disks: &mut ImageDisks) -> Result<Disk, Failure> {
    let places = Places::default();
    // Opened before the first look: what appears after it is an event.
    let mut uevents = Uevents::open()?;
    let started = Instant::now();
    loop {
        let failure = match look(&places, slot, image_disks) {
            Err(failure) if failure.code() == Code::DiskMissing => failure,
            decided => return decided,
        };
        let left = WAIT.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(failure);
        }
        uevents.wait(left)?;
    }
}

/// The slot's disk, of those that are there now. A copy of the image's disk that was not there before is checked and left out.
///
/// # Errors
/// `DISK_MISSING`, `DISK_AMBIGUOUS`, `IMAGE_DISK_ALTERED`, `DEVICE_EVENTS_FAILED`.
pub fn look(places: &Places, slot: &Slot, image_disks: &mut ImageDisks) -> Result<Disk, Failure> {
    image_disks.check(places)?;
    choose(places, slot, image_disks.names())
}

fn choose(places: &Places, slot: &Slot, image_disks: &BTreeSet<String>) -> Result<Disk, Failure> {
    let names = disks(places)?;
    let fits: Vec<&String> = names
        .iter()
        .filter(|name| !image_disks.contains(*name))
        .filter(|name| match &slot.device {
            Device::OnlyOther => true,
            Device::Serial(wanted) => serial(places, name).as_ref() == Some(wanted),
        })
        .collect();
    let which = match &slot.device {
        Device::OnlyOther => "beside the image's".to_owned(),
        Device::Serial(serial) => format!("with the serial {serial:?}"),
    };
    match fits[..] {
        [] => {
            let what = format!("there is no writable disk {which}, for slot {:?}", slot.name);
            Err(Failure::new(Code::DiskMissing, what))
        }
        [name] => disk(places, name).ok_or_else(|| {
            Failure::new(Code::DiskMissing, format!("disk {name} {which} went away while it was looked at"))
        }),
        _ => {
            let names: Vec<&str> = fits.iter().take(8).map(|name| name.as_str()).collect();
            let what = format!("{} disks are {which}, for slot {:?}: {}", fits.len(), slot.name, names.join(", "));
            Err(Failure::new(Code::DiskAmbiguous, what))
        }
    }
}

/// Names of all disks that can be written, all of which are looked at.
fn disks(places: &Places) -> Result<Vec<String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Code::DeviceEventsFailed, format!("listing {}: {error}", places.classes.display()))
    };
    let mut names = Vec::new();
    for device in fs::read_dir(&places.classes).map_err(failed)? {
        names.push(device.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    names.retain(|name| inventory::is_disk(places, name));
    if names.len() > MOST_DISKS {
        let what = format!("there are {} disks, of which at most {MOST_DISKS} are looked at", names.len());
        return Err(Failure::new(Code::DiskAmbiguous, what));
    }
    names.retain(|name| attribute(places, name, "ro").as_deref() != Some("1"));
    Ok(names)
}

/// The serial that virtio or NVMe gives a disk.
fn serial(places: &Places, name: &str) -> Option<String> {
    ["serial", "device/serial"].iter().find_map(|place| attribute(places, name, place)).filter(|text| !text.is_empty())
}

fn disk(places: &Places, name: &str) -> Option<Disk> {
    let sectors: u64 = attribute(places, name, "size")?.parse().ok()?;
    let number = attribute(places, name, "dev")?;
    Some(Disk { node: inventory::node(places, name), number, bytes: sectors.checked_mul(SECTOR)? })
}

fn attribute(places: &Places, name: &str, attribute: &str) -> Option<String> {
    Some(fs::read_to_string(places.classes.join(name).join(attribute)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaps::tests::completed;
    use crate::gpt::tests::PARTUUID;
    use crate::inventory::tests::{HASH, Machine, root_disk};

    /// A sysfs with these disks: name, further attributes.
    fn machine(disks: &[(&str, &[(&str, &str)])]) -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { classes: folder.path().join("class"), nodes: "/dev".into() };
        for (name, attributes) in disks {
            for (attribute, value) in [("size", "2048"), ("dev", "253:16"), ("ro", "0")].iter().chain(*attributes) {
                let path = places.classes.join(name).join(attribute);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{value}\n")).unwrap();
            }
        }
        (folder, places)
    }

    fn slot(device: Device) -> Slot {
        Slot { device, layout: None, mount: "/var".into(), name: "state".into() }
    }

    #[test]
    fn machine_with_more_disks_than_are_looked_at_is_refused() {
        let slot = slot(Device::Serial("a".into()));
        for (disks, expected) in [(MOST_DISKS, Ok(())), (MOST_DISKS + 1, Err(Code::DiskAmbiguous))] {
            let names: Vec<String> = (0..disks).map(|index| format!("vd{index:03}")).collect();
            let serials: [&[(&str, &str)]; 2] = [&[("serial", "a")], &[]];
            let of = |index: usize| if index == 1 { serials[0] } else { serials[1] };
            let rows: Vec<_> = names.iter().enumerate().map(|(index, name)| (name.as_str(), of(index))).collect();
            let (_folder, places) = machine(&rows);
            let found = choose(&places, &slot, &BTreeSet::new());
            assert_eq!(found.map(drop).map_err(|failure| failure.code()), expected, "{disks}");
        }
    }

    /// Disks of some buses appear after the one that was taken as the root.
    #[test]
    fn copy_of_the_image_disk_that_appears_late_is_checked_and_left_out() {
        let machine = Machine::new();
        let image = completed(root_disk());
        let mut image_disks = ImageDisks::of_partitions(PARTUUID, HASH);
        machine.disk("vda", &image, "2048");
        image_disks.check(&machine.places).unwrap();
        let mut look = || {
            look(&machine.places, &slot(Device::OnlyOther), &mut image_disks)
                .map(|disk| disk.node)
                .map_err(|failure| failure.code())
        };
        assert_eq!(look(), Err(Code::DiskMissing));
        machine.disk("vdb", &[0; 1 << 20], "2048");
        let state_disk = machine.places.nodes.join("vdb");
        assert_eq!(look(), Ok(state_disk.clone()));
        machine.disk("vdc", &image, "2048");
        assert_eq!(look(), Ok(state_disk.clone()));
        let mut altered = image.clone();
        altered[9] = 1;
        machine.disk("sda", &altered, "2048");
        assert_eq!(look(), Err(Code::ImageDiskAltered));
        // Without its table it does not become a state disk.
        machine.disk("sda", &[0; 1 << 20], "2048");
        assert_eq!(look(), Ok(state_disk));
    }

    #[test]
    fn the_disk_of_a_slot_is_found_or_the_reason_is_named() {
        let only = || slot(Device::OnlyOther);
        let with = |serial: &str| slot(Device::Serial(serial.into()));
        type Disks<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)])];
        let rows: [(&str, Disks, Slot, Result<&str, Code>); 12] = [
            ("one other", &[("vda", &[]), ("vdb", &[])], only(), Ok("/dev/vdb")),
            ("the first one", &[("sda", &[]), ("vda", &[])], only(), Ok("/dev/sda")),
            ("two others", &[("vda", &[]), ("vdb", &[]), ("vdc", &[])], only(), Err(Code::DiskAmbiguous)),
            ("none", &[("vda", &[])], only(), Err(Code::DiskMissing)),
            ("a read-only one", &[("vda", &[]), ("vdb", &[("ro", "1")])], only(), Err(Code::DiskMissing)),
            ("no disks", &[("vda", &[]), ("sr0", &[]), ("loop0", &[]), ("dm-0", &[])], only(), Err(Code::DiskMissing)),
            ("a partition", &[("vda", &[]), ("vda1", &[("partition", "1")])], only(), Err(Code::DiskMissing)),
            ("virtio", &[("vdb", &[("serial", "a")]), ("vdc", &[("serial", "b")])], with("b"), Ok("/dev/vdc")),
            ("NVMe", &[("nvme0n1", &[("device/serial", "a   ")]), ("vdb", &[])], with("a"), Ok("/dev/nvme0n1")),
            ("twice", &[("vdb", &[("serial", "a")]), ("vdc", &[("serial", "a")])], with("a"), Err(Code::DiskAmbiguous)),
            ("another", &[("vdb", &[("serial", "ab")]), ("vdc", &[])], with("a"), Err(Code::DiskMissing)),
            ("the image's", &[("vda", &[("serial", "a")])], with("a"), Err(Code::DiskMissing)),
        ];
        for (case, disks, slot, expected) in rows {
            let (_folder, places) = machine(disks);
            let found = choose(&places, &slot, &BTreeSet::from(["vda".to_owned()]));
            match expected {
                Ok(node) => {
                    let disk = found.expect(case);
                    let expected = Disk { node: node.into(), number: "253:16".into(), bytes: 1 << 20 };
                    assert_eq!(disk, expected, "{case}");
                }
                Err(code) => assert_eq!(found.expect_err(case).code(), code, "{case}"),
            }
        }
    }
}
