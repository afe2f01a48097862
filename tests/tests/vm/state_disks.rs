//! State disks that were changed, exchanged, put back, or have grown: whatever the host does, the disk opens only as the broker knows it, and nothing is formatted that nobody gave away.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cairn_tests::attacks::{code, codes};
use cairn_tests::broker::Broker;
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use cairn_tests::{luks, records};
use state_disk::header;
use xtask::vm::Machine;
use xtask::vm::console::Found;
use xtask::vm::shell::Shell;

use crate::Row;
use crate::nodes::{PATIENCE, broker_for, generation, must_be_refused};

/// Header and keyslot.
const HEADER: usize = state_disk::layout::HEADER;
/// A large disk, and how much of it may be written when it is made: nothing is wiped.
const LARGE: u64 = 30 << 30;
const MOST_WRITTEN: u64 = 512 << 20;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("an_older_or_changed_disk_is_noticed_and_never_formatted", changed_disks),
        Row::new("a_snapshot_of_the_same_generation_is_not_noticed", same_generation).in_full(),
        Row::new("a_header_that_somebody_wrote_is_not_used", written_headers),
        Row::new("a_header_that_changes_after_it_was_read_has_no_effect", changing_header),
        Row::new("a_foreign_disk_waits_for_a_grant_and_two_disks_are_ambiguous", foreign),
        Row::new("a_larger_disk_is_used_and_a_replaced_machine_opens_it_by_grant", grown_and_moved).in_full(),
    ]
}

fn write(disk: &Path, bytes: &[u8], at: u64) -> Result<()> {
    File::options()
        .write(true)
        .open(disk)
        .and_then(|file| file.write_all_at(bytes, at))
        .with_context(|| format!("Failed to write {}", disk.display()))
}

fn changed_disks(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    node.must_open(suite, row)?;
    let older = node.copy_disk("older.raw")?;
    node.must_open(suite, row)?;
    let newest = node.copy_disk("newest.raw")?;

    write(&node.disk(), &vec![0; HEADER], 0)?;
    must_be_refused(suite, row, &node, &broker, "DISK_EXPECTED")?;
    let mut start = vec![0; HEADER];
    File::open(node.disk())?.read_exact_at(&mut start, 0)?;
    ensure!(start.iter().all(|byte| *byte == 0), "the disk was written to");

    node.put_back(&newest)?;
    // A digit of the JSON in both copies would do as well; the digest covers every byte, this one is in the keyslot.
    let mut byte = [0];
    File::open(node.disk())?.read_exact_at(&mut byte, 40_000)?;
    write(&node.disk(), &[byte[0] ^ 1], 40_000)?;
    must_be_refused(suite, row, &node, &broker, "HEADER_DIGEST")?;

    node.put_back(&older)?;
    node.must_fail(suite, row, "DISK_ROLLBACK")?;
    let state = broker.disk("one", "state")?;
    ensure!(state == "quarantine", "after a rollback the disk is {state}");

    // The same, with the newest generation block: sectors are encrypted each for itself.
    let block = last_block(&newest)?;
    write(&node.disk(), &block.1, block.0)?;
    broker.admin(&["disk", "grant", "one"])?;
    node.must_fail(suite, row, "DISK_ROLLBACK").context("the newest generation block on the older disk")?;
    broker.admin(&["disk", "grant", "one"])?;
    node.put_back(&newest)?;
    node.must_open(suite, row)?;
    generation(&broker, "one", 3)
}

/// Offset and content of a disk's last block, which is its generation block.
fn last_block(disk: &Path) -> Result<(u64, Vec<u8>)> {
    let mut block = vec![0; state_disk::layout::GENERATION as usize];
    let at = fs::metadata(disk)?.len() - state_disk::layout::GENERATION;
    File::open(disk)?.read_exact_at(&mut block, at).context("Failed to read the generation block")?;
    Ok((at, block))
}

/// The documented limit: a generation is a boot, and within it an older copy is a disk like any other.
fn same_generation(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.debug)?;
    let node = Node::new(suite, "one", &suite.debug, &broker)?;
    let mut first = node.must_run(suite, row)?;
    let mut shell = Shell::log_in(&mut first.vm)?;
    shell.run("echo before > /var/lib/kept && sync")?;
    let snapshot = node.copy_disk("snapshot.raw")?;
    shell.run("echo after > /var/lib/kept && sync")?;
    first.vm.send("systemctl poweroff\n")?;
    first.vm.wait_exit(PATIENCE)?;
    drop(first);
    node.put_back(&snapshot)?;
    let mut second = node.must_run(suite, row)?;
    let kept = Shell::log_in(&mut second.vm)?.run("cat /var/lib/kept")?;
    ensure!(kept == "before", "the disk that was put back says {kept:?}");
    generation(&broker, "one", 2)
}

fn read_header(disk: &Path) -> Result<Vec<u8>> {
    let mut area = vec![0; HEADER];
    File::open(disk).and_then(|file| file.read_exact_at(&mut area, 0)).context("Failed to read the header")?;
    Ok(area)
}

/// Changes of the JSON, as the attacks have them: number in the table, which copies, from what, to what.
const CHANGES: [(u8, &[usize], &str, &str); 4] = [
    (
        42,
        &luks::COPIES,
        r#""encryption":"aes-xts-plain64","sector_size""#,
        r#""encryption":"cipher_null-ecb","sector_size""#,
    ),
    (43, &luks::COPIES, r#""offset":"16777216","#, r#""offset":"16781312","#),
    (44, &luks::COPIES, r#""tokens":{}"#, r#""tokens":{"0":{"type":"x","keyslots":[]}}"#),
    (44, &[1], r#""tokens":{}"#, r#""tokens":{"0":{"type":"x","keyslots":[]}}"#),
];

/// The broker refuses a header that it does not know; and where it does know it, because somebody has its database, the node does.
/// As broker and node have it: the broker's statement is not part of it.
fn digest_of(area: &[u8]) -> [u8; 32] {
    let mut area = area.to_vec();
    let _ = state_disk::statement::take(&mut area);
    header::digest(&area)
}

fn written_headers(suite: &Suite, row: &str) -> Result<()> {
    let mut broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    node.must_open(suite, row)?;
    let good = read_header(&node.disk())?;
    let mut commits = 1;
    // All four with `--full`; otherwise the cipher, and a token in one of the two copies.
    let is_full = std::env::var_os(xtask::test::FULL).is_some();
    let changes = CHANGES.into_iter().enumerate().filter(|(index, _)| is_full || [0, 3].contains(index));
    for (index, (number, copies, from, to)) in changes {
        let mut area = good.clone();
        luks::edit(&mut area, copies, from, to)?;
        write(&node.disk(), &area, 0)?;
        if index == 0 {
            must_be_refused(suite, row, &node, &broker, code(42))?;
        }
        broker.kill();
        records::set_header(&broker, &digest_of(&area))?;
        broker.run()?;
        let wanted = codes(number).last().context("the table has no code")?;
        node.must_fail(suite, row, wanted).with_context(|| format!("{from} -> {to}"))?;
        let state = broker.disk("one", "state")?;
        ensure!(state == "quarantine", "after a header that nobody made the disk is {state}");
        generation(&broker, "one", commits)?;
    }
    broker.kill();
    records::set_header(&broker, &digest_of(&good))?;
    broker.run()?;
    write(&node.disk(), &good, 0)?;
    node.must_open(suite, row)?;
    commits += 1;
    generation(&broker, "one", commits)
}

fn changing_header(suite: &Suite, row: &str) -> Result<()> {
    let [_, later] = codes(47) else { anyhow::bail!("two codes") };
    let mut broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    node.must_open(suite, row)?;
    broker.kill();
    let mut watched = node.boot(suite, row)?;
    // It has read the header by then, and waits.
    let waits = watched.vm.console().wait_for(&["waiting: broker unreachable"], 0, PATIENCE);
    ensure!(matches!(waits, Found::Text(..)), "the node does not wait{}", watched.last_lines());
    let mut area = read_header(&node.disk())?;
    luks::edit(&mut area, &luks::COPIES, CHANGES[0].2, CHANGES[0].3)?;
    write(&node.disk(), &area, 0)?;
    broker.run()?;
    watched.must_run()?;
    drop(watched);
    generation(&broker, "one", 2)?;
    must_be_refused(suite, row, &node, &broker, later).map(drop)
}

fn must_hold(
    suite: &Suite,
    row: &str,
    node: &Node,
    broker: &Broker,
    code: &str,
) -> Result<cairn_tests::watch::Watched> {
    let watched = node.boot(suite, row)?;
    let holds = watched.vm.console().wait_for(&["waiting: hold: an operator must decide on request"], 0, PATIENCE);
    ensure!(matches!(holds, Found::Text(..)), "the node does not wait{}", watched.last_lines());
    let tail = broker.admin(&["audit", "tail"])?;
    let last = tail.as_array().and_then(|rows| rows.last()).context("the audit log is empty")?;
    ensure!(last["code"] == code, "the node is held with {last}");
    Ok(watched)
}

fn foreign(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let length = fs::metadata(node.disk())?.len();
    write(&node.disk(), b"somebody's data", length - 4096)?;
    let mut watched = must_hold(suite, row, &node, &broker, "DISK_FOREIGN")?;
    let mut kept = [0; 15];
    File::open(node.disk())?.read_exact_at(&mut kept, length - 4096)?;
    ensure!(
        &kept == b"somebody's data" && read_header(&node.disk())?.iter().all(|byte| *byte == 0),
        "it was written to"
    );
    broker.admin(&["disk", "grant", "one", "--overwrite"])?;
    watched.must_run()?;
    drop(watched);
    generation(&broker, "one", 1)?;

    let machine = node.machine(&node.disk())?;
    let second = node.copy_disk("second.raw")?;
    let machine = Machine { kept_disks: vec![node.disk(), second], ..machine };
    node.must_fail_as(suite, row, &machine, "DISK_AMBIGUOUS").map(drop)
}

fn grown_and_moved(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.debug)?;
    let node = Node::with_disk(suite, "one", &suite.debug, &broker, LARGE)?;
    let size = |watched: &mut cairn_tests::watch::Watched| -> Result<u64> {
        let text = Shell::log_in(&mut watched.vm)?.run("echo kept > /var/lib/kept; sync; stat -f -c '%b %S' /var")?;
        let (blocks, size) = text.split_once(' ').context("no size")?;
        Ok(blocks.parse::<u64>()? * size.parse::<u64>()?)
    };
    let mut first = node.must_run(suite, row)?;
    let before = size(&mut first)?;
    drop(first);
    let written = fs::metadata(node.disk())?.blocks() * 512;
    ensure!(written < MOST_WRITTEN, "making a disk of {LARGE} bytes wrote {written}");
    File::options().write(true).open(node.disk())?.set_len(LARGE + (2 << 30))?;
    let mut second = node.must_run(suite, row)?;
    let after = size(&mut second)?;
    ensure!(after > before + (1 << 30), "the file system had {before} bytes and has {after}");
    drop(second);
    generation(&broker, "one", 2)?;

    // The machine is replaced: another TPM, the same disk.
    let other = Node::new(suite, "two", &suite.debug, &broker)?;
    let machine = other.machine(&node.disk())?;
    let refused = other.must_fail_as(suite, row, &machine, "ATTESTATION_REFUSED")?;
    let found = broker.code(&cairn_tests::node::request(&refused)?)?;
    ensure!(found == "DISK_NODE_MISMATCH", "a disk of another node is refused with {found}");
    broker.admin(&["disk", "grant", "two", "--rebind-from", "one"])?;
    let mut watched = cairn_tests::watch::Watched::start(suite, row, &machine)?;
    watched.must_run()?;
    let kept = Shell::log_in(&mut watched.vm)?.run("cat /var/lib/kept")?;
    ensure!(kept == "kept", "the moved disk says {kept:?}");
    drop(watched);
    generation(&broker, "two", 3)?;
    must_be_refused(suite, row, &node, &broker, "DISK_NODE_MISMATCH").map(drop)
}
