//! Reads a package manager's tar into a tree. Times and the order of entries are forgotten on purpose.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::{Content, Entry, Error, Kind, Tree, check_path};

/// The one extended attribute that means something in an image, as PAX records spell it.
const CAPABILITY: &str = "SCHILY.xattr.security.capability";

impl Tree {
    /// Reads the uncompressed tar file at `path`. File contents are not copied: entries refer to their place in it.
    pub fn read_tar(path: &Path) -> Result<Self, Error> {
        let io = |action| move |source| Error::Io { action, path: path.display().to_string(), source };
        let file = File::open(path).map_err(io("open"))?;
        let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 18, file));
        let mut tree = Self::new();
        for entry in archive.entries().map_err(io("read"))? {
            let mut entry = entry.map_err(io("read"))?;
            let name = entry_path(&entry.path_bytes())?;
            if name.is_empty() {
                continue;
            }
            let capability = capability(&mut entry).map_err(io("read"))?;
            let header = entry.header();
            let mode = header.mode().map_err(io("read"))? & 0o7777;
            let (uid, gid) = (header.uid().map_err(io("read"))?, header.gid().map_err(io("read"))?);
            let kind = match header.entry_type() {
                tar::EntryType::Directory => Kind::Directory,
                tar::EntryType::Symlink => Kind::Symlink(link_target(&entry, &name)?),
                tar::EntryType::Link => {
                    let target = entry_path(link_target(&entry, &name)?.as_bytes())?;
                    let copy = tree.link_to(&target).ok_or(Error::DanglingLink { path: name.clone(), target })?;
                    tree.insert(&name, copy)?;
                    continue;
                }
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let (offset, length) = (entry.raw_file_position(), entry.size());
                    Kind::File { content: Content::Part { path: path.to_owned(), offset, length }, link: None }
                }
                other => return Err(Error::UnknownKind { path: name, kind: format!("{other:?}") }),
            };
            let (uid, gid) = (owner(uid, &name)?, owner(gid, &name)?);
            tree.insert(&name, Entry { kind, mode, uid, gid, capability })?;
        }
        Ok(tree)
    }

    /// A further name for the file at `target`.
    fn link_to(&mut self, target: &str) -> Option<Entry> {
        let next = self.next_link;
        let entry = self.entries.get_mut(target)?;
        let Kind::File { link, .. } = &mut entry.kind else { return None };
        if link.is_none() {
            *link = Some(next);
            self.next_link += 1;
        }
        Some(entry.clone())
    }
}

/// `./usr/bin/` as `usr/bin`; the top itself is the empty string.
fn entry_path(bytes: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Path(String::from_utf8_lossy(bytes).into_owned()))?;
    let trimmed = text.trim_end_matches('/');
    let trimmed = trimmed.strip_prefix("./").unwrap_or(trimmed);
    if trimmed.is_empty() || trimmed == "." {
        return Ok(String::new());
    }
    check_path(trimmed)?;
    Ok(trimmed.to_owned())
}

fn link_target<R: std::io::Read>(entry: &tar::Entry<R>, path: &str) -> Result<String, Error> {
    let bytes = entry.link_name_bytes().ok_or_else(|| Error::Path(path.to_owned()))?;
    String::from_utf8(bytes.into_owned()).map_err(|_| Error::Path(path.to_owned()))
}

fn owner(id: u64, path: &str) -> Result<u32, Error> {
    u32::try_from(id).map_err(|_| Error::UnknownKind { path: path.to_owned(), kind: format!("file of user {id}") })
}

fn capability<R: std::io::Read>(entry: &mut tar::Entry<R>) -> std::io::Result<Option<Vec<u8>>> {
    let Some(records) = entry.pax_extensions()? else { return Ok(None) };
    for record in records {
        let record = record?;
        if record.key_bytes() == CAPABILITY.as_bytes() {
            return Ok(Some(record.value_bytes().to_vec()));
        }
    }
    Ok(None)
}
