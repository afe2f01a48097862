//! Unified kernel images: sections put onto systemd-stub, byte for byte as `ukify build` does (UAPI, Unified Kernel
//! Image; PE/COFF specification, section 3 and 4).
//!
//! Only the header fields that sections need are changed; the stub's time stamp and checksum stay. Refused: a stub that
//! is not PE32+ for x86-64, whose numbers do not fit together, or that has no room in its section table.

/// Line that ukify appends to the stub's SBAT section.
const SBAT: &[u8] = b"uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n";
const DATA: u32 = 0x4000_0040;
const CODE: u32 = 0x4000_0020;
const ENTRY: usize = 40;

/// What goes into a UKI.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    /// `.osrel`
    pub os_release: &'a [u8],
    /// `.cmdline`, without a newline at its end
    pub command_line: &'a [u8],
    /// `.uname`: the kernel's release
    pub uname: &'a [u8],
    /// `.linux`
    pub linux: &'a [u8],
    /// `.initrd`
    pub initrd: &'a [u8],
}

/// Why a UKI could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stub is not what it should be.
    #[error("the stub cannot be used: {0}")]
    Stub(&'static str),
    /// The stub has no room for a section.
    #[error("the stub has no room for the section {0}: another version of systemd-boot-efi?")]
    NoRoom(String),
    /// A section is empty or too large.
    #[error("the section {name} has {size} bytes, 1 to 2^31 are possible")]
    Size {
        /// Its name.
        name: String,
        /// Its size.
        size: usize,
    },
}

/// Assembles a UKI from `stub` and `sections`.
pub fn assemble(stub: &[u8], sections: &Sections) -> Result<Vec<u8>, Error> {
    let mut image = Image::parse(stub)?;
    image.extend_sbat()?;
    for (name, data, characteristics) in [
        (".osrel", sections.os_release, DATA),
        (".cmdline", sections.command_line, DATA),
        (".uname", sections.uname, DATA),
        (".linux", sections.linux, CODE),
        (".initrd", sections.initrd, DATA),
    ] {
        image.append(name, data, characteristics)?;
    }
    Ok(image.bytes)
}

struct Image {
    bytes: Vec<u8>,
    /// Offset of the COFF header.
    coff: usize,
    /// Offset of the section table.
    table: usize,
    /// First byte after the headers.
    headers_end: usize,
    section_alignment: u32,
    file_alignment: u32,
}

impl Image {
    fn parse(stub: &[u8]) -> Result<Self, Error> {
        let bytes = stub.to_vec();
        let bad = Error::Stub;
        if bytes.get(..2) != Some(b"MZ") {
            return Err(bad("it is no PE file"));
        }
        let pe = get32(&bytes, 0x3c).ok_or(bad("it is truncated"))? as usize;
        if pe > 0x1000 || bytes.get(pe..pe + 4) != Some(b"PE\0\0") {
            return Err(bad("it has no PE header"));
        }
        let coff = pe + 4;
        let optional_size = usize::from(get16(&bytes, coff + 16).ok_or(bad("it is truncated"))?);
        let optional = coff + 20;
        if get16(&bytes, coff) != Some(0x8664) || get16(&bytes, optional) != Some(0x20b) {
            return Err(bad("it is not for x86-64"));
        }
        let field = |at| get32(&bytes, optional + at).ok_or(bad("it is truncated"));
        let (section_alignment, file_alignment, headers) = (field(32)?, field(36)?, field(60)? as usize);
        let alignments = [section_alignment, file_alignment];
        if alignments.iter().any(|value| !value.is_power_of_two() || !(0x200..=0x10000).contains(value)) {
            return Err(bad("its alignments are strange"));
        }
        let table = optional + optional_size;
        let image = Self { coff, table, headers_end: headers, section_alignment, file_alignment, bytes };
        let count = image.count();
        if count == 0 || count > 64 || table + count * ENTRY > headers || headers > image.bytes.len() {
            return Err(bad("its section table does not fit into its headers"));
        }
        for index in 0..count {
            let (raw_size, raw) = (image.entry(index, 16), image.entry(index, 20));
            let end = u64::from(raw) + u64::from(raw_size);
            if end > image.bytes.len() as u64 || (raw_size > 0 && (raw as usize) < headers) {
                return Err(bad("a section lies outside of the file"));
            }
        }
        Ok(image)
    }

    fn count(&self) -> usize {
        usize::from(get16(&self.bytes, self.coff + 2).unwrap_or(0))
    }

    /// A 32-bit field of a section's table entry.
    fn entry(&self, index: usize, field: usize) -> u32 {
        get32(&self.bytes, self.table + index * ENTRY + field).unwrap_or(0)
    }

    /// The end of the last section in memory.
    fn memory_end(&self) -> u64 {
        (0..self.count())
            .map(|index| u64::from(self.entry(index, 12)) + u64::from(self.entry(index, 8)))
            .max()
            .unwrap_or(0)
    }

    /// ukify merges its own SBAT line in place: the stub's text without its NULs, the line, one NUL.
    fn extend_sbat(&mut self) -> Result<(), Error> {
        let name_of = |image: &Self, index: usize| {
            let at = image.table + index * ENTRY;
            image.bytes[at..at + 8].to_vec()
        };
        let index = (0..self.count()).find(|index| name_of(self, *index) == b".sbat\0\0\0");
        let index = index.ok_or(Error::Stub("it has no .sbat section"))?;
        let (size, raw_size, raw) = (self.entry(index, 8), self.entry(index, 16), self.entry(index, 20) as usize);
        let room = raw_size as usize;
        let old = &self.bytes[raw..raw + (size as usize).min(room)];
        let end = old.iter().position(|byte| *byte == 0).unwrap_or(old.len());
        let mut text = old[..end].to_vec();
        text.extend_from_slice(SBAT);
        text.push(0);
        if text.len() > room {
            return Err(Error::NoRoom(".sbat".into()));
        }
        self.bytes[raw..raw + text.len()].copy_from_slice(&text);
        let at = self.table + index * ENTRY + 8;
        put32(&mut self.bytes, at, text.len() as u32);
        Ok(())
    }

    fn append(&mut self, name: &str, data: &[u8], characteristics: u32) -> Result<(), Error> {
        let wrong_size = || Error::Size { name: name.to_owned(), size: data.len() };
        let size = u32::try_from(data.len()).ok().filter(|size| (1..1 << 31).contains(size)).ok_or_else(wrong_size)?;
        let address = self.memory_end().next_multiple_of(u64::from(self.section_alignment));
        let end = (address + u64::from(size)).next_multiple_of(u64::from(self.section_alignment));
        let pointer = self.bytes.len().next_multiple_of(self.file_alignment as usize);
        let raw_size = data.len().next_multiple_of(self.file_alignment as usize);
        let fits = |value: u64| u32::try_from(value).map_err(|_| wrong_size());
        let (address, end, pointer32) = (fits(address)?, fits(end)?, fits(pointer as u64)?);

        let count = self.count();
        let at = self.table + count * ENTRY;
        if at + ENTRY > self.headers_end {
            return Err(Error::NoRoom(name.to_owned()));
        }
        self.bytes[at..at + ENTRY].fill(0);
        self.bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        for (field, value) in [(8, size), (12, address), (16, raw_size as u32), (20, pointer32), (36, characteristics)]
        {
            put32(&mut self.bytes, at + field, value);
        }
        let optional = self.coff + 20;
        self.bytes[self.coff + 2..self.coff + 4].copy_from_slice(&(count as u16 + 1).to_le_bytes());
        let initialised = get32(&self.bytes, optional + 8).unwrap_or(0);
        put32(&mut self.bytes, optional + 8, initialised.wrapping_add(size));
        put32(&mut self.bytes, optional + 56, end);
        self.bytes.resize(pointer, 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(pointer + raw_size, 0);
        Ok(())
    }
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// The smallest PE file that passes for a stub: `.text` and `.sbat`.
    fn stub() -> Vec<u8> {
        let mut bytes = vec![0; 0xa00];
        bytes[..2].copy_from_slice(b"MZ");
        put32(&mut bytes, 0x3c, 0x40);
        bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
        let coff = 0x44;
        bytes[coff..coff + 4].copy_from_slice(&[0x64, 0x86, 2, 0]);
        bytes[coff + 16] = 0xf0;
        let optional = coff + 20;
        bytes[optional..optional + 2].copy_from_slice(&[0x0b, 0x02]);
        for (at, value) in [(32, 0x1000), (36, 0x200), (56, 0x3000), (60, 0x600)] {
            put32(&mut bytes, optional + at, value);
        }
        let table = optional + 0xf0;
        for (index, (name, size, address, raw)) in
            [(b".text\0\0\0", 16, 0x1000, 0x600), (b".sbat\0\0\0", 20, 0x2000, 0x800)].into_iter().enumerate()
        {
            let at = table + index * ENTRY;
            bytes[at..at + 8].copy_from_slice(name);
            for (field, value) in [(8, size), (12, address), (16, 0x200), (20, raw)] {
                put32(&mut bytes, at + field, value);
            }
        }
        bytes[0x800..0x80a].copy_from_slice(b"sbat,1,x,\n");
        bytes
    }

    const SECTIONS: Sections = Sections {
        os_release: b"ID=cairn\n",
        command_line: b"console=ttyS0",
        uname: b"6.12",
        linux: b"a kernel",
        initrd: b"an initrd",
    };

    #[test]
    fn the_bytes_of_a_uki_are_frozen() {
        let uki = assemble(&stub(), &SECTIONS).unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(&uki)),
            "5e77f532b7535d7dc02840bc59572b6093b0b769bf8c5efee6ce17a19aa6a988"
        );
    }

    #[test]
    fn sections_are_in_order_aligned_and_whole() {
        let uki = assemble(&stub(), &SECTIONS).unwrap();
        let image = Image::parse(&uki).unwrap();
        assert_eq!(image.count(), 7);
        let name = |index: usize| {
            let at = image.table + index * ENTRY;
            String::from_utf8_lossy(&uki[at..at + 8]).trim_end_matches('\0').to_owned()
        };
        let names: Vec<String> = (0..7).map(name).collect();
        assert_eq!(names, [".text", ".sbat", ".osrel", ".cmdline", ".uname", ".linux", ".initrd"]);
        for index in 2..7 {
            assert_eq!(image.entry(index, 12) % 0x1000, 0);
            assert_eq!(image.entry(index, 20) % 0x200, 0);
        }
        let (at, size) = (image.entry(5, 20) as usize, image.entry(5, 8) as usize);
        assert_eq!(&uki[at..at + size], b"a kernel");
        assert!(uki[0x800..].starts_with(b"sbat,1,x,\nuki,1,UKI,uki,1,"));
    }

    #[test]
    fn damaged_stubs_are_refused_without_panic() {
        let good = stub();
        for length in 0..good.len() {
            assert!(assemble(&good[..length], &SECTIONS).is_err(), "{length}");
        }
        for at in 0..0x200 {
            let mut damaged = good.clone();
            damaged[at] ^= 0xff;
            let _ = assemble(&damaged, &SECTIONS);
        }
        let mut full = good.clone();
        put32(&mut full, 0x44 + 20 + 60, (0x44 + 20 + 0xf0 + 2 * ENTRY) as u32);
        assert!(matches!(assemble(&full, &SECTIONS), Err(Error::NoRoom(_))));
        assert!(matches!(assemble(&good, &Sections { initrd: b"", ..SECTIONS }), Err(Error::Size { .. })));
    }
}
