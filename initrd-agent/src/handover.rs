//! From the initrd to the running system: mount the verified root, give it a volatile `/var`, delete the initrd's
//! files to free their memory, move the kernel's filesystems, make the root the root, start systemd (`switch_root(8)`
//! describes the idiom). Nothing of the kernel command line or of our own environment reaches systemd from here.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execve};

use crate::clock::since_boot;
use crate::code::Code;
use crate::console;
use crate::failure::Failure;
use crate::process_one;
use crate::tpm::Tpm;
use crate::verity::VerifiedRoot;

const NEW_ROOT: &str = "/sysroot";
const VAR: &str = "/sysroot/var";
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];
const SYSTEMD: &CStr = c"/usr/lib/systemd/systemd";
/// What the kernel would have given it, and a path.
const ENVIRONMENT: [&CStr; 4] = [
    c"HOME=/",
    c"TERM=linux",
    c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    // For the condition of the units that measure phases: it reads a variable of the firmware, which the kernel does not pass on.
    c"SYSTEMD_FORCE_MEASURE=1",
];
const NO_TYPE: Option<&str> = None;

/// Mounts the verified root, read-only.
///
/// # Errors
/// `ROOT_MOUNT_FAILED`.
pub fn mount_root(root: &VerifiedRoot) -> Result<(), Failure> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(root.device.as_str()), NEW_ROOT, Some("erofs"), flags, NO_TYPE).map_err(|error| {
        Failure::new(Code::RootMountFailed, format!("mounting {} as EROFS on {NEW_ROOT}: {error}", root.device))
    })
}

/// A `/var` that this boot forgets.
///
/// # Errors
/// `VAR_MOUNT_FAILED`.
pub fn mount_volatile_var() -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), VAR, Some("tmpfs"), flags, Some("mode=0755"))
        .map_err(|error| Failure::new(Code::VarMountFailed, format!("mounting a tmpfs on {VAR}: {error}")))
}

/// Leaves the initrd. The TPM stays open until systemd starts: were it opened anew after the initrd's files are gone,
/// its library could not be loaded to measure a failure.
///
/// # Errors
/// `HANDOVER_FAILED`.
pub fn hand_over(tpm: Tpm, started: Duration) -> Result<Infallible, Failure> {
    let failed = |what: String| Failure::new(Code::HandoverFailed, what);
    let initrd = fs::metadata("/").map_err(|error| failed(format!("reading the initrd's device: {error}")))?.dev();
    delete_below(Path::new("/"), initrd);
    switch_root().map_err(|(step, error)| failed(format!("{step}: {error}")))?;
    drop(tpm);
    console::line(&format!("handing over after {} ms", since_boot().saturating_sub(started).as_millis()));
    process_one::reap();
    process_one::release_signals();
    execve(SYSTEMD, &[SYSTEMD], &ENVIRONMENT)
        .map_err(|error| failed(format!("starting {}: {error}", SYSTEMD.to_string_lossy())))
}

/// Deletes everything below a folder that is on `device`. What is mounted there is neither entered nor deleted. What
/// cannot be deleted only costs memory.
fn delete_below(folder: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.dev() != device => {}
            Ok(metadata) if metadata.is_dir() => {
                delete_below(&path, device);
                // Fails, as it should, on a folder that holds a mount.
                let _ = fs::remove_dir(&path);
            }
            _ => {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Makes the mounted root the root of this process and of all that follow.
fn switch_root() -> Result<(), (String, nix::Error)> {
    for source in MOVED {
        let target = format!("{NEW_ROOT}{source}");
        mount(Some(source), target.as_str(), NO_TYPE, MsFlags::MS_MOVE, NO_TYPE)
            .map_err(|error| (format!("moving {source} to {target}"), error))?;
    }
    let step = |what: &str, result: nix::Result<()>| result.map_err(|error| (what.to_owned(), error));
    step("entering the new root", chdir(NEW_ROOT))?;
    step("moving the new root to /", mount(Some("."), "/", NO_TYPE, MsFlags::MS_MOVE, NO_TYPE))?;
    step("changing the root", chroot("."))?;
    step("entering /", chdir("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_on_the_device_is_deleted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = tempfile::tempdir().unwrap();
        fs::write(kept.path().join("file"), "x").unwrap();
        let initrd = folder.path().join("initrd");
        fs::create_dir_all(initrd.join("usr/lib")).unwrap();
        fs::write(initrd.join("usr/lib/file"), "x").unwrap();
        fs::write(initrd.join("init"), "x").unwrap();
        std::os::unix::fs::symlink(kept.path(), initrd.join("lib")).unwrap();
        delete_below(&initrd, fs::metadata(&initrd).unwrap().dev());
        assert_eq!(fs::read_dir(&initrd).unwrap().count(), 0);
        assert!(kept.path().join("file").exists());
    }

    #[test]
    fn what_is_on_another_device_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        let device = fs::metadata(folder.path()).unwrap().dev();
        delete_below(folder.path(), device + 1);
        assert!(folder.path().join("file").exists());
    }
}
