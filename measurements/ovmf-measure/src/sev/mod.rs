//! Launch digests of AMD SEV, SEV-ES and SEV-SNP guests.

mod cpu;
mod kernel;
mod plain;
mod snp;
mod vmsa;

pub use cpu::{CpuSignature, MODELS};
pub use kernel::KernelHashes;
pub use plain::{sev, sev_es};
pub use snp::{LaunchDigest, Layout, Memory, Range, RangeKind};
pub use vmsa::{Vcpu, Vmm};

/// More virtual CPUs than any VMM offers.
const MOST_CPUS: u32 = 4096;

fn check_cpus(count: u32) -> Result<(), crate::Error> {
    if (1..=MOST_CPUS).contains(&count) { Ok(()) } else { Err(crate::Error::Cpus(count)) }
}
