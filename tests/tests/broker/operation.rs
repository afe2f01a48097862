//! The broker as its operator runs it: how it is opened and ended, what it shows of itself, and what it keeps to itself.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use attest::message::Purpose;
use cairn_tests::broker::Broker;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use nix::sys::signal::Signal;

use crate::Row;
use crate::scene::{Scene, ask, commit, release};

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_sealed_broker_answers_health_and_nothing_else", sealed),
        Row::new("a_credential_of_systemd_opens_the_broker", credential),
        Row::new("a_broker_keeps_its_memory_to_itself_and_ends_in_order", ends_in_order),
        Row::new("metrics_count_decisions_and_are_served_on_loopback", metrics),
        Row::new("a_backup_is_a_broker_and_is_never_overwritten", backup),
        Row::new("files_of_a_broker_are_readable_by_its_user_alone", modes),
        Row::new("backup_without_older_leaves_names_them_and_a_later_log_is_set_aside", backup_of_leaves),
        Row::new("two_brokers_move_the_leaves_of_one_log", two_brokers_move),
        Row::new("a_changed_audit_log_is_noticed", changed_audit),
        Row::new("audit_log_that_was_cut_is_found_by_the_receipt_of_a_node", cut_audit_by_receipt),
        Row::new("an_audit_log_that_was_cut_is_found_by_a_head_that_left_the_broker", cut_audit),
    ]
}

fn sealed(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.broker.kill();
    scene.broker.run_sealed()?;
    let mut connection = connection::Connection::open(scene.broker.address()?, Duration::from_secs(20))?;
    let health = connection.get("/health")?;
    ensure!(health.status == 200 && health.body == b"{\"state\":\"sealed\"}\n", "{:?}", health.body);
    let hello = attest::message::write(&scene.node.hello(Purpose::Provision)?)?;
    for (path, body) in [("broker", None), ("hello", Some(&hello.bytes)), ("resume", Some(&hello.bytes))] {
        let path = format!("/krp/1/{path}");
        let response = match body {
            None => connection.get(&path)?,
            Some(body) => connection.post(&path, body)?,
        };
        ensure!(response.status == 503 && response.retry_after.is_some(), "{path}: {}", response.status);
    }
    scene.broker.unseal()?;
    scene.must_still_release().map(drop)
}

fn credential(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.broker.kill();
    let folder = tempfile::tempdir()?;
    scene.broker.write_passphrase(&folder.path().join("key-broker-passphrase"))?;
    scene.broker.run_by_credential(folder.path())?;
    scene.must_still_release()?;
    // Another passphrase opens nothing, and the broker says so instead of ending.
    scene.broker.kill();
    fs::write(folder.path().join("key-broker-passphrase"), "another passphrase")?;
    ensure!(scene.broker.run_by_credential_sealed(folder.path())?.contains("stays sealed"), "nothing is said");
    let state = scene.broker.admin(&["status"])?;
    ensure!(state["state"] == "sealed", "{state}");
    Ok(())
}

fn ends_in_order(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    let limits = scene.broker.process_file("limits")?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no limit of core files")?;
    ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    let status = scene.broker.process_file("status")?;
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).context("no VmLck")?.trim();
    let printed = String::from_utf8_lossy(&scene.broker.printed()?).into_owned();
    ensure!(locked != "0 kB" || printed.contains("memory cannot be locked"), "memory may be swapped: {printed}");
    scene.provision()?;
    ensure!(scene.broker.end(Signal::SIGTERM)?.success(), "the broker did not end in order");
    ensure!(!scene.broker.file("admin.sock").exists(), "its socket is left");
    let log = fs::metadata(scene.broker.file("database-wal")).map_or(0, |metadata| metadata.len());
    ensure!(log == 0, "{log} bytes are not in the database");
    scene.broker.run()?;
    scene.reboot()?;
    scene.must_still_unlock()
}

/// What the broker answers to plain HTTP on its own host.
pub fn plain(broker: &Broker, path: &str) -> Result<String> {
    let address = broker.metrics().context("the broker names no address of its metrics")?;
    let mut socket = TcpStream::connect(address)?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

/// Lets it answer.
pub fn with_metrics(broker: &Broker) -> Result<()> {
    let toml = broker.file("broker.toml");
    let text = format!("metrics = \"127.0.0.1:0\"\n{}", fs::read_to_string(&toml)?);
    fs::write(&toml, text).context("Failed to configure")
}

fn metrics(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::new("")?;
    with_metrics(&broker)?;
    broker.run()?;
    let mut scene = Scene::with(suite, broker)?;
    scene.provision()?;
    let mut stranger = scene.stranger()?;
    ask(&scene.broker, &mut stranger, Purpose::Provision)?;
    let get = |path: &str| plain(&scene.broker, path);
    let text = get("/metrics")?;
    for line in [
        "application/openmetrics-text; version=1.0.0",
        "cairn_broker_sealed 0\n",
        "cairn_broker_decisions_total{code=\"COMMITTED\"} 1\n",
        "cairn_broker_decisions_total{code=\"EK_UNTRUSTED\"} 1\n",
        "cairn_broker_decisions_total{code=\"RELEASED\"} 1\n",
    ] {
        ensure!(text.contains(line), "no {line:?} in {text}");
    }
    ensure!(text.ends_with("# EOF\n"), "the end is missing: {text}");
    ensure!(get("/health")?.contains("serving"), "/health");
    Ok(())
}

fn backup(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.provision()?;
    let backup = scene.broker.file("backup");
    let file = backup.display().to_string();
    scene.broker.admin(&["backup", &file])?;
    ensure!(!scene.broker.command(&["backup", &file])?.status.success(), "a backup was overwritten");
    let running = scene.broker.restore(&backup, &["--replace"])?;
    ensure!(!running.status.success(), "a database was exchanged under a running broker");
    scene.broker.end(Signal::SIGTERM)?;
    let over = scene.broker.restore(&backup, &[])?;
    ensure!(String::from_utf8_lossy(&over.stderr).contains("--replace"), "a database was overwritten");
    let nothing = scene.broker.restore(Path::new("/dev/null"), &["--replace"])?;
    ensure!(!nothing.status.success(), "/dev/null is a backup");
    let missing = scene.broker.restore(Path::new(&format!("{file}x")), &["--replace"])?;
    let words = String::from_utf8_lossy(&missing.stderr).into_owned();
    ensure!(!missing.status.success() && words.contains("does not exist"), "a missing backup is restored: {words}");
    let (database, moved) = (scene.broker.file("database"), scene.broker.file("moved"));
    fs::rename(&database, &moved)?;
    let words = scene.broker.run().err().context("a broker without a database serves")?.to_string();
    ensure!(words.contains("key-broker restore") && !database.exists(), "{words}");
    fs::rename(&moved, &database)?;
    ensure!(scene.broker.restore(&backup, &["--replace"])?.status.success(), "the backup is not restored");
    scene.broker.run()?;
    scene.reboot()?;
    scene.must_still_unlock()
}

/// After each command that writes files.
fn modes(suite: &Suite, _: &str) -> Result<()> {
    let mut broker = Broker::new("")?;
    let must_be_private = |broker: &Broker, after: &str, expected: &[&str]| -> Result<()> {
        let mut found = Vec::new();
        let mut folders = vec![broker.file("")];
        while let Some(folder) = folders.pop() {
            for entry in std::iter::once(Ok(folder.clone()))
                .chain(fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path())))
            {
                let path = entry?;
                let metadata = fs::symlink_metadata(&path)?;
                let mode = metadata.permissions().mode() & 0o777;
                // What every node has in its image, and what the operator copies to other hosts.
                let name = path.strip_prefix(broker.file(""))?.display().to_string();
                ensure!(mode & 0o077 == 0, "after {after} {name:?} has mode {mode:o}");
                if metadata.is_dir() && path != folder {
                    folders.push(path);
                }
                found.push(name);
            }
        }
        for name in expected {
            ensure!(found.iter().any(|found| found == name), "after {after} there is no {name}: {found:?}");
        }
        Ok(())
    };
    // Whatever the shell of the operator allows others.
    must_be_private(&broker, "init", &["broker.toml", "database", "sealed.json", "tls.key", "offline/root.key"])?;
    broker.run()?;
    let mut scene = Scene::with(suite, broker)?;
    scene.provision()?;
    must_be_private(&scene.broker, "serve", &["database-wal", "database-shm", "admin.sock"])?;
    let file = scene.broker.file("backup");
    scene.broker.admin(&["backup", &file.display().to_string()])?;
    must_be_private(&scene.broker, "backup", &["backup"])?;
    scene.broker.end(Signal::SIGTERM)?;
    ensure!(scene.broker.restore(&file, &["--replace"])?.status.success(), "the backup is not restored");
    must_be_private(&scene.broker, "restore", &["database"])?;
    scene.broker.run()?;
    must_be_private(&scene.broker, "serve after restore", &["database-wal"])
}

fn backup_of_leaves(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.broker.enrol_idle(&Machine::machine_reference()?)?;
    scene.broker.fill_audit(1000)?;
    scene.broker.audit_rows()?;
    let (file, audit) = (scene.broker.file("copy"), scene.broker.file("audit"));
    let backup = scene.broker.admin(&["backup", &file.display().to_string()])?;
    ensure!(backup["audit_log"] == "complete", "{backup}");
    let restore = |scene: &mut Scene, file: &Path, more: &[&str]| -> Result<String> {
        scene.broker.end(Signal::SIGTERM)?;
        let restored = scene.broker.restore(file, &[&["--replace"], more].concat())?;
        ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        scene.broker.run()?;
        Ok(String::from_utf8_lossy(&restored.stdout).into_owned())
    };
    // The backup has the directory, too.
    fs::rename(&audit, scene.broker.file("saved"))?;
    let said = restore(&mut scene, &file, &[])?;
    ensure!(!said.contains("missing") && !said.contains("audit.before-"), "{said}");
    scene.broker.admin(&["audit", "verify"])?;
    // A database alone does not: the leaves are named, and the directory can be copied later.
    let kept = said.lines().find_map(|line| line.strip_prefix("kept ")).context("no database is kept")?.to_owned();
    fs::remove_dir_all(&audit)?;
    let said = restore(&mut scene, Path::new(&kept), &["--database-alone"])?;
    ensure!(said.contains("no signature was verified"), "{said}");
    ensure!(said.contains("missing leaves 0 to 511") && said.contains(&audit.display().to_string()), "{said}");
    let verified = scene.broker.command(&["audit", "verify"])?;
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    ensure!(!verified.status.success() && words.contains("leaves 0 to 511"), "{words}");
    ensure!(words.contains(&format!("to {}", audit.display())), "{words}");
    let backup = scene.broker.admin(&["backup", &scene.broker.file("incomplete").display().to_string()])?;
    ensure!(backup["audit_log"].as_str().is_some_and(|log| log.contains("lost leaves up to 511")), "{backup}");
    // The broker decides nevertheless.
    scene.provision()?;
    fs::rename(scene.broker.file("saved"), &audit)?;
    scene.broker.admin(&["audit", "verify"])?;
    // A log that went on after the backup is set aside: the restored one continues otherwise.
    scene.broker.fill_audit(600)?;
    scene.broker.audit_rows()?;
    let said = restore(&mut scene, &file, &[])?;
    ensure!(said.contains("audit.before-") && !said.contains("missing"), "{said}");
    scene.broker.fill_audit(700)?;
    scene.broker.audit_rows()?;
    let verified = scene.broker.admin(&["audit", "verify"])?;
    ensure!(verified["leaves"].as_u64().is_some_and(|leaves| leaves > 1700), "{verified}");
    let printed = String::from_utf8_lossy(&scene.broker.printed()?).into_owned();
    ensure!(!printed.contains("AUDIT_BUNDLE_CONFLICT"), "{printed}");
    Ok(())
}

fn two_brokers_move(suite: &Suite, _: &str) -> Result<()> {
    let scene = Scene::new(suite)?;
    scene.broker.enrol_idle(&Machine::machine_reference()?)?;
    let replica = scene.broker.replica()?;
    let brokers = [&scene.broker, &replica];
    std::thread::scope(|scope| {
        let fills = brokers.map(|broker| scope.spawn(|| broker.fill_audit(800)));
        fills.into_iter().try_for_each(|fill| fill.join().map_err(|_| anyhow!("a broker's client panicked"))?)
    })?;
    scene.broker.audit_rows()?;
    for broker in brokers {
        let verified = broker.admin(&["audit", "verify"])?;
        ensure!(verified["leaves"].as_u64().is_some_and(|leaves| leaves >= 1600), "{verified}");
        let status = broker.admin(&["status"])?;
        ensure!(status["audit_directory"] == "ok", "{status}");
    }
    Ok(())
}

/// Rows are deleted, and the head of before is put back: the log fits itself, and neither a head that was kept nor the receipts of disks.
fn cut_audit(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.provision()?;
    let (database, saved) = (scene.broker.file("database"), scene.broker.file("saved"));
    let head = || -> Result<Vec<u8>> {
        let head = scene.broker.command(&["audit", "head"])?;
        ensure!(head.status.success(), "{}", String::from_utf8_lossy(&head.stderr));
        Ok(head.stdout)
    };
    std::fs::write(&saved, head()?)?;
    // An old row, with the authentication code that the broker wrote.
    let before: [Vec<u8>; 2] = rusqlite::Connection::open(&database)?.query_row(
        "SELECT value, code FROM state WHERE key = CAST('audit head' AS BLOB)",
        [],
        |row| Ok([row.get(0)?, row.get(1)?]),
    )?;
    let leaves = scene.broker.admin(&["audit", "verify"])?["leaves"].as_u64().unwrap_or_default();
    // Decisions that somebody wants to hide, of an operator and of a node.
    scene.broker.admin(&["node", "approve", "one"])?;
    let later = scene.broker.file("later");
    std::fs::write(&later, head()?)?;
    let verify = |scene: &Scene, heads: &[&std::path::Path]| -> Result<(bool, String)> {
        let names: Vec<String> = heads.iter().map(|path| path.display().to_string()).collect();
        let option = if names.is_empty() { vec![] } else { vec!["--heads"] };
        let words: Vec<&str> =
            ["audit", "verify"].into_iter().chain(option).chain(names.iter().map(String::as_str)).collect();
        let output = scene.broker.command(&words)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    ensure!(verify(&scene, &[&saved, &later])?.0, "an honest log does not fit its own heads");
    scene.broker.end(Signal::SIGTERM)?;
    let cut = |leaves: u64, head: &[Vec<u8>; 2]| -> Result<()> {
        let connection = rusqlite::Connection::open(&database)?;
        connection.execute("DELETE FROM audit WHERE key >= ?1", [&leaves.to_be_bytes()[..]])?;
        connection.execute(
            "UPDATE state SET value = ?1, code = ?2 WHERE key = CAST('audit head' AS BLOB)",
            head.each_ref(),
        )?;
        Ok(())
    };
    cut(leaves, &before)?;
    scene.broker.run()?;
    ensure!(verify(&scene, &[])?.0 && verify(&scene, &[&saved])?.0, "the control: alone the log fits");
    let (fits, words) = verify(&scene, &[&saved, &later])?;
    ensure!(!fits && words.contains("it was cut"), "a cut log is fine: {words}");
    // A release is in the receipt of its disk, so no head has to be kept for it.
    scene.reboot()?;
    scene.must_still_unlock()?;
    scene.broker.end(Signal::SIGTERM)?;
    cut(leaves, &before)?;
    scene.broker.run()?;
    let (fits, words) = verify(&scene, &[])?;
    ensure!(!fits && words.contains("it was cut"), "a log without its last release is fine: {words}");
    Ok(())
}

/// The whole database of before is put back: only a node has a head of the log from after it.
fn cut_audit_by_receipt(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let (copy, receipt) = (scene.broker.file("copy"), scene.broker.file("receipt").display().to_string());
    scene.broker.admin(&["backup", &copy.display().to_string()])?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let ack = commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    // As the agent writes it, and `cairn verify-node --receipt` gives it back.
    fs::write(&receipt, &ack.receipt.checkpoint)?;
    let heads = ["audit", "verify", "--heads", &receipt];
    scene.broker.admin(&heads)?;
    scene.broker.end(Signal::SIGTERM)?;
    let restored = scene.broker.restore(&copy, &["--replace"])?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    scene.broker.run()?;
    scene.broker.admin(&["audit", "verify"]).context("the control: alone the log fits")?;
    let verified = scene.broker.command(&heads)?;
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    ensure!(!verified.status.success() && words.contains("it was cut"), "a cut log is fine: {words}");
    Ok(())
}

fn changed_audit(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::new(suite)?;
    scene.provision()?;
    scene.broker.admin(&["audit", "verify"])?;
    scene.broker.end(Signal::SIGTERM)?;
    cairn_tests::records::change_audit(&scene.broker)?;
    scene.broker.run()?;
    let verified = scene.broker.command(&["audit", "verify"])?;
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    ensure!(!verified.status.success() && words.contains("was changed"), "a changed log is fine: {words}");
    Ok(())
}
