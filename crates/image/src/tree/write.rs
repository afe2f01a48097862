//! Writes a tree as the tar stream that mkfs.erofs reads: entries sorted, one time, numeric owners.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use super::{Content, Entry, Error, Kind, Tree};

impl Tree {
    /// Writes the stream to `out`; every time stamp is `time` (seconds since 1970).
    pub fn write_tar(&self, out: impl Write, time: u64) -> Result<(), Error> {
        self.check_parents()?;
        let mut builder = tar::Builder::new(out);
        let mut first_names: BTreeMap<u64, &str> = BTreeMap::new();
        for (path, entry) in self.iter() {
            append(&mut builder, path, entry, time, &mut first_names)?;
        }
        builder.finish().map_err(|source| Error::Io { action: "finish", path: "the tar stream".into(), source })
    }
}

fn append<'a, W: Write>(
    builder: &mut tar::Builder<W>,
    path: &'a str,
    entry: &Entry,
    time: u64,
    first_names: &mut BTreeMap<u64, &'a str>,
) -> Result<(), Error> {
    let io = |source| Error::Io { action: "write the tar entry of", path: path.to_owned(), source };
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(u64::from(entry.uid));
    header.set_gid(u64::from(entry.gid));
    header.set_mtime(time);
    header.set_size(0);
    if let Some(value) = &entry.capability {
        builder.append_pax_extensions([("SCHILY.xattr.security.capability", value.as_slice())]).map_err(io)?;
    }
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, format!("{path}/"), std::io::empty()).map_err(io)
        }
        Kind::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, path, target).map_err(io)
        }
        Kind::File { link: Some(group), .. } if first_names.contains_key(group) => {
            header.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut header, path, first_names[group]).map_err(io)
        }
        Kind::File { content, link } => {
            if let Some(group) = link {
                first_names.insert(*group, path);
            }
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(content.len());
            let reader = content.open().map_err(io)?;
            builder.append_data(&mut header, path, reader).map_err(io)
        }
    }
}

impl Content {
    /// A reader over the bytes.
    pub fn open(&self) -> std::io::Result<Box<dyn Read + '_>> {
        match self {
            Content::Bytes(bytes) => Ok(Box::new(bytes.as_slice())),
            Content::Part { path, offset, length } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*offset))?;
                Ok(Box::new(file.take(*length)))
            }
        }
    }

    /// All bytes.
    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    const TIME: u64 = 1_767_323_045;

    fn package_tar(names: &[&str], mtime: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        let mut seen: Option<&str> = None;
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(mtime);
            header.set_size(0);
            if name.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, name, std::io::empty()).unwrap();
            } else if let Some(first) = seen {
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, name, format!("./{first}")).unwrap();
            } else {
                seen = Some(name);
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(5);
                let attribute =
                    [("SCHILY.xattr.security.capability", &b"\x01\x00cap"[..]), ("SCHILY.xattr.user.x", b"y")];
                builder.append_pax_extensions(attribute).unwrap();
                builder.append_data(&mut header, name, &b"hello"[..]).unwrap();
            }
        }
        builder.finish().unwrap();
        drop(builder);
        file
    }

    fn rewritten(names: &[&str], mtime: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Tree::read_tar(package_tar(names, mtime).path()).unwrap().write_tar(&mut bytes, TIME).unwrap();
        bytes
    }

    #[test]
    fn order_times_and_the_first_name_of_a_hard_link_do_not_reach_the_stream() {
        let one = rewritten(&["./", "./bin/", "./bin/zcat", "./bin/gunzip", "./bin/gzip"], 1);
        let other = rewritten(&["./bin/", "./bin/gzip", "./bin/zcat", "./bin/gunzip"], 99);
        assert_eq!(one, other);
        let mut archive = tar::Archive::new(&one[..]);
        let entries: Vec<(String, tar::EntryType, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (entry.path().unwrap().display().to_string(), header.entry_type(), header.mtime().unwrap())
            })
            .collect();
        use tar::EntryType as Kind;
        assert_eq!(
            entries,
            [
                ("bin/".to_owned(), Kind::Directory, TIME),
                ("bin/gunzip".to_owned(), Kind::Regular, TIME),
                ("bin/gzip".to_owned(), Kind::Link, TIME),
                ("bin/zcat".to_owned(), Kind::Link, TIME),
            ]
        );
    }

    #[test]
    fn of_the_extended_attributes_only_the_capability_stays() {
        let bytes = rewritten(&["./bin/", "./bin/ping"], 1);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entry = archive.entries().unwrap().nth(1).unwrap().unwrap();
        let records: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| (record.key().unwrap().to_owned(), record.value_bytes().to_vec()))
            .collect();
        assert_eq!(records, [("SCHILY.xattr.security.capability".to_owned(), b"\x01\x00cap".to_vec())]);
    }

    #[test]
    fn a_tree_without_a_parent_folder_is_not_written() {
        let mut tree = Tree::new();
        tree.insert("a/b", crate::tree::Entry::file("x", 0o644)).unwrap();
        let error = tree.write_tar(Vec::new(), TIME).unwrap_err();
        assert!(matches!(error, Error::NoParent(path) if path == "a/b"));
    }

    #[test]
    fn a_device_node_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Char);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        builder.append_data(&mut header, "dev/null", std::io::empty()).unwrap();
        builder.into_inner().unwrap();
        assert!(matches!(Tree::read_tar(file.path()), Err(Error::UnknownKind { path, .. }) if path == "dev/null"));
    }
}
