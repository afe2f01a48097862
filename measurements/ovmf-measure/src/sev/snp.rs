//! SEV-SNP: a chain of SHA-384 over every page in the order of loading (AMD publication 56860, section 8.17, PAGE_INFO). Hashing pages is the work and
//! is done on all CPUs; chaining them is one block of SHA-512 each and is done in order.

use std::fmt;

use sha2::{Digest, Sha384};

use super::check_cpus;
use super::kernel::KernelHashes;
use super::vmsa::{Vcpu, Vmm};
use crate::firmware::{HashTableArea, SevSectionKind, check_range};
use crate::{Error, Firmware, PAGE};

/// The address that KVM gives the save areas.
const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;

/// Page types of PAGE_INFO.
#[derive(Clone, Copy)]
enum Page {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

/// A launch digest: 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaunchDigest(pub [u8; 48]);

impl fmt::Display for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl LaunchDigest {
    const START: Self = Self([0; 48]);

    /// The digest after the whole firmware image, which is where a host starts from when it measured the firmware before.
    pub fn of_firmware(firmware: &Firmware) -> Self {
        let mut digest = Self::START;
        let mut address = firmware.base();
        for page in page_digests(firmware.image()) {
            digest.add(Page::Normal, &page, address);
            address += PAGE as u64;
        }
        digest
    }

    fn add(&mut self, page: Page, contents: &[u8; 48], address: u64) {
        let mut info = [0; 0x70];
        info[..48].copy_from_slice(&self.0);
        info[48..96].copy_from_slice(contents);
        info[96..98].copy_from_slice(&0x70_u16.to_le_bytes());
        info[98] = page as u8;
        info[104..].copy_from_slice(&address.to_le_bytes());
        self.0 = Sha384::digest(info).into();
    }

    /// Pages whose contents are not measured.
    fn add_blank(&mut self, page: Page, address: u64, size: u64) {
        for offset in (0..size).step_by(PAGE) {
            self.add(page, &[0; 48], address + offset);
        }
    }
}

/// SHA-384 of every page, on all CPUs.
fn page_digests(image: &[u8]) -> Vec<[u8; 48]> {
    let pages: Vec<&[u8]> = image.chunks(PAGE).collect();
    let mut digests = vec![[0; 48]; pages.len()];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = pages.len().div_ceil(threads).max(16);
    std::thread::scope(|scope| {
        for (pages, digests) in pages.chunks(share).zip(digests.chunks_mut(share)) {
            scope.spawn(move || hash_pages(pages, digests));
        }
    });
    digests
}

/// Much of a firmware image is filled with one byte: a page like the one before it needs no hashing.
fn hash_pages(pages: &[&[u8]], digests: &mut [[u8; 48]]) {
    let mut last: Option<(&[u8], [u8; 48])> = None;
    for (page, digest) in pages.iter().zip(digests) {
        *digest = match last {
            Some((same, digest)) if same == *page => digest,
            _ => Sha384::digest(page).into(),
        };
        last = Some((page, *digest));
    }
}

/// How a range of guest memory is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// As zeros.
    Zero,
    /// Not its content.
    Unmeasured,
    /// As the page of secrets.
    Secrets,
    /// As the page of CPUID values.
    Cpuid,
    /// As the page that holds the hash table, or zeros without one.
    KernelHashes,
}

/// A range of guest memory behind the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Guest physical address.
    pub address: u64,
    /// How it is measured.
    pub kind: RangeKind,
    /// Bytes.
    pub size: u64,
}

/// All that a launch digest takes from a firmware image, without the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The digest after the firmware's own pages.
    pub firmware: LaunchDigest,
    /// Where the hash table of direct kernel boot goes: base and size.
    pub hash_table: Option<[u32; 2]>,
    /// What is measured behind the firmware, in the order of measuring.
    pub ranges: Vec<Range>,
    /// Where all CPUs but the first begin.
    pub reset_eip: Option<u32>,
}

impl Layout {
    /// Hashes the image and reads its metadata.
    ///
    /// # Errors
    /// What [`Firmware::sev_sections`] refuses.
    pub fn of(firmware: &Firmware, vmm: Vmm) -> Result<Self, Error> {
        Self::after_firmware(LaunchDigest::of_firmware(firmware), firmware, vmm)
    }

    /// The same, where the digest of the image is known already.
    ///
    /// # Errors
    /// As [`Layout::of`].
    pub fn after_firmware(digest: LaunchDigest, firmware: &Firmware, vmm: Vmm) -> Result<Self, Error> {
        let sections = firmware.sev_sections()?;
        // EC2 loads the CPUID page after everything else.
        let is_late = |kind| matches!(vmm, Vmm::Ec2 | Vmm::Ec2RdxZero) && kind == SevSectionKind::Cpuid;
        let early = sections.iter().filter(|section| !is_late(section.kind));
        let ordered = early.chain(sections.iter().filter(|section| is_late(section.kind)));
        let ranges = ordered.map(|section| {
            let kind = match section.kind {
                SevSectionKind::SecMemory if vmm == Vmm::Gce => RangeKind::Unmeasured,
                SevSectionKind::Secrets => RangeKind::Secrets,
                SevSectionKind::Cpuid => RangeKind::Cpuid,
                SevSectionKind::KernelHashes => RangeKind::KernelHashes,
                // QEMU loads what it does not know as zeros.
                SevSectionKind::SecMemory | SevSectionKind::SvsmCaa | SevSectionKind::Unknown(_) => RangeKind::Zero,
            };
            Range { address: section.address, kind, size: section.size }
        });
        Ok(Self {
            firmware: digest,
            hash_table: firmware.hash_table().map(|area| [area.base, area.size]),
            ranges: ranges.collect(),
            reset_eip: firmware.reset_eip().ok(),
        })
    }

    /// That no range is larger than a firmware's can be, where the ranges do not come from a firmware image.
    ///
    /// # Errors
    /// [`Error::Section`].
    pub fn check(&self) -> Result<(), Error> {
        let mut total = 0;
        let check = |(index, range): (usize, &Range)| check_range("SEV", index, range.address, range.size, &mut total);
        self.ranges.iter().enumerate().try_for_each(check)
    }

    /// The guest with these hashes of a kernel, or without.
    ///
    /// # Errors
    /// [`Error::NoKernelHashes`], [`Error::HashArea`].
    pub fn memory(&self, hashes: Option<&KernelHashes>) -> Result<Memory, Error> {
        let page = match (hashes, self.hash_table) {
            (None, _) => None,
            (Some(hashes), Some([base, size])) => {
                Some(Sha384::digest(hashes.page(HashTableArea { base, size })?).into())
            }
            (Some(_), None) => return Err(Error::NoKernelHashes),
        };
        let (mut digest, mut hashed) = (self.firmware, false);
        for Range { address, kind, size } in &self.ranges {
            let blank = match (kind, &page) {
                (RangeKind::KernelHashes, Some(contents)) => {
                    if *size != PAGE as u64 {
                        return Err(Error::HashArea("it is not exactly one page"));
                    }
                    digest.add(Page::Normal, contents, *address);
                    hashed = true;
                    continue;
                }
                (RangeKind::Zero | RangeKind::KernelHashes, _) => Page::Zero,
                (RangeKind::Unmeasured, _) => Page::Unmeasured,
                (RangeKind::Secrets, _) => Page::Secrets,
                (RangeKind::Cpuid, _) => Page::Cpuid,
            };
            digest.add_blank(blank, *address, *size);
        }
        if page.is_some() && !hashed {
            return Err(Error::NoKernelHashes);
        }
        Ok(Memory { digest, reset_eip: self.reset_eip })
    }
}

/// An SNP guest up to its CPUs: firmware and metadata are measured once, whatever the number of CPUs.
#[derive(Clone, Debug)]
pub struct Memory {
    digest: LaunchDigest,
    reset_eip: Option<u32>,
}

impl Memory {
    /// Measures the firmware and the ranges of its metadata.
    ///
    /// # Errors
    /// As [`Layout::of`] and [`Layout::memory`].
    pub fn measure(firmware: &Firmware, hashes: Option<&KernelHashes>, vmm: Vmm) -> Result<Self, Error> {
        Layout::of(firmware, vmm)?.memory(hashes)
    }

    /// The same, where the digest of the image is known already.
    ///
    /// # Errors
    /// As [`Memory::measure`].
    pub fn after_firmware(
        digest: LaunchDigest,
        firmware: &Firmware,
        hashes: Option<&KernelHashes>,
        vmm: Vmm,
    ) -> Result<Self, Error> {
        Layout::after_firmware(digest, firmware, vmm)?.memory(hashes)
    }

    /// The launch digest with `cpus` virtual CPUs.
    ///
    /// # Errors
    /// [`Error::Cpus`]; [`Error::NoEntry`] where a second CPU has nowhere to start.
    pub fn with_cpus(&self, vcpu: &Vcpu, cpus: u32) -> Result<LaunchDigest, Error> {
        check_cpus(cpus)?;
        let digests = self.up_to(vcpu, cpus)?;
        digests.last().copied().ok_or(Error::Cpus(cpus))
    }

    /// The launch digests with 1, 2, ... `most` virtual CPUs, in one pass.
    ///
    /// # Errors
    /// As [`Memory::with_cpus`].
    pub fn up_to(&self, vcpu: &Vcpu, most: u32) -> Result<Vec<LaunchDigest>, Error> {
        check_cpus(most)?;
        let mut digest = self.digest;
        digest.add(Page::Vmsa, &Sha384::digest(*vcpu.first()).into(), VMSA_ADDRESS);
        let mut digests = vec![digest];
        if most > 1 {
            let no_entry = || Error::NoEntry {
                guid: crate::Guid::from_digits(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e),
                what: "SEV-ES reset block",
            };
            let other = Sha384::digest(*vcpu.other(self.reset_eip.ok_or_else(no_entry)?)).into();
            for _ in 1..most {
                digest.add(Page::Vmsa, &other, VMSA_ADDRESS);
                digests.push(digest);
            }
        }
        Ok(digests)
    }
}
