//! What was published: all statements and bundles in directories and their subdirectories.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use transparency::bundle::{self, Bundle};
use transparency::monitor::signed;
use transparency::statement::predicate_type;

/// Maximum depth of subdirectories.
const MAX_DEPTH: usize = 32;

/// SHA-256 of what was signed for every statement below these directories, in bundles or alone; other files are passed over.
///
/// # Errors
/// A directory or file cannot be read: a statement that was not read would raise a false alarm.
pub fn digests_in(directories: &[PathBuf]) -> Result<BTreeSet<[u8; 32]>> {
    let mut digests = BTreeSet::new();
    // Links may lead to a directory twice, or back.
    let mut visited = BTreeSet::new();
    let mut waiting: Vec<(PathBuf, usize)> = directories.iter().map(|path| (path.clone(), 0)).collect();
    while let Some((directory, depth)) = waiting.pop() {
        let failed = || format!("cannot read directory {}", directory.display());
        let metadata = fs::metadata(&directory).with_context(failed)?;
        if !visited.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        for entry in fs::read_dir(&directory).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            if path.is_dir() {
                ensure!(
                    depth < MAX_DEPTH,
                    "cannot read directory {}: it is more than {MAX_DEPTH} directories below a directory of --published",
                    path.display()
                );
                waiting.push((path, depth + 1));
            } else if path.extension().is_some_and(|extension| extension == "json") {
                digests.extend(digest_of(&path)?);
            }
        }
    }
    Ok(digests)
}

fn digest_of(path: &Path) -> Result<Option<[u8; 32]>> {
    // A larger file is neither a bundle nor a statement.
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() || metadata.len() > bundle::LARGEST as u64 {
        return Ok(None);
    }
    let bytes = input_file::read(path, bundle::LARGEST as u64)?;
    let bundled = Bundle::parse(&bytes).ok().and_then(|bundle| bundle.envelope.unverified_payload().ok());
    let alone = || predicate_type(&bytes).is_ok().then(|| bytes.clone());
    Ok(bundled.or_else(alone).map(|statement| signed(&statement)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATEMENT: &[u8] = br#"{"predicate":{},"predicateType":"x"}"#;

    #[test]
    fn statements_in_subdirectories_are_read_and_links_in_a_circle_end() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("releases/cairn_0.1.0");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("one.json"), STATEMENT).unwrap();
        fs::write(deep.join("one.raw"), b"not read").unwrap();
        fs::File::create(deep.join("large.json")).unwrap().set_len(5 << 30).unwrap();
        std::os::unix::fs::symlink(folder.path(), deep.join("back")).unwrap();
        let found = digests_in(&[folder.path().to_owned()]).unwrap();
        assert_eq!(found, BTreeSet::from([signed(STATEMENT)]));
    }

    #[test]
    fn missing_directory_is_an_error_and_not_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let error = digests_in(&[folder.path().join("none")]).unwrap_err();
        assert!(error.to_string().starts_with("cannot read directory "), "{error}");
    }
}
