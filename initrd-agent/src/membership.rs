//! What a node of a cluster does between the verified root and systemd (design section 6): network, attestation, the cap of PCR 15, the state disk, the report. In this order, and nothing of it before PCR 12 has the cluster's
//! configuration. Nothing is handed over before the disk is open and, if it was made now, acknowledged.

use std::time::Duration;

use attest::bytes::Bytes32;
use attest::cluster::{Cluster, Hints};
use attest::message::{CommitResult, Purpose};
use attester::Acknowledged;

use crate::attestation::{Node, Released, Stages};
use crate::boot_document::BootDocument;
use crate::code::Code;
use crate::console;
use crate::failure::Failure;
use crate::image_disks::ImageDisks;
use crate::measurement::{Measurement, measure};
use crate::network::Network;
use crate::process_one;
use crate::state_disk::{self, Found, Opened};
use crate::tpm::Tpm;

/// Between tries to bring the network up.
const PAUSE: Duration = Duration::from_secs(2);

/// Joins the cluster of this `cluster.json`: when this returns, the state disk is `/var` of the root.
///
/// # Errors
/// The first step that failed for good, with its code.
pub fn join(
    tpm: &mut Tpm,
    document: &BootDocument,
    file: &[u8],
    hints: Option<&[u8]>,
    image_disks: &mut ImageDisks,
    started: Duration,
) -> Result<(), Failure> {
    let cluster = Cluster::read(file).map_err(|refusal| Failure::new(Code::ConfigurationInvalid, refusal.found))?;
    let hints = hints.and_then(read_hints);
    process_one::keep_secrets();
    let mut stages = Stages::new(started);

    console::state("disk");
    let slot = &cluster.slots[0];
    let found = state_disk::find(&cluster, slot, image_disks)?;
    stages.end("disk");

    console::state("network");
    let network = network(hints.as_ref());
    stages.end("network");

    console::state("attestation");
    let least_version = u32::try_from(document.protocol_min).unwrap_or(u32::MAX);
    let mut node = Node::new(tpm, &cluster, hints.as_ref(), least_version)?;
    let released = node.release(&slot.name, found.state(), found.purposes())?;
    stages.end("attestation");
    let assurance = &released.release.assurance;
    console::line(&format!("released by request {}, assurance {assurance}", released.release.request));

    // The cap: whatever runs later in this boot cannot say that it is this initrd.
    measure(node.tpm(), &Measurement::cluster(&cluster.id.0))?;
    measure(node.tpm(), &Measurement::release(&released.digest))?;

    console::state("open");
    let opened = match open(&mut node, found, &released) {
        Ok(opened) => opened,
        Err(failure) => {
            report(&mut node, &released, &failure, &stages);
            return Err(failure);
        }
    };
    stages.end("open");

    console::state("commit");
    let (header, volume) = (Bytes32(opened.header), Bytes32(opened.volume));
    let acknowledged = match released.purpose {
        Purpose::Provision => {
            let result = CommitResult::Formatted { header, volume };
            Some(node.must_commit(&released, &result, opened.generation, &stages)?)
        }
        Purpose::Unlock => {
            let result = CommitResult::Opened { header, volume };
            node.try_commit(&released, &result, opened.generation, &stages)?
        }
    };
    if let Some(Acknowledged { ack, broker }) = acknowledged {
        opened.acknowledged(ack.disk.as_deref(), &broker)?;
    }
    console::line(&format!("state disk is open, generation {}", opened.generation));
    node.close();
    network.down();
    Ok(())
}

/// Opens or makes the disk, measures which volume it is, mounts it, and writes its generation.
fn open<'a>(node: &mut Node, found: Found<'a>, released: &Released) -> Result<Opened<'a>, Failure> {
    let Released { release, purpose, share, .. } = released;
    let opened = state_disk::open(found, *purpose, &release.disk, share)?;
    measure(node.tpm(), &Measurement::volume(&opened.volume))?;
    opened.mount()?;
    opened.advance()?;
    Ok(opened)
}

/// Tells the broker why the disk is not open, if it listens; the boot ends in any case.
fn report(node: &mut Node, released: &Released, failure: &Failure, stages: &Stages) {
    let result = CommitResult::Failed { code: failure.code().name().to_owned() };
    if let Err(other) = node.try_commit(released, &result, 0, stages) {
        console::line(&format!("the broker could not be told: {other}"));
    }
}

/// Hints are never believed: what cannot be read is as if it were not there.
fn read_hints(bytes: &[u8]) -> Option<Hints> {
    match Hints::read(bytes) {
        Ok(hints) => Some(hints),
        Err(refusal) => {
            console::line(&format!("ignored hints.json: {}", refusal.found));
            None
        }
    }
}

/// Waits for a network, for as long as it takes.
fn network(hints: Option<&Hints>) -> Network {
    let mut said = String::new();
    loop {
        match Network::up(hints.and_then(|hints| hints.network.as_ref())) {
            Ok(network) => return network,
            Err(problem) => {
                if problem != said {
                    console::line(&format!("waiting: no network: {problem}"));
                    said = problem;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}
