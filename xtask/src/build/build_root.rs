//! Stage `build-root`: the tree of tools that everything else runs in, installed by the locked mkosi.
//!
//! Two steps. First the locked packages are only unpacked, no script of theirs runs: that tree can run mkosi, apt and
//! dpkg. Then mkosi, inside that tree, installs the same packages properly. The host gives a kernel and nothing else, so
//! its apt, dpkg and Python do not matter.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::mkosi::{Format, Mkosi};
use super::stage::{Key, Made, Stages};
use crate::deb;
use crate::digest::Sha256Digest;
use crate::lock::Package;

/// Name of the tree in the stage's folder.
pub const TREE: &str = "tree";

/// Makes the build root of `packages`.
pub fn make(
    stages: &Stages,
    suite: &str,
    configuration: &Path,
    packages: &[&Package],
    files: &BTreeMap<Sha256Digest, PathBuf>,
) -> Result<Made> {
    let mut key = Key::new("build-root", 1).text("suite", suite).path("mkosi.conf", configuration)?;
    for package in packages {
        key = key.digest(&package.name, &package.sha256);
    }
    stages.run("build-root", key, |output| {
        let bootstrap = output.join("bootstrap");
        unpack_all(&bootstrap, packages, files)?;
        let mkosi = Mkosi {
            tools: &bootstrap,
            suite,
            configurations: &[configuration],
            skeleton: None,
            source_date: 0,
            repart: None,
            extra: &[],
        };
        mkosi.run(output, packages, files, Format::Directory)?;
        crate::interrupt::remove_tree(&bootstrap)?;
        let made = output.join(Format::Directory.output());
        let tree = output.join(TREE);
        fs::rename(&made, &tree).with_context(|| format!("Failed to move {}", made.display()))?;
        for mount_point in ["dev", "proc", "run", "sys", "tmp", "var/tmp", "var/lib/swtpm-localca"] {
            let path = tree.join(mount_point);
            fs::create_dir_all(&path).with_context(|| format!("Failed to make {}", path.display()))?;
        }
        Ok(())
    })
}

/// Unpacks packages side by side below `tree`. Those that bring the top-level links (`/bin`) come first.
fn unpack_all(tree: &Path, packages: &[&Package], files: &BTreeMap<Sha256Digest, PathBuf>) -> Result<()> {
    for mount_point in ["dev", "etc", "proc", "run", "sys", "tmp", "var/tmp"] {
        let path = tree.join(mount_point);
        fs::create_dir_all(&path).with_context(|| format!("Failed to make {}", path.display()))?;
    }
    let (first, rest): (Vec<&Package>, Vec<&Package>) =
        packages.iter().partition(|package| package.name == "base-files");
    let unpack = |package: &Package| {
        let file = files.get(&package.sha256).with_context(|| format!("{} was not fetched", package.file_name()))?;
        deb::unpack(file, tree).with_context(|| format!("Failed to unpack {}", package.file_name()))
    };
    first.into_iter().try_for_each(unpack)?;
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(package) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = unpack(package) {
                        failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
