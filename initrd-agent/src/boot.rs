//! The boot, from first mount to systemd, as one sequence (design section 4, "The agent is PID 1"). Each step either
//! succeeds or ends the boot with its code; none is retried, skipped or reordered. Between the mounted root and
//! `leave-initrd` stands the point `initrd`, where a node of a cluster attests and opens its disk ([`membership`]).

use std::convert::Infallible;
use std::time::Duration;

use crate::boot_document::BootDocument;
use crate::configuration::Configuration;
use crate::discovery;
use crate::failure::Failure;
use crate::image_disks::ImageDisks;
use crate::inventory::Places;
use crate::measurement::{Measurement, measure};
use crate::tpm::Tpm;
use crate::uevents::Uevents;
use crate::{api_filesystems, configuration, console, handover, machine_id, membership, modules, process_one, verity};

/// Runs the boot. On success this process has become systemd, so there is nothing to return.
///
/// # Errors
/// The first step that failed, with its code.
pub fn run(started: Duration) -> Result<Infallible, Failure> {
    process_one::behave();
    api_filesystems::mount_all()?;

    console::state("tpm");
    let mut tpm = Tpm::open()?;
    measure(&mut tpm, &Measurement::phase("enter-initrd"))?;
    let document = BootDocument::load()?;
    console::line(&format!("image {}", document.image));

    console::state("modules");
    let mut uevents = Uevents::open()?;
    modules::load_all()?;

    console::state("partitions");
    let found = discovery::wait_for_root(&document, &mut uevents)?;
    let mut image_disks = ImageDisks::new(&document.root);
    image_disks.check(&Places::default())?;
    let configuration = configuration::decide(&found.configuration)?;
    if let Configuration::Cluster { file, .. } = &configuration {
        measure(&mut tpm, &Measurement::configuration(file.clone()))?;
    }

    console::state("root");
    let root = verity::map(&document.root, &found.data, &found.hash)?;
    handover::mount_root(&root)?;
    console::line("root verified by dm-verity");

    // Point `initrd`: a node of a cluster shows what it is, closes this boot in PCR 15, and opens its state disk.
    match configuration {
        Configuration::Stateless => {
            measure(&mut tpm, &Measurement::stateless())?;
            handover::mount_volatile_var()?;
            machine_id::bind_random()?;
        }
        Configuration::Cluster { file, hints } => {
            membership::join(&mut tpm, &document, &file, hints.as_deref(), &mut image_disks, started)?;
        }
    }

    console::state("handover");
    // Another copy may have appeared since the first look.
    image_disks.check(&Places::default())?;
    measure(&mut tpm, &Measurement::phase("leave-initrd"))?;
    handover::hand_over(tpm, started)
}
