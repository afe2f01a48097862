//! The initrd: a cpio archive in "newc" form (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), packed
//! with zstd.
//!
//! Entries are sorted bytewise, so that parents come first; inodes count up, everything belongs to root and has one time.
//! A parent folder that was not given is made with mode 0755. Refused: a path twice, absolute paths, `..`.

use std::collections::BTreeMap;

/// Why an archive could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path cannot be in an archive.
    #[error("the path {0:?} cannot be in an initrd: it must be relative, without `.` or `..`")]
    Path(String),
    /// The path was added before.
    #[error("{0} would be in the initrd twice")]
    Duplicate(String),
    /// Something is below a file.
    #[error("{0} is no folder, but something is to be put below it")]
    NotAFolder(String),
    /// The format has 32 bits for sizes and times.
    #[error("{what} is {value}, more than the 32 bits that the format has")]
    TooLarge {
        /// Which number.
        what: String,
        /// Its value.
        value: u64,
    },
    /// zstd failed.
    #[error("failed to compress the initrd: {0}")]
    Compress(std::io::Error),
}

enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
}

struct Entry {
    kind: Kind,
    mode: u32,
}

/// An archive that is being put together.
pub struct Archive {
    time: u32,
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An empty archive whose entries have the time `time`, seconds since 1970.
    pub fn new(time: u64) -> Result<Self, Error> {
        Ok(Self { time: narrow("the time", time)?, entries: BTreeMap::new() })
    }

    /// Adds a folder.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), Error> {
        self.add(path, Entry { kind: Kind::Directory, mode: 0o040_000 | mode })
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) -> Result<(), Error> {
        self.add(path, Entry { kind: Kind::File(bytes), mode: 0o100_000 | mode })
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), Error> {
        self.add(path, Entry { kind: Kind::Symlink(target.to_owned()), mode: 0o120_777 })
    }

    fn add(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') || path == "TRAILER!!!" {
            return Err(Error::Path(path.to_owned()));
        }
        if self.entries.contains_key(path) {
            return Err(Error::Duplicate(path.to_owned()));
        }
        for (at, _) in path.match_indices('/') {
            let parent = Entry { kind: Kind::Directory, mode: 0o040_755 };
            let parent = self.entries.entry(path[..at].to_owned()).or_insert(parent);
            if !matches!(parent.kind, Kind::Directory) {
                return Err(Error::NotAFolder(path[..at].to_owned()));
            }
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// The files by path, with their content, and links with their target.
    pub fn contents(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().filter_map(|(path, entry)| match &entry.kind {
            Kind::Directory => None,
            Kind::File(bytes) => Some((path.as_str(), bytes.as_slice())),
            Kind::Symlink(target) => Some((path.as_str(), target.as_bytes())),
        })
    }

    /// The bytes of the archive, padded to 512.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in self.entries.iter().enumerate() {
            let (data, links): (&[u8], u32) = match &entry.kind {
                Kind::Directory => (&[], 2),
                Kind::File(bytes) => (bytes, 1),
                Kind::Symlink(target) => (target.as_bytes(), 1),
            };
            let inode = narrow("the number of entries", inode as u64 + 1)?;
            let size = narrow(&format!("the size of {path}"), data.len() as u64)?;
            header(&mut out, path, [inode, entry.mode, 0, 0, links, self.time, size]);
            out.extend_from_slice(data);
            pad(&mut out, 4);
        }
        header(&mut out, "TRAILER!!!", [0, 0, 0, 0, 1, 0, 0]);
        pad(&mut out, 512);
        Ok(out)
    }
}

/// `fields`: inode, mode, uid, gid, links, time, size. Device numbers and the checksum are zero.
fn header(out: &mut Vec<u8>, path: &str, fields: [u32; 7]) {
    out.extend_from_slice(b"070701");
    let name_size = path.len() as u32 + 1;
    for field in fields.into_iter().chain([0, 0, 0, 0, name_size, 0]) {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out, 4);
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn narrow(what: &str, value: u64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::TooLarge { what: what.to_owned(), value })
}

/// Packs `bytes` with zstd in one call with fixed settings: no worker threads, a checksum, the size in the frame, and a
/// window of at most 8 MiB, which every kernel unpacks. The pinned crate's own libzstd decides the bytes.
pub fn compress_zstd(bytes: &[u8], level: i32) -> Result<Vec<u8>, Error> {
    let compress = || {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        compressor.window_log(23)?;
        compressor.compress(bytes)
    };
    compress().map_err(Error::Compress)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn sample() -> Archive {
        let mut archive = Archive::new(1_767_323_045).unwrap();
        archive.file("usr/bin/tool", 0o755, b"content".to_vec()).unwrap();
        archive.symlink("bin", "usr/bin").unwrap();
        archive.directory("dev", 0o755).unwrap();
        archive
    }

    #[test]
    fn the_bytes_of_an_archive_are_frozen() {
        let bytes = sample().finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(
            hex::encode(Sha256::digest(&bytes)),
            "54bff35bc614ef81f357bf9f75251313857a37aaa930169395faf2872c483429"
        );
        let packed = compress_zstd(&bytes, 19).unwrap();
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), bytes);
        assert_eq!(
            hex::encode(Sha256::digest(&packed)),
            "5611186884a469754e7dd89d13263d184e02ab1de5334c6abc64481ceb633169"
        );
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let mut other = Archive::new(1_767_323_045).unwrap();
        other.directory("dev", 0o755).unwrap();
        other.file("usr/bin/tool", 0o755, b"content".to_vec()).unwrap();
        other.symlink("bin", "usr/bin").unwrap();
        assert_eq!(other.finish().unwrap(), sample().finish().unwrap());
    }

    #[test]
    fn bad_paths_are_refused() {
        for path in ["", "/etc", "a/../b", "a//b", "a\0", "TRAILER!!!"] {
            assert!(matches!(sample().directory(path, 0o755), Err(Error::Path(_))), "{path:?}");
        }
        assert!(matches!(sample().directory("dev", 0o755), Err(Error::Duplicate(_))));
        assert!(matches!(sample().directory("usr/bin/tool/x", 0o755), Err(Error::NotAFolder(_))));
        assert!(Archive::new(1 << 32).is_err());
    }
}
