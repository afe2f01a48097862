//! A store that cannot write is no verdict about a node: every answer is "later", and when it writes again every node gets its key. The broker shows at `/ready` that it decides nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use attest::bytes::Hex;
use attest::message::{Commit, Purpose};
use cairn_tests::attester::software::{self, SoftwareTpm};
use cairn_tests::attester::{self, Attester, AttesterTpm as _, Boot, Talk};
use cairn_tests::broker::Broker;
use cairn_tests::harness::Skipped;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use connection::{Connection, Response};
use measurements::Bank;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use rusqlite::Connection as Database;

use crate::Row;
use crate::scene;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("store_that_cannot_write_delays_twenty_nodes_and_refuses_none", locked),
        Row::new("full_disk_delays_twenty_nodes_and_refuses_none", full),
        Row::new("read_only_file_system_delays_twenty_nodes_and_refuses_none", read_only),
    ]
}

pub(crate) const NODES: usize = 20;
/// For requests that wait for nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Node = Attester<SoftwareTpm>;

/// Sends what `send` makes of each node and its conversation, of all nodes at once.
fn at_once<C: Send, T: Send>(
    nodes: &mut [Node],
    conversations: Vec<C>,
    send: impl Fn(&mut Node, C) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let send = &send;
    thread::scope(|scope| {
        let asked: Vec<_> = nodes
            .iter_mut()
            .zip(conversations)
            .map(|(node, conversation)| scope.spawn(move || send(node, conversation)))
            .collect();
        asked.into_iter().map(|asked| asked.join().ok().context("a thread panicked")?).collect()
    })
}

/// Hellos of all of them.
pub(crate) fn begin_all(broker: &Broker, nodes: &mut [Node]) -> Result<Vec<Talk>> {
    let none = vec![(); nodes.len()];
    at_once(nodes, none, |node, ()| broker.wire()?.begin(node.hello(Purpose::Provision)?))
}

/// Good evidence of all of them.
pub(crate) fn show_all(nodes: &mut [Node], talks: Vec<Talk>) -> Result<Vec<Response>> {
    at_once(nodes, talks, |node, mut talk| {
        let evidence = node.evidence(&talk)?;
        talk.show(&evidence)
    })
}

/// Twenty nodes that this broker knows, with an allowed release.
pub(crate) fn fleet(suite: &Suite, broker: &Broker) -> Result<Vec<Node>> {
    fleet_of(suite, broker, NODES)
}

fn fleet_of(suite: &Suite, broker: &Broker, count: usize) -> Result<Vec<Node>> {
    let reference = suite.image.file("reference.json");
    let machine = Machine::machine_reference()?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("Failed to read {}", path.display()));
    let boot = Boot::of(&attester::composition(&read(&reference)?, &read(&machine)?, &broker.cluster()?)?);
    let booted = |tpm| Attester::booted(tpm, &boot);
    let nodes = software::several(count)?.into_iter().map(booted).collect::<Result<Vec<_>>>()?;
    broker.allow(&reference)?;
    for (number, node) in nodes.iter().enumerate() {
        let ek = hex::encode(Bank::Sha256.digest(node.tpm.endorsement_key()));
        broker.enrol(&format!("node-{number}"), &ek, &machine)?;
    }
    Ok(nodes)
}

/// A node that has its release when the store fails, and has not reported.
struct Released {
    talk: Talk,
    /// The release as it was sent.
    body: Vec<u8>,
    report: Commit,
    /// The same with a generation that is refused.
    wrong: Commit,
}

impl Released {
    fn new(broker: &Broker, node: &mut Node) -> Result<Self> {
        let (talk, response) = scene::ask(broker, node, Purpose::Provision)?;
        ensure!(response.status == 200, "no release: {}", broker.judged(&response)?);
        let released = node.open(&talk, &response.body)?;
        let report = scene::report(broker, node, &released, Purpose::Provision)?;
        let generation = released.release.disk.generation + 2;
        let wrong = node.commit(&released, report.result.clone(), generation)?;
        Ok(Self { talk, body: response.body, report, wrong })
    }

    /// While the store cannot write, neither report gets a decision. The stored release can be read, and no other is given.
    fn withhold(&mut self) -> Result<()> {
        let Self { talk: Talk { wire, .. }, body, report, wrong } = self;
        for (what, commit) in [("a report that is to be refused", wrong), ("a report", &mut *report)] {
            let status = wire.say("/krp/1/commit", commit)?.status;
            ensure!(status == 503, "{what}, while nothing can be written: {status}");
        }
        let unknown = wire.resume(&Hex(vec![7; 16]))?.status;
        ensure!(unknown == 503, "a resumption that is to be refused, while nothing can be written: {unknown}");
        let stored = wire.resume(&report.session)?;
        ensure!(stored.status == 200 && stored.body == *body, "the stored release: {}", stored.status);
        Ok(())
    }

    /// When the store writes again, the report that was sent before is acknowledged, and the other one refused.
    fn acknowledge(&self, broker: &Broker) -> Result<()> {
        let refused = broker.wire()?.say("/krp/1/commit", &self.wrong)?;
        broker.must_refuse(&refused, "GENERATION")?;
        broker.wire()?.must_acknowledge(&self.report).map(drop)
    }
}

/// What is sent while the store cannot write. All of it begins before.
struct Delayed {
    nodes: Vec<Node>,
    talks: Vec<Talk>,
    /// Of the first node; its evidence is to be refused.
    changed: Talk,
    released: Released,
}

impl Delayed {
    fn new(suite: &Suite, broker: &Broker) -> Result<Self> {
        let mut nodes = fleet_of(suite, broker, NODES + 1)?;
        let mut last = nodes.pop().context("no node")?;
        let talks = begin_all(broker, &mut nodes)?;
        let changed = broker.wire()?.begin(nodes[0].hello(Purpose::Provision)?)?;
        let released = Released::new(broker, &mut last)?;
        Ok(Self { nodes, talks, changed, released })
    }
}

/// No node is refused while the store cannot write.
fn withhold(broker: &Broker, delayed: &mut Delayed) -> Result<()> {
    let Delayed { nodes, talks, changed, released } = delayed;
    released.withhold()?;
    let answers = show_all(nodes, std::mem::take(talks))?;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    ensure!(statuses.iter().all(|status| *status == 503), "while nothing can be written: {statuses:?}");
    let pauses: BTreeSet<_> = answers.iter().map(|answer| answer.retry_after).collect();
    ensure!(pauses.len() > 1 && !pauses.contains(&None), "all come back at one time: {pauses:?}");
    // A refusal of a node could not be written either, so it is none.
    let mut evidence = nodes[0].evidence(changed)?;
    evidence.event_log.0.truncate(100);
    let answer = changed.show(&evidence)?;
    ensure!(answer.status == 503, "a refusal that is not in the audit log: {}", answer.status);
    await_readiness(broker, 503)
}

/// Every node gets its share when the store writes again, and the report is acknowledged.
fn release_all(broker: &Broker, Delayed { nodes, released, .. }: &mut Delayed) -> Result<()> {
    await_readiness(broker, 200)?;
    released.acknowledge(broker)?;
    let talks = begin_all(broker, nodes)?;
    let statuses: Vec<u16> = show_all(nodes, talks)?.iter().map(|answer| answer.status).collect();
    ensure!(statuses.iter().all(|status| *status == 200), "when the store writes again: {statuses:?}");
    Ok(())
}

/// A request by the port of the nodes.
pub(crate) fn get(broker: &Broker, path: &str) -> Result<Response> {
    Ok(Connection::open(broker.address()?, PATIENCE)?.get(path)?)
}

/// Waits until `/ready` has this status.
pub(crate) fn await_readiness(broker: &Broker, status: u16) -> Result<()> {
    let started = Instant::now();
    loop {
        let ready = get(broker, "/ready")?;
        if ready.status == status {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(5) {
            bail!("/ready is {} {:?}, not {status}", ready.status, String::from_utf8_lossy(&ready.body));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn locked(suite: &Suite, _: &str) -> Result<()> {
    let broker = Broker::start_with("store_seconds = 2")?;
    let mut delayed = Delayed::new(suite, &broker)?;
    let other = Database::open(broker.file("database"))?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    withhold(&broker, &mut delayed)?;
    other.execute_batch("ROLLBACK")?;
    release_all(&broker, &mut delayed)
}

/// Runs `row` in a mount namespace of its own: what it mounts is gone when it has ended.
fn with_mounts(row: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Skipped("only root can mount a file system".into()).into());
    }
    let isolated = || -> Result<()> {
        // Root of a container may not.
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| Skipped(format!("no mount namespace: {error}")))?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("Failed to keep mounts from the host")?;
        row()
    };
    thread::scope(|scope| scope.spawn(isolated).join().ok().context("the row panicked")?)
}

/// A broker with its database in this directory, which is another file system. A write that fails there fails at once. The twenty transactions afterwards wait for each other, and each for the disk: with less than the default time for that,
/// the row would measure the disk of the test host.
fn broker_with_database_in(directory: &Path) -> Result<Broker> {
    let mut broker = Broker::new("")?;
    let moved = directory.join("database");
    fs::copy(broker.file("database"), &moved).context("Failed to move the database")?;
    // An error of the file system must not lose what a broker has on the disk.
    for path in [&moved, directory] {
        fs::File::open(path)?.sync_all()?;
    }
    fs::remove_file(broker.file("database"))?;
    std::os::unix::fs::symlink(moved, broker.file("database"))?;
    broker.run()?;
    Ok(broker)
}

/// A small file system in memory.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn new(at: &'a Path) -> Result<Self> {
        mount(Some("small"), at, Some("tmpfs"), MsFlags::empty(), Some("size=8m"))
            .context("Failed to mount a small file system")?;
        Ok(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // It ends with its mount namespace, too.
        let _ = umount(self.0);
    }
}

fn full(suite: &Suite, _: &str) -> Result<()> {
    with_mounts(|| {
        let small = tempfile::tempdir()?;
        let _mounted = Small::new(small.path())?;
        let broker = broker_with_database_in(small.path())?;
        let mut delayed = Delayed::new(suite, &broker)?;
        let filler = small.path().join("filler");
        let mut file = fs::File::create(&filler)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        withhold(&broker, &mut delayed)?;
        drop(file);
        fs::remove_file(filler)?;
        release_all(&broker, &mut delayed)
    })
}

/// A file system in a file, which the kernel makes read-only after an error (`errors=remount-ro`).
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn run(command: &mut Command) -> Result<String> {
        let output = command.output().with_context(|| format!("Failed to start {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn new(folder: &Path) -> Result<Self> {
        let disk = Self { image: folder.join("image"), at: folder.join("mounted") };
        fs::create_dir(&disk.at)?;
        fs::File::create(&disk.image)?.set_len(16 << 20)?;
        Self::run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let mut mount = Command::new("mount");
        Self::run(mount.args(["-o", "loop,errors=remount-ro"]).args([&self.image, &self.at])).map(drop)
    }

    /// What the kernel does when it finds an error.
    fn fail(&self) -> Result<()> {
        let device = Self::run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.at))?;
        let name = device.rsplit('/').next().context("no device")?;
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").context("Failed to trigger an error")?;
        let error = fs::write(self.at.join("x"), "x").err().context("the file system is writable")?;
        ensure!(error.kind() == std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
        Ok(())
    }

    /// What an operator does after he has repaired it.
    fn repair(&self) -> Result<()> {
        Self::run(Command::new("umount").arg(&self.at))?;
        // 1: errors were corrected.
        let repaired = Command::new("fsck.ext4").args(["-p", "-f"]).arg(&self.image).output()?;
        ensure!(matches!(repaired.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&repaired.stderr));
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device is free when nothing is mounted any longer.
        let _ = Command::new("umount").arg(&self.at).output();
    }
}

fn read_only(suite: &Suite, _: &str) -> Result<()> {
    with_mounts(|| {
        let folder = tempfile::tempdir()?;
        let can_mount = ["mkfs.ext4", "findmnt", "fsck.ext4"]
            .into_iter()
            .all(|name| Command::new(name).arg("-V").output().is_ok_and(|output| output.status.success()));
        if !can_mount || !Path::new("/dev/loop-control").exists() {
            return Err(Skipped("mkfs.ext4, fsck.ext4, findmnt and loop devices are needed".into()).into());
        }
        let disk = Disk::new(folder.path())?;
        let mut broker = broker_with_database_in(&disk.at)?;
        let mut delayed = Delayed::new(suite, &broker)?;
        disk.fail()?;
        withhold(&broker, &mut delayed)?;
        broker.end(Signal::SIGTERM)?;
        disk.repair()?;
        broker.run()?;
        release_all(&broker, &mut delayed)?;
        broker.end(Signal::SIGTERM).map(drop)
    })
}
