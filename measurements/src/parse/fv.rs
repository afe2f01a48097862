//! Firmware volumes (UEFI Platform Initialization 1.8, volume 3): the two that OVMF carries compressed, which are what its first code measures.
//!
//! Walks volume, files and sections down to the LZMA section, decompresses it and finds the volumes inside. Refused: volumes and files whose lengths contradict each other, and streams
//! that claim to hold more than 64 MiB.

use super::bytes::At;
use super::pe;
use super::variables::Variables;

/// EFI_FIRMWARE_FILE_SYSTEM2_GUID and its successor, as stored.
const FILE_SYSTEMS: [[u8; 16]; 2] = [
    [0x78, 0xe5, 0x8c, 0x8c, 0x3d, 0x8a, 0x1c, 0x4f, 0x99, 0x35, 0x89, 0x61, 0x85, 0xc3, 0x2d, 0xd3],
    [0x7a, 0xc0, 0x73, 0x54, 0xcb, 0x3d, 0xca, 0x4d, 0xbd, 0x6f, 0x1e, 0x96, 0x89, 0xe7, 0x34, 0x9a],
];
/// LZMA_CUSTOM_DECOMPRESS_GUID, as stored.
const LZMA: [u8; 16] = [0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf];
const SECTION_GUID_DEFINED: u8 = 0x02;
const SECTION_VOLUME: u8 = 0x17;
const SECTION_PE32: u8 = 0x10;
const SECTION_TE: u8 = 0x12;
const FILE_VOLUME: u8 = 0x0b;
const FILE_LARGE: u8 = 0x01;
/// Types of files: the cores of the phases SEC, PEI and DXE.
const CORES: [u8; 3] = [3, 4, 5];
const FILE_LEAVES: Error = Error::Damaged("a file leaves its volume");
/// Most bytes that the compressed part may hold.
pub const LARGEST_UNPACKED: u64 = 64 << 20;

/// Why a firmware is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A structure contradicts itself.
    #[error("the firmware volume is damaged: {0}")]
    Damaged(&'static str),
    /// The compressed part cannot be read.
    #[error("the compressed part of the firmware cannot be read: {0}")]
    Lzma(String),
    /// It is built in another way than OVMF.
    #[error(
        "the firmware is not built as OVMF is: {0}\nhint: give OVMF: its complete image, or its code part (OVMF_CODE_4M.fd)"
    )]
    Layout(&'static str),
    /// It is for another processor.
    #[error(
        "it is firmware for {0}, which does not start an image for x86-64\nhint: give OVMF for x86-64 (OVMF_CODE_4M.fd)"
    )]
    Machine(&'static str),
    /// It is a variable store alone.
    #[error("it is a variable store without firmware\nhint: give it with --variables, and the code with --firmware")]
    VariableStore,
}

/// The volumes that OVMF unpacks and measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volumes {
    /// The volume of the PEI phase.
    pub pei: Vec<u8>,
    /// The volume of the DXE phase.
    pub dxe: Vec<u8>,
}

impl Volumes {
    /// Unpacks the first volume with a compressed file of `image`, which may be code alone or code behind a variable store.
    ///
    /// # Errors
    /// [`Error`].
    pub fn unpack(image: &[u8]) -> Result<Self, Error> {
        let mut at = 0;
        while let Some(length) = volume_length(image, at)? {
            let volume = image.range(at, length).ok_or(Error::Damaged("a volume ends behind the image"))?;
            if let Some(stream) = find_compressed(volume)? {
                let mut inside = volumes(&decompress(stream)?)?.into_iter();
                let (Some(pei), Some(dxe), None) = (inside.next(), inside.next(), inside.next()) else {
                    return Err(Error::Layout("its compressed part does not hold exactly two volumes"));
                };
                // The first phases may be for 32 bits: it is the DXE phase that starts images.
                return other_machine(&dxe).map_or(Ok(Self { pei, dxe }), |machine| Err(Error::Machine(machine)));
            }
            if let Some(machine) = other_machine(volume) {
                return Err(Error::Machine(machine));
            }
            at += length;
        }
        Err(match at {
            0 => Error::Layout("it does not begin with a firmware volume (SeaBIOS, or firmware for ARM)"),
            _ if at == image.len() && Variables::parse(image).is_ok() => Error::VariableStore,
            _ => Error::Layout("no volume has a compressed part"),
        })
    }
}

/// Length of the volume at `at`; `None` where there is none.
fn volume_length(image: &[u8], at: usize) -> Result<Option<usize>, Error> {
    if image.range(at + 0x28, 4) != Some(b"_FVH") {
        return Ok(None);
    }
    let length = image.long(at + 0x20).and_then(|length| usize::try_from(length).ok());
    match length {
        Some(length) if length >= 0x48 && length <= image.len() - at => Ok(Some(length)),
        _ => Err(Error::Damaged("the length of a volume is wrong")),
    }
}

/// The LZMA stream of the first file of type "volume image".
fn find_compressed(volume: &[u8]) -> Result<Option<&[u8]>, Error> {
    for file in Files::of(volume)? {
        let file = file?;
        if file.kind == FILE_VOLUME
            && let Some(stream) = sections(file.content)?.iter().find_map(Section::lzma)
        {
            return Ok(Some(stream));
        }
    }
    Ok(None)
}

/// The processor that the core of a volume (SEC, PEI or DXE) is for, unless it is x86-64 or cannot be read.
fn other_machine(volume: &[u8]) -> Option<&'static str> {
    let cores = Files::of(volume).ok()?.map_while(Result::ok).filter(|file| CORES.contains(&file.kind));
    let sections = cores.filter_map(|file| sections(file.content).ok()).flatten();
    sections.into_iter().find_map(|section| section.machine()).and_then(pe::other_machine)
}

/// A file of a volume: its type, and its content.
struct File<'a> {
    kind: u8,
    content: &'a [u8],
}

/// The files of a volume, in order, up to the first that is damaged.
struct Files<'a> {
    volume: &'a [u8],
    at: usize,
}

impl<'a> Files<'a> {
    /// None of a volume without a file system.
    fn of(volume: &'a [u8]) -> Result<Self, Error> {
        if !FILE_SYSTEMS.iter().any(|guid| volume.range(16, 16) == Some(guid)) {
            return Ok(Self { volume, at: volume.len() });
        }
        let header = usize::from(volume.half(0x30).ok_or(FILE_LEAVES)?);
        let extended = usize::from(volume.half(0x34).ok_or(FILE_LEAVES)?);
        let at = match extended {
            0 => header,
            _ => extended + volume.word(extended + 16).ok_or(FILE_LEAVES)? as usize,
        };
        Ok(Self { volume, at })
    }

    /// The file whose header begins at `at`, and its length.
    fn file(&self, at: usize, header: &[u8]) -> Option<(File<'a>, usize)> {
        let (size, body) = if header[0x13] & FILE_LARGE != 0 {
            (self.volume.long(at + 24).and_then(|size| usize::try_from(size).ok())?, 32)
        } else {
            (three_bytes(header, 0x14), 24)
        };
        let content = self.volume.range(at + body, size.checked_sub(body)?)?;
        Some((File { kind: header[0x12], content }, size))
    }
}

impl<'a> Iterator for Files<'a> {
    type Item = Result<File<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at.checked_next_multiple_of(8)?;
        let header = self.volume.range(at, 24)?;
        if header.iter().all(|byte| *byte == 0xff) {
            return None;
        }
        let file = self.file(at, header);
        self.at = file.as_ref().map_or(self.volume.len(), |(_, size)| at + size);
        Some(file.map(|(file, _)| file).ok_or(FILE_LEAVES))
    }
}

/// A section: its type, all of its bytes, and where its content begins.
struct Section<'a> {
    kind: u8,
    bytes: &'a [u8],
    header: usize,
}

impl<'a> Section<'a> {
    fn lzma(&self) -> Option<&'a [u8]> {
        let guid = self.bytes.range(self.header, 16)?;
        let offset = usize::from(self.bytes.half(self.header + 16)?);
        (self.kind == SECTION_GUID_DEFINED && guid == LZMA).then(|| self.bytes.get(offset..)).flatten()
    }

    /// Machine number of the program in it: PE32, or the terse form of it.
    fn machine(&self) -> Option<u16> {
        let program = self.bytes.get(self.header..)?;
        match self.kind {
            SECTION_PE32 => program.half(program.word(0x3c)? as usize + 4),
            SECTION_TE if program.starts_with(b"VZ") => program.half(2),
            _ => None,
        }
    }
}

fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>, Error> {
    let mut sections = Vec::new();
    let mut at = 0;
    while let Some(start) = bytes.range(at, 4) {
        let (size, header) = match three_bytes(start, 0) {
            0xff_ffff => (bytes.word(at + 4).unwrap_or(0) as usize, 8),
            size => (size, 4),
        };
        if size < header {
            return Err(Error::Damaged("a section is shorter than its header"));
        }
        let section = bytes.range(at, size).ok_or(Error::Damaged("a section leaves its file"))?;
        sections.push(Section { kind: start[3], bytes: section, header });
        at = (at + size).next_multiple_of(4);
    }
    Ok(sections)
}

fn volumes(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let volumes = sections(bytes)?.into_iter().filter(|section| section.kind == SECTION_VOLUME);
    Ok(volumes.map(|section| section.bytes[section.header..].to_vec()).collect())
}

fn decompress(stream: &[u8]) -> Result<Vec<u8>, Error> {
    let claimed = stream.long(5).ok_or(Error::Damaged("the compressed part is cut short"))?;
    if claimed > LARGEST_UNPACKED {
        return Err(Error::Lzma(format!("it claims to hold {claimed} bytes")));
    }
    let mut output = Vec::new();
    let mut input = std::io::Cursor::new(stream);
    lzma_rs::lzma_decompress(&mut input, &mut output).map_err(|error| Error::Lzma(error.to_string()))?;
    Ok(output)
}

fn three_bytes(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) | usize::from(bytes[at + 1]) << 8 | usize::from(bytes[at + 2]) << 16
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A volume with one file that holds one LZMA section with these volumes inside.
    pub(crate) fn image(inside: &[&[u8]]) -> Vec<u8> {
        let mut stream = Vec::new();
        for volume in inside {
            let size = volume.len() as u32 + 4;
            stream.extend(&size.to_le_bytes()[..3]);
            stream.push(SECTION_VOLUME);
            stream.extend(*volume);
            stream.resize(stream.len().next_multiple_of(4), 0);
        }
        let mut compressed = Vec::new();
        let options = lzma_rs::compress::Options {
            unpacked_size: lzma_rs::compress::UnpackedSize::WriteToHeader(Some(stream.len() as u64)),
        };
        lzma_rs::lzma_compress_with_options(&mut &stream[..], &mut compressed, &options).unwrap();
        let mut section = ((compressed.len() + 24) as u32).to_le_bytes()[..3].to_vec();
        section.push(SECTION_GUID_DEFINED);
        section.extend(LZMA);
        section.extend([24, 0, 1, 0]);
        section.extend(&compressed);
        volume(FILE_VOLUME, &section)
    }

    /// A volume with one file of this type.
    fn volume(kind: u8, section: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 24];
        file[0x12] = kind;
        file[0x14..0x17].copy_from_slice(&((section.len() + 24) as u32).to_le_bytes()[..3]);
        file.extend(section);
        let mut volume = vec![0; 0x48];
        volume[16..32].copy_from_slice(&FILE_SYSTEMS[0]);
        volume[0x28..0x2c].copy_from_slice(b"_FVH");
        volume[0x30] = 0x48;
        volume.extend(file);
        let length = volume.len().next_multiple_of(4096);
        volume.resize(length, 0xff);
        volume[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
        volume
    }

    /// A volume with a core for this machine.
    fn core(kind: u8, machine: u16) -> Vec<u8> {
        let mut program = vec![0; 0x48];
        program[0x3c] = 0x40;
        program[0x44..0x46].copy_from_slice(&machine.to_le_bytes());
        let mut section = ((program.len() + 4) as u32).to_le_bytes()[..3].to_vec();
        section.push(SECTION_PE32);
        volume(kind, &[section, program].concat())
    }

    #[test]
    fn firmware_whose_dxe_phase_is_for_another_processor_is_refused() {
        let unpack = |pei: u16, dxe: u16| Volumes::unpack(&image(&[&core(4, pei), &core(5, dxe)]));
        let (x86_64, ia_32, aarch64) = (0x8664, 0x14c, 0xaa64);
        assert!(unpack(x86_64, x86_64).is_ok() && unpack(ia_32, x86_64).is_ok());
        assert_eq!(unpack(ia_32, ia_32), Err(Error::Machine("32-bit x86")));
        assert_eq!(Volumes::unpack(&core(3, aarch64)), Err(Error::Machine("AArch64")));
        assert!(Error::Machine("x").to_string().contains("does not start an image for x86-64\nhint: "));
    }

    #[test]
    fn file_that_is_a_variable_store_or_a_bios_is_named() {
        let mut store = crate::parse::variables::tests::flash(&[]);
        let length = store.len() as u64;
        store[0x20..0x28].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Volumes::unpack(&store), Err(Error::VariableStore));
        let text = Volumes::unpack(&[7; 4096]).unwrap_err().to_string();
        assert!(text.contains("SeaBIOS") && text.contains("hint: give OVMF"), "{text}");
    }

    #[test]
    fn the_volumes_inside_are_found() {
        let image = image(&[b"the first volume", b"the second"]);
        let volumes = Volumes::unpack(&image).unwrap();
        assert_eq!((&volumes.pei[..], &volumes.dxe[..]), (&b"the first volume"[..], &b"the second"[..]));
    }

    #[test]
    fn other_layouts_and_damage_are_refused() {
        assert!(matches!(Volumes::unpack(&image(&[b"one"])), Err(Error::Layout(_))));
        assert!(matches!(Volumes::unpack(&[0; 4096]), Err(Error::Layout(_))));
        let good = image(&[b"the first volume", b"the second"]);
        for at in 0..good.len().min(260) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = Volumes::unpack(&bytes);
            }
        }
    }
}
