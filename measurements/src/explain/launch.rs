//! A launch digest has no log: whoever wants to know why it differs must find the inputs that give it. Neighbours of the machine are tried, one change at a time and then with each number of CPUs.

use std::collections::BTreeSet;

use ovmf_measure::sev::{CpuSignature, KernelHashes, LaunchDigest, Layout, MODELS, Vcpu};

use super::{Mismatch, Verdict};
use crate::Source;
use crate::boot::{Machine, Measured};
use crate::compose::{Configuration, Launch, LaunchParameters, compose};

/// Numbers of CPUs that are tried.
const MOST_CPUS: u32 = 256;
/// SEV_FEATURES that hosts are known to set: SNP; with DebugSwap; with SecureTSC; with restricted injection.
const FEATURES: [u64; 4] = [0x1, 0x21, 0x201, 0x9];

/// What a report of SEV-SNP says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// MEASUREMENT.
    pub measurement: LaunchDigest,
    /// HOST_DATA.
    pub host_data: [u8; 32],
}

/// Compares a report; `images` and `machines` are neighbours, each with a name for people.
pub fn launch(
    image: &Measured,
    machine: &Machine,
    configuration: &Configuration,
    report: &Report,
    images: &[(String, Measured)],
    machines: &[(String, Machine)],
) -> Verdict {
    let expected = match compose(image, machine, configuration) {
        Err(error) => return Verdict::CannotTell(error.to_string()),
        Ok(composition) => composition.launch,
    };
    let Some(Launch::SevSnp { covers_image, digest, host_data }) = expected else {
        return Verdict::CannotTell("the machine is none of SEV-SNP: give the reference of one that is".into());
    };
    if digest != report.measurement {
        let (cause, whose) = neighbour(image, machine, report.measurement, images, machines);
        let next = match whose {
            Source::Image => super::cause::OTHER_IMAGE,
            _ => {
                "start the machine as its reference says, or use the reference of what it is; nothing but a matching digest proves what runs"
            }
        };
        let (expected, found) = (digest.to_string(), report.measurement.to_string());
        return mismatch("MEASUREMENT", "sha384", expected, found, (cause, whose, next));
    }
    if host_data != report.host_data {
        let cause = "the launch digest is as predicted, and HOST_DATA is not the digest of this configuration".into();
        let next = "give the machine the cluster's own cluster.json, or compare that of another cluster";
        let (expected, found) = (hex::encode(host_data), hex::encode(report.host_data));
        return mismatch("HOST_DATA", "sha256", expected, found, (cause, Source::Configuration, next));
    }
    let covered = if covers_image {
        "MEASUREMENT and HOST_DATA are"
    } else {
        "MEASUREMENT and HOST_DATA (neither covers the image) are"
    };
    Verdict::Match { compared: covered.into(), unknown: Vec::new() }
}

fn mismatch(
    register: &str,
    algorithm: &'static str,
    expected: String,
    found: String,
    (cause, whose, next): (String, Source, &'static str),
) -> Verdict {
    let (expected, found) = (Some(expected), Some(found));
    Verdict::Mismatch(Box::new(Mismatch {
        event: None,
        register: register.into(),
        algorithm,
        expected,
        found,
        cause,
        whose,
        next,
    }))
}

/// What gives the digest that was found.
fn neighbour(
    image: &Measured,
    machine: &Machine,
    found: LaunchDigest,
    images: &[(String, Measured)],
    machines: &[(String, Machine)],
) -> (String, Source) {
    if let Some(words) = with_other_cpus(image, machine, found) {
        return (format!("it matches with {words}"), Source::Machine);
    }
    for (name, other) in images {
        if let Some(words) = with_other_cpus(other, machine, found) {
            return (format!("it matches with the image of {name}{}", and(&words)), Source::Image);
        }
    }
    for (name, other) in machines {
        if let Some(words) = with_other_cpus(image, other, found) {
            return (format!("it matches with the machine {name}{}", and(&words)), Source::Machine);
        }
    }
    let tried = format!(
        "no neighbour has it: 1 to {MOST_CPUS} CPUs, CPU models, features, kernel hashes on and off, {} other images and {} other machines were tried; \
         another firmware build, kernel, or launch by another VMM is left",
        images.len(),
        machines.len()
    );
    (tried, Source::Machine)
}

fn and(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" and {words}") }
}

/// The change to the machine that gives the digest; empty words where none is needed.
fn with_other_cpus(image: &Measured, machine: &Machine, found: LaunchDigest) -> Option<String> {
    let Some(LaunchParameters::SevSnp { layout, vcpu, cpus }) = &machine.launch else { return None };
    let hashed = machine.is_started_by_vmm();
    for hashes in [hashed, !hashed] {
        for other in variants(vcpu) {
            let Some(count) = cpus_of(layout, hashes.then(|| KernelHashes::of_image(image.uki)), &other, found) else {
                continue;
            };
            let mut words = Vec::new();
            if count != *cpus {
                words.push(format!("{count} vCPUs"));
            }
            if other.signature != vcpu.signature {
                words.push(format!("the CPU signature {:?}{}", other.signature, model(other.signature)));
            }
            if other.features != vcpu.features {
                words.push(format!("the guest features {:#x}", other.features));
            }
            if other.legacy_fpu != vcpu.legacy_fpu {
                words.push("a host kernel that leaves MXCSR and FCW at 0".into());
            }
            if hashes != hashed {
                words.push(if hashes { "the image's kernel hashes" } else { "no kernel hashes" }.into());
            }
            return Some(words.join(", "));
        }
    }
    None
}

/// The machine's own CPU first.
fn variants(vcpu: &Vcpu) -> Vec<Vcpu> {
    let signatures: BTreeSet<CpuSignature> = MODELS.iter().map(|(_, signature)| *signature).collect();
    let signatures = [vcpu.signature].into_iter().chain(signatures);
    let mut all = Vec::new();
    for signature in signatures {
        for features in [vcpu.features].into_iter().chain(FEATURES) {
            for legacy_fpu in [vcpu.legacy_fpu, !vcpu.legacy_fpu] {
                all.push(Vcpu { signature, features, legacy_fpu, ..*vcpu });
            }
        }
    }
    all
}

fn cpus_of(layout: &Layout, hashes: Option<KernelHashes>, vcpu: &Vcpu, found: LaunchDigest) -> Option<u32> {
    let digests = layout.memory(hashes.as_ref()).ok()?.up_to(vcpu, MOST_CPUS).ok()?;
    (1..).zip(digests).find(|(_, digest)| *digest == found).map(|(count, _)| count)
}

fn model(signature: CpuSignature) -> String {
    let found = MODELS.iter().find(|(_, known)| *known == signature);
    found.map(|(name, _)| format!(" ({name})")).unwrap_or_default()
}
