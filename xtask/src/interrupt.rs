//! Ctrl-C, SIGTERM and SIGHUP while something is made: children end, half-made folders go, what is complete stays.
//!
//! A build's temporary folders are [`Scratch`]. Where no handler can run (SIGKILL, a power cut) the lock on such a folder goes
//! with the process, and the next run sweeps the folder away.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};

/// Exit code after an interrupt: 128 and SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// First letters of the names of temporary folders.
const PREFIX: &str = ".making-";

static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Handles the signals from here on.
pub fn handle() -> Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
        end_children();
        for path in LIVE.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Children may have been writing until just now; what stays is swept by the next run.
            let _ = remove_tree(&path).or_else(|_| remove_tree(&path));
        }
        eprintln!("\nInterrupted. Nothing half-made is left; the next run goes on from the last complete step.");
        exit(EXIT_INTERRUPTED);
    })
    .context("Failed to handle signals")
}

/// Waits for the end if it has begun, so that the errors of children that were just ended are not shown.
pub fn wait_if_ending() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Ends the direct children, and the process groups that they lead; a sandbox takes everything in it along.
fn end_children() {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return };
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in text.split_ascii_whitespace().filter_map(|word| word.parse().ok()) {
            let pid = Pid::from_raw(pid);
            if getpgid(Some(pid)) == Ok(pid) {
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// A temporary folder, gone when this is dropped, when the process is interrupted, or with the next [`sweep`].
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Scratch {
    /// Makes one in `parent`.
    pub fn new(parent: &Path) -> Result<Self> {
        let failed = || format!("Failed to make a temporary folder in {}", parent.display());
        // Until it is locked it looks abandoned: nobody sweeps meanwhile.
        let _creating = lock_folder(parent, FlockArg::LockShared).with_context(failed)?;
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).with_context(failed)?;
        let lock = lock_folder(folder.path(), FlockArg::LockExclusive).with_context(failed)?;
        let path = folder.keep();
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next run.
        let _ = remove_tree(&self.path);
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.path);
    }
}

/// Removes the temporary folders in `parent` that no living process holds.
pub fn sweep(parent: &Path) -> Result<()> {
    let failed = || format!("Failed to clean {}", parent.display());
    let _sweeping = lock_folder(parent, FlockArg::LockExclusive).with_context(failed)?;
    for entry in fs::read_dir(parent).with_context(failed)?.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && lock_folder(&entry.path(), FlockArg::LockExclusiveNonblock).is_ok() {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn lock_folder(folder: &Path, how: FlockArg) -> std::io::Result<Flock<File>> {
    Flock::lock(File::open(folder)?, how).map_err(|(_, errno)| errno.into())
}

/// Removes a file or a tree; folders without write permission in it are no obstacle. A missing one is fine.
pub fn remove_tree(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if metadata.is_dir() {
        fs::remove_dir_all(path).or_else(|_| {
            make_writable(path);
            fs::remove_dir_all(path)
        })
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("Failed to remove {}", path.display()))
}

fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_folder_is_not_swept_and_a_dead_one_is() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::new(parent.path()).unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        let foreign = parent.path().join("kept");
        fs::create_dir(&dead).unwrap();
        fs::create_dir(&foreign).unwrap();
        sweep(parent.path()).unwrap();
        assert_eq!((living.path().exists(), dead.exists(), foreign.exists()), (true, false, true));
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }

    #[test]
    fn a_tree_without_write_permission_is_removed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("inner")).unwrap();
        fs::write(tree.join("inner/file"), "x").unwrap();
        fs::set_permissions(tree.join("inner"), fs::Permissions::from_mode(0o555)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }
}
