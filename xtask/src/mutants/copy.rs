//! A copy of the sources: the files that git tracks or would track, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Brings the folder `to` to the state of the checkout `from`. A file that has its content already keeps its time stamp: nothing is compiled again for it. Links are left out: only images need them.
pub(super) fn update(from: &Path, to: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.current_dir(from).output().context("cannot start git")?;
    ensure!(output.status.success(), "cannot list the sources: {}", String::from_utf8_lossy(&output.stderr).trim());
    let listed = String::from_utf8(output.stdout).context("a source has a name that is not UTF-8")?;
    // A file that was removed is still listed.
    let is_file = |name: &&str| from.join(name).symlink_metadata().is_ok_and(|data| data.is_file());
    let names: BTreeSet<PathBuf> =
        listed.split('\0').filter(|name| !name.is_empty()).filter(is_file).map(PathBuf::from).collect();
    for name in &names {
        let content = fs::read(from.join(name)).with_context(|| format!("cannot read {}", name.display()))?;
        write_if_other(&to.join(name), &content)?;
    }
    remove_others(to, to, &names)
}

fn write_if_other(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == content) {
        return Ok(());
    }
    let folder = path.parent().context("a source without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// A file that is no longer in the sources would still be compiled, or be a test of its package.
fn remove_others(root: &Path, folder: &Path, names: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.is_dir() && !path.is_symlink() {
            remove_others(root, &path, names)?;
            // Fails where the folder still has files.
            let _ = fs::remove_dir(&path);
        } else if !path.strip_prefix(root).is_ok_and(|name| names.contains(name)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) {
        assert!(Command::new("git").args(arguments).current_dir(folder).status().unwrap().success());
    }

    #[test]
    fn copy_has_new_files_and_neither_removed_nor_ignored_ones() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path());
        git(from, &["init", "--quiet"]);
        fs::create_dir(from.join("old")).unwrap();
        for (name, text) in [(".gitignore", "/made\n"), ("kept", "1"), ("old/removed", "2"), ("made", "3")] {
            fs::write(from.join(name), text).unwrap();
        }
        git(from, &["add", "."]);
        update(from, to).unwrap();
        assert!(to.join("old/removed").is_file() && !to.join("made").exists());
        let before = to.join("kept").metadata().unwrap().modified().unwrap();

        fs::remove_file(from.join("old/removed")).unwrap();
        fs::write(from.join("not-tracked-yet"), "4").unwrap();
        // As an interrupted run leaves it.
        fs::write(to.join(".gitignore"), "changed").unwrap();
        update(from, to).unwrap();
        assert!(!to.join("old").exists());
        assert_eq!(fs::read_to_string(to.join("not-tracked-yet")).unwrap(), "4");
        assert_eq!(fs::read_to_string(to.join(".gitignore")).unwrap(), "/made\n");
        assert_eq!(to.join("kept").metadata().unwrap().modified().unwrap(), before);
    }
}
