//! From an image, a machine and a configuration to everything that will be measured: events in order, registers at three points in time, launch digests. Broker, `explain` and tests call this and nothing else.
//!
//! The order is that of the firmware (TCG PC Client Platform Firmware Profile, section 3.3.4): what the machine measures, the attempt to boot, seven separators, what the image brings, the end of boot
//! services; then the kernel's aggregate, and user space. Where several sequences are legal, all are composed: one for each way in which the machine may start the image ([`Course`]).

use std::collections::BTreeMap;

use ovmf_measure::sev::{KernelHashes, LaunchDigest, Layout, Vcpu};
use sha2::{Digest, Sha256};

use crate::Event;
use crate::boot::{BootMethod, Machine, Measured, Point};
use crate::event::{ByBank, SecureBoot, by_bank, kind};
use crate::tpm::pcr05::Exit;
use crate::tpm::{self, Value, pcr04, pcr05, pcr10, pcr12, pcr15};

/// The configuration of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// None: the node belongs to no cluster.
    Stateless,
    /// A `cluster.json`: its digests.
    Cluster(ByBank),
}

impl Configuration {
    /// The file `cluster.json` with these bytes.
    pub fn cluster(bytes: &[u8]) -> Self {
        Self::Cluster(by_bank(bytes))
    }
}

/// What the launch of a confidential machine follows from, beside the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchParameters {
    /// AMD SEV-SNP on QEMU.
    SevSnp {
        /// What follows from the firmware.
        layout: Layout,
        /// Its CPUs.
        vcpu: Vcpu,
        /// How many.
        cpus: u32,
    },
    /// Intel TDX.
    Tdx {
        /// The measurement of its initial contents.
        mrtd: [u8; 48],
    },
}

/// What the launch of a confidential machine measures. Calculated; no value was confirmed on hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// AMD SEV-SNP.
    SevSnp {
        /// Whether MEASUREMENT covers the image; if not, it says nothing about what the disk holds.
        covers_image: bool,
        /// MEASUREMENT of its reports.
        digest: LaunchDigest,
        /// HOST_DATA, which is the SHA-256 of the configuration, or zero.
        host_data: [u8; 32],
    },
    /// Intel TDX. MRCONFIGID and RTMR 0 to 2 are not modelled yet.
    Tdx {
        /// MRTD.
        mrtd: [u8; 48],
    },
}

/// Why nothing can be composed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The machine cannot start such an image.
    #[error("the launch digest: {0}")]
    Launch(ovmf_measure::Error),
}

/// Everything that will be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composition {
    /// All legal sequences; none on a machine without a TPM.
    sequences: Vec<Sequence>,
    /// At launch, on a confidential machine.
    pub launch: Option<Launch>,
}

/// Boot options that may fail before the one that works: an empty disk, a network without server. They measure nothing but the attempt.
pub const MAX_FAILED_OPTIONS: usize = 2;

/// One of the ways in which a machine may come to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// How the image is started.
    pub boot: BootMethod,
    /// Boot options that failed before.
    pub failed_options: usize,
    /// Whether images are verified.
    pub secure_boot: SecureBoot,
    /// How boot services end.
    pub exit: Exit,
}

/// Measurements in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequence {
    course: Course,
    events: Vec<Event>,
    /// How many of the events have happened at each point.
    ends: [usize; 3],
}

/// Composes.
///
/// # Errors
/// [`Error`].
pub fn compose(image: &Measured, machine: &Machine, configuration: &Configuration) -> Result<Composition, Error> {
    let launch = machine.launch.as_ref().map(|launch| at_launch(image, machine, launch, configuration)).transpose()?;
    let mut sequences: Vec<Sequence> = Vec::new();
    for course in courses(image, machine) {
        let sequence = sequence(image, machine, configuration, course);
        // Courses that measure the same are one.
        if !sequences.iter().any(|other| (&other.events, other.ends) == (&sequence.events, sequence.ends)) {
            sequences.push(sequence);
        }
    }
    Ok(Composition { sequences, launch })
}

/// All courses, first those in which the first boot option works; none on a machine without a TPM.
fn courses(image: &Measured, machine: &Machine) -> Vec<Course> {
    let mut courses = Vec::new();
    if machine.events().is_empty() {
        return courses;
    }
    for failed_options in 0..=MAX_FAILED_OPTIONS {
        for boot in methods(image, machine) {
            for secure_boot in machine.secure_boot.iter().copied() {
                let all = machine.exits.iter().map(|exit| Course { boot, failed_options, secure_boot, exit: *exit });
                courses.extend(all.filter(|course| boot == BootMethod::Disk || course.failed_options == 0));
            }
        }
    }
    courses
}

/// Who gives a disk means a boot from it; a UKI may be booted either way.
fn methods(image: &Measured, machine: &Machine) -> Vec<BootMethod> {
    let has_table = image.boot.iter().any(|event| event.kind == kind::GPT && !event.digests.legal().is_empty());
    if has_table && machine.boots.contains(&BootMethod::Disk) { vec![BootMethod::Disk] } else { machine.boots.clone() }
}

fn sequence(image: &Measured, machine: &Machine, configuration: &Configuration, course: Course) -> Sequence {
    let mut events = until_image(image, machine, course);
    let of_image = image.boot.iter().filter(|event| course.boot == BootMethod::Disk || !is_before_start(event));
    let first = first_image(image);
    let is_done = |event: &&Event| course.boot == BootMethod::Kernel && first == Some(*event);
    events.extend(of_image.filter(|event| !is_done(event)).filter_map(|event| event.in_state(course.secure_boot)));
    events.extend(pcr05::exit_boot_services(course.exit));
    let firmware = events.len();

    events.push(pcr10::boot_aggregate(&tpm::registers(&events)));
    events.extend(image.initrd.iter().cloned());
    if let Configuration::Cluster(digests) = configuration {
        events.push(pcr12::cluster(digests.clone()));
    }
    let initrd = events.len();

    match configuration {
        Configuration::Stateless => events.extend(image.running.iter().cloned()),
        Configuration::Cluster(_) => {
            events.push(pcr15::cap());
            events.extend(image.running.iter().filter(|event| event.register != 15).cloned());
        }
    }
    let ends = [firmware, initrd, events.len()];
    Sequence { course, events, ends }
}

/// What is measured before the image is started, with the image itself where the VMM hands it over: firmware loads it then before it looks at its boot entries.
fn until_image(image: &Measured, machine: &Machine, course: Course) -> Vec<Event> {
    let mut events = machine.events().to_vec();
    if course.boot == BootMethod::Kernel {
        let entries = events.iter().position(|event| event.kind == kind::BOOT_VARIABLE).unwrap_or(events.len());
        events.splice(entries..entries, first_image(image).cloned());
    }
    events.push(pcr04::attempt());
    events.extend((0..7).map(tpm::separator));
    events.extend((0..course.failed_options).flat_map(|_| pcr04::next_attempt()));
    events.extend(machine.authority.clone().filter(|_| course.secure_boot == SecureBoot::On));
    events
}

fn first_image(image: &Measured) -> Option<&Event> {
    image.boot.iter().find(|event| (event.register, event.kind) == (4, kind::APPLICATION))
}

/// What only a boot from a disk measures.
fn is_before_start(event: &Event) -> bool {
    event.kind == kind::GPT
}

fn at_launch(
    image: &Measured,
    machine: &Machine,
    launch: &LaunchParameters,
    configuration: &Configuration,
) -> Result<Launch, Error> {
    match launch {
        LaunchParameters::Tdx { mrtd } => Ok(Launch::Tdx { mrtd: *mrtd }),
        LaunchParameters::SevSnp { layout, vcpu, cpus } => {
            let covers_image = machine.is_started_by_vmm();
            let hashes = covers_image.then(|| KernelHashes::of_image(image.uki));
            let digest = layout.memory(hashes.as_ref()).and_then(|memory| memory.with_cpus(vcpu, *cpus));
            let digest = digest.map_err(Error::Launch)?;
            Ok(Launch::SevSnp { covers_image, digest, host_data: host_data(configuration) })
        }
    }
}

fn host_data(configuration: &Configuration) -> [u8; 32] {
    let Configuration::Cluster(digests) = configuration else { return [0; 32] };
    digests.get(&crate::Bank::Sha256).and_then(|digest| digest.as_slice().try_into().ok()).unwrap_or([0; 32])
}

impl Sequence {
    fn until(&self, point: Point) -> &[Event] {
        let end = match point {
            Point::Firmware => self.ends[0],
            Point::Initrd => self.ends[1],
            Point::Running => self.ends[2],
        };
        &self.events[..end]
    }
}

impl Composition {
    /// The measurements up to a point, in order; where several sequences are legal, the first of them.
    pub fn events(&self, point: Point) -> &[Event] {
        self.sequences(point).next().unwrap_or_default()
    }

    /// All legal sequences of measurements up to a point.
    pub fn sequences(&self, point: Point) -> impl Iterator<Item = &[Event]> {
        self.sequences.iter().map(move |sequence| sequence.until(point))
    }

    /// How the machine comes to the image in each of [`Composition::sequences`].
    pub fn courses(&self) -> impl Iterator<Item = Course> {
        self.sequences.iter().map(|sequence| sequence.course)
    }

    /// The registers of a TPM at a point, where the first boot option works; none on a machine without one.
    pub fn registers(&self, point: Point) -> BTreeMap<u8, Value> {
        self.registers_after(point, 0)
    }

    /// The registers of a TPM at a point, whether or not boot options fail before the one that works.
    pub fn legal_registers(&self, point: Point) -> BTreeMap<u8, Value> {
        self.merged(point, |_| true)
    }

    /// The registers of a TPM at a point after so many boot options that failed.
    pub fn registers_after(&self, point: Point, failed_options: usize) -> BTreeMap<u8, Value> {
        self.merged(point, |course| course.failed_options == failed_options)
    }

    fn merged(&self, point: Point, is_meant: impl Fn(Course) -> bool) -> BTreeMap<u8, Value> {
        let merge = |merged: BTreeMap<u8, Value>, other: BTreeMap<u8, Value>| {
            let pairs = merged.into_iter().zip(other.into_values());
            pairs.map(|((register, one), other)| (register, one.or(other))).collect()
        };
        let meant = self.sequences.iter().filter(|sequence| is_meant(sequence.course));
        meant.map(|sequence| tpm::registers(sequence.until(point))).reduce(merge).unwrap_or_default()
    }
}

/// SHA-256 of a unified kernel image, as direct kernel boot hashes it.
pub(crate) fn image_digest(uki: &[u8]) -> [u8; 32] {
    Sha256::digest(uki).into()
}
