//! Parsers of everything that is measured: images, disks, firmware, logs and references.

use std::cell::RefCell;

use measurements::boot::{Image, Machine, Point};
use measurements::compose::{Configuration, compose};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::parse::fat::Fat;
use measurements::parse::fv::{LARGEST_UNPACKED, Volumes};
use measurements::parse::gpt::Gpt;
use measurements::parse::pe::Pe;
use measurements::parse::tcg_log::Log;
use measurements::parse::uki::Uki;
use measurements::parse::variables::Variables;
use measurements::parse::{cel, pcrs, smbios};
use measurements::{Bank, tpm};
use ovmf_measure::sev::{KernelHashes, Memory, Vmm};
use ovmf_measure::tdx::{Order, mrtd};
use ovmf_measure::{Firmware, firmware::TdxSection};

use super::read;

/// Largest volume that [`fat_large`] makes of its input: FAT32 begins at 65,525 clusters of one sector.
pub const LARGEST_VOLUME: usize = 36 << 20;
/// How many entries of a folder are read: each is looked up from the root on.
const ENTRIES: usize = 8;
/// Most memory of a guest that is hashed: more takes long and shows nothing new.
const HASHED: u64 = 16 << 10;

/// A disk, or a UKI alone, up to the registers; once as it is, and once with the checksums of its partition table made right.
pub fn boot_image(bytes: &[u8]) {
    image(bytes);
    with_checksums(bytes).as_deref().map(image);
}

fn image(bytes: &[u8]) {
    let Some(image) = read(Image::parse(bytes)) else { return };
    let Some(measured) = read(image.measured()) else { return };
    if let Some(composition) = read(compose(&measured, &Machine::unknown(), &Configuration::Stateless)) {
        assert_eq!(composition.registers(Point::Running).len(), tpm::REGISTERS.len());
    }
}

/// systemd's log of user space.
pub fn cel(bytes: &[u8]) {
    for record in read(cel::parse(bytes)).into_iter().flatten() {
        assert!(record.digests.iter().all(|(bank, digest)| digest.len() == bank.length()));
    }
}

/// A FAT volume: what the root, its folders and theirs hold.
pub fn fat(bytes: &[u8]) {
    let Some(volume) = read(Fat::parse(bytes)) else { return };
    let mut folders = vec![String::new(), "EFI/BOOT".into()];
    for depth in 0..2 {
        for folder in std::mem::take(&mut folders) {
            let entries = read(volume.list(&folder)).flatten().unwrap_or_default();
            for entry in entries.iter().take(ENTRIES) {
                let path = format!("{folder}/{}", entry.name);
                let content = read(volume.read(&path)).flatten();
                assert!(content.is_none_or(|content| content.len() <= bytes.len()));
                folders.extend((entry.is_folder && depth == 0).then_some(path));
            }
        }
    }
}

/// The same for volumes of FAT16 and FAT32, which have megabytes: the input is their beginning, the rest is zeros.
pub fn fat_large(bytes: &[u8]) {
    thread_local! {
        /// The volume, and how much of it the last input was.
        static VOLUME: RefCell<(Vec<u8>, usize)> = (vec![0; LARGEST_VOLUME], 0).into();
    }
    VOLUME.with_borrow_mut(|(volume, last)| {
        let start = &bytes[..bytes.len().min(LARGEST_VOLUME)];
        volume[..*last].fill(0);
        volume[..start.len()].copy_from_slice(start);
        *last = start.len();
        fat(volume);
    });
}

/// A firmware image, its volumes, and the machine that has it.
pub fn fv(bytes: &[u8]) {
    if let Some(volumes) = read(Volumes::unpack(bytes)) {
        assert!((volumes.pei.len() + volumes.dxe.len()) as u64 <= LARGEST_UNPACKED);
        read(Machine::with_firmware(bytes, None));
    }
}

/// A partition table; once as it is, and once with its checksums made right.
pub fn gpt(bytes: &[u8]) {
    table(bytes);
    with_checksums(bytes).as_deref().map(table);
}

fn table(bytes: &[u8]) {
    let Some(gpt) = read(Gpt::parse(bytes)) else { return };
    for entry in &gpt.entries {
        assert!(entry.name().chars().count() <= 36);
        assert!(entry.range().is_none_or(|(start, _)| start as u64 / 512 == entry.first));
    }
    assert_eq!(gpt.event().len(), 100 + 128 * gpt.entries.len());
}

/// The disk with the checksums that its table should have, where they are others: they keep no attacker out, but a mutation.
fn with_checksums(given: &[u8]) -> Option<Vec<u8>> {
    let mut disk = given.to_vec();
    let number = |disk: &[u8], at: usize| {
        disk.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes) as usize
    };
    let start = number(&disk, 512 + 72).saturating_mul(512);
    let end = start.saturating_add(number(&disk, 512 + 80).saturating_mul(128));
    let entries = disk.get(start..end).map(crc32fast::hash);
    let header = disk.get_mut(512..604)?;
    header[88..92].copy_from_slice(&entries.unwrap_or(0).to_le_bytes());
    header[16..20].fill(0);
    let checksum = crc32fast::hash(header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    (disk != given).then_some(disk)
}

/// A machine reference.
pub fn machine(bytes: &[u8]) {
    let Some(reference) = read(MachineReference::parse(bytes)) else { return };
    assert_eq!(reference.to_bytes().ok().as_deref(), Some(bytes));
    assert!(reference.machine().is_ok());
}

/// An image reference.
pub fn image_reference(bytes: &[u8]) {
    let Some(reference) = read(ImageReference::parse(bytes)) else { return };
    assert_eq!(reference.to_bytes().ok().as_deref(), Some(bytes));
    assert!(reference.measured().is_ok());
}

/// Registers as a tool prints them.
pub fn pcrs(bytes: &[u8]) {
    for (bank, values) in read(pcrs::parse(bytes)).into_iter().flatten() {
        assert!(values.values().all(|value| value.len() == bank.length()));
    }
}

/// An SMBIOS table, and what of it is measured.
pub fn smbios(bytes: &[u8]) {
    assert!(read(smbios::measured(bytes)).is_none_or(|measured| measured.len() <= bytes.len()));
}

/// A variable store.
pub fn variables(bytes: &[u8]) {
    let Some(variables) = read(Variables::parse(bytes)) else { return };
    let _ = variables.get("PK", [0; 16]);
    assert!(variables.all.iter().all(|variable| variable.data.len() < bytes.len()));
}

/// A firmware image of a confidential virtual machine, and its launch digests.
pub fn ovmf(bytes: &[u8]) {
    let Some(firmware) = read(Firmware::parse(bytes)) else { return };
    let _ = (firmware.base(), read(firmware.reset_eip()), firmware.hash_table());
    let sev = read(firmware.sev_sections()).unwrap_or_default();
    if sev.iter().map(|section| section.size).sum::<u64>() <= HASHED {
        let hashes = firmware.hash_table().map(|_| KernelHashes::new(b"kernel", b"", b""));
        read(Memory::measure(&firmware, hashes.as_ref(), Vmm::Qemu));
    }
    let tdx = read(firmware.tdx_sections()).unwrap_or_default();
    assert!(tdx.iter().all(|TdxSection { data, size, .. }| data.len() as u64 <= *size));
    if tdx.iter().map(|section| section.size).sum::<u64>() <= HASHED {
        read(mrtd(&firmware, Order::SinglePass));
    }
}

/// An EFI image and what firmware measures of it.
pub fn pe(bytes: &[u8]) {
    let Some(pe) = read(Pe::parse(bytes)) else { return };
    assert_eq!(pe.authenticode(Bank::Sha256).len(), Bank::Sha256.length());
    for section in pe.sections() {
        assert!(section.data.len() <= section.raw.1.min(section.virtual_size));
        assert!(pe.section(&section.name).is_some());
    }
}

/// The firmware's log, replayed.
pub fn tcg_log(bytes: &[u8]) {
    let Some(log) = read(Log::parse(bytes)) else { return };
    for bank in &log.banks {
        for register in 0..=24 {
            assert_eq!(log.replay(*bank, register).len(), bank.length());
        }
    }
}

/// A UKI, what its stub measures, and its kernel.
pub fn uki(bytes: &[u8]) {
    let Some(uki) = read(Uki::parse(bytes)) else { return };
    assert!(uki.measured_sections().iter().all(|(name, data)| uki.section(name) == *data));
    if let Some(kernel) = read(uki.kernel()) {
        kernel.authenticode(Bank::Sha256);
    }
}
