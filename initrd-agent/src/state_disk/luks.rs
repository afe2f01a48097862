//! libcryptsetup, which only ever sees a copy of the header in memory, apart from the disk that it describes (research
//! 2.8): what it makes is written to the disk by us, what it opens was checked by us. It must be called from one thread,
//! the main one; no udevd runs in the initrd, so it waits for none.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use libcryptsetup_rs::consts::flags::{CryptActivate, CryptDeactivate, CryptPbkdf, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::{CryptKdf, EncryptionFormat, KeyslotsSize, MetadataSize};
use libcryptsetup_rs::{CryptDevice, CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, CryptPbkdfType};
use libcryptsetup_rs::{Either, LibcryptErr};
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use state_disk::layout::{CIPHER, HEADER, KEYSLOT, METADATA, Profile, SECTOR};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::code::Code;
use crate::failure::Failure;

/// A key that sectors are encrypted with.
pub type VolumeKey = Zeroizing<Vec<u8>>;

/// Of the device mapper.
pub const NAME: &str = "state";
/// Of the device mapper, the device below it where sectors are authenticated: libcryptsetup chooses the name.
pub const BELOW: &str = "state_dif";
/// The only one.
const SLOT: u32 = 0;
/// Unit of libcryptsetup's offsets.
const UNIT: u64 = 512;

/// A header that libcryptsetup has read, in memory.
pub struct Header {
    device: CryptDevice,
    /// libcryptsetup opens it anew by its number.
    _copy: File,
}

/// Makes the header of a new disk: the area of its header, as it will be on the disk.
///
/// # Errors
/// `DISK_FORMAT_FAILED`.
pub fn make(
    disk: &Path,
    id: &[u8; 16],
    profile: Profile,
    key: &VolumeKey,
    passphrase: &[u8; 64],
) -> Result<Vec<u8>, Failure> {
    let failed = |what: &str, error: String| Failure::new(Code::DiskFormatFailed, format!("{what}: {error}"));
    let copy = memory().map_err(|error| failed("making a copy of the header in memory", error.to_string()))?;
    format(&copy, disk, id, profile, key, passphrase)
        .map_err(|error| failed("making the header of the state disk", error.to_string()))?;
    let mut area = vec![0; HEADER];
    copy.read_exact_at(&mut area, 0)
        .map_err(|error| failed("reading the new header of the state disk", error.to_string()))?;
    // libcryptsetup fills the room for further keyslots with random bytes; there never are any.
    area[(KEYSLOT + profile.keyslot_length()) as usize..].fill(0);
    Ok(area)
}

fn format(
    copy: &File,
    disk: &Path,
    id: &[u8; 16],
    profile: Profile,
    key: &VolumeKey,
    passphrase: &[u8; 64],
) -> Result<(), LibcryptErr> {
    // A random share needs no stretching, and a measured time would differ from node to node.
    let pbkdf = || CryptPbkdfType {
        type_: CryptKdf::Pbkdf2,
        hash: Some("sha256".to_owned()),
        time_ms: 0,
        iterations: 1000,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: CryptPbkdf::NO_BENCHMARK,
    };
    let (cipher, mode) = CIPHER.split_once('-').unwrap_or((CIPHER, ""));
    let parameters = CryptParamsLuks2 {
        pbkdf: Some(pbkdf()),
        integrity: (profile == Profile::XtsHmac).then(|| "hmac(sha256)".to_owned()),
        integrity_params: None,
        data_alignment: 0,
        data_device: None,
        sector_size: SECTOR as u32,
        label: None,
        subsystem: None,
    };
    let mut parameters: CryptParamsLuks2Ref = (&parameters).try_into()?;
    let mut device = CryptInit::init_with_data_device(Either::Right((&path(copy), disk)))?;
    let keyslots = KeyslotsSize::try_from((HEADER - 2 * METADATA) as u64)?;
    device.settings_handle().set_metadata_size(MetadataSize::Kb16, keyslots)?;
    device.settings_handle().set_pbkdf_type(&pbkdf())?;
    device.set_data_offset(HEADER as u64 / UNIT)?;
    let key = &key[..];
    let id = Some(Uuid::from_bytes(*id));
    let luks = EncryptionFormat::Luks2;
    device.context_handle().format(luks, (cipher, mode), id, Either::Left(key), Some(&mut parameters))?;
    let flags = CryptVolumeKey::empty();
    device.keyslot_handle().add_by_key(Some(SLOT), Some(Either::Left(key)), passphrase, flags)?;
    Ok(())
}

impl Header {
    /// Reads the header in `area`, which was checked, from a sealed copy. `disk` holds the data.
    ///
    /// # Errors
    /// `DISK_OPEN_FAILED`.
    pub fn load(area: &[u8], disk: &Path) -> Result<Self, Failure> {
        let failed = |what: &str, error: String| Failure::new(Code::DiskOpenFailed, format!("{what}: {error}"));
        let copy =
            sealed(area).map_err(|error| failed("making a sealed copy of the header in memory", error.to_string()))?;
        let load = || {
            let mut device = CryptInit::init_with_data_device(Either::Right((&path(&copy), disk)))?;
            device.context_handle().load::<()>(Some(EncryptionFormat::Luks2), None)?;
            Ok(device)
        };
        let device = load().map_err(|error: LibcryptErr| {
            failed("reading the header of the state disk with libcryptsetup", error.to_string())
        })?;
        Ok(Self { device, _copy: copy })
    }

    /// The volume key that the only keyslot holds.
    ///
    /// # Errors
    /// `DISK_KEY_WRONG`, `DISK_OPEN_FAILED`.
    pub fn volume_key(&mut self, profile: Profile, passphrase: &[u8; 64]) -> Result<VolumeKey, Failure> {
        let mut key = Zeroizing::new(vec![0; profile.key_length() as usize]);
        let result = self.device.volume_key_handle().get(Some(SLOT), &mut key[..], Some(passphrase));
        match result {
            Ok((_, length)) if length == key.len() => Ok(key),
            Ok((_, length)) => {
                Err(Failure::new(Code::DiskOpenFailed, format!("the keyslot holds a key of {length} bytes")))
            }
            Err(LibcryptErr::IOError(error)) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
                let what = "the broker's share does not open the keyslot of the state disk";
                Err(Failure::new(Code::DiskKeyWrong, what))
            }
            Err(error) => Err(Failure::new(Code::DiskOpenFailed, format!("opening the keyslot: {error}"))),
        }
    }

    /// Maps the disk as [`NAME`]. The key reaches the kernel through its keyring, out of which nobody reads it.
    ///
    /// # Errors
    /// `DISK_OPEN_FAILED`.
    pub fn map(&mut self, key: &VolumeKey) -> Result<(), Failure> {
        let mut map = || {
            // Process-wide, so said before each use.
            self.device.context_handle().volume_key_keyring(true)?;
            self.device.activate_handle().activate_by_volume_key(Some(NAME), Some(&key[..]), CryptActivate::empty())
        };
        map().map_err(|error| Failure::new(Code::DiskOpenFailed, format!("mapping the state disk: {error}")))
    }

    /// Takes the mapping away again.
    pub fn unmap(&mut self) {
        // Only on the way to the end of the boot, which a second failure does not change.
        let _ = self.device.activate_handle().deactivate(NAME, CryptDeactivate::empty());
    }
}

/// Takes the volume key out of the kernel's keyring: the mapping has its own copy. The keyring would otherwise outlive
/// this program's replacement by systemd.
///
/// # Errors
/// `DISK_OPEN_FAILED`.
pub fn forget_key() -> Result<(), Failure> {
    KeyRing::from_special_id(KeyRingIdentifier::Thread, false).and_then(|keyring| keyring.clear()).map_err(|error| {
        let what = format!("taking the volume key out of the kernel's keyring: {error:?}");
        Failure::new(Code::DiskOpenFailed, what)
    })
}

fn memory() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"header", flags)?);
    file.set_len(HEADER as u64)?;
    Ok(file)
}

/// A copy that nobody changes any more, this program included.
fn sealed(area: &[u8]) -> io::Result<File> {
    const PAGE: usize = 4096;
    let file = memory()?;
    for (index, page) in area.chunks(PAGE).enumerate() {
        // Zeros that are not written take no memory.
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, (index * PAGE) as u64)?;
        }
    }
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

fn path(copy: &File) -> PathBuf {
    format!("/proc/self/fd/{}", copy.as_raw_fd()).into()
}
