//! Files that a user names on a command line: read up to a limit, and recognized, so that a refusal names what the file is before any program or service reads it further.
//!
//! Directories, devices and sockets are refused by their type, and larger files by their size, before a byte is read. Files without a size (pipes, `/proc`, `/sys`) are read up to the limit.

mod kind;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

pub use kind::{ForeignBundle, Kind, Statement};

/// Bytes of a file that are enough to recognize it.
const RECOGNIZED_BYTES: u64 = 2 << 20;

/// Why a file was not read. Its text is complete: path, cause, and a hint where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause, which is part of the text.
        cause: std::io::Error,
    },
    /// It is a directory, a device or a socket.
    #[error("cannot read {}: it is {found}\nhint: name a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// Type of the object.
        found: &'static str,
    },
    /// It is larger than any file of the expected kind.
    #[error(
        "cannot read {}: it has {}, maximum {max}; it is {kind}",
        path.display(),
        size.map_or_else(|| "more bytes than allowed".to_owned(), |size| format!("{size} bytes"))
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes, where the file has a size.
        size: Option<u64>,
        /// The limit in bytes.
        max: u64,
        /// What its first bytes are.
        kind: Kind,
    },
}

/// Reads a regular file or a pipe of at most `max` bytes.
///
/// # Errors
/// [`Error`]; nothing of a directory, a device, or a larger file with a size is kept in memory.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    read_types(path, max, false)
}

/// The same, of a block device too: a disk, for example.
///
/// # Errors
/// [`Error`].
pub fn read_disk(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    read_types(path, max, true)
}

/// Opens a file of any size to be read in parts: a regular file, a pipe or a block device.
///
/// # Errors
/// [`Error`].
pub fn open(path: &Path) -> Result<File, Error> {
    open_types(path, true).map(|(file, _)| file)
}

/// The file, and its size: 0 for one that has none.
fn open_types(path: &Path, may_be_block_device: bool) -> Result<(File, u64), Error> {
    let io = |cause| Error::Io { path: path.to_owned(), cause };
    // The type first: to open a device may have effects.
    let metadata = fs::metadata(path).map_err(io)?;
    let kind = metadata.file_type();
    let found = match () {
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_char_device() => Some("a character device"),
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_block_device() && !may_be_block_device => Some("a block device"),
        () => None,
    };
    match found {
        Some(found) => Err(Error::NotAFile { path: path.to_owned(), found }),
        None => Ok((File::open(path).map_err(io)?, metadata.len())),
    }
}

fn read_types(path: &Path, max: u64, may_be_block_device: bool) -> Result<Vec<u8>, Error> {
    let (mut file, size) = open_types(path, may_be_block_device)?;
    let is_larger = size > max;
    // Room for all of it: a file with a secret leaves no copy behind where a vector grows.
    let mut bytes = Vec::with_capacity(if is_larger { 0 } else { usize::try_from(size).unwrap_or(0) + 1 });
    let most = if is_larger { RECOGNIZED_BYTES.min(max) } else { max.saturating_add(1) };
    let read = (&mut file).take(most).read_to_end(&mut bytes);
    read.map_err(|cause| Error::Io { path: path.to_owned(), cause })?;
    if is_larger || bytes.len() as u64 > max {
        bytes.truncate(usize::try_from(RECOGNIZED_BYTES).unwrap_or(usize::MAX));
        let size = is_larger.then_some(size);
        return Err(Error::TooLarge { path: path.to_owned(), size, max, kind: Kind::of_start(&bytes) });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &Path, max: u64) -> String {
        read(path, max).unwrap_err().to_string()
    }

    #[test]
    fn directories_devices_and_missing_files_are_refused_by_their_type() {
        let folder = tempfile::tempdir().unwrap();
        let text = error(folder.path(), 9);
        assert!(text.contains("it is a directory\nhint: "), "{text}");
        for device in ["/dev/zero", "/dev/null"] {
            let text = error(Path::new(device), 9);
            assert!(text.starts_with(&format!("cannot read {device}: it is a character device")), "{text}");
        }
        let text = error(&folder.path().join("none"), 9);
        assert!(text.starts_with("cannot read ") && text.contains("No such file"), "{text}");
        // Programs print an error with its sources: this one has none.
        assert!(std::error::Error::source(&read(&folder.path().join("none"), 9).unwrap_err()).is_none());
    }

    #[test]
    fn file_of_five_gigabytes_is_refused_by_its_size_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        File::create(&path).unwrap().set_len(5 << 30).unwrap();
        let before = std::time::Instant::now();
        let text = error(&path, 1 << 20);
        assert!(text.contains("it has 5368709120 bytes, maximum 1048576; it is only zero bytes"), "{text}");
        assert!(before.elapsed().as_secs() < 2, "it was read");
    }

    #[test]
    fn file_of_the_maximum_size_is_read_and_one_byte_more_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [b'x'; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [b'x'; 10]);
        assert!(error(&path, 9).contains("it has 10 bytes, maximum 9"));
        // A file of the kernel has a size of 0, and content.
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        assert!(error(Path::new("/proc/self/status"), 9).contains("more bytes than allowed, maximum 9"));
    }
}
