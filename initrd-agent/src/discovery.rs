//! Waiting for the image's root and hash partitions, and choosing the pair that belongs to it. Several partitions may
//! carry the same UUID (a copy, or somebody's attempt): each pair is probed, the first that matches the root hash is
//! taken, so a bad copy in front cannot stop a node that also has a good one. The wait is bounded.

use std::fs::File;
use std::time::{Duration, Instant};

use crate::boot_document::{BootDocument, Root};
use crate::code::Code;
use crate::console;
use crate::failure::Failure;
use crate::inventory::{self, Candidate, Inventory, MOST_CANDIDATES, Partition, Places};
use crate::probe;
use crate::uevents::Uevents;

/// How long a missing disk may take to appear.
const DISK_WAIT: Duration = Duration::from_secs(20);
/// How long a better copy may take to appear beside a disk that is not the right one.
const COPY_WAIT: Duration = Duration::from_secs(3);

/// The partitions that the boot goes on with.
#[derive(Debug)]
pub struct Found {
    /// The root filesystem.
    pub data: Partition,
    /// Its hash tree.
    pub hash: Partition,
    /// All configuration partitions.
    pub configuration: Vec<Candidate>,
}

/// Waits until a pair of partitions matches the root hash.
///
/// # Errors
/// `ROOT_NOT_FOUND`, `HASH_NOT_FOUND`, `ROOT_TRUNCATED` or `ROOT_VERIFY_FAILED` once the wait is over.
pub fn wait_for_root(document: &BootDocument, uevents: &mut Uevents) -> Result<Found, Failure> {
    let root = &document.root;
    let places = Places::default();
    let started = Instant::now();
    let mut said: Vec<String> = Vec::new();
    loop {
        let inventory = inventory::take(&places, root.data_partuuid, root.hash_partuuid).map_err(|error| {
            Failure::new(Code::DeviceEventsFailed, format!("listing {}: {error}", places.classes.display()))
        })?;
        say_ignored(&inventory, &mut said);
        let failure = match choose(root, &inventory) {
            Ok((data, hash)) => {
                console::detail(|| format!("root on {}, hashes on {}", data.device.display(), hash.device.display()));
                return Ok(Found { data, hash, configuration: inventory.configuration });
            }
            Err(failure) => failure,
        };
        let left = patience(failure.code()).saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(failure);
        }
        uevents.wait(left)?;
    }
}

const fn patience(code: Code) -> Duration {
    match code {
        Code::RootNotFound | Code::HashNotFound => DISK_WAIT,
        _ => COPY_WAIT,
    }
}

fn say_ignored(inventory: &Inventory, said: &mut Vec<String>) {
    for disk in &inventory.ignored {
        if !said.contains(disk) {
            console::line(&format!("ignored {disk}"));
            said.push(disk.clone());
        }
    }
}

/// The pair that matches the root hash, or why there is none.
fn choose(root: &Root, inventory: &Inventory) -> Result<(Partition, Partition), Failure> {
    let data = ready(&inventory.data, probe::least_data_bytes(root))
        .map_err(|fault| fault.failure(Code::RootNotFound, format!("root partition {}", root.data_partuuid)))?;
    let hash = ready(&inventory.hash, probe::least_hash_bytes(root))
        .map_err(|fault| fault.failure(Code::HashNotFound, format!("hash partition {}", root.hash_partuuid)))?;
    let mut mismatches = Vec::new();
    for (data, hash) in data.iter().flat_map(|data| hash.iter().map(move |hash| (data, hash))) {
        match try_pair(root, data, hash) {
            Ok(()) => return Ok(((*data).clone(), (*hash).clone())),
            Err(error) => {
                mismatches.push(format!("{} with {}: {error}", data.device.display(), hash.device.display()));
            }
        }
    }
    Err(Failure::new(Code::RootVerifyFailed, mismatches.join(", ")))
}

fn try_pair(root: &Root, data: &Partition, hash: &Partition) -> Result<(), probe::ProbeError> {
    let open = |partition: &Partition| {
        File::open(&partition.device).map_err(|error| probe::ProbeError::Read {
            what: format!("partition {}", partition.device.display()),
            error,
        })
    };
    probe::probe(root, &open(data)?, &open(hash)?)
}

/// Why no candidate can be used.
enum Fault {
    Missing,
    NotThere(String),
    TooSmall(String),
}

impl Fault {
    fn failure(self, missing: Code, partition: String) -> Failure {
        match self {
            Self::Missing => Failure::new(missing, format!("no disk has the {partition}")),
            Self::NotThere(place) => {
                Failure::new(missing, format!("the {partition} is {place}, but the kernel does not show it"))
            }
            Self::TooSmall(place) => {
                Failure::new(Code::RootTruncated, format!("the {partition} is cut short: {place}"))
            }
        }
    }
}

/// The usable candidates; at least one.
fn ready(candidates: &[Candidate], least: u64) -> Result<Vec<&Partition>, Fault> {
    let mut usable = Vec::new();
    let mut fault = Fault::Missing;
    for candidate in candidates.iter().take(MOST_CANDIDATES) {
        match candidate {
            Candidate::Ready(partition) if partition.bytes >= least => usable.push(partition),
            Candidate::Ready(Partition { device, bytes, .. }) => {
                fault = Fault::TooSmall(format!("{} has {bytes} bytes of {least}", device.display()));
            }
            Candidate::BeyondDisk(place) => fault = Fault::TooSmall(format!("{place} ends beyond the disk")),
            Candidate::NotThere(place) => fault = Fault::NotThere(place.clone()),
        }
    }
    if usable.is_empty() { Err(fault) } else { Ok(usable) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::image;

    fn partition(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> Candidate {
        let device = folder.path().join(name);
        std::fs::write(&device, bytes).unwrap();
        Candidate::Ready(Partition { device, disk: "sda".into(), number: name.into(), bytes: bytes.len() as u64 })
    }

    #[test]
    fn the_good_pair_is_taken_among_bad_copies() {
        let folder = tempfile::tempdir().unwrap();
        let (root, data, tree) = image(129);
        let (mut bad_data, mut bad_tree) = (data.clone(), tree.clone());
        bad_data[9] ^= 1;
        bad_tree[4096] ^= 1;
        let inventory = Inventory {
            data: vec![
                Candidate::BeyondDisk("partition 1 of disk vda".into()),
                partition(&folder, "bad-data", &bad_data),
                partition(&folder, "data", &data),
            ],
            hash: vec![partition(&folder, "bad-tree", &bad_tree), partition(&folder, "tree", &tree)],
            ..Inventory::default()
        };
        let (data, hash) = choose(&root, &inventory).unwrap();
        assert_eq!((data.number.as_str(), hash.number.as_str()), ("data", "tree"));
    }

    #[test]
    fn each_way_to_have_no_root_has_its_code() {
        let folder = tempfile::tempdir().unwrap();
        let (root, data, tree) = image(129);
        let good_data = partition(&folder, "data", &data);
        let good_tree = partition(&folder, "tree", &tree);
        let beyond = Candidate::BeyondDisk("partition 1 of disk vda".into());
        let absent = Candidate::NotThere("partition 1 of disk vda".into());
        let short_data = partition(&folder, "short-data", &data[4096..]);
        let short_tree = partition(&folder, "short-tree", &tree[4096..]);
        let mut changed = tree.clone();
        changed[5000] ^= 1;
        let changed_tree = partition(&folder, "changed-tree", &changed);
        let rows = [
            (vec![], vec![&good_tree], Code::RootNotFound),
            (vec![&absent], vec![&good_tree], Code::RootNotFound),
            (vec![&good_data], vec![], Code::HashNotFound),
            (vec![&beyond], vec![&good_tree], Code::RootTruncated),
            (vec![&good_data], vec![&beyond], Code::RootTruncated),
            (vec![&short_data], vec![&good_tree], Code::RootTruncated),
            (vec![&good_data], vec![&short_tree], Code::RootTruncated),
            (vec![&good_data], vec![&changed_tree], Code::RootVerifyFailed),
        ];
        for (data, hash, code) in rows {
            let owned = |candidates: &[&Candidate]| candidates.iter().map(|one| (*one).clone()).collect();
            let inventory = Inventory { data: owned(&data), hash: owned(&hash), ..Inventory::default() };
            let failure = choose(&root, &inventory).expect_err(code.name());
            assert_eq!(failure.code(), code, "{failure}");
        }
    }

    #[test]
    fn the_ninth_candidate_is_not_tried() {
        let folder = tempfile::tempdir().unwrap();
        let (root, data, tree) = image(2);
        let mut copies = vec![partition(&folder, "bad", &[1; 8192]); MOST_CANDIDATES];
        copies.push(partition(&folder, "data", &data));
        let hash = vec![partition(&folder, "tree", &tree)];
        let inventory = Inventory { data: copies, hash, ..Inventory::default() };
        assert_eq!(choose(&root, &inventory).unwrap_err().code(), Code::RootVerifyFailed);
    }
}
