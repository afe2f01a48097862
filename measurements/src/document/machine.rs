//! Machine references: what follows from firmware, VMM and shape of a machine (`cairn.machine/1`).
//!
//! The document says of every measurement whether it was calculated from a file or recorded from a machine of that shape, and which register covers the image and which the configuration. Where none
//! covers the image, it says so: such evidence alone proves nothing about what runs.

use ovmf_measure::sev::{CpuSignature, Layout, Range, RangeKind, Vcpu, Vmm};
use serde::{Deserialize, Serialize};

use super::{Error, EventRecord, events};
use crate::Source;
use crate::boot::{BootMethod, Machine};
use crate::canonical::{Document, read, write};
use crate::compose::LaunchParameters;
use crate::tpm::pcr05::Exit;

/// The schema that is read and written.
pub const SCHEMA: &str = "cairn.machine/1";

/// A machine reference. Fields stand in the order of canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineReference {
    /// How the image is started.
    pub boot: BootMethod,
    /// Which register covers what.
    pub covers: Covers,
    /// What is measured into a TPM before the first image is loaded: registers 0, 1 and 7, in order. Empty without a TPM.
    pub events: Vec<EventRecord>,
    /// How boot services end, recorded from a machine of this shape; none without a TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_boot_services: Option<Exit>,
    /// The firmware.
    pub firmware: FirmwareReference,
    /// What is measured when a confidential machine is launched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchReference>,
    /// Name, as the file is called.
    pub name: String,
    /// [`SCHEMA`].
    pub schema: String,
    /// What the VMM was told.
    pub shape: Shape,
    /// The VMM and its version.
    pub vmm: String,
}

/// Which register covers the image, and which the configuration, under the root of trust that the machine claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Covers {
    /// The configuration of the cluster.
    pub configuration: ConfigurationCover,
    /// The image.
    pub image: ImageCover,
}

/// What covers an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageCover {
    /// PCR 4 and 11 of a TPM.
    Tpm,
    /// The launch digest, by way of the hashes of direct kernel boot.
    LaunchDigest,
    /// RTMR 1 and 2.
    Rtmr,
    /// Nothing that the root of trust attests.
    ImageNotCovered,
}

/// What covers a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigurationCover {
    /// PCR 12 of a TPM.
    Pcr12,
    /// HOST_DATA of SEV-SNP.
    HostData,
    /// MRCONFIGID of TDX.
    Mrconfigid,
}

/// The firmware of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareReference {
    /// The package of Debian that it comes from.
    pub package: String,
    /// SHA-256 of the file that the VMM is given.
    pub sha256: String,
}

/// The shape of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB; 0 where nothing follows from it.
    pub memory_mib: u32,
    /// `crb` or `tis`; none without a TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<String>,
}

/// What is measured when a confidential machine is launched. All of it is calculated; no value was confirmed on hardware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "technology")]
pub enum LaunchReference {
    /// AMD SEV-SNP.
    SevSnp(SnpReference),
    /// Intel TDX.
    Tdx {
        /// MRTD, hexadecimal.
        mrtd: String,
    },
}

/// What the launch digest of SEV-SNP follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpReference {
    /// CPUID signature of the virtual CPUs.
    pub cpu_signature: u32,
    /// SEV_FEATURES.
    pub features: u64,
    /// The digest after the firmware's own pages, hexadecimal.
    pub firmware: String,
    /// Where the firmware looks for hashes of kernel, initrd and command line: base and size; none where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_table: Option<[u32; 2]>,
    /// Whether the host kernel leaves MXCSR and FCW at 0.
    pub legacy_fpu: bool,
    /// What is measured behind the firmware, in order.
    pub ranges: Vec<RangeReference>,
    /// Where all CPUs but the first begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_eip: Option<u32>,
}

/// A range of guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeReference {
    /// Guest physical address.
    pub address: u64,
    /// How it is measured.
    pub kind: RangeName,
    /// Bytes.
    pub size: u64,
}

/// How a range is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RangeName {
    /// As zeros.
    Zero,
    /// Not its content.
    Unmeasured,
    /// As the page of secrets.
    Secrets,
    /// As the page of CPUID values.
    Cpuid,
    /// As the page with the hash table, or zeros without one.
    KernelHashes,
}

const KINDS: [(RangeName, RangeKind); 5] = [
    (RangeName::Zero, RangeKind::Zero),
    (RangeName::Unmeasured, RangeKind::Unmeasured),
    (RangeName::Secrets, RangeKind::Secrets),
    (RangeName::Cpuid, RangeKind::Cpuid),
    (RangeName::KernelHashes, RangeKind::KernelHashes),
];

impl SnpReference {
    /// Of what QEMU measures.
    pub fn new(layout: &Layout, signature: CpuSignature, features: u64) -> Self {
        let range = |range: &Range| RangeReference {
            address: range.address,
            kind: KINDS.iter().find(|(_, kind)| *kind == range.kind).map_or(RangeName::Zero, |(name, _)| *name),
            size: range.size,
        };
        Self {
            cpu_signature: signature.0,
            features,
            firmware: layout.firmware.to_string(),
            hash_table: layout.hash_table,
            legacy_fpu: false,
            ranges: layout.ranges.iter().map(range).collect(),
            reset_eip: layout.reset_eip,
        }
    }

    fn parameters(&self) -> Result<(Layout, Vcpu), Error> {
        let mut firmware = [0; 48];
        let wrong = |field| Error::Field(MachineReference::NAME, field);
        hex::decode_to_slice(&self.firmware, &mut firmware).map_err(|_| wrong("digest after the firmware"))?;
        let range = |range: &RangeReference| Range {
            address: range.address,
            kind: KINDS.iter().find(|(name, _)| *name == range.kind).map_or(RangeKind::Zero, |(_, kind)| *kind),
            size: range.size,
        };
        let ranges = self.ranges.iter().map(range).collect();
        let (hash_table, reset_eip) = (self.hash_table, self.reset_eip);
        let layout = Layout { firmware: ovmf_measure::sev::LaunchDigest(firmware), hash_table, ranges, reset_eip };
        layout.check().map_err(|_| wrong("range of measured memory"))?;
        let signature = CpuSignature(self.cpu_signature);
        Ok((layout, Vcpu { vmm: Vmm::Qemu, signature, features: self.features, legacy_fpu: self.legacy_fpu }))
    }
}

impl Document for MachineReference {
    const NAME: &'static str = "machine reference";
    const SCHEMA: &'static str = SCHEMA;
}

impl MachineReference {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let reference: Self = read(bytes)?;
        reference.machine()?;
        Ok(reference)
    }

    /// The document.
    ///
    /// # Errors
    /// [`Error`] where a value cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        write(self)
    }

    /// What it says, checked.
    ///
    /// # Errors
    /// [`Error`].
    pub fn machine(&self) -> Result<Machine, Error> {
        let events = events::<Self>(&self.events, Source::Machine)?;
        if let Some(index) = events.iter().position(|event| !matches!(event.register, 0 | 1 | 7)) {
            return Err(Error::Event(Self::NAME, index, "is not of register 0, 1 or 7"));
        }
        let has_tpm = self.shape.tpm.is_some();
        if events.is_empty() == has_tpm || self.exit_boot_services.is_some() != has_tpm {
            return Err(Error::Field(Self::NAME, "shape: a machine with a TPM, and only that, has events"));
        }
        let launch = match &self.launch {
            None => None,
            Some(LaunchReference::SevSnp(snp)) => {
                let (layout, vcpu) = snp.parameters()?;
                Some(LaunchParameters::SevSnp { layout, vcpu, cpus: self.shape.cpus })
            }
            Some(LaunchReference::Tdx { mrtd }) => {
                let mut digest = [0; 48];
                hex::decode_to_slice(mrtd, &mut digest).map_err(|_| Error::Field(Self::NAME, "MRTD"))?;
                Some(LaunchParameters::Tdx { mrtd: digest })
            }
        };
        if !self.covers_fit() {
            return Err(Error::Field(Self::NAME, "cover: these registers do not exist on such a machine"));
        }
        let exits = self.exit_boot_services.into_iter().collect();
        Ok(Machine { exits, launch, ..Machine::with_events(events).booting(self.boot) })
    }

    fn covers_fit(&self) -> bool {
        use {BootMethod as B, ConfigurationCover as C, ImageCover as I};
        match (&self.launch, self.boot) {
            (None, _) => (self.covers.image, self.covers.configuration) == (I::Tpm, C::Pcr12),
            (Some(LaunchReference::SevSnp(snp)), B::Kernel) => {
                snp.hash_table.is_some()
                    && (self.covers.image, self.covers.configuration) == (I::LaunchDigest, C::HostData)
            }
            (Some(LaunchReference::SevSnp(_)), B::Disk) => {
                (self.covers.image, self.covers.configuration) == (I::ImageNotCovered, C::HostData)
            }
            (Some(LaunchReference::Tdx { .. }), _) => {
                (self.covers.image, self.covers.configuration) == (I::Rtmr, C::Mrconfigid)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;
    use crate::document::Known;
    use crate::event::kind;

    fn reference() -> MachineReference {
        let event = Event::of(1, kind::CONFIG_FLAGS, Source::Machine, "ACPI DATA", b"x");
        MachineReference {
            boot: BootMethod::Disk,
            covers: Covers { configuration: ConfigurationCover::Pcr12, image: ImageCover::Tpm },
            events: vec![EventRecord::new(&event, Known::Recorded, 0)],
            exit_boot_services: Some(Exit::AtOnce),
            firmware: FirmwareReference { package: "ovmf 1".into(), sha256: "00".repeat(32) },
            launch: None,
            name: "test".into(),
            schema: SCHEMA.into(),
            shape: Shape { cpus: 2, memory_mib: 1024, tpm: Some("crb".into()) },
            vmm: "QEMU 10".into(),
        }
    }

    fn parse(text: &str) -> Result<MachineReference, Error> {
        MachineReference::parse(text.as_bytes())
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let bytes = reference().to_bytes().unwrap();
        assert!(
            bytes.starts_with(b"{\"boot\":\"disk\",\"covers\":{\"configuration\":\"pcr12\",")
                && bytes.ends_with(b"}\n")
        );
        let read = MachineReference::parse(&bytes).unwrap();
        assert_eq!(read, reference());
        let machine = read.machine().unwrap();
        assert_eq!(machine.events()[0].digest(crate::Bank::Sha256).unwrap(), crate::Bank::Sha256.digest(b"x"));
    }

    #[test]
    fn other_documents_are_refused() {
        let good = String::from_utf8(reference().to_bytes().unwrap()).unwrap();
        assert!(matches!(parse(&good.replace("machine/1", "machine/2")), Err(Error::Schema { .. })));
        for (from, to) in [(",\"pcr\"", ", \"pcr\""), ("}\n", "}"), ("{\"boot\"", "{\"boot\":\"disk\",\"boot\"")] {
            let changed = good.replacen(from, to, 1);
            assert!(matches!(parse(&changed), Err(Error::NotCanonical(_) | Error::Json(..))), "{to}");
        }
        for (from, to) in [
            ("\"pcr\":1", "\"pcr\":4"),
            ("\"pcr\":1", "\"pcr\":16"),
            ("\"sha256\":\"2d", "\"sha256\":\"zz"),
            ("\"sha1\":\"", "\"sha1\":\"00"),
            ("\"known\":\"recorded\"", "\"known\":\"unknown\""),
        ] {
            assert!(good.contains(from), "{from}");
            assert!(matches!(parse(&good.replacen(from, to, 1)), Err(Error::Event(_, 0, _))), "{to}");
        }
        for (from, to) in [("\"vmm\"", "\"unknown\":1,\"vmm\""), ("{", "["), ("1024", "1024.5"), ("1024", "-1")] {
            assert!(matches!(parse(&good.replacen(from, to, 1)), Err(Error::Json(..))), "{to}");
        }
        for (from, to) in
            [("\"tpm\"}", "\"image-not-covered\"}"), ("\"memory_mib\":1024,\"tpm\":\"crb\"", "\"memory_mib\":1024")]
        {
            assert!(matches!(parse(&good.replacen(from, to, 1)), Err(Error::Field(..))), "{to}");
        }
    }
}
