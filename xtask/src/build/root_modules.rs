//! The check that the finished root has exactly the kernel modules of `os/image.toml` and of its profile, with what they depend on (modules.dep(5)). The
//! kernel would load any other signed module for a device that the host shows, or on request of a program.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use cairn_image::tree::Tree;

/// Fails with every difference. `expected` are files below `folder`, `/usr/lib/modules/<release>` without the first slash; `denied` are names of modules, or
/// the first letters of names and `*`.
pub fn check(tree: &Tree, folder: &str, expected: &[PathBuf], denied: &[String]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|file| format!("{folder}/{}", file.display())).collect();
    let files = tree.iter().filter(|(path, entry)| !entry.is_directory() && name(path).is_some());
    let found: BTreeSet<String> = files.map(|(path, _)| path.to_owned()).collect();
    let mut differences: Vec<String> = found
        .difference(&expected)
        .map(|path| format!("/{path} is not listed, and no listed module needs it"))
        .collect();
    differences.extend(expected.difference(&found).map(|path| format!("/{path} is listed and not there")));
    let is_denied = |path: &&String| name(path).is_some_and(|name| denied.iter().any(|denied| matches(denied, &name)));
    differences.extend(found.iter().filter(is_denied).map(|path| format!("/{path} is denied")));
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "The root has other kernel modules than `root.modules` of os/image.toml and the profile name ({} differences):\n  {}",
        differences.len(),
        differences.join("\n  ")
    )
}

/// Name of a module by its file, which may be compressed (kmod(8)); `-` and `_` are the same.
fn name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let name = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"].iter().find_map(|ending| file.strip_suffix(ending))?;
    Some(name.replace('-', "_"))
}

fn matches(denied: &str, name: &str) -> bool {
    let denied = denied.replace('-', "_");
    denied.strip_suffix('*').map_or(denied == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use cairn_image::tree::Entry;

    use super::*;

    const FOLDER: &str = "usr/lib/modules/6.12";
    const LISTED: [&str; 2] = ["kernel/virtio_net.ko.xz", "kernel/dm-mod.ko"];

    fn tree(files: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for file in files {
            for (at, _) in file.match_indices('/') {
                if tree.get(&file[..at]).is_none() {
                    tree.insert(&file[..at], Entry::directory(0o755)).unwrap();
                }
            }
            tree.insert(file, Entry::file("x", 0o644)).unwrap();
        }
        tree
    }

    fn check(files: &[&str], denied: &[&str]) -> Result<()> {
        let expected = LISTED.map(PathBuf::from);
        let denied: Vec<String> = denied.iter().map(|name| (*name).to_owned()).collect();
        super::check(&tree(files), FOLDER, &expected, &denied)
    }

    #[test]
    fn modules_that_are_not_listed_missing_or_denied_fail_the_build() {
        let listed = LISTED.map(|file| format!("{FOLDER}/{file}"));
        let listed = listed.each_ref().map(String::as_str);
        // Neither an index nor the Korean catalog of the journal is a module.
        let plain =
            [&listed[..], &["usr/lib/modules/6.12/modules.dep", "usr/lib/systemd/catalog/systemd.ko.catalog"]].concat();
        check(&plain, &["virtio_console", "usb*"]).unwrap();
        for (file, words) in [
            ("usr/lib/modules/6.12/kernel/virtio_console.ko.xz", "virtio_console.ko.xz is not listed"),
            ("usr/lib/modules/6.12/kernel/usb-storage.ko.zst", "usb-storage.ko.zst is not listed"),
            ("usr/lib/modules/6.13/kernel/dm-mod.ko", "6.13/kernel/dm-mod.ko is not listed"),
            ("usr/lib/firmware/hidden.ko", "hidden.ko is not listed"),
            ("usr/lib/modules/6.12/updates/a.ko.ko.xz", "a.ko.ko.xz is not listed"),
        ] {
            let error = check(&[&plain[..], &[file]].concat(), &[]).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("(1 differences)"), "{file}: {error}");
        }
        let error = check(&plain[1..], &[]).unwrap_err().to_string();
        assert!(error.contains("virtio_net.ko.xz is listed and not there"), "{error}");
        // A module that a listed one needs is denied all the same.
        for denied in ["dm_mod", "dm-mod", "virtio*", "dm-*"] {
            let error = check(&plain, &[denied]).unwrap_err().to_string();
            assert!(error.contains("is denied"), "{denied}: {error}");
        }
    }
}
