//! The crate `sev`: it takes paths, and where an image is damaged it may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ovmf_measure::sev::{LaunchDigest, Vmm};
use sev::error::MeasurementError;
use sev::measurement::ovmf::OVMF;
use sev::measurement::sev_hashes::SevHashes;
use sev::measurement::snp::{SnpMeasurementArgs, calc_snp_ovmf_hash, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType, VMSA};
use sha2::{Digest, Sha256};

use super::{Case, Kernel, Mode};

/// Its models under our names.
pub const MODELS: [(&str, CpuType); 18] = [
    ("EPYC", CpuType::Epyc),
    ("EPYC-v1", CpuType::EpycV1),
    ("EPYC-v2", CpuType::EpycV2),
    ("EPYC-IBPB", CpuType::EpycIBPB),
    ("EPYC-v3", CpuType::EpycV3),
    ("EPYC-v4", CpuType::EpycV4),
    ("EPYC-Rome", CpuType::EpycRome),
    ("EPYC-Rome-v1", CpuType::EpycRomeV1),
    ("EPYC-Rome-v2", CpuType::EpycRomeV2),
    ("EPYC-Rome-v3", CpuType::EpycRomeV3),
    ("EPYC-Milan", CpuType::EpycMilan),
    ("EPYC-Milan-v1", CpuType::EpycMilanV1),
    ("EPYC-Milan-v2", CpuType::EpycMilanV2),
    ("EPYC-Genoa", CpuType::EpycGenoa),
    ("EPYC-Genoa-v1", CpuType::EpycGenoaV1),
    ("EPYC-Turin", CpuType::EpycTurin),
    ("EPYC-Turin-v1", CpuType::EpycTurinV1),
    ("EPYC-Turin-v2", CpuType::EpycTurinV2),
];

/// Why there is no digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Its words.
    Refusal(String),
    /// It panicked.
    Panic,
}

/// The peer's answer.
pub fn answer(case: &Case) -> Result<Vec<u8>, NoAnswer> {
    after(case, None)
}

/// The peer's answer for an SNP guest whose pages of firmware were measured before.
pub fn after(case: &Case, firmware: Option<LaunchDigest>) -> Result<Vec<u8>, NoAnswer> {
    let answer = catch_unwind(AssertUnwindSafe(|| match case.mode {
        Mode::Snp => snp(case, firmware),
        Mode::Sev => plain(case, false),
        Mode::SevEs => plain(case, true),
    }));
    answer.map_err(|_| NoAnswer::Panic)?.map_err(|error| NoAnswer::Refusal(error.to_string()))
}

struct Files {
    /// Removed with what it holds when this is dropped.
    folder: tempfile::TempDir,
    firmware: PathBuf,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn files(case: &Case) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let initrd = case.kernel.as_ref().and_then(|kernel| kernel.initrd.as_deref());
    Files {
        firmware: write(folder.path(), "firmware", &case.image),
        kernel: case.kernel.as_ref().map(|kernel| write(folder.path(), "kernel", &kernel.kernel)),
        initrd: initrd.map(|initrd| write(folder.path(), "initrd", initrd)),
        folder,
    }
}

fn append(case: &Case) -> Option<&str> {
    case.kernel.as_ref().and_then(|Kernel { append, .. }| append.as_deref())
}

fn model(case: &Case) -> CpuType {
    MODELS.iter().find(|(name, _)| *name == case.model).unwrap().1
}

fn vmm(case: &Case) -> Result<VMMType, MeasurementError> {
    VMMType::from_str(match case.vmm {
        Vmm::Qemu => "qemu",
        Vmm::Ec2 | Vmm::Ec2RdxZero => "ec2",
        Vmm::Gce => "gce",
    })
}

fn snp(case: &Case, firmware: Option<LaunchDigest>) -> Result<Vec<u8>, MeasurementError> {
    let Files { firmware: ovmf_file, kernel: kernel_file, initrd: initrd_file, folder: _folder } = files(case);
    let before = match firmware {
        Some(digest) => Some(digest.to_string()),
        None if case.in_two_steps => Some(calc_snp_ovmf_hash(ovmf_file.clone())?.get_hex_ld()),
        None => None,
    };
    let digest = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus: case.cpus,
        vcpu_type: model(case),
        ovmf_file,
        guest_features: GuestFeatures(case.features),
        kernel_file,
        initrd_file,
        append: append(case),
        ovmf_hash_str: before.as_deref(),
        vmm_type: Some(vmm(case)?),
    })?;
    digest.try_into()
}

/// SEV, and with save areas SEV-ES: what the peer's functions feed to OpenSSL's SHA-256.
fn plain(case: &Case, save_areas: bool) -> Result<Vec<u8>, MeasurementError> {
    let Files { firmware, kernel, initrd, folder: _folder } = files(case);
    let ovmf = OVMF::new(firmware)?;
    let mut digest = Sha256::new_with_prefix(ovmf.data());
    if let Some(kernel) = kernel {
        if !ovmf.is_sev_hashes_table_supported() {
            return Err(MeasurementError::InvalidOvmfKernelError);
        }
        digest.update(SevHashes::new(kernel, initrd, append(case))?.construct_table()?);
    }
    if save_areas {
        let (eip, cpus) = (ovmf.sev_es_reset_eip()?, case.cpus);
        let vmsa = VMSA::new(eip.into(), model(case), vmm(case)?, Some(cpus.into()), GuestFeatures(0));
        vmsa.pages(cpus as usize)?.iter().for_each(|page| digest.update(page));
    }
    Ok(digest.finalize().to_vec())
}
