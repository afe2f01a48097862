//! SEV and SEV-ES: one SHA-256 over everything that is loaded (AMD publication 55766, LAUNCH_UPDATE_DATA and LAUNCH_UPDATE_VMSA). What a guest owner sees is an HMAC over this digest
//! and more; only the digest follows from the inputs.

use sha2::{Digest, Sha256};

use super::check_cpus;
use super::kernel::KernelHashes;
use super::vmsa::Vcpu;
use crate::bytes::u64_at;
use crate::{Error, Firmware, Guid};

/// EFI_SYSTEM_NV_DATA_FV_GUID: the volume of a variable store.
const VARIABLE_STORE: Guid = Guid::from_digits(0xfff12b8d_7696_4c8b_a985_2747075b4f50);
/// Where an x86 processor starts, before the end of the image.
const RESET_CODE_BYTES: usize = 16;

/// The digest of a SEV guest.
///
/// # Errors
/// [`Error::NoKernelHashes`], [`Error::NotFirmware`].
pub fn sev(firmware: &Firmware, hashes: Option<&KernelHashes>) -> Result<[u8; 32], Error> {
    Ok(loaded(firmware, hashes)?.finalize().into())
}

/// The digest of a SEV-ES guest with `cpus` virtual CPUs.
///
/// # Errors
/// [`Error::NoKernelHashes`], [`Error::NotFirmware`], [`Error::NoEntry`] without a reset block, [`Error::Cpus`].
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
    check_start(firmware)?;
    let mut digest = Sha256::new_with_prefix(firmware.image());
    if let Some(hashes) = hashes {
        firmware.hash_table().ok_or(Error::NoKernelHashes)?;
        // Not the page: only the table itself is loaded.
        digest.update(hashes.table());
    }
    Ok(digest)
}

/// QEMU encrypts and measures whatever its first flash holds (`sev_encrypt_flash`). Old builds of OVMF have no table of GUIDs: without one, the image must begin with a firmware volume, be more than a variable store, and
/// have code where the processor starts.
fn check_start(firmware: &Firmware) -> Result<(), Error> {
    let image = firmware.image();
    let reset = &image[image.len() - RESET_CODE_BYTES..];
    let is_store =
        image.get(16..32) == Some(VARIABLE_STORE.stored().as_slice()) && u64_at(image, 32) == Some(image.len() as u64);
    let found = match () {
        () if firmware.has_table() => return Ok(()),
        () if is_store => "it is a variable store without firmware",
        () if [0, 0xff].iter().any(|blank| reset.iter().all(|byte| byte == blank)) => {
            "it has no code at the reset vector of an x86 processor (firmware for ARM)"
        }
        () if image.get(40..44) != Some(b"_FVH") => {
            "it does not begin with a firmware volume (SeaBIOS, or firmware for ARM)"
        }
        () => return Ok(()),
    };
    Err(Error::NotFirmware(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE;

    /// An image without a table of GUIDs: a volume of this kind and length, and code at its end.
    fn image(kind: &[u8; 16], length: usize) -> Vec<u8> {
        let mut image = vec![0xff; 2 * PAGE];
        image[16..32].copy_from_slice(kind);
        image[32..40].copy_from_slice(&(length as u64).to_le_bytes());
        image[40..44].copy_from_slice(b"_FVH");
        image[2 * PAGE - 16..2 * PAGE - 14].copy_from_slice(&[0x90, 0xe9]);
        image
    }

    #[test]
    fn file_that_no_guest_starts_from_has_no_digest() {
        let digest = |image: &[u8]| sev(&Firmware::parse(image).unwrap(), None);
        let (store, old) = (image(VARIABLE_STORE.stored(), 2 * PAGE), image(VARIABLE_STORE.stored(), PAGE));
        assert!(digest(&old).is_ok() && digest(&image(&[7; 16], 2 * PAGE)).is_ok());
        let hashes = KernelHashes::new(b"kernel", b"", b"");
        assert_eq!(sev(&Firmware::parse(&old).unwrap(), Some(&hashes)), Err(Error::NoKernelHashes));
        let mut arm = old.clone();
        arm[2 * PAGE - 16..].fill(0);
        let mut bios = old.clone();
        bios[40] = 0;
        for (image, words) in [(store, "a variable store"), (arm, "the reset vector"), (bios, "a firmware volume")] {
            let error = digest(&image).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("hint: give OVMF for x86-64"), "{words}: {error}");
        }
    }
}
