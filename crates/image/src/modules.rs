//! Which kernel modules an initrd needs, and in which order they load.
//!
//! There is no modprobe in the initrd: what modprobe would find out at run time is found out here, from depmod's
//! `modules.dep`, `modules.softdep` (the `pre:` part) and `modules.builtin`. In names, `-` and `_` are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Why the modules could not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An index file could not be read.
    #[error("failed to read {path}: {source}: run depmod on the tree first")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The kernel has no such module.
    #[error(
        "the kernel {kernel} has no module {name}: mend initrd.modules in os/image.toml, or choose a kernel that has it"
    )]
    Missing {
        /// Name of the module.
        name: String,
        /// Folder of the kernel's modules.
        kernel: String,
    },
}

struct Index {
    /// Module name to its file and the files it depends on, nearest last, as modules.dep has it.
    files: BTreeMap<String, (PathBuf, Vec<PathBuf>)>,
    soft: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

/// The files to load, relative to `folder` (`/usr/lib/modules/<release>`), so that each comes after what it needs.
/// Modules that are built in need no file.
pub fn resolve(folder: &Path, wanted: &[String]) -> Result<Vec<PathBuf>, Error> {
    let index = Index::read(folder)?;
    let mut order = Vec::new();
    for name in wanted {
        let name = normal(name);
        if !index.files.contains_key(&name) && !index.builtin.contains(&name) {
            return Err(Error::Missing { name, kernel: folder.display().to_string() });
        }
        index.add(&name, &mut order, &mut BTreeSet::new());
    }
    Ok(order)
}

impl Index {
    fn read(folder: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| Error::Read { path: path.display().to_string(), source })
        };
        let files = read("modules.dep")?.lines().filter_map(parse_dependencies).collect();
        let soft = read("modules.softdep")?.lines().filter_map(parse_soft).collect();
        let builtin = read("modules.builtin")?.lines().map(|line| name_of(Path::new(line))).collect();
        Ok(Self { files, soft, builtin })
    }

    /// Appends the module and what it needs. `open` holds the modules on the way here: soft dependencies may form rings.
    fn add(&self, name: &str, order: &mut Vec<PathBuf>, open: &mut BTreeSet<String>) {
        let Some((file, needs)) = self.files.get(name) else { return };
        if order.contains(file) || !open.insert(name.to_owned()) {
            return;
        }
        for soft in self.soft.get(name).into_iter().flatten() {
            self.add(soft, order, open);
        }
        for need in needs.iter().rev() {
            self.add(&name_of(need), order, open);
        }
        if !order.contains(file) {
            order.push(file.clone());
        }
    }
}

fn parse_dependencies(line: &str) -> Option<(String, (PathBuf, Vec<PathBuf>))> {
    let (file, needs) = line.split_once(':')?;
    let file = PathBuf::from(file);
    Some((name_of(&file), (file, needs.split_whitespace().map(PathBuf::from).collect())))
}

/// `softdep NAME pre: A B post: C`.
fn parse_soft(line: &str) -> Option<(String, Vec<String>)> {
    let mut words = line.strip_prefix("softdep ")?.split_whitespace();
    let name = normal(words.next()?);
    let mut in_pre = false;
    let mut before = Vec::new();
    for word in words {
        match word {
            "pre:" => in_pre = true,
            "post:" => in_pre = false,
            _ if in_pre => before.push(normal(word)),
            _ => {}
        }
    }
    Some((name, before))
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    normal(name.split(".ko").next().unwrap_or_default())
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "modules.dep",
            "kernel/dm-verity.ko.xz: kernel/dm-bufio.ko.xz kernel/dm-mod.ko.xz\n\
             kernel/dm-bufio.ko.xz: kernel/dm-mod.ko.xz\nkernel/dm-mod.ko.xz:\n\
             kernel/erofs.ko.xz: kernel/netfs.ko.xz\nkernel/netfs.ko.xz:\nkernel/crc.ko.xz:\n\
             kernel/a.ko:\nkernel/b.ko:\n",
        );
        write("modules.softdep", "# note\nsoftdep erofs pre: crc post: dm-mod\nsoftdep a pre: b\nsoftdep b pre: a\n");
        write("modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\n");
        folder
    }

    fn load(wanted: &[&str]) -> Result<Vec<String>, Error> {
        let wanted: Vec<String> = wanted.iter().map(|name| name.to_string()).collect();
        Ok(resolve(kernel().path(), &wanted)?.iter().map(|path| name_of(path)).collect())
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        assert_eq!(
            load(&["dm_verity", "virtio-pci", "erofs", "dm-mod"]).unwrap(),
            ["dm_mod", "dm_bufio", "dm_verity", "crc", "netfs", "erofs"]
        );
    }

    #[test]
    fn a_ring_of_soft_dependencies_ends() {
        assert_eq!(load(&["a"]).unwrap(), ["b", "a"]);
    }

    #[test]
    fn a_kernel_without_a_needed_module_is_named() {
        let error = load(&["dm-mod", "zfs"]).unwrap_err().to_string();
        assert!(error.contains("no module zfs"), "{error}");
        assert!(matches!(resolve(Path::new("/nonexistent"), &[]), Err(Error::Read { .. })));
    }
}
