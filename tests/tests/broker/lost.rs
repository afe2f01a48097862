//! A broker whose host is lost: its backup makes it again in an empty directory, and a disk that the backup does not know is adopted.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use attest::adoption::Adoption;
use attest::bytes::Bytes32;
use attest::message::{Ack, DiskState, Purpose};
use attest::recovery::SignedStatement;
use cairn_tests::attester::Released;
use cairn_tests::broker::Broker;
use cairn_tests::suite::Suite;
use nix::sys::signal::Signal;

use crate::Row;
use crate::availability::{await_readiness, get};
use crate::migrated::to_4;
use crate::scene::{Node, Scene, ask, commit, release};

const PAGE: &str = include_str!("../../../docs/how-to/restore-the-broker.md");

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("page_restores_a_lost_broker_word_for_word_in_an_empty_directory", page),
        Row::new("backup_that_is_not_whole_leaves_an_empty_host_empty", not_whole),
        Row::new("backup_and_restore_that_are_killed_are_whole_when_repeated", killed),
        Row::new("restore_is_refused_while_a_replica_has_the_database_open", replica),
        Row::new("broker_whose_database_was_replaced_decides_nothing", replaced),
        Row::new("copy_of_a_database_of_version_4_is_restored_only_if_it_is_trusted", version_4),
        Row::new("disk_without_a_record_is_adopted_by_the_next_broker_of_the_cluster", adopted),
        Row::new("disk_made_after_the_backup_is_adopted_by_the_restored_broker", made_later),
    ]
}

/// Command lines of the blocks of a page that show a console.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```console\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.trim_start().strip_prefix("$ ")).collect()
}

/// Takes a backup to where no host of a broker is.
fn back_up(broker: &Broker, folder: &Path) -> Result<PathBuf> {
    let file = folder.join("broker.backup");
    broker.admin(&["backup", &file.display().to_string()])?;
    Ok(file)
}

fn page(suite: &Suite, _: &str) -> Result<()> {
    let Scene { broker, mut node, boot, .. } = Scene::known(suite)?;
    let outside = tempfile::tempdir()?;
    let mut next = Broker::absent()?;
    let [first, rest @ ..] = &commands(PAGE)[..] else { anyhow::bail!("the page has no commands") };
    ensure!(first.starts_with("key-broker backup ") && rest.len() >= 4, "the page has other commands: {rest:?}");
    let backed_up = broker.line(first)?;
    ensure!(backed_up.status.success(), "{first}: {}", String::from_utf8_lossy(&backed_up.stderr));
    fs::copy(broker.parent().join("broker.backup"), outside.path().join("broker.backup"))?;
    broker.lose()?;
    fs::copy(outside.path().join("broker.backup"), next.parent().join("broker.backup"))?;
    ensure!(!next.place().exists(), "the new host has a broker already");
    for line in rest {
        if line.starts_with("key-broker serve ") {
            next.run_line(line)?;
            continue;
        }
        let output = next.line(line)?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    release(&next, &mut node, Purpose::Unlock)?;
    node.reboot(&boot)?;
    let released = release(&next, &mut node, Purpose::Unlock)?;
    commit(&next, &mut node, &released, Purpose::Unlock)?;
    next.admin(&["audit", "verify"]).map(drop)
}

/// The real program, on a host that has nothing but a file and a passphrase.
fn not_whole(suite: &Suite, _: &str) -> Result<()> {
    let scene = Scene::known(suite)?;
    let outside = tempfile::tempdir()?;
    let file = back_up(&scene.broker, outside.path())?;
    let good = fs::read(&file)?;
    let mut changed = good.clone();
    changed[good.len() / 2] ^= 1;
    let next = Broker::absent()?;
    let database = fs::read(scene.broker.file("database"))?;
    for (name, bytes, words) in [
        ("truncated", &good[..good.len() / 2], "truncated or damaged"),
        ("changed", &changed, "the backup was changed"),
        ("longer", &[&good[..], b"more"].concat(), "truncated or damaged"),
        ("foreign", b"no backup", "not a backup"),
        ("database alone", &database, "--database-alone"),
    ] {
        let path = outside.path().join(name);
        fs::write(&path, bytes)?;
        let refused = next.restore(&path, &[])?;
        let found = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && found.contains(words) && found.contains("hint: "), "{name}: {found}");
        ensure!(!next.place().exists(), "{name}: something was left");
    }
    let wrong = outside.path().join("passphrase");
    fs::File::options().write(true).create_new(true).mode(0o600).open(&wrong)?.write_all(b"another one\n")?;
    let words = ["restore", &file.display().to_string(), "--passphrase-file", &wrong.display().to_string()];
    let refused = next.command(&words)?;
    let found = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && found.contains("does not open"), "{found}");
    ensure!(!next.place().exists(), "something was left");
    ensure!(next.restore(&file, &[])?.status.success(), "the control: the backup itself is not restored");
    Ok(())
}

/// One of two brokers with one database is stopped: the other one would go on with the database from before, and both would release a share to one boot.
fn replica(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let outside = tempfile::tempdir()?;
    let backup = back_up(&scene.broker, outside.path())?;
    let mut replica = scene.broker.replica()?;
    scene.broker.end(Signal::SIGTERM)?;
    let file = fs::metadata(scene.broker.file("database"))?.ino();
    let refused = scene.broker.restore(&backup, &["--replace"])?;
    let found = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && found.contains("another process") && found.contains("hint: "), "{found}");
    ensure!(fs::metadata(scene.broker.file("database"))?.ino() == file, "the database was replaced");
    let entries = fs::read_dir(scene.broker.place())?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = entries.collect::<std::io::Result<Vec<_>>>()?;
    ensure!(!names.iter().any(|name| name.to_string_lossy().contains("before-")), "something was kept: {names:?}");
    release(&replica, &mut scene.node, Purpose::Unlock).context("the replica does not go on")?;
    replica.end(Signal::SIGTERM)?;
    let restored = scene.broker.restore(&backup, &["--replace"])?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    Ok(())
}

/// Somebody moves another database over that of a running broker.
fn replaced(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let [database, copy, moved] = ["database", "copy", "moved"].map(|name| scene.broker.file(name));
    rusqlite::Connection::open(&database)?.execute("VACUUM INTO ?1", [copy.display().to_string()])?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    scene.reboot()?;
    let mut talk = scene.begin(Purpose::Unlock)?;
    let evidence = scene.node.evidence(&talk)?;
    fs::rename(&database, &moved)?;
    fs::rename(&copy, &database)?;
    let answers = [
        talk.show(&evidence)?,
        scene.broker.wire()?.say("/krp/1/hello", &scene.node.hello(Purpose::Unlock)?)?,
        scene.broker.wire()?.resume(&released.session)?,
    ];
    for (answer, message) in answers.iter().zip(["evidence", "hello", "resumption"]) {
        ensure!(answer.status == 503 && answer.retry_after.is_some(), "the {message}: {}", answer.status);
    }
    await_readiness(&scene.broker, 503)?;
    let certificate = get(&scene.broker, "/krp/1/broker")?;
    ensure!(certificate.status == 503, "a certificate without a database: {}", certificate.status);
    let refused = scene.broker.command(&["node", "retire", "one"])?;
    let found = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && found.contains("was replaced"), "{found}");
    let printed = String::from_utf8_lossy(&scene.broker.printed()?).into_owned();
    ensure!(printed.contains("not ready: the database file was replaced"), "the broker prints {printed}");
    // The control.
    fs::rename(&database, &copy)?;
    fs::rename(&moved, &database)?;
    await_readiness(&scene.broker, 200)?;
    scene.must_still_unlock()
}

/// What a broker of version 4 wrote as its backup: rows that anybody may have written, and no keys.
fn version_4(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let outside = tempfile::tempdir()?;
    let copy = outside.path().join("copy");
    let whole = back_up(&scene.broker, outside.path())?;
    scene.broker.kill();
    let database = rusqlite::Connection::open(scene.broker.file("database"))?;
    database.execute("VACUUM INTO ?1", [copy.display().to_string()])?;
    drop(database);
    to_4(&rusqlite::Connection::open(&copy)?, &scene)?;
    let before = fs::read(scene.broker.file("database"))?;
    for (file, more, words) in [
        (&copy, &["--replace", "--trust-database"][..], "--database-alone"),
        (&copy, &["--replace", "--database-alone"], "key-broker restore --database-alone --trust-database"),
        (&whole, &["--replace", "--trust-database"], "omit --trust-database"),
    ] {
        let refused = scene.broker.restore(file, more)?;
        let found = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && found.contains(words), "{found}");
        ensure!(fs::read(scene.broker.file("database"))? == before, "the database was replaced");
    }
    let restored = scene.broker.restore(&copy, &["--replace", "--database-alone", "--trust-database"])?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let said = String::from_utf8_lossy(&restored.stdout).into_owned();
    ensure!(said.contains("no signature was verified"), "{said}");
    scene.broker.run()?;
    let tail = scene.broker.admin(&["audit", "tail", "1"])?;
    ensure!(tail[0]["found"].as_str().is_some_and(|found| found.contains("trusted as they were")), "{tail}");
    scene.must_still_unlock()
}

/// Power fails before the last step of each: there is no backup, and no database, and the same command succeeds afterwards.
fn killed(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let outside = tempfile::tempdir()?;
    let file = outside.path().join("broker.backup");
    scene.broker.kill();
    scene.broker.run_with(&[("CAIRN_FAULT", "before-backup-rename")])?;
    let dead = scene.broker.command(&["backup", &file.display().to_string()])?;
    ensure!(!dead.status.success() && !file.exists(), "there is a backup of a broker that died while it wrote it");
    scene.broker.kill();
    scene.broker.run()?;
    back_up(&scene.broker, outside.path())?;
    let Scene { broker, mut node, .. } = scene;
    broker.lose()?;
    let mut next = Broker::absent()?;
    let line = format!(
        "CAIRN_FAULT=before-restore-rename key-broker restore {} --config broker/broker.toml --passphrase-file passphrase",
        file.display()
    );
    let dead = next.line(&line)?;
    ensure!(!dead.status.success() && !next.file("database").exists(), "{dead:?}");
    ensure!(next.file("sealed.json").exists(), "it died before it wrote anything: {dead:?}");
    let restored = next.restore(&file, &[])?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    next.run()?;
    release(&next, &mut node, Purpose::Unlock).map(drop)
}

/// Writes what `cairn recover --adoption-file` writes of a disk: its share, and the statement that its node got.
fn adoption(broker: &Broker, released: &Released, ack: &Ack, to: &Path) -> Result<()> {
    let certificate = fs::read(broker.file("certificate.json"))?;
    let statement = SignedStatement::write(&certificate, ack.disk.as_ref().context("no statement")?)?;
    let share: [u8; 32] = released.share.as_slice().try_into()?;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(to)?;
    Ok(file.write_all(&Adoption::write(&share, &statement)?)?)
}

fn adopt(broker: &Broker, node: &str, generation: u64, file: &Path) -> Result<std::process::Output> {
    let (generation, file) = (generation.to_string(), file.display().to_string());
    broker.command(&["disk", "adopt", node, "--generation", &generation, "--recovery", &file])
}

/// The disk is refused until it is adopted, and another header of it afterwards, too; then its node gets the same share.
fn must_adopt(broker: &Broker, node: &mut Node, known: (&str, u64), file: &Path, share: &[u8]) -> Result<()> {
    let (name, generation) = known;
    let (_, response) = ask(broker, node, Purpose::Unlock)?;
    broker.must_refuse(&response, "NO_DISK")?;
    for wrong in [generation - 1, generation + 1] {
        let refused = adopt(broker, name, wrong, file)?;
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && words.contains("hint: "), "generation {wrong}: {words}");
    }
    let (_, response) = ask(broker, node, Purpose::Unlock)?;
    broker.must_refuse(&response, "NO_DISK")?;
    let done = adopt(broker, name, generation, file)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let tail = broker.admin(&["audit", "tail", "1"])?;
    ensure!(tail[0]["code"] == "ADMINISTERED" && tail[0]["node"] == name, "{tail}");
    ensure!(tail[0]["found"].as_str().is_some_and(|found| found.contains("adopted at generation")), "{tail}");
    let own = node.disk.clone();
    if let DiskState::Luks { uuid, .. } = own.clone() {
        node.disk = DiskState::Luks { uuid, digest: Bytes32([9; 32]) };
    }
    let (_, response) = ask(broker, node, Purpose::Unlock)?;
    broker.must_refuse(&response, "HEADER_DIGEST")?;
    node.disk = own;
    let (_, response) = ask(broker, node, Purpose::Provision)?;
    broker.must_refuse(&response, "DISK_EXPECTED")?;
    let released = release(broker, node, Purpose::Unlock)?;
    ensure!(released.share.as_slice() == share, "the disk has another share than before");
    ensure!(released.release.disk.generation == generation, "{:?}", released.release.disk);
    commit(broker, node, &released, Purpose::Unlock)?;
    let found = broker.disk(name, "generation")?;
    ensure!(found == generation + 1, "generation {found}");
    broker.admin(&["audit", "verify"]).map(drop)
}

fn adopted(suite: &Suite, _: &str) -> Result<()> {
    let mut scene = Scene::known(suite)?;
    let outside = tempfile::tempdir()?;
    let released = release(&scene.broker, &mut scene.node, Purpose::Unlock)?;
    let ack = commit(&scene.broker, &mut scene.node, &released, Purpose::Unlock)?;
    let file = outside.path().join("adoption");
    adoption(&scene.broker, &released, &ack, &file)?;
    let mut next = scene.broker.successor()?;
    let Scene { broker, mut node, boot, .. } = scene;
    broker.lose()?;
    next.run()?;
    next.allow(&suite.image.file("reference.json"))?;
    next.enrol("one", &node.tpm.endorsement_key_digest(), &cairn_tests::node::Node::machine_reference()?)?;
    node.reboot(&boot)?;
    // A broker of another cluster adopts nothing.
    let other = Broker::start()?;
    other.enrol("one", &node.tpm.endorsement_key_digest(), &cairn_tests::node::Node::machine_reference()?)?;
    let refused = adopt(&other, "one", ack.generation, &file)?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && words.contains("the document"), "{words}");
    must_adopt(&next, &mut node, ("one", ack.generation), &file, &released.share)
}

fn made_later(suite: &Suite, _: &str) -> Result<()> {
    let scene = Scene::known(suite)?;
    let outside = tempfile::tempdir()?;
    let mut two = scene.another("two")?;
    let backup = back_up(&scene.broker, outside.path())?;
    let released = release(&scene.broker, &mut two, Purpose::Provision)?;
    let ack = commit(&scene.broker, &mut two, &released, Purpose::Provision)?;
    let file = outside.path().join("adoption");
    adoption(&scene.broker, &released, &ack, &file)?;
    let Scene { broker, mut node, boot, .. } = scene;
    broker.lose()?;
    let mut next = Broker::absent()?;
    let restored = next.restore(&backup, &[])?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    next.run()?;
    two.reboot(&boot)?;
    must_adopt(&next, &mut two, ("two", ack.generation), &file, &released.share)?;
    // The disk that the backup knows needs nothing.
    release(&next, &mut node, Purpose::Unlock).map(drop)
}
