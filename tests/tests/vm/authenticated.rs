//! State disks whose sectors are authenticated (layout `luks2-xts-hmac-1` of `cluster.json`).

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use xtask::vm::shell::Shell;

use crate::Row;
use crate::nodes::{PATIENCE, generation};

pub fn rows() -> Vec<Row> {
    vec![Row::new("changed_sector_of_an_authenticated_disk_is_not_read", changed)]
}

const LAYOUT: &str = "luks2-xts-hmac-1";
const BLOCK: u64 = 4096;
/// Bytes of a file that is changed on the disk.
const FILE: u64 = 32 << 20;
/// The header's area, which the broker's digest covers.
const HEADER: u64 = 16 << 20;

fn changed(suite: &Suite, row: &str) -> Result<()> {
    let mut broker = Broker::with_layout(LAYOUT)?;
    broker.run()?;
    broker.allow(&suite.debug.file("reference.json"))?;
    let node = Node::new(suite, "one", &suite.debug, &broker)?;
    let mut first = node.must_run(suite, row)?;
    let mut shell = Shell::log_in(&mut first.vm)?;
    shell.run("head -c 33554432 /dev/urandom > /var/lib/large && echo precious > /var/lib/small && sync")?;
    first.vm.send("systemctl poweroff\n")?;
    first.vm.wait_exit(PATIENCE)?;
    drop(first);
    generation(&broker, "one", 1)?;

    // One bit in the middle of the file: of what is written on the disk, nothing else is so long in one piece.
    let disk = File::options().read(true).write(true).open(node.disk()).context("Failed to open the disk")?;
    let place = middle_of_the_longest_run(&disk)?;
    let mut byte = [0];
    disk.read_exact_at(&mut byte, place)?;
    disk.write_all_at(&[byte[0] ^ 1], place)?;

    let mut second = node.must_run(suite, row)?;
    let mut shell = Shell::log_in(&mut second.vm)?;
    ensure!(shell.run("cat /var/lib/small")? == "precious", "what was not changed cannot be read");
    let read = shell.run("cat /var/lib/large > /dev/null && echo read || echo refused")?;
    ensure!(read.ends_with("refused") && read.contains("Input/output error"), "a changed sector is read: {read}");
    generation(&broker, "one", 2)
}

/// Where the middle of the longest run of blocks is that are not zero, behind the header.
fn middle_of_the_longest_run(disk: &File) -> Result<u64> {
    let (mut longest, mut start) = (0..0, HEADER);
    let mut block = [0; BLOCK as usize];
    for at in (HEADER..disk.metadata()?.len()).step_by(BLOCK as usize) {
        disk.read_exact_at(&mut block, at)?;
        if block.iter().all(|byte| *byte == 0) {
            start = at + BLOCK;
        } else if at + BLOCK - start > longest.end - longest.start {
            longest = start..at + BLOCK;
        }
    }
    ensure!(longest.end - longest.start >= FILE / 2, "the disk has no run of blocks as long as the file: {longest:?}");
    Ok(longest.start + (longest.end - longest.start) / 2)
}
