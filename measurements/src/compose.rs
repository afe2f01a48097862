//! From an image, a machine and a configuration to everything that will be measured: events in order, registers at three points in time, launch digests. Broker, `explain` and tests call this and nothing else.
//!
//! The order is that of the firmware (TCG PC Client Platform Firmware Profile, section 3.3.4): what the machine measures, the attempt to boot, seven separators, what the image brings, the end of boot
//! services; then the kernel's aggregate, and user space. Where several sequences are legal, all are composed: one for each way in which the machine may start the image.

use std::borrow::Cow;
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
    /// All legal sequences in which the first boot option works; none on a machine without a TPM.
    sequences: Vec<Sequence>,
    /// At launch, on a confidential machine.
    pub launch: Option<Launch>,
}

/// Boot options that may fail before the one that works: an empty disk, a network without server. They measure nothing but the attempt.
pub const MAX_FAILED_OPTIONS: usize = 2;

/// One of the ways in which a machine may come to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Course {
    /// How the image is started.
    boot: BootMethod,
    /// Whether images are verified.
    secure_boot: SecureBoot,
    /// How boot services end.
    exit: Exit,
}

/// Measurements in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequence {
    course: Course,
    events: Vec<Event>,
    /// Where the next boot option is tried, if one fails.
    tried: usize,
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
    let fixed = Fixed::new();
    for course in courses(image, machine) {
        let sequence = sequence(image, machine, configuration, (&fixed, course));
        // Courses that measure the same are one.
        if !sequences.iter().any(|other| (&other.events, other.ends) == (&sequence.events, sequence.ends)) {
            sequences.push(sequence);
        }
    }
    Ok(Composition { sequences, launch })
}

/// All courses in which the first boot option works; none on a machine without a TPM.
fn courses(image: &Measured, machine: &Machine) -> Vec<Course> {
    let mut courses = Vec::new();
    if machine.events().is_empty() {
        return courses;
    }
    for boot in methods(image, machine) {
        for secure_boot in machine.secure_boot.iter().copied() {
            courses.extend(machine.exits.iter().map(|exit| Course { boot, secure_boot, exit: *exit }));
        }
    }
    courses
}

/// Who gives a disk means a boot from it; a UKI may be booted either way.
fn methods(image: &Measured, machine: &Machine) -> Vec<BootMethod> {
    let has_table = image.boot.iter().any(|event| event.kind == kind::GPT && !event.digests.legal().is_empty());
    if has_table && machine.boots.contains(&BootMethod::Disk) { vec![BootMethod::Disk] } else { machine.boots.clone() }
}

/// What every boot of a disk measures: once, so that all sequences share it.
struct Fixed {
    attempt: Event,
    separators: Vec<Event>,
    exits: Vec<(Exit, Vec<Event>)>,
}

impl Fixed {
    fn new() -> Self {
        Self {
            attempt: pcr04::attempt(),
            separators: (0..7).map(tpm::separator).collect(),
            exits: Exit::ALL.map(|exit| (exit, pcr05::exit_boot_services(exit))).into(),
        }
    }

    fn exit(&self, exit: Exit) -> impl Iterator<Item = Event> {
        self.exits.iter().filter(move |(known, _)| *known == exit).flat_map(|(_, events)| events.iter().cloned())
    }
}

fn sequence(
    image: &Measured,
    machine: &Machine,
    configuration: &Configuration,
    (fixed, course): (&Fixed, Course),
) -> Sequence {
    let mut events = until_image(image, machine, fixed, course);
    let tried = events.len();
    events.extend(machine.authority.clone().filter(|_| course.secure_boot == SecureBoot::On));
    let of_image = image.boot.iter().filter(|event| course.boot == BootMethod::Disk || !is_before_start(event));
    let first = first_image(image);
    let is_done = |event: &&Event| course.boot == BootMethod::Kernel && first == Some(*event);
    events.extend(of_image.filter(|event| !is_done(event)).filter_map(|event| event.in_state(course.secure_boot)));
    events.extend(fixed.exit(course.exit));
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
    events.shrink_to_fit();
    Sequence { course, events, tried, ends }
}

/// What is measured before the image is started, with the image itself where the VMM hands it over: firmware loads it then before it looks at its boot entries.
fn until_image(image: &Measured, machine: &Machine, fixed: &Fixed, course: Course) -> Vec<Event> {
    let mut events = machine.events().to_vec();
    if course.boot == BootMethod::Kernel {
        let entries = events.iter().position(|event| event.kind == kind::BOOT_VARIABLE).unwrap_or(events.len());
        events.splice(entries..entries, first_image(image).cloned());
    }
    events.push(fixed.attempt.clone());
    events.extend(fixed.separators.iter().cloned());
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
    /// The same after so many boot options that failed; none where no boot option is tried.
    fn after(&self, failed: usize) -> Option<Self> {
        if self.course.boot != BootMethod::Disk {
            return None;
        }
        let (place, mut events) = (self.tried, self.events.clone());
        events.splice(place..place, (0..failed).flat_map(|_| pcr04::next_attempt()));
        let ends = self.ends.map(|end| end + 2 * failed);
        events[ends[0]] = pcr10::boot_aggregate(&tpm::registers(&events[..ends[0]]));
        Some(Self { course: self.course, events, tried: self.tried, ends })
    }

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
        self.sequences.first().map(|sequence| sequence.until(point)).unwrap_or_default()
    }

    /// All legal sequences of measurements up to a point, first those in which the first boot option works.
    pub fn sequences(&self, point: Point) -> impl Iterator<Item = Cow<'_, [Event]>> {
        let expected = self.sequences.iter().map(move |sequence| Cow::Borrowed(sequence.until(point)));
        let others = (1..=MAX_FAILED_OPTIONS).flat_map(move |failed| self.after(failed));
        expected.chain(others.map(move |sequence| Cow::Owned(sequence.until(point).to_vec())))
    }

    fn after(&self, failed: usize) -> impl Iterator<Item = Sequence> {
        self.sequences.iter().filter_map(move |sequence| sequence.after(failed))
    }

    /// The registers of a TPM at a point, where the first boot option works; none on a machine without one.
    pub fn registers(&self, point: Point) -> BTreeMap<u8, Value> {
        merged(self.sequences.iter().map(|sequence| sequence.until(point)))
    }

    /// The registers of a TPM at a point, whether or not boot options fail before the one that works.
    pub fn legal_registers(&self, point: Point) -> BTreeMap<u8, Value> {
        merged(self.sequences(point))
    }

    /// The registers of a TPM at a point after so many boot options that failed.
    pub fn registers_after(&self, point: Point, failed: usize) -> BTreeMap<u8, Value> {
        if failed == 0 {
            return self.registers(point);
        }
        merged(self.after(failed).map(|sequence| sequence.until(point).to_vec()))
    }
}

/// The registers after any of these sequences.
fn merged(sequences: impl Iterator<Item = impl AsRef<[Event]>>) -> BTreeMap<u8, Value> {
    let merge = |merged: BTreeMap<u8, Value>, other: BTreeMap<u8, Value>| {
        let pairs = merged.into_iter().zip(other.into_values());
        pairs.map(|((register, one), other)| (register, one.or(other))).collect()
    };
    sequences.map(|sequence| tpm::registers(sequence.as_ref())).reduce(merge).unwrap_or_default()
}

/// SHA-256 of a unified kernel image, as direct kernel boot hashes it.
pub(crate) fn image_digest(uki: &[u8]) -> [u8; 32] {
    Sha256::digest(uki).into()
}
