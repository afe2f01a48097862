//! SEV and SEV-ES: one SHA-256 over everything that is loaded (AMD publication 55766, LAUNCH_UPDATE_DATA and LAUNCH_UPDATE_VMSA). What a guest owner sees is an HMAC over this digest
//! and more; only the digest follows from the inputs.

use sha2::{Digest, Sha256};

use super::check_cpus;
use super::kernel::KernelHashes;
use super::vmsa::Vcpu;
use crate::{Error, Firmware};

/// The digest of a SEV guest.
///
/// # Errors
/// [`Error::NoKernelHashes`].
pub fn sev(firmware: &Firmware, hashes: Option<&KernelHashes>) -> Result<[u8; 32], Error> {
    Ok(loaded(firmware, hashes)?.finalize().into())
}

/// The digest of a SEV-ES guest with `cpus` virtual CPUs.
///
/// # Errors
/// [`Error::NoKernelHashes`], [`Error::NoEntry`] without a reset block, [`Error::Cpus`].
pub fn sev_es(firmware: &Firmware, hashes: Option<&KernelHashes>, vcpu: &Vcpu, cpus: u32) -> Result<[u8; 32], Error> {
    check_cpus(cpus)?;
    let mut digest = loaded(firmware, hashes)?;
    digest.update(*vcpu.first());
    if cpus > 1 {
        let other = vcpu.other(firmware.reset_eip()?);
        (1..cpus).for_each(|_| digest.update(*other));
    }
    Ok(digest.finalize().into())
}

fn loaded(firmware: &Firmware, hashes: Option<&KernelHashes>) -> Result<Sha256, Error> {
    let mut digest = Sha256::new_with_prefix(firmware.image());
    if let Some(hashes) = hashes {
        firmware.hash_table().ok_or(Error::NoKernelHashes)?;
        // Not the page: only the table itself is loaded.
        digest.update(hashes.table());
    }
    Ok(digest)
}
