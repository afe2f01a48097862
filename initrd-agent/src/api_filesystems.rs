//! The kernel's own filesystems, mounted first, each with the least that it needs (Linux
//! `Documentation/filesystems`; the set is the one that systemd expects to find). configfs and efivarfs are modules
//! and left to systemd.

use nix::mount::{MsFlags, mount};

use crate::code::Code;
use crate::failure::Failure;

struct ApiFilesystem {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
}

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Nothing is executed out of them: neither a device, which the host fills, nor what a service has written.
const DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const RUN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// systemd would mount it executable.
const SHARED_MEMORY: &str = "/dev/shm";

const ALL: [ApiFilesystem; 6] = [
    ApiFilesystem { kind: "proc", target: "/proc", flags: QUIET, options: None },
    ApiFilesystem { kind: "sysfs", target: "/sys", flags: QUIET, options: None },
    ApiFilesystem { kind: "devtmpfs", target: "/dev", flags: DEVICES, options: Some("mode=0755") },
    ApiFilesystem { kind: "tmpfs", target: SHARED_MEMORY, flags: RUN, options: Some("mode=1777") },
    ApiFilesystem { kind: "tmpfs", target: "/run", flags: RUN, options: Some("mode=0755") },
    ApiFilesystem { kind: "securityfs", target: "/sys/kernel/security", flags: QUIET, options: None },
];

/// Mounts them all.
///
/// # Errors
/// `API_MOUNT_FAILED` with the first one that could not be mounted.
pub fn mount_all() -> Result<(), Failure> {
    for filesystem in &ALL {
        let ApiFilesystem { kind, target, flags, options } = filesystem;
        if *target == SHARED_MEMORY {
            // The folder is on the filesystem before it; if it cannot be made, mounting fails.
            let _ = std::fs::create_dir(target);
        }
        mount(Some(*kind), *target, Some(*kind), *flags, *options)
            .map_err(|error| Failure::new(Code::ApiMountFailed, format!("mounting {kind} on {target}: {error}")))?;
    }
    Ok(())
}
