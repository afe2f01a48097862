//! Which packages of the build root own files of the image: libraries of the initrd, and the stub.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Lists of files by package, as dpkg keeps them.
const INFO: &str = "var/lib/dpkg/info";

/// The names of the packages that own these files; paths are relative to the root.
pub fn of<'a>(root: &Path, paths: impl Iterator<Item = &'a str>) -> Result<BTreeSet<String>> {
    let wanted: BTreeSet<&str> = paths.collect();
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let folder = root.join(INFO);
    let entries = fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("Failed to list {}", folder.display()))?.path();
        if path.extension().is_none_or(|ending| ending != "list") {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // `libc6:amd64` where a package may be installed for several architectures.
        let package = stem.split(':').next().unwrap_or(&stem);
        let list = fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))?;
        for line in list.lines().filter_map(|line| line.strip_prefix('/')) {
            // Packages from before the merge of /usr name /lib.
            let merged = format!("usr/{line}");
            if let Some(path) = wanted.get(line).or_else(|| wanted.get(merged.as_str())) {
                found.insert(path, package.to_owned());
            }
        }
    }
    let unowned: Vec<&&str> = wanted.iter().filter(|path| !found.contains_key(*path)).collect();
    ensure!(
        unowned.is_empty(),
        "Files of the image belong to no package of the build root, so that .packages.json could not name one: {unowned:?}"
    );
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_of_each_file_is_found_and_a_file_without_one_is_named() {
        let root = tempfile::tempdir().unwrap();
        let info = root.path().join(INFO);
        fs::create_dir_all(&info).unwrap();
        for (name, list) in [
            ("libc6:amd64.list", "/.\n/usr/lib/x86_64-linux-gnu/libc.so.6\n/usr/lib64/ld-linux-x86-64.so.2\n"),
            ("old.list", "/lib/x86_64-linux-gnu/libold.so.1\n"),
            ("other.list", "/usr/bin/other\n"),
            ("libc6:amd64.md5sums", "/usr/lib/unowned.so\n"),
        ] {
            fs::write(info.join(name), list).unwrap();
        }
        let owners = |paths: &[&'static str]| of(root.path(), paths.iter().copied());
        let libraries = ["usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libold.so.1"];
        assert_eq!(owners(&libraries).unwrap(), ["libc6".to_owned(), "old".to_owned()].into());
        let error = owners(&["usr/lib/unowned.so", "usr/bin/other"]).unwrap_err().to_string();
        assert!(error.contains("usr/lib/unowned.so") && !error.contains("usr/bin/other"), "{error}");
    }
}
