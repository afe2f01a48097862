//! Lays a folder of a checkout over a tree.
//!
//! A checkout has no owners, times or exact modes worth keeping: everything belongs to root, folders are 0755, files
//! 0755 if their owner may execute them and else 0644, whatever the umask of whoever cloned it. Exceptions stand in
//! os/tree.toml.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Content, Entry, Error, Kind, Tree};

impl Tree {
    /// Adds everything below `folder` at `at` (`""`: the top), replacing files that are there.
    pub fn overlay(&mut self, folder: &Path, at: &str) -> Result<(), Error> {
        let io = |action| {
            let path = folder.display().to_string();
            move |source| Error::Io { action, path, source }
        };
        for entry in fs::read_dir(folder).map_err(io("list"))? {
            let entry = entry.map_err(io("list"))?;
            let name =
                entry.file_name().into_string().map_err(|name| Error::Path(name.to_string_lossy().into_owned()))?;
            let path = if at.is_empty() { name } else { format!("{at}/{name}") };
            let metadata = entry.metadata().map_err(io("inspect an entry of"))?;
            if metadata.is_dir() {
                if !self.get(&path).is_some_and(Entry::is_directory) {
                    self.insert(&path, Entry::directory(0o755))?;
                }
                self.overlay(&entry.path(), &path)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path()).map_err(io("read a link in"))?;
                let target = target.into_os_string().into_string();
                self.insert(&path, Entry::symlink(&target.map_err(|_| Error::Path(path.clone()))?))?;
            } else if metadata.is_file() {
                let mode = if metadata.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
                let content = Content::Part { path: entry.path(), offset: 0, length: metadata.len() };
                let kind = Kind::File { content, link: None };
                self.insert(&path, Entry { kind, mode, uid: 0, gid: 0, capability: None })?;
            } else {
                return Err(Error::UnknownKind { path, kind: "device, socket or pipe".into() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_the_checkout_are_normalised_and_files_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, mode: u32| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "new").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("etc/plain", 0o600);
        write("etc/tool", 0o700);
        std::os::unix::fs::symlink("/dev/null", folder.path().join("etc/masked")).unwrap();

        let mut tree = Tree::new();
        tree.insert("etc", Entry::directory(0o700)).unwrap();
        tree.insert("etc/plain", Entry::file("old", 0o600)).unwrap();
        tree.overlay(folder.path(), "").unwrap();

        let mode = |path: &str| tree.get(path).unwrap().mode;
        assert_eq!((mode("etc"), mode("etc/plain"), mode("etc/tool")), (0o700, 0o644, 0o755));
        assert_eq!(tree.get("etc/masked").unwrap().kind, Kind::Symlink("/dev/null".into()));
        let Kind::File { content, .. } = &tree.get("etc/plain").unwrap().kind else { panic!("not a file") };
        assert_eq!(content.read().unwrap(), b"new");
    }
}
