//! The predicate for what a machine will measure (`https://cairn.example/attestation/measured-boot/v1`): the whole reference of an image or of a machine, when it holds, and which statement it follows.
//!
//! The values among the subjects are those that follow from the reference alone; they are calculated again wherever a statement is read. The type of the predicate is a name, not an address.

use std::collections::BTreeMap;

use measurements::Bank;
use measurements::boot::{BootMethod, Machine, Measured, Point};
use measurements::bytes::{Bytes32, Hex};
use measurements::canonical;
use measurements::compose::{Composition, Configuration, Launch, compose};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::event::{SecureBoot, Source};
use measurements::tpm::{REGISTERS, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Predicate, Statement, Subject};
use crate::Refusal;
use crate::trust_root::Use;

/// Banks that a quote may be of.
const BANKS: [Bank; 2] = [Bank::Sha256, Bank::Sha384];
const POINTS: [(Point, &str); 3] =
    [(Point::Firmware, "firmware"), (Point::Initrd, "initrd"), (Point::Running, "running")];

/// The predicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeasuredBoot {
    /// From when on it does not hold any more, seconds since 1970.
    pub not_after: u64,
    /// From when on it holds, seconds since 1970.
    pub not_before: u64,
    /// SHA-256 of the statement that this one follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Bytes32>,
    /// What will be measured.
    pub reference: Reference,
}

/// What will be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// Of an image, whatever machine boots it.
    Image(Box<ImageReference>),
    /// Of a machine, whatever image it boots.
    Machine(Box<MachineReference>),
}

impl Reference {
    /// Reads either document.
    ///
    /// # Errors
    /// [`canonical::Error`] of the kind that the document says it is; of an image where it says nothing that is known.
    pub fn read(bytes: &[u8]) -> Result<Self, canonical::Error> {
        match MachineReference::parse(bytes) {
            Ok(machine) => Ok(Self::Machine(Box::new(machine))),
            Err(canonical::Error::Schema { .. }) => Ok(Self::Image(Box::new(ImageReference::parse(bytes)?))),
            Err(error) => Err(error),
        }
    }

    /// The document.
    ///
    /// # Errors
    /// [`canonical::Error`] where a value cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, canonical::Error> {
        match self {
            Self::Image(image) => image.to_bytes(),
            Self::Machine(machine) => machine.to_bytes(),
        }
    }

    /// The values that follow from it alone: of an image, registers that are the same on every machine and in every cluster; of a machine, registers that no image of Cairn extends, and launch digests that cover none.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn values(&self) -> Result<Vec<Subject>, String> {
        match self {
            Self::Image(image) => of_image(&image.measured().map_err(|error| error.to_string())?),
            Self::Machine(machine) => of_machine(&machine.machine().map_err(|error| error.to_string())?),
        }
    }
}

impl Statement<MeasuredBoot> {
    /// The statement of these files, among which the reference itself is, and of the values that follow from the reference.
    ///
    /// # Errors
    /// [`Code::Statement`](crate::Code::Statement).
    pub fn measured_boot(files: Vec<Subject>, predicate: MeasuredBoot) -> Result<Self, Refusal> {
        let values = predicate.reference.values();
        let values = values.map_err(|found| Refusal::new(crate::Code::Statement, found))?;
        Self::new([files, values].concat(), predicate)
    }
}

impl Predicate for MeasuredBoot {
    const NAME: &'static str = "measured-boot statement";
    const TYPE: &'static str = "https://cairn.example/attestation/measured-boot/v1";

    fn needs(&self) -> Use {
        match self.reference {
            Reference::Image(_) => Use::Image,
            Reference::Machine(_) => Use::Machine,
        }
    }

    fn problem(&self, subjects: &[Subject]) -> Option<String> {
        if self.not_before >= self.not_after {
            return Some("it is never valid".into());
        }
        let (values, bytes) = match (self.reference.values(), self.reference.to_bytes()) {
            (Ok(values), Ok(bytes)) => (values, bytes),
            (Err(problem), _) => return Some(problem),
            (_, Err(problem)) => return Some(problem.to_string()),
        };
        // What is written reads: the parsers check more than the types say.
        if let Err(problem) = Reference::read(&bytes) {
            return Some(problem.to_string());
        }
        if !subjects.iter().filter(|subject| subject.is_value()).eq(&values) {
            return Some("its values are not those that follow from the reference".into());
        }
        let mut files = vec![("reference", Sha256::digest(&bytes).to_vec())];
        if let Reference::Image(image) = &self.reference {
            if image.dirty || !image.locked {
                return Some("the image was built from sources or packages that are not those of its revision".into());
            }
            for (what, text) in [("raw disk", &image.raw.sha256), ("UKI", &image.uki.sha256)] {
                files.push((what, hex::decode(text).ok()?));
            }
        }
        let is_missing = |digest: &[u8]| !subjects.iter().any(|file| !file.is_value() && file.has("sha256", digest));
        let (what, _) = files.iter().find(|(_, digest)| is_missing(digest))?;
        Some(format!("its {what} is none of its subjects"))
    }
}

fn composed(image: &Measured, machine: &Machine, configuration: &Configuration) -> Result<Composition, String> {
    compose(image, machine, configuration).map_err(|error| error.to_string())
}

fn of_image(image: &Measured) -> Result<Vec<Subject>, String> {
    // Secure Boot leaves the kernel's event out: a statement names the values of machines without it, which boot from the disk.
    let machine = Machine::unknown().booting(BootMethod::Disk).with_secure_boot(SecureBoot::Off);
    let stateless = composed(image, &machine, &Configuration::Stateless)?;
    let cluster = composed(image, &machine, &Configuration::cluster(b""))?;
    let mut subjects = Vec::new();
    for (point, name) in POINTS {
        let (registers, others) = (stateless.registers(point), cluster.registers(point));
        let is_of_image = |register: u8| {
            stateless.events(point).iter().any(|event| event.register == register && event.source == Source::Image)
        };
        for register in REGISTERS.filter(|register| is_of_image(*register)) {
            if let (Some(Value::Exact(_)), true) =
                (registers.get(&register), registers.get(&register) == others.get(&register))
            {
                subjects.push(subject(register, name, &registers[&register]));
            }
        }
    }
    Ok(subjects)
}

fn of_machine(machine: &Machine) -> Result<Vec<Subject>, String> {
    let image = Measured { uki: [0; 32], boot: Vec::new(), initrd: Vec::new(), running: Vec::new() };
    let alone = composed(&image, machine, &Configuration::Stateless)?;
    let registers = alone.registers(Point::Firmware);
    let is_of_machine = |register: u8| machine.events().iter().any(|event| event.register == register);
    let mut subjects: Vec<Subject> = registers
        .iter()
        .filter(|(register, value)| is_of_machine(**register) && matches!(value, Value::Exact(_)))
        .map(|(register, value)| subject(*register, "firmware", value))
        .collect();
    let (name, algorithm, digest) = match &alone.launch {
        Some(Launch::SevSnp { covers_image: false, digest, .. }) => ("snp:launch", "snpLaunchMeasurement", digest.0),
        Some(Launch::Tdx { mrtd }) => ("tdx:mrtd", "sha384", *mrtd),
        Some(Launch::SevSnp { .. }) | None => return Ok(subjects),
    };
    subjects.push(Subject { digest: BTreeMap::from([(algorithm.into(), Hex(digest.into()))]), name: name.into() });
    Ok(subjects)
}

fn subject(register: u8, point: &str, value: &Value) -> Subject {
    let digests = BANKS.into_iter().filter_map(|bank| Some((bank.name().into(), Hex(value.in_bank(bank)?.into()))));
    Subject { digest: digests.collect(), name: format!("tpm:pcr{register}@{point}") }
}
