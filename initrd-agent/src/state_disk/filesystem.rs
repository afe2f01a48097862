//! The file system of a state disk: ext4, made, checked and grown by e2fsprogs out of the verified root. The programs run
//! where the agent runs, with the root's own loader and libraries: they see the kernel's /dev and /proc, and nothing of
//! the initrd.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use state_disk::layout::SECTOR;

use crate::code::Code;
use crate::console;
use crate::failure::Failure;

const ROOT: &str = "/sysroot";
const VAR: &str = "/sysroot/var";
const LIBRARIES: &str = "/sysroot/usr/lib/x86_64-linux-gnu";
/// e2fsck: 1 is "errors corrected", 2 "and reboot", which concerns mounted file systems.
const CORRECTED: i32 = 3;

/// Makes a file system of so many bytes. Its tables are written later, by the kernel, so it is ready in a moment.
///
/// # Errors
/// `DISK_FORMAT_FAILED`.
pub fn make(device: &str, bytes: u64) -> Result<(), Failure> {
    let (block, blocks) = (SECTOR.to_string(), (bytes / SECTOR).to_string());
    let later = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
    let arguments = ["-q", "-F", "-t", "ext4", "-b", &block, "-m", "1", "-E", later, device, &blocks];
    match run("mke2fs", &arguments) {
        Ok((0, _)) => Ok(()),
        other => Err(failure(Code::DiskFormatFailed, "making the file system of the state disk", other)),
    }
}

/// Repairs what can be repaired without asking; replays the journal.
///
/// # Errors
/// `FILESYSTEM_DAMAGED`.
pub fn check(device: &str) -> Result<(), Failure> {
    if let Some(text) = repaired(run("e2fsck", &["-p", device]))? {
        console::line(&format!("the file system of the state disk was repaired: {text}"));
    }
    Ok(())
}

/// What e2fsck printed about its repairs; nothing where there was nothing to repair.
fn repaired(result: std::io::Result<(i32, String)>) -> Result<Option<String>, Failure> {
    match result {
        Ok((0, _)) => Ok(None),
        Ok((code, text)) if code & !CORRECTED == 0 => Ok(Some(text)),
        other => Err(failure(Code::FilesystemDamaged, "checking the file system of the state disk", other)),
    }
}

/// Mounts it as the `/var` of the running system.
///
/// # Errors
/// `STATE_MOUNT_FAILED`.
pub fn mount_var(device: &str) -> Result<(), Failure> {
    // What is kept there is data: nothing of it is executed. Container file systems are mounts of their own.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(device), VAR, Some("ext4"), flags, Some("errors=remount-ro"))
        .map_err(|error| Failure::new(Code::StateMountFailed, format!("mounting {device} on {VAR}: {error}")))
}

/// Grows the mounted file system to so many bytes. One that cannot be grown is as good as before, so the boot goes on.
pub fn grow(device: &str, bytes: u64) {
    match run("resize2fs", &[device, &(bytes / SECTOR).to_string()]) {
        Ok((0, _)) => console::line(&format!("the state disk has grown, its file system has {} MiB now", bytes >> 20)),
        other => {
            let failure = failure(Code::FilesystemDamaged, "growing the file system of the state disk", other);
            console::line(&format!("{failure}; it stays as large as it was"));
        }
    }
}

/// Runs a program of the root; gives its exit code, and the last of what it said.
fn run(program: &str, arguments: &[&str]) -> std::io::Result<(i32, String)> {
    let output = Command::new(Path::new(LIBRARIES).join("ld-linux-x86-64.so.2"))
        .args(["--library-path", LIBRARIES])
        .arg(format!("{ROOT}/usr/sbin/{program}"))
        .args(arguments)
        .env_clear()
        .env("MKE2FS_CONFIG", format!("{ROOT}/etc/mke2fs.conf"))
        .stdin(Stdio::null())
        .output()?;
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    let from = text.len().saturating_sub(300);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    Ok((output.status.code().unwrap_or(-1), text[from..].to_owned()))
}

fn failure(code: Code, what: &str, result: std::io::Result<(i32, String)>) -> Failure {
    let found = match result {
        Ok((code, text)) => format!("exit code {code}: {text}"),
        Err(error) => error.to_string(),
    };
    Failure::new(code, format!("{what}: {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystem_that_e2fsck_did_not_repair_ends_the_boot() {
        let judged = |code: i32| repaired(Ok((code, "words".into()))).map_err(|failure| failure.code());
        assert_eq!(judged(0), Ok(None));
        for corrected in 1..=3 {
            assert_eq!(judged(corrected), Ok(Some("words".into())));
        }
        // Errors left uncorrected, operational error, usage, canceled, library error; a signal (e2fsck(8)).
        for code in [4, 5, 8, 16, 32, 128, -1] {
            assert_eq!(judged(code), Err(Code::FilesystemDamaged), "{code}");
        }
        let missing = repaired(Err(std::io::ErrorKind::NotFound.into()));
        assert_eq!(missing.map_err(|failure| failure.code()), Err(Code::FilesystemDamaged));
    }
}
