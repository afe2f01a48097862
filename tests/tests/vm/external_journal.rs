//! An ext4 journal on a disk that the storage's operator can read: root of a node names it in the superblock of its state disk, and would have the kernel write plaintext to it, and replay from it above dm-crypt. The disk
//! is the image's: the journal lies between the boot sector of its ESP and the first table of files, which no register covers. A further disk would move PCR 1.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use xtask::vm::Machine;
use xtask::vm::shell::Shell;

use crate::Row;
use crate::nodes::{PATIENCE, broker_for, generation};

const JOURNAL_UUID: &str = "11111111-2222-4333-8444-555555555555";
const JOURNAL_BYTES: usize = 8 << 20;
/// Fields of the superblock of JBD2, which is the second block of 4096 bytes (Linux, `include/linux/jbd2.h`).
const USERS: usize = 4096 + 0x40;
const FIRST_USER: usize = 4096 + 0x100;
/// Offset of the superblock of ext4.
const SUPERBLOCK: usize = 1024;
/// Number of sectors before the first table of files, in the boot sector of a FAT.
const RESERVED_SECTORS: std::ops::Range<usize> = 14..16;
const SECTOR: usize = 512;

pub fn rows() -> Vec<Row> {
    vec![Row::new("journal_on_another_disk_is_refused_before_it_is_read_or_written", external_journal)]
}

fn external_journal(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.debug)?;
    let node = Node::new(suite, "one", &suite.debug, &broker)?;
    let machine = node.machine(&node.disk())?;
    let machine = Machine { disks: vec![], kept_disks: vec![node.image(), node.disk()], ..machine };
    let mut journal = new_journal(suite)?;
    let partition = suite.debug.partition("ESP")?;
    let image = File::options().read(true).write(true).open(node.image()).context("Failed to open the image")?;
    let mut esp = vec![0; usize::try_from(partition.size)?];
    image.read_exact_at(&mut esp, partition.start)?;
    put_journal(&mut esp, &journal);
    image.write_all_at(&esp, partition.start)?;

    let mut first = Watched::start(suite, row, &machine)?;
    first.must_run()?;
    let mut shell = Shell::log_in(&mut first.vm)?;
    shell.run("sync")?;
    let used = node.copy_disk("used.raw")?;
    let volume = shell.run("grep ' /var ' /proc/mounts | cut -d' ' -f1")?;
    let superblock = shell.read_file(&format!("-j {SUPERBLOCK} -N 1024 {volume}"))?;
    let number = shell.run("cat /sys/class/block/vda1/dev")?;
    for (offset, field) in external(&number, &superblock)? {
        let field: String = field.iter().map(|byte| format!("\\{byte:03o}")).collect();
        let seek = SUPERBLOCK + offset;
        shell.run(&format!("printf '{field}' | dd of={volume} bs=1 conv=notrunc status=none seek={seek}"))?;
    }
    first.vm.send("systemctl poweroff\n")?;
    first.vm.wait_exit(PATIENCE)?;
    drop(first);
    generation(&broker, "one", 1)?;

    // The kernel takes a journal with one user: this file system, of whose UUID the operator has been told.
    journal[USERS..USERS + 4].copy_from_slice(&1_u32.to_be_bytes());
    journal[FIRST_USER..FIRST_USER + 16].copy_from_slice(superblock.get(0x68..0x78).context("a superblock")?);
    image.write_all_at(&journal[SUPERBLOCK..], partition.start + SUPERBLOCK as u64)?;
    let before = fs::read(node.image()).context("Failed to read the image")?;
    let line = node.must_fail_as(suite, row, &machine, "FILESYSTEM_DAMAGED")?;
    ensure!(line.contains("s_journal_uuid"), "the superblock is not the reason: {line}");
    ensure!(fs::read(node.image())? == before, "the disk with the journal was written to");

    // The control: the file system as it was before, in use, whose own journal is replayed.
    node.put_back(&used)?;
    let mut last = Watched::start(suite, row, &machine)?;
    last.must_hand_over()?;
    drop(last);
    ensure!(fs::read(node.image())? == before, "the disk with the journal was written to");
    generation(&broker, "one", 2)
}

/// A disk that is an ext4 journal and nothing else.
fn new_journal(suite: &Suite) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().context("Failed to make a file")?;
    file.as_file().set_len(JOURNAL_BYTES as u64).context("Failed to make a disk")?;
    let mut command = suite.sandbox.clone().bind(file.path(), "/tmp/journal").command("mke2fs");
    command.args(["-q", "-F", "-b", "4096", "-O", "journal_dev", "-U", JOURNAL_UUID, "/tmp/journal"]);
    let output = command.output().context("Failed to start mke2fs")?;
    ensure!(output.status.success(), "mke2fs failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    fs::read(file.path()).context("Failed to read the journal")
}

/// Moves all that is behind the boot sector by the journal's length; the end of the ESP is unused.
fn put_journal(esp: &mut [u8], journal: &[u8]) {
    esp.copy_within(SECTOR..esp.len() - journal.len(), SECTOR + journal.len());
    esp[SUPERBLOCK..journal.len()].copy_from_slice(&journal[SUPERBLOCK..]);
    let sectors = 1 + (journal.len() / SECTOR) as u16;
    esp[RESERVED_SECTORS].copy_from_slice(&sectors.to_le_bytes());
}

/// Fields that make the device with this number, as `major:minor`, the journal, and have data written to it: offset and bytes.
fn external(number: &str, superblock: &[u8]) -> Result<[(usize, Vec<u8>); 4]> {
    let (major, minor) = number.split_once(':').context("the number of the device")?;
    let number = major.parse::<u32>()? << 8 | minor.parse::<u32>()?;
    let options = superblock.get(0x100).context("a superblock")? | 0x20;
    let uuid = hex::decode(JOURNAL_UUID.replace('-', ""))?;
    Ok([(0xd0, uuid), (0xe0, vec![0; 4]), (0xe4, number.to_le_bytes().into()), (0x100, vec![options])])
}
