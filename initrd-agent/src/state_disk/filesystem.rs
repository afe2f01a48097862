//! The file system of a state disk: ext4, made, checked and grown by e2fsprogs out of the verified root. The programs run
//! where the agent runs, with the root's own loader and libraries: they see the kernel's /dev and /proc, and nothing of
//! the initrd. Its journal is the one in the volume: whatever a superblock names, neither e2fsck nor the kernel uses a
//! journal on another disk.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use state_disk::layout::SECTOR;
use state_disk::superblock::FEATURES;

use crate::code::Code;
use crate::console;
use crate::failure::Failure;

const ROOT: &str = "/sysroot";
const VAR: &str = "/sysroot/var";
const LIBRARIES: &str = "/sysroot/usr/lib/x86_64-linux-gnu";
/// e2fsck: 1 is "errors corrected", 2 "and reboot", which concerns mounted file systems.
const CORRECTED: i32 = 3;
/// What is kept of a program's output.
const MAX_OUTPUT_BYTES: usize = 300;
/// Where e2fsck looks for an external journal, and finds none. Without it, e2fsck reads all disks for the UUID in the
/// superblock. A journal in the volume is used without regard to it.
const NO_EXTERNAL_JOURNAL: &str = "/nonexistent";
/// The kernel has a folder in it for each journal that is in use, named by device and inode (Linux, `fs/jbd2/journal.c`).
const JOURNALS: &str = "/proc/fs/jbd2";
/// EXT4_JOURNAL_INO.
const JOURNAL_INODE: u32 = 8;

/// Makes a file system of so many bytes. Its tables are written later, by the kernel, so it is ready in a moment.
///
/// # Errors
/// `DISK_FORMAT_FAILED`.
pub fn make(device: &str, bytes: u64) -> Result<(), Failure> {
    let (block, blocks) = (SECTOR.to_string(), (bytes / SECTOR).to_string());
    match run("mke2fs", &making(&block, device, &blocks)) {
        Ok((0, _)) => Ok(()),
        other => Err(failure(Code::DiskFormatFailed, "making the file system of the state disk", other)),
    }
}

/// The arguments of mke2fs.
const fn making<'a>(block: &'a str, device: &'a str, blocks: &'a str) -> [&'a str; 14] {
    let later = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
    ["-q", "-F", "-t", "ext4", "-b", block, "-m", "1", "-O", FEATURES, "-E", later, device, blocks]
}

/// Repairs what can be repaired without asking; replays the journal.
///
/// # Errors
/// `FILESYSTEM_DAMAGED`.
pub fn check(device: &str) -> Result<(), Failure> {
    if let Some(text) = repaired(run("e2fsck", &["-p", "-j", NO_EXTERNAL_JOURNAL, device]))? {
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

/// Mounts it as the `/var` of the running system, with no other journal than its own.
///
/// # Errors
/// `STATE_MOUNT_FAILED`, `FILESYSTEM_DAMAGED`.
pub fn mount_var(device: &str) -> Result<(), Failure> {
    // What is kept there is data: nothing of it is executed. Container file systems are mounts of their own.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(device), VAR, Some("ext4"), flags, Some("errors=remount-ro,data=ordered"))
        .map_err(|error| Failure::new(Code::StateMountFailed, format!("mounting {device} on {VAR}: {error}")))?;
    has_its_own_journal(Path::new(JOURNALS), device)
}

/// Checks that the kernel uses the journal in this volume, and no other.
fn has_its_own_journal(journals: &Path, device: &str) -> Result<(), Failure> {
    let names = || {
        let names = fs::read_dir(journals)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<Vec<String>>>()
    };
    let own = format!("{}-{JOURNAL_INODE}", device.trim_start_matches("/dev/"));
    let what = match names() {
        Ok(names) if names == [own.as_str()] => return Ok(()),
        Ok(names) => format!("the kernel uses the journals {names:?} instead of {own}"),
        Err(error) => format!("reading {}: {error}", journals.display()),
    };
    Err(Failure::new(Code::FilesystemDamaged, format!("the file system of the state disk: {what}")))
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

/// Runs a program of the root; gives its exit code, and the end of its output.
fn run(program: &str, arguments: &[&str]) -> std::io::Result<(i32, String)> {
    let mut command = Command::new(Path::new(LIBRARIES).join("ld-linux-x86-64.so.2"));
    command
        .args(["--library-path", LIBRARIES])
        .arg(format!("{ROOT}/usr/sbin/{program}"))
        .args(arguments)
        .env_clear()
        .env("MKE2FS_CONFIG", format!("{ROOT}/etc/mke2fs.conf"));
    outcome(command)
}

/// Runs a command. Its output is read whole and not kept: a damaged file system may have any number of lines.
fn outcome(mut command: Command) -> std::io::Result<(i32, String)> {
    let (mut output, writer) = io::pipe()?;
    let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // It has the ends of the pipe that are written to.
    drop(command);
    let text = end_of(&mut output);
    let code = child.wait()?.code().unwrap_or(-1);
    Ok((code, String::from_utf8_lossy(&text?).trim().replace('\n', "; ")))
}

/// The last bytes before the end.
fn end_of(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut end, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match input.read(&mut chunk) {
            Ok(0) => return Ok(end),
            Ok(length) => {
                end.extend_from_slice(&chunk[..length]);
                end.drain(..end.len().saturating_sub(MAX_OUTPUT_BYTES));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
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
    use std::os::unix::fs::FileExt;

    use state_disk::filesystem::{SUPERBLOCK, SUPERBLOCK_LENGTH};
    use state_disk::superblock;

    use super::*;

    #[test]
    fn superblock_of_mke2fs_is_accepted_at_each_size() {
        const MIB: u64 = 1 << 20;
        for bytes in [40 * MIB - SECTOR, 1000 * MIB, 30_000 * MIB, 4_000_000 * MIB] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(bytes).unwrap();
            let (block, blocks) = (SECTOR.to_string(), (bytes / SECTOR).to_string());
            let arguments = making(&block, file.path().to_str().unwrap(), &blocks);
            let made = Command::new("mke2fs").args(arguments).output().unwrap();
            assert!(made.status.success() && made.stderr.is_empty(), "{bytes}: {made:?}");
            let mut superblock = vec![0; SUPERBLOCK_LENGTH];
            file.as_file().read_exact_at(&mut superblock, SUPERBLOCK).unwrap();
            assert_eq!(superblock::check(&superblock), Ok(()), "{bytes}");
        }
    }

    /// Kibibytes of the most memory that this process had.
    fn memory() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[test]
    fn output_of_a_program_is_read_whole_and_its_end_is_kept() {
        let before = memory();
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 400000000 /dev/zero >&2; echo; echo one; echo two >&2; exit 3"]);
        let (code, text) = outcome(command).unwrap();
        assert_eq!(code, 3);
        assert!(text.ends_with("; one; two") && text.len() < 2 * MAX_OUTPUT_BYTES, "{} bytes", text.len());
        let grown = memory() - before;
        assert!(grown < 200_000, "{grown} KiB of memory");
        assert!(outcome(Command::new("/nonexistent")).is_err());
    }

    #[test]
    fn journal_of_another_device_or_a_second_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let judged = || has_its_own_journal(folder.path(), "/dev/dm-1").map_err(|failure| failure.code());
        assert_eq!(judged(), Err(Code::FilesystemDamaged), "none");
        let (own, other) = (folder.path().join("dm-1-8"), folder.path().join("vdc"));
        fs::create_dir(&other).unwrap();
        assert_eq!(judged(), Err(Code::FilesystemDamaged), "another");
        fs::create_dir(own).unwrap();
        assert_eq!(judged(), Err(Code::FilesystemDamaged), "two");
        fs::remove_dir(other).unwrap();
        assert_eq!(judged(), Ok(()));
        let missing = has_its_own_journal(&folder.path().join("x"), "/dev/dm-1");
        assert_eq!(missing.map_err(|failure| failure.code()), Err(Code::FilesystemDamaged));
    }

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
