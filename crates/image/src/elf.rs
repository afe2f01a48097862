//! Which shared libraries a program needs, found by reading ELF (System V gABI, "Dynamic Section") and never by running
//! anything: DT_NEEDED names and the interpreter, followed until nothing new appears.
//!
//! Only the distribution's library folders are searched; a program with its own search path (DT_RPATH, DT_RUNPATH) is
//! refused, because the initrd would not honour what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, StringTable};

/// Where the dynamic linker of Debian looks without being told.
const FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib"];

/// A file that has to be in the initrd.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Path in the initrd, without a leading slash.
    pub path: String,
    /// File that has its bytes.
    pub file: PathBuf,
}

/// Why the libraries could not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A file is not a 64-bit ELF object, or a damaged one.
    #[error("{path} is not a sound ELF object: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A library is nowhere.
    #[error(
        "{needed_by} needs {name}, which is in none of {FOLDERS:?} of the build root: add its package to xtask/build-root/mkosi.conf"
    )]
    Missing {
        /// The library.
        name: String,
        /// Who needs it.
        needed_by: String,
    },
    /// A file brings its own search path.
    #[error("{path} has its own library search path: link it without one")]
    SearchPath {
        /// The file.
        path: String,
    },
}

/// What one object asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    libraries: Vec<String>,
    interpreter: Option<String>,
}

/// The libraries and interpreters that `seeds` need, in the tree `root`; the seeds themselves are not among them.
pub fn closure(root: &Path, seeds: &[PathBuf]) -> Result<Vec<Object>, Error> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut open: Vec<PathBuf> = seeds.to_vec();
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    while let Some(file) = open.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let needs = needs_of(&file)?;
        for name in needs.libraries {
            let (path, library) = find(root, &name, &file)?;
            open.push(library.clone());
            found.insert(path, library);
        }
        if let Some(interpreter) = needs.interpreter {
            // `/lib64/ld-linux-x86-64.so.2`, where /lib64 is a link to /usr/lib64.
            let path = format!("usr/{}", interpreter.trim_start_matches('/'));
            let library = inside(root, &path).ok_or_else(|| missing(&interpreter, &file))?;
            found.insert(path, library);
        }
    }
    Ok(found.into_iter().map(|(path, file)| Object { path, file }).collect())
}

fn missing(name: &str, file: &Path) -> Error {
    Error::Missing { name: name.to_owned(), needed_by: file.display().to_string() }
}

fn find(root: &Path, name: &str, needed_by: &Path) -> Result<(String, PathBuf), Error> {
    if name.contains('/') {
        return Err(missing(name, needed_by));
    }
    FOLDERS
        .iter()
        .find_map(|folder| {
            let path = format!("{folder}/{name}");
            inside(root, &path).map(|file| (path, file))
        })
        .ok_or_else(|| missing(name, needed_by))
}

/// The file behind `path`, if links on the way stay in the tree. Links of Debian's libraries are relative.
fn inside(root: &Path, path: &str) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let file = root.join(path).canonicalize().ok()?;
    (file.starts_with(&root) && file.is_file()).then_some(file)
}

fn needs_of(file: &Path) -> Result<Needs, Error> {
    let path = || file.display().to_string();
    let bytes = fs::read(file).map_err(|source| Error::Read { path: path(), source })?;
    match parse(&bytes) {
        Ok(Some(needs)) => Ok(needs),
        Ok(None) => Err(Error::SearchPath { path: path() }),
        Err(reason) => Err(Error::Malformed { path: path(), reason: reason.to_string() }),
    }
}

/// `None` if the object has a search path of its own.
fn parse(bytes: &[u8]) -> object::read::Result<Option<Needs>> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let (endian, header) = (file.endian(), file.elf_header());
    let mut needs = Needs::default();
    for segment in header.program_headers(endian, bytes)? {
        if let Some(interpreter) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(String::from_utf8_lossy(interpreter).into_owned());
        }
    }
    let sections = header.sections(endian, bytes)?;
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else { return Ok(Some(needs)) };
    let strings: StringTable = sections.strings(endian, bytes, link)?;
    for entry in entries {
        match entry.tag32(endian) {
            Some(DT_RPATH | DT_RUNPATH) => return Ok(None),
            Some(DT_NEEDED) => {
                let name = entry.string(endian, strings)?;
                needs.libraries.push(String::from_utf8_lossy(name).into_owned());
            }
            _ => {}
        }
    }
    Ok(Some(needs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_test_needs_the_c_library_and_an_interpreter() {
        let own = std::env::current_exe().unwrap();
        let needs = needs_of(&own).unwrap();
        assert!(needs.libraries.iter().any(|name| name == "libc.so.6"), "{needs:?}");
        assert!(needs.interpreter.unwrap().contains("ld-linux"));
    }

    #[test]
    fn a_missing_library_is_named_with_who_needs_it() {
        let own = std::env::current_exe().unwrap();
        let empty = tempfile::tempdir().unwrap();
        let error = closure(empty.path(), &[own]).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }

    #[test]
    fn damaged_objects_are_refused_without_panic() {
        let bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(parse(b"").is_err() && parse(b"\x7fELF").is_err());
        for length in [16, 63, 64, 100, 700] {
            let _ = parse(&bytes[..length]);
        }
        // Every byte of the file header wrong in turn: an error or an answer, never a panic.
        for at in 0..64 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = parse(&damaged);
        }
    }

    #[test]
    fn a_link_out_of_the_tree_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(FOLDERS[0]);
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink("/bin/sh", folder.join("libevil.so")).unwrap();
        assert!(find(root.path(), "libevil.so", Path::new("x")).is_err());
        assert!(find(root.path(), "../../libevil.so", Path::new("x")).is_err());
    }
}
