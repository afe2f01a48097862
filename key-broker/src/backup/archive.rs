//! The file of a backup: a tar archive with the members of [`members`](super::members), the signed manifest last, and nothing behind it. Stock tar lists and unpacks it. It is written under a temporary name, flushed, and then renamed.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ring::digest::{self, SHA256};
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::members::{self, DATABASE, MANIFEST};

/// Unit of tar.
const BLOCK: u64 = 512;
/// Two blocks of zeros end an archive.
const END_BYTES: u64 = 2 * BLOCK;
/// Begin of the names of files and directories beside a backup that is being written.
pub const WRITING: &str = ".key-broker-backup-";
const HINT: &str = "hint: name another file that `key-broker backup` wrote";

/// Counts and hashes what is written.
struct Hashed<W> {
    inner: W,
    bytes: u64,
    hash: digest::Context,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A backup that is being written. Dropped before [`Writer::finish`], it leaves nothing.
pub struct Writer {
    to: PathBuf,
    builder: Builder<Hashed<NamedTempFile>>,
}

impl Writer {
    /// Begins a backup that will have this name.
    pub fn new(to: &Path) -> Result<Self> {
        let directory = directory_of(to);
        // Mode 0600, whatever the process has for its umask.
        let file = tempfile::Builder::new().prefix(WRITING).tempfile_in(directory);
        let inner = file.map_err(|error| {
            anyhow!(
                "cannot create a file in {}: {error}\nhint: the broker writes it: name a file in a directory where it may write, for example that of broker.toml",
                directory.display()
            )
        })?;
        let builder = Builder::new(Hashed { inner, bytes: 0, hash: digest::Context::new(&SHA256) });
        Ok(Self { to: to.to_owned(), builder })
    }

    /// Adds a member of exactly so many bytes.
    pub fn add(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        let most = members::max_bytes(name).with_context(|| format!("{name} is not a member of a backup"))?;
        ensure!(size <= most, "{name} has {size} bytes, expected at most {most}");
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(size);
        header.set_cksum();
        let mut counted = Counted { inner: content.take(size), bytes: 0 };
        self.builder.append(&header, &mut counted).with_context(|| format!("cannot add {name}"))?;
        ensure!(counted.bytes == size, "{name} was changed while it was read");
        Ok(())
    }

    /// Bytes so far, and their SHA-256.
    pub fn digest(&self) -> (u64, [u8; 32]) {
        let hashed = self.builder.get_ref();
        (hashed.bytes, sha256(hashed.hash.clone()))
    }

    /// Ends the archive with the signed manifest, flushes it and gives it its name.
    pub fn finish(mut self, manifest: &[u8]) -> Result<()> {
        self.add(MANIFEST, manifest.len() as u64, &mut &*manifest)?;
        let file = self.builder.into_inner().context("cannot write the backup")?.inner;
        file.as_file().sync_all().context("cannot flush the backup")?;
        file.persist_noclobber(&self.to).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => anyhow!("the file exists\nhint: name a file that does not exist yet"),
            _ => anyhow!(error.error),
        })?;
        let directory = directory_of(&self.to);
        File::open(directory).and_then(|directory| directory.sync_all()).context("cannot flush the directory")
    }
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Where a member is.
struct Place {
    name: String,
    at: u64,
    size: u64,
}

/// A backup whose structure is right. What is in it was not verified yet.
pub struct Archive {
    file: File,
    places: Vec<Place>,
    /// Offset of the manifest's header.
    covered: u64,
    manifest: Vec<u8>,
}

impl Archive {
    /// Reads the headers of all members and the manifest.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let places = places(&mut file)?;
        let truncated = || anyhow!("the backup is truncated or damaged: its last member is not {MANIFEST}\n{HINT}");
        let last = places.last().filter(|last| last.name == MANIFEST).ok_or_else(truncated)?;
        let end = last.at + last.size.div_ceil(BLOCK) * BLOCK + END_BYTES;
        ensure!(length == end, "the backup has {length} bytes, expected {end}: it is truncated or damaged\n{HINT}");
        let mut manifest = Vec::new();
        file.seek(SeekFrom::Start(last.at))?;
        (&file).take(end - last.at).read_to_end(&mut manifest)?;
        ensure!(manifest.len() as u64 == end - last.at, "the backup was truncated while it was read\n{HINT}");
        let padding = manifest.split_off(usize::try_from(last.size)?);
        ensure!(padding.iter().all(|byte| *byte == 0), "the backup was changed behind its last member\n{HINT}");
        let covered = last.at - BLOCK;
        Ok(Self { file, places, covered, manifest })
    }

    /// The envelope of the manifest.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Copies all members but the manifest into a directory, and returns the number and the SHA-256 of the bytes that the manifest covers.
    pub fn extract(&mut self, directory: &Path) -> Result<(u64, [u8; 32])> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut hashed = Hashed { inner: io::sink(), bytes: 0, hash: digest::Context::new(&SHA256) };
        for place in self.places.iter().filter(|place| place.name != MANIFEST) {
            copy(&self.file, place.at.saturating_sub(hashed.bytes), &mut hashed)?;
            let path = directory.join(&place.name);
            DirBuilder::new().recursive(true).mode(0o700).create(directory_of(&path))?;
            let created = File::options().write(true).create_new(true).mode(0o600).open(&path);
            let file = created.with_context(|| format!("cannot create {}", path.display()))?;
            let mut both = Both { file, hashed: &mut hashed };
            copy(&self.file, place.size, &mut both).with_context(|| format!("cannot write {}", path.display()))?;
            both.file.sync_all().with_context(|| format!("cannot flush {}", path.display()))?;
        }
        copy(&self.file, self.covered - hashed.bytes, &mut hashed)?;
        Ok((hashed.bytes, sha256(hashed.hash)))
    }
}

/// Writes to a file what it hashes.
struct Both<'a> {
    file: File,
    hashed: &'a mut Hashed<io::Sink>,
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hashed.write_all(&bytes[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn copy(from: &File, bytes: u64, to: &mut impl Write) -> Result<()> {
    let copied = io::copy(&mut from.take(bytes), to)?;
    ensure!(copied == bytes, "the backup was truncated while it was read\n{HINT}");
    Ok(())
}

/// All members in their order. Extensions of tar, links, other names and members that appear twice are refused.
fn places(file: &mut File) -> Result<Vec<Place>> {
    let (mut places, mut names) = (Vec::new(), BTreeSet::new());
    let mut archive = tar::Archive::new(file);
    let damaged = |error: io::Error| anyhow!("the backup is truncated or damaged: {error}\n{HINT}");
    for entry in archive.entries_with_seek().map_err(damaged)?.raw(true) {
        let entry = match entry {
            Err(_) if places.is_empty() => bail!(foreign()),
            entry => entry.map_err(damaged)?,
        };
        let header = entry.header();
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        ensure!(!places.is_empty() || name == DATABASE, foreign());
        let size = header.entry_size().map_err(damaged)?;
        let most = members::max_bytes(&name).filter(|_| header.entry_type() == EntryType::Regular);
        let is_member = most.is_some_and(|most| size <= most) && names.insert(name.clone());
        ensure!(is_member, "the backup has the member {name:?} of {size} bytes, which no backup has\n{HINT}");
        let is_last = name == MANIFEST;
        places.push(Place { name, at: entry.raw_file_position(), size });
        if is_last {
            break;
        }
    }
    ensure!(!places.is_empty(), foreign());
    Ok(places)
}

fn foreign() -> String {
    format!("the file is not a backup, and not the database of a broker\n{HINT}")
}

fn sha256(hash: digest::Context) -> [u8; 32] {
    let mut found = [0; 32];
    found.copy_from_slice(hash.finish().as_ref());
    found
}

/// Removes what a process left in this directory that was killed while it wrote: files and directories with this prefix. Younger ones may be in use.
pub fn remove_abandoned(directory: &Path, prefix: &str) {
    const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let is_abandoned = modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > ABANDONED_AFTER);
        if is_abandoned && entry.file_name().to_string_lossy().starts_with(prefix) {
            // The next time tries again.
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
        }
    }
}

/// The directory of a file.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether the file is an SQLite database (<https://sqlite.org/fileformat.html>, section 1.3): a copy that was made without its keys.
pub fn is_database(path: &Path) -> bool {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut begin = [0; MAGIC.len()];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == *MAGIC
}
