//! Files on a FAT volume by path (Microsoft FAT File System Specification, August 2005), to find the UKI on an EFI system partition.
//!
//! Reads FAT12, FAT16 and FAT32 with long names; names are compared without regard to ASCII case. Bounded: a chain of clusters meets no cluster twice,
//! a folder has at most 4 MiB. Refused: volumes whose numbers contradict each other, chains that leave the volume or run in circles.

use super::bytes::At;

/// A FAT volume.
#[derive(Clone, Debug)]
pub struct Fat<'a> {
    bytes: &'a [u8],
    cluster: usize,
    table: &'a [u8],
    width: Width,
    root: Root,
    data: usize,
    clusters: usize,
}

#[derive(Clone, Copy, Debug)]
enum Width {
    Twelve,
    Sixteen,
    ThirtyTwo,
}

#[derive(Clone, Copy, Debug)]
enum Root {
    Fixed(usize, usize),
    Chain(usize),
}

/// Why a volume or a path is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The boot sector is not one.
    #[error("not a FAT volume: {0}")]
    Volume(&'static str),
    /// A chain of clusters is broken.
    #[error("the FAT volume is damaged: {0}")]
    Chain(&'static str),
}

const ENTRY: usize = 32;
const LONG_NAME: u8 = 0x0f;
const VOLUME_LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
const LARGEST_FOLDER: usize = 4 << 20;

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Long name, or the short one where there is none.
    pub name: String,
    short: String,
    /// Whether it is a folder.
    pub is_folder: bool,
    cluster: usize,
    size: usize,
}

impl<'a> Fat<'a> {
    /// Reads the boot sector.
    ///
    /// # Errors
    /// [`Error::Volume`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let wrong = Error::Volume;
        let short = wrong("the boot sector is cut short");
        if bytes.half(510) != Some(0xaa55) {
            return Err(wrong("the boot sector has no signature"));
        }
        let byte = |at| bytes.byte(at).map(usize::from).ok_or(short.clone());
        let half = |at| bytes.half(at).map(usize::from).ok_or(short.clone());
        let word = |at| bytes.word(at).map(|number| number as usize).ok_or(short.clone());
        let (sector, per_cluster) = (half(11)?, byte(13)?);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() {
            return Err(wrong("sectors or clusters have an impossible size"));
        }
        let (reserved, tables, root_entries) = (half(14)?, byte(16)?, half(17)?);
        let total = if half(19)? != 0 { half(19)? } else { word(32)? };
        let table_sectors = if half(22)? != 0 { half(22)? } else { word(36)? };
        let root_sectors = (root_entries * ENTRY).div_ceil(sector);
        let outside = wrong("its parts do not fit into it");
        let data = tables.checked_mul(table_sectors).and_then(|sum| sum.checked_add(reserved + root_sectors));
        let data = data.filter(|data| *data < total && reserved > 0 && tables > 0).ok_or(outside.clone())?;
        if total.checked_mul(sector).is_none_or(|size| size > bytes.len()) {
            return Err(wrong("it is larger than its partition"));
        }
        let clusters = (total - data) / per_cluster;
        let table = bytes.range(reserved * sector, table_sectors * sector).ok_or(outside)?;
        let width = match clusters {
            0..4085 => Width::Twelve,
            4085..65525 => Width::Sixteen,
            _ => Width::ThirtyTwo,
        };
        let root = match width {
            Width::ThirtyTwo => Root::Chain(word(44)?),
            _ => Root::Fixed((reserved + tables * table_sectors) * sector, root_sectors * sector),
        };
        Ok(Self { bytes, cluster: per_cluster * sector, table, width, root, data: data * sector, clusters })
    }

    /// Bytes of all clusters.
    pub fn size(&self) -> usize {
        self.clusters * self.cluster
    }

    /// The content of the file at `path`, with `/` between names; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Chain`].
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let entries = self.list(folders)?;
        let Some(entry) = entries.iter().flatten().find(|entry| entry.is(name) && !entry.is_folder) else {
            return Ok(None);
        };
        if entry.size == 0 {
            return Ok(Some(Vec::new()));
        }
        self.file(entry.cluster, entry.size).map(Some)
    }

    /// The entries of the folder at `path`, without `.` and `..`; `None` if there is no such folder.
    ///
    /// # Errors
    /// [`Error::Chain`].
    pub fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, Error> {
        let mut entries = match self.root {
            Root::Fixed(start, length) => parse_folder(self.bytes.range(start, length).unwrap_or_default()),
            Root::Chain(cluster) => parse_folder(&self.folder(cluster)?),
        };
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Some(entry) = entries.iter().find(|entry| entry.is(name) && entry.is_folder) else { return Ok(None) };
            entries = parse_folder(&self.folder(entry.cluster)?);
        }
        entries.retain(|entry| entry.name != "." && entry.name != "..");
        Ok(Some(entries))
    }

    /// The content of a file of `size` bytes.
    fn file(&self, first: usize, size: usize) -> Result<Vec<u8>, Error> {
        if size > self.size() {
            return Err(Error::Chain("a file is larger than the volume"));
        }
        let mut content = Vec::with_capacity(size);
        for cluster in self.chain(first) {
            let cluster = cluster?;
            content.extend(&cluster[..cluster.len().min(size - content.len())]);
            if content.len() == size {
                return Ok(content);
            }
        }
        Err(Error::Chain("a file has fewer clusters than its size needs"))
    }

    /// All clusters of a folder.
    fn folder(&self, first: usize) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        for cluster in self.chain(first) {
            content.extend(cluster?);
            if content.len() > LARGEST_FOLDER {
                return Err(Error::Chain("a folder has more than 4 MiB"));
            }
        }
        Ok(content)
    }

    /// The clusters from `first` on, each at most once.
    fn chain(&self, first: usize) -> impl Iterator<Item = Result<&'a [u8], Error>> {
        let mut met = vec![false; self.clusters];
        let mut next = Some(first);
        std::iter::from_fn(move || {
            let cluster = next.take()?;
            Some(self.at(cluster).and_then(|bytes| {
                if std::mem::replace(&mut met[cluster - 2], true) {
                    return Err(Error::Chain("a chain of clusters runs in circles"));
                }
                next = self.next(cluster)?;
                Ok(bytes)
            }))
        })
    }

    fn at(&self, cluster: usize) -> Result<&'a [u8], Error> {
        let outside = Error::Chain("a cluster lies outside the volume");
        let index = cluster.checked_sub(2).filter(|index| *index < self.clusters).ok_or(outside.clone())?;
        self.bytes.range(self.data + index * self.cluster, self.cluster).ok_or(outside)
    }

    fn next(&self, cluster: usize) -> Result<Option<usize>, Error> {
        let short = Error::Chain("the allocation table is too short");
        let (value, last) = match self.width {
            Width::Twelve => {
                let pair = usize::from(self.table.half(cluster + cluster / 2).ok_or(short)?);
                (if cluster.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }, 0xff8)
            }
            Width::Sixteen => (usize::from(self.table.half(cluster * 2).ok_or(short)?), 0xfff8),
            Width::ThirtyTwo => (self.table.word(cluster * 4).ok_or(short)? as usize & 0x0fff_ffff, 0x0fff_fff8),
        };
        Ok((value < last).then_some(value))
    }
}

impl Entry {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || self.short.eq_ignore_ascii_case(name)
    }
}

fn parse_folder(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut long: Vec<u16> = Vec::new();
    for raw in bytes.chunks_exact(ENTRY) {
        let (first, attributes) = (raw[0], raw[11]);
        match (first, attributes) {
            (0, _) => break,
            (0xe5, _) => long.clear(),
            (_, LONG_NAME) => {
                let part = [&raw[1..11], &raw[14..26], &raw[28..32]].concat();
                let mut units: Vec<u16> =
                    part.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
                // The last part of a name comes first.
                units.extend(&long);
                long = units;
                long.truncate(255 + 13);
            }
            (_, attributes) if attributes & VOLUME_LABEL != 0 => long.clear(),
            _ => entries.push(entry(raw, std::mem::take(&mut long))),
        }
    }
    entries
}

fn entry(raw: &[u8], long: Vec<u16>) -> Entry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    // The short name has capitals only; two bits say that the one that was meant has none (as Windows NT and edk2 keep it).
    let cased = |text: String, bit: u8| if raw[12] & bit != 0 { text.to_ascii_lowercase() } else { text };
    let (base, extension) = (cased(text(&raw[..8]), 0x08), cased(text(&raw[8..11]), 0x10));
    let short = if extension.is_empty() { base } else { format!("{base}.{extension}") };
    let end = long.iter().position(|unit| *unit == 0).unwrap_or(long.len());
    let name = if end == 0 { short.clone() } else { String::from_utf16_lossy(&long[..end]) };
    let cluster = usize::from(raw.half(20).unwrap_or(0)) << 16 | usize::from(raw.half(26).unwrap_or(0));
    let size = raw.word(28).unwrap_or(0) as usize;
    Entry { name, short, is_folder: raw[11] & FOLDER != 0, cluster, size }
}

#[cfg(test)]
mod tests {
    use cairn_image::esp;

    use super::*;

    fn volume(size: u64, files: &[(&str, &[u8])]) -> Vec<u8> {
        esp::write(&esp::Settings { size, volume_id: 1, label: *b"TEST       ", time: 1_700_000_000 }, files).unwrap()
    }

    #[test]
    fn files_are_found_on_volumes_of_every_width() {
        let large: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        let files: [(&str, &[u8]); 3] =
            [("EFI/BOOT/BOOTX64.EFI", &large), ("loader/a long name with blanks.conf", b"x"), ("empty", b"")];
        for size in [1 << 20, 16 << 20, 600 << 20] {
            let bytes = volume(size, &files);
            let fat = Fat::parse(&bytes).unwrap();
            for (path, content) in files {
                assert_eq!(fat.read(path).unwrap().as_deref(), Some(content), "{path} of {size}");
            }
            assert_eq!(fat.read("efi/boot/bootx64.efi").unwrap().as_deref(), Some(&large[..]));
            for path in ["EFI/BOOT", "EFI/none", "none/BOOTX64.EFI", ""] {
                assert_eq!(fat.read(path).unwrap(), None, "{path}");
            }
            let names: Vec<String> = fat.list("").unwrap().unwrap().into_iter().map(|entry| entry.name).collect();
            assert_eq!(names, ["EFI", "loader", "empty"]);
        }
    }

    #[test]
    fn chains_that_run_in_circles_are_refused() {
        let mut bytes = volume(1 << 20, &[("file", &[7; 9000]), ("folder/file", b"x")]);
        let entries = Fat::parse(&bytes).unwrap().list("").unwrap().unwrap();
        for entry in &entries {
            // Twelve bits for each cluster: this one is followed by itself.
            let at =
                usize::from(bytes.half(14).unwrap()) * usize::from(bytes.half(11).unwrap()) + entry.cluster * 3 / 2;
            let (pair, odd) = (bytes.half(at).unwrap(), entry.cluster % 2 == 1);
            let next = entry.cluster as u16;
            let pair = if odd { pair & 0xf | next << 4 } else { pair & 0xf000 | next };
            bytes[at..at + 2].copy_from_slice(&pair.to_le_bytes());
        }
        let fat = Fat::parse(&bytes).unwrap();
        for path in ["file", "folder/file"] {
            assert_eq!(fat.read(path), Err(Error::Chain("a chain of clusters runs in circles")), "{path}");
        }
    }

    #[test]
    fn damaged_volumes_are_errors_and_never_hang() {
        let good = volume(1 << 20, &[("EFI/BOOT/BOOTX64.EFI", &[7; 9000])]);
        assert!(Fat::parse(&[]).is_err());
        assert!(Fat::parse(&good[..good.len() / 2]).is_err());
        for at in (0..600).chain(512..2048).chain(0..4096) {
            for value in [0, 2, 3, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(fat) = Fat::parse(&bytes) {
                    let _ = fat.read("EFI/BOOT/BOOTX64.EFI");
                }
            }
        }
    }
}
