//! Reads the sections of a PE file (PE/COFF specification, section 4): just enough to take a UKI apart.

use anyhow::{Context, Result, ensure};

/// A section: its name, and as many bytes as it has in memory (VirtualSize), which is what systemd-stub reads.
pub struct Section<'a> {
    /// Name, for example `.linux`.
    pub name: String,
    /// Content without padding.
    pub data: &'a [u8],
}

/// The sections in file order.
pub fn sections(file: &[u8]) -> Result<Vec<Section<'_>>> {
    let header = word(file, 0x3c)?;
    ensure!(part(file, header, 4)? == b"PE\0\0", "there is no PE signature at {header:#x}");
    let count = usize::from(half(file, header + 6)?);
    let table = header + 24 + usize::from(half(file, header + 20)?);
    (0..count).map(|index| section(file, table + 40 * index)).collect()
}

/// The content of the section `name`.
pub fn section_data<'a>(file: &'a [u8], name: &str) -> Result<&'a [u8]> {
    let found = sections(file)?.into_iter().find(|section| section.name == name);
    found.map(|section| section.data).with_context(|| format!("there is no section {name}"))
}

fn section(file: &[u8], at: usize) -> Result<Section<'_>> {
    let name = part(file, at, 8)?;
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    let (length, start) = (word(file, at + 8)?, word(file, at + 20)?);
    Ok(Section { name, data: part(file, start, length)? })
}

fn part(file: &[u8], start: usize, length: usize) -> Result<&[u8]> {
    let end = start.checked_add(length).context("a length overflows")?;
    file.get(start..end).with_context(|| format!("the file ends before byte {end}"))
}

fn word(file: &[u8], at: usize) -> Result<usize> {
    Ok(part(file, at, 4)?.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

fn half(file: &[u8], at: usize) -> Result<u16> {
    Ok(part(file, at, 2)?.iter().rev().fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header at 0x40 without optional header, and one section of `length` bytes.
    fn file(length: u32) -> Vec<u8> {
        let mut file = vec![0; 0x40];
        file[0x3c] = 0x40;
        file.extend(b"PE\0\0\x64\x86\x01\x00");
        file.extend([0; 12 + 4]);
        file.extend(b".osrel\0\0");
        file.extend(length.to_le_bytes());
        file.extend([0; 4]);
        file.extend(512_u32.to_le_bytes());
        file.extend(0x90_u32.to_le_bytes());
        file.resize(0x90, 0);
        file.extend(b"ID=cairn\n\0\0\0");
        file
    }

    #[test]
    fn a_section_is_read_without_its_padding() {
        assert_eq!(section_data(&file(9), ".osrel").unwrap(), b"ID=cairn\n");
        assert!(section_data(&file(9), ".linux").is_err());
    }

    #[test]
    fn a_section_beyond_the_end_is_an_error() {
        assert!(sections(&file(500)).is_err());
        assert!(sections(&file(u32::MAX)).is_err());
        assert!(sections(b"MZ").is_err());
    }
}
