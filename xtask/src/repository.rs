//! A local package repository of exactly the locked packages, for mkosi's `LocalMirror=`.
//!
//! Layout: Debian repository format, `dists/<suite>/main/binary-amd64/Packages` and `pool/`. It carries no signature:
//! every file in it was checked against the lock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};

use crate::deb;
use crate::digest::Sha256Digest;
use crate::lock::Package;

/// Writes a repository of `packages` (files by digest in `files`) below `folder`, for the release `suite`.
pub fn write(folder: &Path, suite: &str, packages: &[&Package], files: &BTreeMap<Sha256Digest, PathBuf>) -> Result<()> {
    let pool = folder.join("pool");
    let index_folder = folder.join("dists").join(suite).join("main/binary-amd64");
    for path in [&pool, &index_folder] {
        fs::create_dir_all(path).with_context(|| format!("Failed to make {}", path.display()))?;
    }
    for package in packages {
        let file = files.get(&package.sha256).with_context(|| format!("{} was not fetched", package.file_name()))?;
        let target = pool.join(package.file_name());
        // A link to a link would lead out of the tree that the package manager sees.
        let file = file.canonicalize().with_context(|| format!("Failed to resolve {}", file.display()))?;
        // Another file system, or a cache that forbids links: copy.
        if fs::hard_link(&file, &target).is_err() {
            fs::copy(&file, &target)
                .with_context(|| format!("Failed to copy {} to {}", file.display(), target.display()))?;
        }
    }
    let index = index(&pool, packages)?;
    write_file(&index_folder.join("Packages"), &index)?;
    let digest = Sha256Digest::of(index.as_bytes());
    let release = format!(
        "Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\nSHA256:\n {digest} {} main/binary-amd64/Packages\n",
        index.len()
    );
    write_file(&folder.join("dists").join(suite).join("Release"), &release)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("Failed to write {}", path.display()))
}

/// The index: each package's control fields and where its file is.
fn index(pool: &Path, packages: &[&Package]) -> Result<String> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let controls = Mutex::new(BTreeMap::new());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for part in packages.chunks(packages.len().div_ceil(threads).max(1)) {
            let (controls, failure) = (&controls, &failure);
            scope.spawn(move || {
                for package in part {
                    match deb::control(&pool.join(package.file_name())) {
                        Ok(text) => lock(controls).insert(package.file_name(), text),
                        Err(error) => lock(failure).replace(error).map(|_| String::new()),
                    };
                }
            });
        }
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let controls = lock(&controls);
    let mut text = String::new();
    for package in packages {
        let name = package.file_name();
        let _ = write!(
            text,
            "{}\nFilename: pool/{name}\nSize: {}\nSHA256: {}\n\n",
            controls[&name].trim_end(),
            package.size,
            package.sha256
        );
    }
    Ok(text)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
