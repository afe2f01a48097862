//! A root file system as a sorted list of entries, and the tar stream that mkfs.erofs turns into an image.
//!
//! The package manager's tar says the same thing in a different order on every file system; here order, times, owners,
//! hard links and extended attributes become a function of the content alone: entries sorted bytewise, the first name
//! of a hard-linked file in that order carries the content, one time for all, and of the extended attributes only
//! `security.capability`. Parents must be there: mkfs.erofs would invent them.

mod overlay;
mod read;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In memory.
    Bytes(Vec<u8>),
    /// `length` bytes at `offset` of a file.
    Part {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

impl Content {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Part { length, .. } => *length,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Directory,
    /// A regular file. Entries with the same `link` number are names of one file.
    File {
        /// Its bytes.
        content: Content,
        /// Group of hard links.
        link: Option<u64>,
    },
    /// A symbolic link and its target.
    Symlink(String),
}

/// One path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Value of `security.capability`, if set.
    pub capability: Option<Vec<u8>>,
}

impl Entry {
    /// A folder of root's with this mode.
    pub fn directory(mode: u32) -> Self {
        Self { kind: Kind::Directory, mode, uid: 0, gid: 0, capability: None }
    }

    /// A file of root's with this mode.
    pub fn file(bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        let kind = Kind::File { content: Content::Bytes(bytes.into()), link: None };
        Self { kind, mode, uid: 0, gid: 0, capability: None }
    }

    /// A symbolic link.
    pub fn symlink(target: &str) -> Self {
        Self { kind: Kind::Symlink(target.to_owned()), mode: 0o777, uid: 0, gid: 0, capability: None }
    }

    /// Whether it is a folder.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// A tree: entries by path. Paths have no leading slash; the root folder itself is not an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
    next_link: u64,
}

/// Why a tree could not be made or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A path is absolute, has `..`, is empty, or is not UTF-8.
    #[error("the path {0:?} cannot be in a root file system")]
    Path(String),
    /// An entry is of a kind that an image does not hold.
    #[error("{path} is a {kind}: only folders, files and links can be in a root file system")]
    UnknownKind {
        /// The entry.
        path: String,
        /// What it is.
        kind: String,
    },
    /// A hard link names something that is not a file before it.
    #[error("{path} is a hard link to {target}, which is no file of the tree")]
    DanglingLink {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// A file stands where a folder is needed, or the other way round.
    #[error("{path} would replace a {was}: remove that first (`drop` in os/tree.toml) or choose another path")]
    Conflict {
        /// The path.
        path: String,
        /// What stands there.
        was: &'static str,
    },
    /// A parent folder is missing.
    #[error("{0} has no parent folder in the tree: add the folder to os/root")]
    NoParent(String),
    /// A rule matches nothing.
    #[error("the rule for {0:?} matches no path: the packages have changed, remove it from os/tree.toml")]
    NoMatch(String),
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries in bytewise order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The entry at `path`.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The names directly below the folder `path` (`""`: the top).
    pub fn names<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let from = prefix.clone();
        self.entries
            .range(prefix.clone()..)
            .take_while(move |(name, _)| name.starts_with(&prefix))
            .map(move |(name, _)| &name[from.len()..])
            .filter(|name| !name.contains('/'))
    }

    /// Adds or replaces an entry. A folder does not replace a file, nor a file a folder.
    pub fn insert(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        check_path(path)?;
        if let Some(old) = self.entries.get(path)
            && old.is_directory() != entry.is_directory()
        {
            let was = if old.is_directory() { "folder" } else { "file" };
            return Err(Error::Conflict { path: path.to_owned(), was });
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// Removes `path` and all below it; `*` stands for anything within one name. Gives the number of entries removed.
    pub fn remove(&mut self, pattern: &str) -> usize {
        let before = self.entries.len();
        let parts: Vec<&str> = pattern.split('/').collect();
        self.entries.retain(|path, _| !matches(&parts, path));
        before - self.entries.len()
    }

    /// Removes what is below the folder `path`, but not the folder.
    pub fn empty(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.entries.retain(|name, _| !name.starts_with(&prefix));
    }

    /// Sets the mode of `path`.
    pub fn set_mode(&mut self, path: &str, mode: u32) -> Result<(), Error> {
        let entry = self.entries.get_mut(path).ok_or_else(|| Error::NoMatch(path.to_owned()))?;
        entry.mode = mode;
        Ok(())
    }

    /// Gives the paths of `table` their owners, and everything else to root. What the tar said is not looked at: the
    /// package manager ran with a single user id.
    pub fn set_owners(&mut self, table: &BTreeMap<String, (u32, u32)>) -> Result<(), Error> {
        for entry in self.entries.values_mut() {
            (entry.uid, entry.gid) = (0, 0);
        }
        for (path, owner) in table {
            let entry = self.entries.get_mut(path).ok_or_else(|| Error::NoMatch(path.clone()))?;
            (entry.uid, entry.gid) = *owner;
        }
        Ok(())
    }

    fn check_parents(&self) -> Result<(), Error> {
        for path in self.entries.keys() {
            if let Some((parent, _)) = path.rsplit_once('/')
                && !self.entries.get(parent).is_some_and(Entry::is_directory)
            {
                return Err(Error::NoParent(path.clone()));
            }
        }
        Ok(())
    }
}

fn check_path(path: &str) -> Result<(), Error> {
    let fine = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if fine && !path.contains('\0') { Ok(()) } else { Err(Error::Path(path.to_owned())) }
}

/// Whether `path` is what the pattern names, or lies below it.
fn matches(pattern: &[&str], path: &str) -> bool {
    let mut parts = path.split('/');
    pattern.iter().all(|wanted| parts.next().is_some_and(|part| name_matches(wanted, part)))
}

fn name_matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(first) = pieces.next() else { return false };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        if let Some(piece) = last.replace(piece) {
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
    }
    match last {
        None => rest.is_empty(),
        Some(piece) => rest.len() >= piece.len() && rest.ends_with(piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_within_one_name() {
        for (pattern, path, expected) in [
            ("usr/share/doc", "usr/share/doc", true),
            ("usr/share/doc", "usr/share/doc/a/b", true),
            ("usr/share/doc", "usr/share/docs", false),
            ("etc/*-", "etc/passwd-", true),
            ("etc/*-", "etc/passwd", false),
            ("usr/lib/*.wants/getty*.service", "usr/lib/multi.wants/getty@tty1.service", true),
            ("usr/*", "usr/lib/deep", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
            ("a*a", "a", false),
        ] {
            let parts: Vec<&str> = pattern.split('/').collect();
            assert_eq!(matches(&parts, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for path in ["", "/etc", "a/../b", "a//b", ".", "a/./b", "a\0b"] {
            assert!(Tree::new().insert(path, Entry::directory(0o755)).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_file_does_not_replace_a_folder() {
        let mut tree = Tree::new();
        tree.insert("etc", Entry::directory(0o755)).unwrap();
        let error = tree.insert("etc", Entry::file("x", 0o644)).unwrap_err();
        assert!(error.to_string().contains("would replace a folder"), "{error}");
    }

    #[test]
    fn names_are_those_directly_below() {
        let mut tree = Tree::new();
        for path in ["a", "a/b", "a/b/c", "a/d", "ab"] {
            tree.insert(path, Entry::directory(0o755)).unwrap();
        }
        assert_eq!(tree.names("a").collect::<Vec<_>>(), ["b", "d"]);
        assert_eq!(tree.names("").collect::<Vec<_>>(), ["a", "ab"]);
    }

    #[test]
    fn owners_come_from_the_table_alone() {
        let mut tree = Tree::new();
        for path in ["a", "b"] {
            tree.insert(path, Entry { uid: 1000, gid: 1000, ..Entry::file("x", 0o640) }).unwrap();
        }
        tree.set_owners(&BTreeMap::from([("a".to_owned(), (0, 42))])).unwrap();
        let owner = |path: &str| (tree.get(path).unwrap().uid, tree.get(path).unwrap().gid);
        assert_eq!((owner("a"), owner("b")), ((0, 42), (0, 0)));
        assert!(Tree::new().set_owners(&BTreeMap::from([("a".to_owned(), (0, 42))])).is_err());
    }
}
