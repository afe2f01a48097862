//! The machine id of the running system (machine-id(5)): derived from the id of the state disk, so that it stays with the state, or random on a node without one. It is mounted over the image's empty file, read-only: otherwise systemd would use what the host has in SMBIOS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};

use crate::code::Code;
use crate::failure::Failure;

const FOLDER: &str = "/run/cairn";
const FILE: &str = "/run/cairn/machine-id";
const OVER: &str = "/sysroot/etc/machine-id";
const LENGTH: usize = 16;

/// The machine id of a node with this disk.
fn derive(disk: &[u8; 16]) -> String {
    let digest = Sha256::new().chain_update("cairn machine id").chain_update(disk).finalize();
    hex::encode(&digest[..LENGTH])
}

/// Mounts the machine id of a node with this disk over the image's.
///
/// # Errors
/// `STATE_MOUNT_FAILED`.
pub fn bind_of_disk(disk: &[u8; 16]) -> Result<(), Failure> {
    bind(&derive(disk))
}

/// Mounts a machine id of this boot alone over the image's.
///
/// # Errors
/// `STATE_MOUNT_FAILED`.
pub fn bind_random() -> Result<(), Failure> {
    let mut id = [0; LENGTH];
    getrandom::fill(&mut id).map_err(|error| {
        Failure::new(Code::StateMountFailed, format!("asking the kernel for a machine id: {error}"))
    })?;
    bind(&hex::encode(id))
}

fn bind(id: &str) -> Result<(), Failure> {
    let failed = |what: String| Failure::new(Code::StateMountFailed, what);
    let write = || {
        fs::create_dir_all(FOLDER)?;
        fs::set_permissions(FOLDER, fs::Permissions::from_mode(0o755))?;
        fs::write(FILE, format!("{id}\n"))?;
        fs::set_permissions(FILE, fs::Permissions::from_mode(0o444))
    };
    write().map_err(|error: std::io::Error| failed(format!("writing {FILE}: {error}")))?;
    let over = |from: Option<&Path>, flags: MsFlags| {
        mount(from, OVER, None::<&str>, flags, None::<&str>)
            .map_err(|error| failed(format!("mounting {FILE} over {OVER}: {error}")))
    };
    over(Some(Path::new(FILE)), MsFlags::MS_BIND)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    over(None, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_id_is_that_of_its_disk() {
        // printf 'cairn machine id' and sixteen bytes 05, into sha256sum.
        assert_eq!(derive(&[5; 16]), "7d8ca78949f36dcdee308bdeb8a83928");
        assert_ne!(derive(&[5; 16]), derive(&[6; 16]));
    }
}
