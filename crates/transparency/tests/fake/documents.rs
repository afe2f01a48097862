//! A release to publish: an image reference with an event of the firmware's and one of the initrd's, its files, and its statements.

use std::collections::BTreeMap;

use measurements::bytes::Bytes32;
use measurements::canonical::Document;
use measurements::document::build::{ImageDocument, OutputDocument};
use measurements::document::image::{FileReference, ImageEvents, ImageReference, InitrdFile, Toolchain};
use measurements::document::machine::MachineReference;
use measurements::document::{EventRecord, Known};
use measurements::{Event, Source};
use sha2::{Digest, Sha256};
use transparency::statement::channel::{Channel, Release, Standing};
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::provenance::Provenance;
use transparency::statement::rebuild::Rebuild;
use transparency::statement::{Statement, Subject};

use super::NOW;

/// Content of the raw disk.
pub const RAW: &[u8] = b"the raw disk";
/// Content of the UKI.
pub const UKI: &[u8] = b"the UKI";
/// The statement before.
pub const PREVIOUS: Bytes32 = Bytes32([9; 32]);
const MACHINE: &[u8] = include_bytes!("../../../../measurements/machines/q35-ovmf-2025.02-2cpus-1gib.machine.json");

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The image.
pub fn image() -> ImageReference {
    let file = |content: &[u8]| FileReference { sha256: hex::encode(sha256(content)), size: content.len() as u64 };
    let event = |register, kind, what: &str| {
        EventRecord::new(&Event::of(register, kind, Source::Image, what, what.as_bytes()), Known::Calculated, 0)
    };
    ImageReference {
        command_line: "quiet".into(),
        debug: false,
        dirty: false,
        epoch: 3,
        events: ImageEvents {
            boot: vec![event(4, 0x8000_0003, "UKI"), event(11, 0xd, "kernel")],
            initrd: vec![event(11, 0, "enter-initrd")],
            running: vec![event(11, 0, "leave-initrd"), event(15, 0, "stateless")],
        },
        id: "cairn".into(),
        initrd: vec![InitrdFile { path: "init".into(), sha256: "07".repeat(32) }],
        lock: "08".repeat(32),
        locked: true,
        raw: file(RAW),
        revision: "a".repeat(40),
        root_hash: "09".repeat(32),
        schema: ImageReference::SCHEMA.into(),
        toolchain: Toolchain { commit: "b".repeat(40), rustc: "1.95.0".into() },
        uki: file(UKI),
        variant: "production".into(),
        version: "0.1.0".into(),
    }
}

/// A machine of the repository.
pub fn machine() -> MachineReference {
    MachineReference::parse(MACHINE).unwrap()
}

/// The files of a reference.
pub fn files(reference: &Reference) -> Vec<Subject> {
    let document = Subject::file("cairn_0.1.0.reference.json", sha256(&reference.to_bytes().unwrap()));
    match reference {
        Reference::Image(_) => {
            vec![Subject::file("cairn_0.1.0.raw", sha256(RAW)), Subject::file("cairn_0.1.0.efi", sha256(UKI)), document]
        }
        Reference::Machine(_) => vec![document],
    }
}

/// What is said of a reference.
pub fn predicate(reference: Reference) -> MeasuredBoot {
    MeasuredBoot { not_after: NOW + 300, not_before: NOW - 300, previous: Some(PREVIOUS), reference }
}

/// The statement of a reference.
pub fn measured_boot(reference: Reference) -> Statement<MeasuredBoot> {
    Statement::measured_boot(files(&reference), predicate(reference)).unwrap()
}

/// The statement of the image.
pub fn release() -> Statement<MeasuredBoot> {
    measured_boot(Reference::Image(Box::new(image())))
}

/// The record of the build.
pub fn build() -> ImageDocument {
    let output = |content: &[u8]| OutputDocument { sha256: Bytes32(sha256(content)), size: content.len() as u64 };
    let image = image();
    ImageDocument {
        command_line: image.command_line,
        debug: false,
        dirty: false,
        epoch: image.epoch,
        id: image.id,
        kernel: "6.12".into(),
        lock: Bytes32([8; 32]),
        locked: true,
        outputs: BTreeMap::from([("cairn_0.1.0.raw".into(), output(RAW)), ("cairn_0.1.0.efi".into(), output(UKI))]),
        partitions: Vec::new(),
        revision: image.revision,
        root_hash: image.root_hash,
        schema: ImageDocument::SCHEMA.into(),
        source_date: 1_700_000_000,
        toolchain: image.toolchain,
        variant: image.variant,
        version: image.version,
    }
}

/// How it was made.
pub fn provenance() -> Statement<Provenance> {
    let builder = "https://builder.test.invalid";
    Statement::provenance(&build(), Vec::new(), builder, Some("git+https://source.test.invalid/cairn")).unwrap()
}

/// That it was built again.
pub fn rebuild() -> Statement<Rebuild> {
    Statement::rebuild(&image(), files(&Reference::Image(Box::new(image())))).unwrap()
}

/// A channel in which this release stands so.
pub fn channel(statement: Bytes32, standing: Standing) -> Channel {
    let other = Release { name: "cairn_0.0.9".into(), standing: Standing::Revoked, statement: PREVIOUS };
    Channel {
        expires: NOW + 200,
        least_epoch: 3,
        name: "stable".into(),
        releases: vec![other, Release { name: "cairn_0.1.0".into(), standing, statement }],
        version: 4,
    }
}
