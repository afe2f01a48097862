//! PE32+ images (PE/COFF specification) and their Authenticode digest (Windows Authenticode Portable Executable Signature Format, "Calculating the PE image hash"),
//! which is what firmware measures when it loads an image.
//!
//! Two readings of a section matter: firmware hashes what is in the file, systemd-stub reads as many bytes as the section has in memory. Refused: images whose headers
//! contradict themselves, whose sections overlap in the file or leave it, or that are not for x86-64.

use super::bytes::At;
use crate::Bank;

/// A parsed image.
#[derive(Clone, Debug)]
pub struct Pe<'a> {
    bytes: &'a [u8],
    /// Byte position of the checksum.
    checksum: usize,
    /// Byte position of the data directory's certificate entry, where there is one.
    security: Option<usize>,
    /// Bytes of all headers.
    headers: usize,
    /// Bytes in memory.
    size: usize,
    /// Certificate table in the file: start and length.
    certificates: Option<(usize, usize)>,
    sections: Vec<Section<'a>>,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Name without its padding.
    pub name: String,
    /// What the section has in memory, as far as the file holds it: VirtualSize bytes, or fewer where the file has fewer.
    pub data: &'a [u8],
    /// Where it begins in memory, from the image's base.
    pub address: usize,
    /// Bytes in memory.
    pub virtual_size: usize,
    /// Position and length in the file.
    pub raw: (usize, usize),
}

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header is missing or cut short.
    #[error("not a PE image: {0}")]
    Header(&'static str),
    /// It is for another processor.
    #[error("the PE image is for {0}, and only images for x86-64 are predicted")]
    Machine(&'static str),
    /// A section cannot be.
    #[error("section {0}: {1}")]
    Section(String, &'static str),
    /// The certificate table cannot be.
    #[error("the certificate table {0}")]
    Certificates(&'static str),
}

/// More sections than any UKI has.
const MOST_SECTIONS: usize = 96;
const X86_64: u16 = 0x8664;
const IA_32: u16 = 0x14c;
const AARCH64: u16 = 0xaa64;
const PE32_PLUS: u16 = 0x20b;
/// Where the data directory begins in the optional header.
const DIRECTORIES: usize = 112;

/// The processor of a machine number (PE/COFF specification, "Machine types"), unless it is x86-64.
pub(super) fn other_machine(number: u16) -> Option<&'static str> {
    match number {
        X86_64 => None,
        IA_32 => Some("32-bit x86"),
        AARCH64 => Some("AArch64"),
        _ => Some("another processor"),
    }
}

impl<'a> Pe<'a> {
    /// Reads headers and section table.
    ///
    /// # Errors
    /// [`Error`] names what is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let short = || Error::Header("the headers are cut short");
        if !bytes.starts_with(b"MZ") {
            return Err(Error::Header("it does not begin with MZ"));
        }
        let coff = bytes.word(0x3c).ok_or_else(short)? as usize;
        if bytes.range(coff, 4) != Some(b"PE\0\0") {
            return Err(Error::Header("the PE signature is missing"));
        }
        let coff = coff + 4;
        if let Some(machine) = other_machine(bytes.half(coff).unwrap_or(0)) {
            return Err(Error::Machine(machine));
        }
        let count = usize::from(bytes.half(coff + 2).ok_or_else(short)?);
        if count > MOST_SECTIONS {
            return Err(Error::Header("it has more than 96 sections"));
        }
        let optional = coff + 20;
        let table = optional + usize::from(bytes.half(coff + 16).ok_or_else(short)?);
        if bytes.half(optional) != Some(PE32_PLUS) {
            return Err(Error::Header("it is not PE32+"));
        }
        if table < optional + DIRECTORIES {
            return Err(Error::Header("the optional header is cut short"));
        }
        let size = bytes.word(optional + 56).ok_or_else(short)? as usize;
        let headers = bytes.word(optional + 60).ok_or_else(short)? as usize;
        if headers < table + 40 * count || bytes.len() < headers {
            return Err(Error::Header("the size of the headers is wrong"));
        }
        let directories = bytes.word(optional + 108).ok_or_else(short)? as usize;
        let security = (directories > 4).then_some(optional + DIRECTORIES + 4 * 8);
        if security.is_some_and(|at| at + 8 > table) {
            return Err(Error::Header("the data directory does not fit"));
        }
        let certificates = certificates(bytes, security)?;
        let sections: Vec<_> = (0..count).map(|index| section(bytes, table + 40 * index)).collect::<Result<_, _>>()?;
        let end = check_overlap(&sections, headers)?;
        if certificates.is_some_and(|(start, _)| start < end) {
            return Err(Error::Certificates("overlaps what is hashed"));
        }
        Ok(Self { bytes, checksum: optional + 64, security, headers, size, certificates, sections })
    }

    /// The sections in the order of the table.
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }

    /// The first section with this name.
    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Bytes of all headers, which lie before the sections in file and memory.
    pub fn headers(&self) -> usize {
        self.headers
    }

    /// Bytes of the image in memory, as its header says.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The whole image.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The Authenticode digest. A signature does not change it.
    pub fn authenticode(&self, bank: Bank) -> Vec<u8> {
        bank.digest(&self.authenticode_input())
    }

    /// What [`Pe::authenticode`] hashes: headers without checksum and certificate entry, sections in the order of the file, and what stands behind them.
    fn authenticode_input(&self) -> Vec<u8> {
        let mut input = Vec::with_capacity(self.bytes.len());
        input.extend(&self.bytes[..self.checksum]);
        let after = self.checksum + 4;
        match self.security {
            Some(at) => {
                input.extend(&self.bytes[after..at]);
                input.extend(&self.bytes[at + 8..self.headers]);
            }
            None => input.extend(&self.bytes[after..self.headers]),
        }
        let mut raw: Vec<(usize, usize)> =
            self.sections.iter().map(|section| section.raw).filter(|(_, length)| *length > 0).collect();
        raw.sort_unstable();
        let mut hashed = self.headers;
        for (start, length) in raw {
            input.extend(&self.bytes[start..start + length]);
            hashed += length;
        }
        // As edk2 does: what is left is taken from the sum of what was hashed, not from the end of the last section.
        let end = self.certificates.map_or(self.bytes.len(), |(start, _)| start);
        input.extend(self.bytes.get(hashed..end).unwrap_or_default());
        input
    }
}

fn certificates(bytes: &[u8], security: Option<usize>) -> Result<Option<(usize, usize)>, Error> {
    let Some(at) = security else { return Ok(None) };
    let (Some(start), Some(length)) = (bytes.word(at), bytes.word(at + 4)) else {
        return Err(Error::Header("the data directory is cut short"));
    };
    let (start, length) = (start as usize, length as usize);
    if length == 0 {
        return Ok(None);
    }
    if start.checked_add(length) != Some(bytes.len()) {
        return Err(Error::Certificates("does not end with the file"));
    }
    Ok(Some((start, length)))
}

fn section(bytes: &[u8], at: usize) -> Result<Section<'_>, Error> {
    let header = bytes.range(at, 40).ok_or(Error::Header("the section table is cut short"))?;
    let name = header[..8].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    let number = |at| header.word(at).unwrap_or(0) as usize;
    let (virtual_size, address, raw_size, start) = (number(8), number(12), number(16), number(20));
    let refuse = |problem| Error::Section(name.clone(), problem);
    let data = if raw_size == 0 { Some(&[][..]) } else { bytes.range(start, raw_size) };
    let data = data.ok_or_else(|| refuse("it lies outside the file"))?;
    let data = &data[..data.len().min(virtual_size)];
    Ok(Section { data, address, virtual_size, raw: (start, raw_size), name })
}

/// Where the last of headers and sections ends.
fn check_overlap(sections: &[Section], headers: usize) -> Result<usize, Error> {
    let mut order: Vec<&Section> = sections.iter().filter(|section| section.raw.1 > 0).collect();
    order.sort_by_key(|section| section.raw);
    let mut end = headers;
    for section in order {
        if section.raw.0 < end {
            return Err(Error::Section(section.name.clone(), "it overlaps what stands before it"));
        }
        end = section.raw.0 + section.raw.1;
    }
    Ok(end)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A PE image with these sections, each aligned to 512 bytes.
    pub(crate) fn image(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x40;
        bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
        bytes[0x44..0x46].copy_from_slice(&X86_64.to_le_bytes());
        bytes[0x46] = sections.len() as u8;
        bytes[0x54] = 0xf0;
        bytes[0x58..0x5a].copy_from_slice(&PE32_PLUS.to_le_bytes());
        bytes[0x58 + 60..0x58 + 64].copy_from_slice(&0x400_u32.to_le_bytes());
        bytes[0x58 + 108] = 16;
        for (index, (name, data)) in sections.iter().enumerate() {
            let at = 0x148 + 40 * index;
            let (start, raw) = (bytes.len() as u32, data.len().next_multiple_of(512) as u32);
            bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
            for (field, value) in [(8, data.len() as u32), (12, start), (16, raw), (20, start)] {
                bytes[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
            }
            bytes.extend(*data);
            bytes.resize((start + raw) as usize, 0);
        }
        // Room for sections that tests make larger.
        let size = bytes.len() as u32 + 0x1_0000;
        bytes[0x58 + 56..0x58 + 60].copy_from_slice(&size.to_le_bytes());
        bytes
    }

    #[test]
    fn sections_have_their_size_in_memory() {
        let bytes = image(&[(".linux", b"kernel"), (".osrel", b"ID=x\n")]);
        let pe = Pe::parse(&bytes).unwrap();
        assert_eq!(pe.section(".linux").unwrap().data, b"kernel");
        assert_eq!(pe.section(".osrel").unwrap().raw, (0x600, 0x200));
        assert!(pe.section(".none").is_none());
    }

    #[test]
    fn checksum_and_signature_do_not_change_the_digest() {
        let plain = image(&[(".linux", b"kernel")]);
        let digest = Pe::parse(&plain).unwrap().authenticode(Bank::Sha256);
        let mut signed = plain.clone();
        signed[0x58 + 64] = 77;
        let at = 0x58 + 112 + 32;
        signed[at..at + 4].copy_from_slice(&(plain.len() as u32).to_le_bytes());
        signed[at + 4] = 8;
        signed.extend([9; 8]);
        assert_eq!(Pe::parse(&signed).unwrap().authenticode(Bank::Sha256), digest);
        let mut other = plain;
        other[0x400] ^= 1;
        assert_ne!(Pe::parse(&other).unwrap().authenticode(Bank::Sha256), digest);
    }

    #[test]
    fn impossible_sections_are_refused() {
        let good = image(&[(".a", b"1"), (".b", b"2")]);
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Pe::parse(&bytes).unwrap_err()
        };
        let second = 0x148 + 40;
        assert_eq!(with(second + 20, 0x400), Error::Section(".b".into(), "it overlaps what stands before it"));
        assert_eq!(with(second + 20, 0xffff_ff00), Error::Section(".b".into(), "it lies outside the file"));
        assert_eq!(with(second + 16, u32::MAX), Error::Section(".b".into(), "it lies outside the file"));
    }

    #[test]
    fn headers_that_end_before_the_data_directory_are_refused() {
        let mut bytes = image(&[]);
        // No optional header, no directory, and headers that end where it would begin.
        bytes[0x54] = 0;
        bytes[0x58 + 60..0x58 + 62].copy_from_slice(&0x58_u16.to_le_bytes());
        bytes[0x58 + 108] = 0;
        assert_eq!(Pe::parse(&bytes).unwrap_err(), Error::Header("the optional header is cut short"));
    }

    #[test]
    fn a_certificate_table_over_a_section_is_refused() {
        let mut bytes = image(&[(".a", b"1")]);
        let at = 0x58 + DIRECTORIES + 32;
        bytes[at..at + 4].copy_from_slice(&0x500_u32.to_le_bytes());
        bytes[at + 5] = 1;
        assert_eq!(Pe::parse(&bytes).unwrap_err(), Error::Certificates("overlaps what is hashed"));
    }

    #[test]
    fn damaged_images_are_errors_and_never_panics() {
        let good = image(&[(".a", b"1"), (".b", b"2")]);
        for length in 0..good.len() {
            assert!(Pe::parse(&good[..length]).is_err(), "{length}");
        }
        for at in 0..0x200 {
            for value in [0, 1, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(pe) = Pe::parse(&bytes) {
                    let _ = pe.authenticode(Bank::Sha256);
                }
            }
        }
    }
}
