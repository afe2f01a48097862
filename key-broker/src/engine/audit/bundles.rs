//! Older leaves of the audit log, as files beside the database: entry bundles of 256 leaves, and tiles of their 256 hashes, named and written as C2SP tlog-tiles has it (<https://c2sp.org/tlog-tiles>). A file is written once and never changed: it has a
//! temporary name until it is on the disk, and a file that exists with other bytes is never overwritten.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use ring::rand::{SecureRandom as _, SystemRandom};
use transparency::tiles::{self, LARGEST};
use transparency::tree;

use crate::code::{Code, Own};
use crate::fault;

/// Leaves in a bundle.
pub const WIDTH: u64 = tiles::WIDTH;
/// Suffix of files that are being written.
const TEMPORARY: &str = "tmp";
/// A temporary file that is older was left by a broker that ended.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Why a bundle cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The leaves are neither in the database nor in a file.
    #[error(
        "leaves {first} to {last} of the audit log are missing in the database, and {path} does not exist: copy the directory `audit` that belongs to this database to {directory}"
    )]
    Missing {
        /// Number of the first missing leaf.
        first: u64,
        /// Number of the last one.
        last: u64,
        /// The file.
        path: PathBuf,
        /// Where the bundles are.
        directory: PathBuf,
    },
    /// The file does not hold what it should.
    #[error("{path} was changed: {found}; restore this file from a copy of the directory `audit`")]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// Another file is in the place of a bundle.
    #[error("{}: {path} has other bytes than the database has for it; {}", code().name(), code().next())]
    Conflict {
        /// The file.
        path: PathBuf,
    },
    /// A leaf is longer than an entry of a bundle may be.
    #[error("leaf {number} of the audit log has more than 65535 bytes and cannot be written to a bundle")]
    TooLong {
        /// Number of the leaf.
        number: u64,
    },
    /// Input or output failed.
    #[error("cannot {verb} {path}: {error}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

fn code() -> Code {
    Own::AuditBundleConflict.into()
}

/// The directory `audit` of a broker.
#[derive(Clone, Debug)]
pub struct Bundles {
    directory: PathBuf,
}

impl Bundles {
    /// The bundles of the database at this path, which may be a symbolic link.
    pub fn of(database: &Path) -> Self {
        let database = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
        Self { directory: database.with_file_name("audit") }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of the bundle of this number, from 0.
    pub fn entries(&self, number: u64) -> PathBuf {
        self.path("entries", number)
    }

    /// Path of the hashes of the bundle of this number.
    fn hashes(&self, number: u64) -> PathBuf {
        self.path("0", number)
    }

    fn path(&self, level: &str, number: u64) -> PathBuf {
        self.directory.join(tiles::path(level, u64::MAX, number))
    }

    /// Whether the bundle of this number is there with its hashes.
    pub fn has(&self, number: u64) -> bool {
        self.entries(number).exists() && self.hashes(number).exists()
    }

    /// Numbers of all bundles of which a file is there, leaves or hashes.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn numbers(&self) -> Result<BTreeSet<u64>, Problem> {
        let mut found = BTreeSet::new();
        for level in ["entries", "0"] {
            numbers_in(&self.directory.join("tile").join(level), 0, &mut found)?;
        }
        Ok(found)
    }

    /// Writes the bundle of this number and its hashes; when this returns, both are on the disk. The same bundle may be written again.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn write(&self, number: u64, leaves: &[Vec<u8>]) -> Result<(), Problem> {
        let bytes = tiles::entry_bundle(leaves.iter().map(Vec::as_slice)).ok_or_else(|| {
            let position = leaves.iter().position(|leaf| leaf.len() > usize::from(u16::MAX)).unwrap_or_default();
            Problem::TooLong { number: number * WIDTH + position as u64 }
        })?;
        let hashes: Vec<u8> = leaves.iter().flat_map(|leaf| tree::leaf(leaf)).collect();
        self.write_file(&self.hashes(number), &hashes)?;
        self.write_file(&self.entries(number), &bytes)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Problem> {
        let parent = path.parent().unwrap_or(&self.directory);
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(problem("create", parent))?;
        if !self.is_written(path, bytes)? {
            let temporary = self.directory.join(format!("{}.{TEMPORARY}", random_name()));
            let written = write_new(&temporary, bytes).and_then(|()| {
                fault::point("after-bundle-write");
                self.rename(&temporary, path, bytes)
            });
            if written.is_err() {
                // It may not be there.
                let _ = fs::remove_file(&temporary);
            }
            written?;
            fault::point("after-bundle-rename");
        }
        self.sync_directories(parent)
    }

    /// Whether the file has these bytes already; then they are on the disk.
    fn is_written(&self, path: &Path, bytes: &[u8]) -> Result<bool, Problem> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(problem("read", path)(error)),
        };
        let mut found = Vec::new();
        (&mut file).take(bytes.len() as u64 + 1).read_to_end(&mut found).map_err(problem("read", path))?;
        if found != bytes {
            return Err(Problem::Conflict { path: path.to_owned() });
        }
        // Another broker may have written it, and not be so far.
        file.sync_all().map_err(problem("write", path))?;
        Ok(true)
    }

    fn rename(&self, from: &Path, to: &Path, bytes: &[u8]) -> Result<(), Problem> {
        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(()),
            // Another broker on this database was faster.
            Err(nix::errno::Errno::EEXIST) => {
                // It is of no use any longer.
                let _ = fs::remove_file(from);
                self.is_written(to, bytes).map(drop)
            }
            Err(error) => Err(problem("create", to)(error.into())),
        }
    }

    /// The names of new files and directories are on the disk, too.
    fn sync_directories(&self, mut directory: &Path) -> Result<(), Problem> {
        loop {
            File::open(directory).and_then(|file| file.sync_all()).map_err(problem("write", directory))?;
            match directory.parent() {
                Some(parent) if directory.starts_with(&self.directory) => directory = parent,
                _ => return Ok(()),
            }
        }
    }

    /// The leaves of the bundle of this number, compared with their hashes. `missing` are the leaves that are not in the database either, for the message.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn read(&self, number: u64, missing: (u64, u64)) -> Result<Vec<Vec<u8>>, Problem> {
        let path = self.entries(number);
        let (bytes, hashes) = (self.read_file(&path, missing)?, self.read_file(&self.hashes(number), missing)?);
        let changed = |found: String| Problem::Changed { path: path.clone(), found };
        let leaves = tiles::split_bundle(&bytes).map_err(|problem| changed(problem.0))?;
        if leaves.len() as u64 != WIDTH {
            return Err(changed(format!("{} leaves found, {WIDTH} expected", leaves.len())));
        }
        let mut expected = hashes.chunks(32);
        for (leaf, number) in leaves.iter().zip(number * WIDTH..) {
            if expected.next() != Some(&tree::leaf(leaf)) {
                return Err(changed(format!("leaf {number} does not have the hash in {}", self.hashes_of(number))));
            }
        }
        Ok(leaves.into_iter().map(<[u8]>::to_vec).collect())
    }

    fn hashes_of(&self, leaf: u64) -> String {
        self.hashes(leaf / WIDTH).display().to_string()
    }

    fn read_file(&self, path: &Path, (first, last): (u64, u64)) -> Result<Vec<u8>, Problem> {
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Problem::Missing { first, last, path: path.to_owned(), directory: self.directory.clone() }
            }
            _ => problem("read", path)(error),
        })?;
        let mut bytes = Vec::new();
        file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(problem("read", path))?;
        Ok(bytes)
    }

    /// Moves bundles from this number on to another directory: they continue another database. Returns how many there were.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn set_aside(&self, from: u64, to: &Path) -> Result<u64, Problem> {
        let other = Self { directory: to.to_owned() };
        let numbers = self.numbers()?.split_off(&from);
        for &number in &numbers {
            for (old, new) in
                [(self.entries(number), other.entries(number)), (self.hashes(number), other.hashes(number))]
            {
                if !old.exists() {
                    continue;
                }
                let parent = new.parent().unwrap_or(to);
                DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(problem("create", parent))?;
                fs::rename(&old, &new).map_err(problem("move", &old))?;
            }
        }
        Ok(numbers.len() as u64)
    }

    /// Removes what brokers left that ended while they wrote a bundle.
    pub fn remove_abandoned(&self) {
        let Ok(files) = fs::read_dir(&self.directory) else { return };
        for file in files.flatten() {
            let path = file.path();
            let age =
                file.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
            if path.extension().is_some_and(|suffix| suffix == TEMPORARY)
                && age.is_some_and(|age| age > ABANDONED_AFTER)
            {
                // The next start tries again.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Adds the numbers of the files in this directory; `above` is the number that the names of the directories say (C2SP tlog-tiles: `x001/x234/067`).
fn numbers_in(directory: &Path, above: u64, found: &mut BTreeSet<u64>) -> Result<(), Problem> {
    let files = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        files => files.map_err(problem("read", directory))?,
    };
    for file in files {
        let name = file.map_err(problem("read", directory))?.file_name();
        let name = name.to_str().unwrap_or_default();
        let digits = name.strip_prefix('x').unwrap_or(name);
        let number =
            digits.parse().ok().filter(|_| digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()));
        // A number that no log can have is no bundle.
        let number = number.and_then(|number: u64| above.checked_mul(1000)?.checked_add(number));
        match number {
            Some(number) if digits != name => numbers_in(&directory.join(name), number, found)?,
            Some(number) => drop(found.insert(number)),
            None => {}
        }
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(path).map_err(problem("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(problem("write", path))
}

/// Brokers in containers have the same process id: random bytes tell their files apart.
fn random_name() -> String {
    let mut bytes = [0; 16];
    // Without them two brokers may choose one name, and the second one fails and retries.
    let _ = SystemRandom::new().fill(&mut bytes);
    hex::encode(bytes)
}

fn problem(verb: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Problem {
    let path = path.to_owned();
    move |error| Problem::File { verb, path: path.clone(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn leaves() -> Vec<Vec<u8>> {
        (0..WIDTH).map(|number| number.to_string().into_bytes()).collect()
    }

    fn bundles() -> (tempfile::TempDir, Bundles) {
        let folder = tempfile::tempdir().unwrap();
        let bundles = Bundles::of(&folder.path().join("database"));
        (folder, bundles)
    }

    #[test]
    fn bundle_is_a_file_of_its_owner_in_the_place_of_the_specification() {
        let (folder, bundles) = bundles();
        bundles.write(1_234_067, &leaves()).unwrap();
        let path = folder.path().join("audit/tile/entries/x001/x234/067");
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes[..9], [0, 1, b'0', 0, 1, b'1', 0, 1, b'2']);
        assert_eq!(fs::read(folder.path().join("audit/tile/0/x001/x234/067")).unwrap().len(), 32 * 256);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(bundles.directory()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(bundles.read(1_234_067, (0, 0)).unwrap(), leaves());
        assert_eq!(fs::read_dir(bundles.directory()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn bundle_is_written_twice_and_never_overwritten() {
        let (_folder, bundles) = bundles();
        bundles.write(0, &leaves()).unwrap();
        bundles.write(0, &leaves()).unwrap();
        let mut other = leaves();
        other[7] = b"another".to_vec();
        let refused = bundles.write(0, &other).unwrap_err().to_string();
        assert!(refused.starts_with("AUDIT_BUNDLE_CONFLICT: "), "{refused}");
        assert_eq!(bundles.read(0, (0, 0)).unwrap(), leaves());
    }

    #[test]
    fn bundle_that_is_missing_or_changed_is_named() {
        let (_folder, bundles) = bundles();
        let missing = bundles.read(0, (0, 511)).unwrap_err().to_string();
        assert!(missing.contains("leaves 0 to 511") && missing.contains("/audit/tile/entries/000"), "{missing}");
        bundles.write(0, &leaves()).unwrap();
        let path = bundles.entries(0);
        let good = fs::read(&path).unwrap();
        let mut changed = good.clone();
        changed[5] ^= 1;
        for bytes in [&changed[..], &good[..good.len() - 1], &good[..6], &[&good[..], &[0, 0]].concat()] {
            fs::write(&path, bytes).unwrap();
            let found = bundles.read(0, (0, 0)).unwrap_err().to_string();
            assert!(found.contains(&path.display().to_string()), "{found}");
        }
    }

    #[test]
    fn bundles_are_found_by_their_files() {
        let (folder, bundles) = bundles();
        assert!(bundles.numbers().unwrap().is_empty());
        let written = [0, 7, 999, 1000, 1_234, 1_234_067];
        written.iter().for_each(|number| bundles.write(*number, &leaves()).unwrap());
        assert!(bundles.numbers().unwrap().iter().eq(&written));
        // Either file is enough, and other names are none.
        fs::remove_file(bundles.entries(7)).unwrap();
        fs::remove_file(bundles.hashes(999)).unwrap();
        for name in ["12", "0012", "+12", "012.tmp", "y001"] {
            fs::write(folder.path().join("audit/tile/entries").join(name), "").unwrap();
        }
        assert!(bundles.numbers().unwrap().iter().eq(&written));
    }

    #[test]
    fn bundles_of_a_later_database_are_set_aside() {
        let (folder, bundles) = bundles();
        (0..3).for_each(|number| bundles.write(number, &leaves()).unwrap());
        let aside = folder.path().join("audit.before-7");
        assert_eq!(bundles.set_aside(1, &aside).unwrap(), 2);
        assert!(bundles.has(0) && !bundles.has(1) && !bundles.has(2));
        assert!(aside.join("tile/entries/002").exists() && aside.join("tile/0/001").exists());
    }
}
