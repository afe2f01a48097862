//! The table of GUIDs at the end of an OVMF image, and the metadata that it leads to (edk2, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`).
//!
//! The image is mapped so that it ends at 4 GiB. Its last 32 bytes are the reset vector; before them lies a record with the table's own
//! GUID, and before that, read backwards, the entries: data, length, GUID. An image without a table is a firmware too, for modes that need
//! nothing of it. A table that contradicts itself is refused.

use crate::bytes::{u16_at, u32_at};
use crate::{Error, Guid, PAGE};

const TABLE: Guid = Guid::from_digits(0x96b582de_1fb2_45f7_baea_a366c55a082d);
const RESET_BLOCK: Guid = Guid::from_digits(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e);
const HASH_TABLE: Guid = Guid::from_digits(0x7255371f_3a3b_4b04_927b_1da6efa8d454);
const SEV_METADATA: Guid = Guid::from_digits(0xdc886566_984a_4798_a75e_5585a7bf67cc);
const TDX_METADATA: Guid = Guid::from_digits(0xe47a6535_984a_4798_865e_4685a7bf8ec2);

const RESET_VECTOR: usize = 32;
/// Length and GUID of an entry.
const HEADER: usize = 18;
const LARGEST: usize = 1 << 30;
/// Of the code part of an image, whose sections include the variable store.
const OUTSIDE: &str = "its data lies outside the image\nhint: give the complete image (variable store and code, such as OVMF.fd), not its code part";
/// More sections than any firmware has.
const MOST_SECTIONS: u32 = 256;

/// A firmware image whose table was read.
#[derive(Clone, Debug)]
pub struct Firmware<'a> {
    image: &'a [u8],
    entries: Vec<(Guid, &'a [u8])>,
}

/// Where the firmware expects hashes of kernel, initrd and command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashTableArea {
    /// Guest physical address.
    pub base: u32,
    /// Bytes.
    pub size: u32,
}

/// A range of memory that is prepared and measured before an SNP guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SevSection {
    /// Guest physical address, a multiple of the page size.
    pub address: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
    /// What it is for.
    pub kind: SevSectionKind,
}

/// Types of [`SevSection`] (edk2, `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SevSectionKind {
    /// Memory of the SEC phase.
    SecMemory,
    /// The page of secrets.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// The calling area of an SVSM.
    SvsmCaa,
    /// The page of kernel hashes.
    KernelHashes,
    /// A type that this list does not know. QEMU loads it as zeros.
    Unknown(u32),
}

impl From<u32> for SevSectionKind {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::SecMemory,
            2 => Self::Secrets,
            3 => Self::Cpuid,
            4 => Self::SvsmCaa,
            0x10 => Self::KernelHashes,
            other => Self::Unknown(other),
        }
    }
}

/// A range of memory that is added to a trust domain before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdxSection<'a> {
    /// What lies in it; the rest is zeros.
    pub data: &'a [u8],
    /// Guest physical address, a multiple of the page size.
    pub address: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
    /// Type: 0 BFV, 1 CFV, 2 TD HOB, 3 temporary memory, 4 permanent memory, 5 payload, 6 its parameters.
    pub kind: u32,
    /// Whether the contents are measured, not only the address.
    pub extended: bool,
    /// Whether the VMM adds the pages after the launch: then nothing of them is measured.
    pub augmented: bool,
}

impl<'a> Firmware<'a> {
    /// Reads the table at the end of `image`.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Table`].
    pub fn parse(image: &'a [u8]) -> Result<Self, Error> {
        if image.is_empty() || !image.len().is_multiple_of(PAGE) || image.len() > LARGEST {
            return Err(Error::Size(image.len()));
        }
        Ok(Self { image, entries: entries(image)? })
    }

    /// The whole image.
    pub fn image(&self) -> &'a [u8] {
        self.image
    }

    /// Guest physical address of its first byte.
    pub fn base(&self) -> u64 {
        (1 << 32) - self.image.len() as u64
    }

    /// The data of an entry.
    pub fn entry(&self, guid: Guid) -> Option<&'a [u8]> {
        self.entries.iter().find(|(found, _)| *found == guid).map(|(_, data)| *data)
    }

    /// Whether the image has a table of GUIDs with entries.
    pub fn has_table(&self) -> bool {
        !self.entries.is_empty()
    }

    fn number(&self, guid: Guid, what: &'static str) -> Result<u32, Error> {
        let data = self.entry(guid).ok_or(Error::NoEntry { guid, what })?;
        u32_at(data, 0).ok_or(Error::Table("an entry is shorter than its number"))
    }

    /// Where CPUs other than the first start under SEV-ES.
    ///
    /// # Errors
    /// [`Error::NoEntry`].
    pub fn reset_eip(&self) -> Result<u32, Error> {
        self.number(RESET_BLOCK, "SEV-ES reset block")
    }

    /// The area for kernel hashes, if this firmware verifies them.
    pub fn hash_table(&self) -> Option<HashTableArea> {
        let data = self.entry(HASH_TABLE)?;
        let (base, size) = (u32_at(data, 0)?, u32_at(data, 4)?);
        (base != 0).then_some(HashTableArea { base, size })
    }

    /// The ranges for SEV-SNP in the order of the table, which is the order of measuring.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::Metadata`], [`Error::Section`].
    pub fn sev_sections(&self) -> Result<Vec<SevSection>, Error> {
        const KIND: &str = "SEV";
        let table = self.metadata(SEV_METADATA, "SEV metadata", KIND, b"ASEV", 12)?;
        let (mut sections, mut total) = (Vec::new(), 0);
        for (index, entry) in table.chunks_exact(12).enumerate() {
            let number = |at| u32_at(entry, at).unwrap_or(0);
            let (address, size) = (u64::from(number(0)), u64::from(number(4)));
            check_range(KIND, index, address, size, &mut total)?;
            sections.push(SevSection { address, size, kind: number(8).into() });
        }
        Ok(sections)
    }

    /// The ranges for TDX in the order of the table, which is the order of measuring.
    ///
    /// # Errors
    /// [`Error::NoEntry`], [`Error::Metadata`], [`Error::Section`].
    pub fn tdx_sections(&self) -> Result<Vec<TdxSection<'a>>, Error> {
        const KIND: &str = "TDX";
        let table = self.metadata(TDX_METADATA, "TDX metadata", KIND, b"TDVF", 32)?;
        let (mut sections, mut total) = (Vec::new(), 0);
        for (index, entry) in table.chunks_exact(32).enumerate() {
            let number = |at| u32_at(entry, at).unwrap_or(0);
            let long = |at| crate::bytes::u64_at(entry, at).unwrap_or(0);
            let (address, size) = (long(8), long(16));
            let refuse = |problem| Error::Section { kind: KIND, index, address, size, problem };
            check_range(KIND, index, address, size, &mut total)?;
            let (offset, length) = (number(0) as usize, number(4) as usize);
            let data = offset.checked_add(length).and_then(|end| self.image.get(offset..end));
            let data = data.ok_or_else(|| refuse(OUTSIDE))?;
            if data.len() as u64 > size {
                return Err(refuse("its data is larger than its memory"));
            }
            let attributes = number(28);
            if attributes & !3 != 0 {
                return Err(refuse("it has an unknown attribute"));
            }
            let (extended, augmented) = (attributes & 1 != 0, attributes & 2 != 0);
            sections.push(TdxSection { data, address, size, kind: number(24), extended, augmented });
        }
        Ok(sections)
    }

    /// The entries of a metadata block: signature, length, version 1, count, entries of `size` bytes. The entry of the GUID table says
    /// how far before the end of the image the block begins.
    fn metadata(
        &self,
        guid: Guid,
        what: &'static str,
        kind: &'static str,
        signature: &[u8; 4],
        size: usize,
    ) -> Result<&'a [u8], Error> {
        let wrong = |problem| Error::Metadata { kind, problem };
        let offset = self.number(guid, what)? as usize;
        let start = self.image.len().checked_sub(offset).ok_or(wrong("it lies outside the image"))?;
        let block = &self.image[start..];
        if !block.starts_with(signature) {
            return Err(wrong("its signature is missing"));
        }
        let number = |at| u32_at(block, at).ok_or(wrong("it is cut short"));
        if number(8)? != 1 {
            return Err(wrong("its version is not 1"));
        }
        let count = number(12)?;
        if count > MOST_SECTIONS {
            return Err(wrong("it has more than 256 sections"));
        }
        let length = count as usize * size;
        if (number(4)? as usize) < 16 + length {
            return Err(wrong("its length is too small for its sections"));
        }
        block.get(16..16 + length).ok_or(wrong("it is cut short"))
    }
}

/// A VMM adds whole pages, and at least one (QEMU: "invalid address / length"). Every page is hashed: `total` bounds the work for a table.
pub(crate) fn check_range(
    kind: &'static str,
    index: usize,
    address: u64,
    size: u64,
    total: &mut u64,
) -> Result<(), Error> {
    *total = total.saturating_add(size);
    let problem = if size == 0 {
        "it is empty"
    } else if !address.is_multiple_of(PAGE as u64) || !size.is_multiple_of(PAGE as u64) {
        "it is not made of whole pages"
    } else if size > LARGEST as u64 || address.checked_add(size).is_none() {
        "it is too large"
    } else if *total > LARGEST as u64 {
        "with those before it, it has more than 1 GiB"
    } else {
        return Ok(());
    };
    Err(Error::Section { kind, index, address, size, problem })
}

fn entries(image: &[u8]) -> Result<Vec<(Guid, &[u8])>, Error> {
    let end = image.len() - RESET_VECTOR;
    let header = |end: usize| -> Option<(Guid, usize)> {
        let start = end.checked_sub(HEADER)?;
        let guid = image.get(start + 2..end)?.try_into().ok()?;
        Some((Guid::from_stored(guid), usize::from(u16_at(image, start)?)))
    };
    let Some((TABLE, length)) = header(end) else { return Ok(Vec::new()) };
    let mut rest = length.checked_sub(HEADER).ok_or(Error::Table("its length is smaller than its own header"))?;
    let mut end = end - HEADER;
    if rest > end {
        return Err(Error::Table("it begins before the image"));
    }
    let mut entries = Vec::new();
    while rest >= HEADER {
        let (guid, length) = header(end).ok_or(Error::Table("an entry begins before the image"))?;
        if length < HEADER || length > rest {
            return Err(Error::Table("the length of an entry is wrong"));
        }
        entries.push((guid, &image[end - length..end - HEADER]));
        end -= length;
        rest -= length;
    }
    Ok(entries)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An image of two pages with these entries and, at 0x1000, this block.
    pub(crate) fn image(entries: &[(Guid, Vec<u8>)], block: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * PAGE];
        image[PAGE..PAGE + block.len()].copy_from_slice(block);
        let mut table = Vec::new();
        for (guid, data) in entries {
            table.extend(data);
            table.extend((data.len() as u16 + 18).to_le_bytes());
            table.extend(guid.stored());
        }
        table.extend((table.len() as u16 + 18).to_le_bytes());
        table.extend(TABLE.stored());
        let at = image.len() - RESET_VECTOR - table.len();
        image[at..at + table.len()].copy_from_slice(&table);
        image
    }

    fn sev_block(sections: &[(u32, u32, u32)]) -> Vec<u8> {
        let mut block = b"ASEV".to_vec();
        block.extend((16 + 12 * sections.len() as u32).to_le_bytes());
        block.extend(1_u32.to_le_bytes());
        block.extend((sections.len() as u32).to_le_bytes());
        for (address, size, kind) in sections {
            block.extend([*address, *size, *kind].iter().flat_map(|number| number.to_le_bytes()));
        }
        block
    }

    fn with_sections(sections: &[(u32, u32, u32)]) -> Vec<u8> {
        image(&[(SEV_METADATA, (PAGE as u32).to_le_bytes().to_vec())], &sev_block(sections))
    }

    #[test]
    fn entries_are_found_from_the_end() {
        let bytes = image(&[(RESET_BLOCK, vec![4, 0xb0, 0x80, 0]), (HASH_TABLE, vec![0; 8])], &[]);
        let firmware = Firmware::parse(&bytes).unwrap();
        assert_eq!(firmware.reset_eip(), Ok(0x80_b004));
        assert_eq!(firmware.hash_table(), None, "base 0 means: not supported");
        assert_eq!(firmware.base(), 0xffff_e000);
        assert!(matches!(firmware.sev_sections(), Err(Error::NoEntry { .. })));
    }

    #[test]
    fn an_image_without_a_table_is_a_firmware_without_entries() {
        let firmware = Firmware::parse(&[7; PAGE]).unwrap();
        assert!(matches!(firmware.reset_eip(), Err(Error::NoEntry { .. })));
    }

    #[test]
    fn sections_keep_the_order_of_the_table() {
        let bytes = with_sections(&[(0x811000, 0x1f000, 1), (0x810000, 0x1000, 0x10), (0x1000, 0x1000, 77)]);
        let sections = Firmware::parse(&bytes).unwrap().sev_sections().unwrap();
        let kinds: Vec<SevSectionKind> = sections.iter().map(|section| section.kind).collect();
        assert_eq!(kinds, [SevSectionKind::SecMemory, SevSectionKind::KernelHashes, SevSectionKind::Unknown(77)]);
        assert_eq!((sections[0].address, sections[0].size), (0x811000, 0x1f000));
    }

    #[test]
    fn sections_that_a_vmm_refuses_are_refused() {
        for (section, problem) in [
            ((0, 0, 4), "it is empty"),
            ((0x1000, 0x800, 1), "it is not made of whole pages"),
            ((0x1800, 0x1000, 1), "it is not made of whole pages"),
            ((0x1000, 0xffff_f000, 1), "it is too large"),
            ((0x1000, 0x4000_0000, 1), "with those before it, it has more than 1 GiB"),
        ] {
            let bytes = with_sections(&[(0x2000, 0x1000, 1), section]);
            let error = Firmware::parse(&bytes).unwrap().sev_sections().unwrap_err();
            assert!(matches!(error, Error::Section { index: 1, problem: found, .. } if found == problem), "{error}");
        }
    }

    #[test]
    fn damaged_images_are_errors_and_never_panics() {
        for size in [0, 1, PAGE - 1, PAGE + 1] {
            assert_eq!(Firmware::parse(&vec![0; size]).unwrap_err(), Error::Size(size));
        }
        let good = with_sections(&[(0x811000, 0x1f000, 1), (0x810000, 0x1000, 0x10)]);
        for at in (PAGE..PAGE + 48).chain(2 * PAGE - 120..2 * PAGE) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(firmware) = Firmware::parse(&bytes) {
                    let _ = (firmware.sev_sections(), firmware.tdx_sections(), firmware.reset_eip());
                }
            }
        }
    }
}
