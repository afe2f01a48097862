//! The disks that have a part of the image's root. The firmware may have started from any of them, and disks of some buses appear late: so
//! the disks are listed again at each step that depends on them, and what is outside of the partitions of each is checked every time.

use std::collections::BTreeSet;

use crate::boot_document::Root;
use crate::code::Code;
use crate::failure::Failure;
use crate::gaps;
use crate::gpt::Guid;
use crate::inventory::{self, Places};

/// The disks with a table that names a part of the root.
pub struct ImageDisks {
    data: Guid,
    hash: Guid,
    /// The kernel's names of those that were there at any look of this boot.
    names: BTreeSet<String>,
}

impl ImageDisks {
    /// Of the image with this root; no disk was listed yet.
    pub const fn new(root: &Root) -> Self {
        Self { data: root.data_partuuid, hash: root.hash_partuuid, names: BTreeSet::new() }
    }

    /// Lists the disks that are there now, and checks each.
    ///
    /// # Errors
    /// `IMAGE_DISK_ALTERED`, `DEVICE_EVENTS_FAILED`.
    pub fn check(&mut self, places: &Places) -> Result<(), Failure> {
        let inventory = inventory::take(places, self.data, self.hash).map_err(|error| {
            Failure::new(Code::DeviceEventsFailed, format!("listing {}: {error}", places.classes.display()))
        })?;
        self.names.extend(inventory.root_disks.iter().cloned());
        gaps::check(places, &inventory.root_disks)
    }

    /// The kernel's names of the disks that were there at any look.
    pub const fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    #[cfg(test)]
    pub const fn of_partitions(data: Guid, hash: Guid) -> Self {
        Self { data, hash, names: BTreeSet::new() }
    }
}
