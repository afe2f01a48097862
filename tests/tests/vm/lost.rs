//! A broker that is lost after a disk was made: it is restored from an older backup, and adopts the disk with the recovery key. The node opens the disk it had, with its files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cairn_tests::broker::Broker;
use cairn_tests::environment::{output_of, program};
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use xtask::vm::shell::Shell;

use crate::Row;
use crate::nodes::{PATIENCE, broker_for, generation, must_be_refused};

pub fn rows() -> Vec<Row> {
    vec![Row::new("disk_that_no_backup_knows_is_adopted_and_keeps_its_files", adopted).in_full()]
}

/// Ends a system in order, so that its files are on the disk.
fn power_off(watched: &mut cairn_tests::watch::Watched) -> Result<()> {
    watched.vm.send("systemctl poweroff\n")?;
    watched.vm.wait_exit(PATIENCE).map(drop).context("the node does not power off")
}

fn adopted(suite: &Suite, row: &str) -> Result<()> {
    let outside = tempfile::tempdir()?;
    let place = |name: &str| outside.path().join(name);
    let broker = broker_for(&suite.debug)?;
    let node = Node::new(suite, "one", &suite.debug, &broker)?;
    let backup = place("broker.backup");
    broker.admin(&["backup", &backup.display().to_string()])?;
    std::fs::copy(broker.file("offline/recovery.key"), place("recovery.key"))?;
    std::fs::copy(broker.file("cluster.json"), place("cluster.json"))?;
    let mut first = node.must_run(suite, row)?;
    let mut shell = Shell::log_in(&mut first.vm)?;
    shell.run("echo precious > /var/lib/kept && sync")?;
    power_off(&mut first)?;
    drop(first);
    generation(&broker, "one", 1)?;
    let disk = broker.disk("one", "disk")?;
    broker.lose()?;

    let mut next = Broker::absent()?;
    let restored = next.restore(&backup, &[])?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    next.run()?;
    node.configure(&suite.debug.file("raw"), &next.cluster()?, next.port()?)?;
    must_be_refused(suite, row, &node, &next, "NO_DISK")?;
    let document = place("adoption");
    output_of(&mut recover(outside.path(), &node.disk(), &document)?)?;
    for (generation, is_right) in [("2", false), ("1", true)] {
        let adopted = adopt(&next, generation, &document)?;
        let words = String::from_utf8_lossy(&adopted.stderr).into_owned();
        ensure!(adopted.status.success() == is_right, "generation {generation}: {words}");
    }
    let mut second = node.must_run(suite, row)?;
    let mut shell = Shell::log_in(&mut second.vm)?;
    let kept = shell.run("cat /var/lib/kept")?;
    ensure!(kept == "precious", "after the adoption: {kept}");
    generation(&next, "one", 2)?;
    ensure!(next.disk("one", "disk")? == disk, "the node has another disk than before");
    next.admin(&["audit", "verify"]).map(drop)
}

/// The command of the page on the machine that has the recovery key.
fn recover(offline: &Path, disk: &Path, document: &PathBuf) -> Result<Command> {
    let mut recover = Command::new(program("cairn")?);
    recover.arg("recover").arg("--disk").arg(disk).arg("--cluster").arg(offline.join("cluster.json"));
    recover.arg("--key").arg(offline.join("recovery.key")).arg("--adoption-file").arg(document);
    Ok(recover)
}

fn adopt(broker: &Broker, generation: &str, document: &Path) -> Result<Output> {
    let document = document.display().to_string();
    broker.command(&["disk", "adopt", "one", "--generation", generation, "--recovery", &document])
}
