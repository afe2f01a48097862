use std::fs;
use std::path::{Path, PathBuf};

use attest::bytes::Bytes32;
use state_disk::layout::Profile;
use zeroize::Zeroizing;

use super::super::audit::{MIN_IN_DATABASE, WIDTH};
use super::super::records::{Disk, put};
use super::super::tests::{enrol_with, init, open};
use super::super::{AdminCommand, Engine};
use crate::backup::archive::Writer;
use crate::backup::members::{CONFIGURATION, DATABASE, IDENTITY};
use crate::backup::{self};
use crate::init::{self as init_module, Plan};
use crate::restore::{self, Choices};
use crate::store::Table;

const OWNER: Bytes32 = Bytes32([1; 32]);

/// A broker with a node and its disk.
fn broker(parent: &Path) -> (PathBuf, Engine) {
    let folder = init(parent);
    let engine = open(&folder).unwrap();
    enrol_with(&engine, "one", OWNER).unwrap();
    let mut disk = Disk::new("one", "state", Profile::default()).unwrap();
    engine.share(&engine.keys().unwrap(), &mut disk, &OWNER).unwrap();
    let key = Disk::key("one", "state");
    engine
        .store
        .transact(&mut |open| {
            open.put(Table::DiskIds, disk.id.as_bytes(), &key)?;
            put(open, Table::Disks, &key, &disk)
        })
        .unwrap();
    (folder, engine)
}

fn back_up(engine: &Engine, folder: &Path, to: &Path) -> serde_json::Value {
    backup::write(engine, &folder.join(CONFIGURATION), to).unwrap()
}

fn restored(backup: &Path, folder: &Path, passphrase: &str, replace: bool) -> anyhow::Result<()> {
    let passphrase = passphrase.as_bytes().to_vec();
    let choices = Choices { replace, ..Choices::default() };
    restore::run(&folder.join(CONFIGURATION), backup, choices, &|| Ok(Zeroizing::new(passphrase.clone())))
}

/// Every file below a directory with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

fn fill_audit(engine: &Engine, leaves: u64) {
    for _ in 0..leaves {
        engine.admin(&AdminCommand::NodeApprove { name: "one".into(), code: None }).unwrap();
    }
    engine.move_leaves();
}

#[test]
fn backup_of_a_lost_broker_is_a_broker_in_an_empty_directory() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    fill_audit(&engine, MIN_IN_DATABASE + 2 * WIDTH);
    let backup = parent.path().join("backup");
    let said = back_up(&engine, &folder, &backup);
    assert_eq!((&said["audit_log"], &said["disks"]), (&"complete".into(), &1.into()), "{said}");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&backup).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2, "nothing else is left beside it");
    let error = backup::write(&engine, &folder.join(CONFIGURATION), &backup).unwrap_err().to_string();
    assert!(error.contains("exists"), "{error}");
    let verify = |engine: &Engine| engine.admin(&AdminCommand::AuditVerify { heads: vec![] }).unwrap();
    let before = verify(&engine);
    drop(engine);
    fs::remove_dir_all(&folder).unwrap();
    for is_made in [false, true] {
        let new = parent.path().join(format!("new-{is_made}"));
        if is_made {
            fs::create_dir(&new).unwrap();
        }
        restored(&backup, &new, "a passphrase", false).unwrap();
        let engine = open(&new).unwrap();
        assert_eq!(verify(&engine), before);
        assert_eq!(engine.check_rows().unwrap().disks, 1);
        let names: Vec<_> = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().contains("restoring")), "{names:?}");
    }
}

#[test]
fn backup_that_was_cut_or_changed_is_refused_and_the_directory_stays_as_it_was() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let backup = parent.path().join("backup");
    back_up(&engine, &folder, &backup);
    drop(engine);
    let (good, before) = (fs::read(&backup).unwrap(), files(&folder));
    let bad = parent.path().join("bad");
    let new = parent.path().join("new");
    let step = good.len() / 20;
    let cuts = (0..good.len()).step_by(step).chain([good.len() - 1, good.len() - 1024]).map(|cut| good[..cut].to_vec());
    let flips = (7..good.len()).step_by(step).chain([good.len() - 1, good.len() - 1100, good.len() - 3000]);
    let flips = flips.map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    });
    let longer = [[&good[..], &[0]].concat(), [&good[..], &[0; 512]].concat()];
    let words =
        ["is truncated or damaged", "the backup was changed", "is not a backup", "the manifest", "which no backup has"];
    for (number, bytes) in cuts.chain(flips).chain(longer).enumerate() {
        fs::write(&bad, &bytes).unwrap();
        let error = format!("{:#}", restored(&bad, &new, "a passphrase", false).unwrap_err());
        assert!(error.starts_with("cannot restore"), "{number}: {error}");
        assert!(words.iter().any(|words| error.contains(words)), "{number}: {error}");
        assert!(!new.exists(), "{number}: {error}");
        restored(&bad, &folder, "a passphrase", true).unwrap_err();
        assert!(files(&folder) == before, "{number}: {error}");
    }
    let error = restored(&backup, &new, "another passphrase", false).unwrap_err();
    assert!(format!("{error:#}").contains("The passphrase does not open"), "{error:#}");
    assert!(!new.exists());
    restored(&backup, &new, "a passphrase", false).unwrap();
}

/// Names another node in the record of the disk, as no command does.
fn move_disk(engine: &Engine, to: &str) {
    // Enrolled already the second time.
    let _ = enrol_with(engine, "two", Bytes32([2; 32]));
    engine
        .store
        .transact(&mut |open| {
            let mut disk: Disk = super::get(open, Table::Disks, b"one/state")?.unwrap();
            disk.node = to.into();
            put(open, Table::Disks, b"one/state", &disk)
        })
        .unwrap();
}

/// Writes a backup of these files, with a manifest that this broker signs.
fn pack(to: &Path, database: &Path, identity: &Path, signer: &Engine) {
    let mut writer = Writer::new(to).unwrap();
    let paths = IDENTITY.iter().chain([&CONFIGURATION]).map(|name| (*name, identity.join(name)));
    for (name, path) in [(DATABASE, database.to_owned())].into_iter().chain(paths) {
        let bytes = fs::read(path).unwrap();
        writer.add(name, bytes.len() as u64, &mut &bytes[..]).unwrap();
    }
    let (bytes, digest) = writer.digest();
    writer.finish(&signer.sign_manifest(bytes, digest, 0).unwrap()).unwrap();
}

#[test]
fn backup_that_is_put_together_from_two_brokers_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    // Another broker of the same cluster, whose epoch keys open none of these shares.
    let second = parent.path().join("second");
    let plan = Plan {
        folder: second.clone(),
        assurance: attest::cluster::Assurance::Development,
        listen: "127.0.0.1:0".parse().unwrap(),
        serial: None,
        layout: None,
        existing: Some((folder.join("cluster.json"), folder.join("offline/root.key"), 2)),
    };
    init_module::run(&plan, b"a passphrase").unwrap();
    let other = open(&second).unwrap();
    let copy = parent.path().join("copy");
    engine.copy_database(&copy).unwrap();
    let (new, moved) = (parent.path().join("new"), parent.path().join("moved"));
    move_disk(&engine, "two");
    engine.copy_database(&moved).unwrap();
    move_disk(&engine, "one");
    let mixed = parent.path().join("mixed");
    fs::create_dir(&mixed).unwrap();
    for name in IDENTITY.into_iter().chain([CONFIGURATION]) {
        let from = if name.starts_with("tls.") { &second } else { &folder };
        fs::copy(from.join(name), mixed.join(name)).unwrap();
    }
    for (name, identity, signer, words) in [
        ("another connection", &mixed, &engine, "tls.key is not the key that certificate.json names"),
        ("another signer", &folder, &other, "not signed by the broker of this backup"),
        ("other epoch keys", &second, &other, "was not written with"),
        ("another owner", &folder, &engine, "cannot unwrap the share"),
    ] {
        let backup = parent.path().join(name);
        pack(&backup, if name == "another owner" { &moved } else { &copy }, identity, signer);
        let error = format!("{:#}", restored(&backup, &new, "a passphrase", false).unwrap_err());
        assert!(error.contains(words), "{name}: {error}");
        assert!(!new.exists(), "{name}");
    }
    let good = parent.path().join("good");
    pack(&good, &copy, &folder, &engine);
    let before = files(&second);
    drop(other);
    let error = format!("{:#}", restored(&good, &second, "a passphrase", true).unwrap_err());
    assert!(error.contains("is another than that of the backup"), "{error}");
    assert_eq!(files(&second).len(), before.len() - 2, "only the WAL of the broker that ended is gone");
    restored(&good, &new, "a passphrase", false).unwrap();
    // A database alone is no broker on a new host.
    let choices = Choices { database_alone: true, ..Choices::default() };
    let never = || panic!("the passphrase is asked for");
    let alone = restore::run(&parent.path().join("x").join(CONFIGURATION), &copy, choices, &never);
    let error = format!("{:#}", alone.unwrap_err());
    assert!(error.contains("sealed.json") && error.contains("hint: "), "{error}");
    assert!(!parent.path().join("x").exists());
}

#[test]
fn audit_log_that_a_restore_would_refuse_is_not_backed_up() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    engine
        .store
        .transact(&mut |open| {
            let leaf = open.get(Table::Audit, &0_u64.to_be_bytes())?.unwrap();
            open.put(Table::Audit, &0_u64.to_be_bytes(), &[&leaf[..], b" "].concat())
        })
        .unwrap();
    let backup = parent.path().join("backup");
    let error = format!("{:#}", backup::write(&engine, &folder.join(CONFIGURATION), &backup).unwrap_err());
    assert!(error.contains("the audit log was changed") && error.contains("hint: key-broker audit verify"), "{error}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left");
    // Nor is one restored that a broker wrote nevertheless.
    let copy = parent.path().join("copy");
    engine.copy_database(&copy).unwrap();
    pack(&backup, &copy, &folder, &engine);
    let error = format!("{:#}", restored(&backup, &parent.path().join("new"), "a passphrase", false).unwrap_err());
    assert!(error.contains("the audit log was changed"), "{error}");
    assert!(!parent.path().join("new").exists());
}

#[test]
fn row_that_a_restore_would_refuse_is_not_backed_up() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let database = rusqlite::Connection::open(folder.join("database")).unwrap();
    database.execute("INSERT INTO requests (key, value, code) VALUES (x'00', x'00', x'00')", []).unwrap();
    let backup = parent.path().join("backup");
    let error = format!("{:#}", backup::write(&engine, &folder.join(CONFIGURATION), &backup).unwrap_err());
    assert!(error.contains("of table requests"), "{error}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left");
    database.execute("DELETE FROM requests WHERE key = x'00'", []).unwrap();
    back_up(&engine, &folder, &backup);
}

#[test]
fn broker_whose_share_cannot_be_unwrapped_writes_no_backup() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    move_disk(&engine, "two");
    let backup = parent.path().join("backup");
    let error = format!("{:#}", backup::write(&engine, &folder.join(CONFIGURATION), &backup).unwrap_err());
    assert!(error.starts_with("cannot write the backup") && error.contains("cannot unwrap the share"), "{error}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left");
}

#[test]
fn backup_with_an_identity_file_that_changed_since_unseal_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let backup = parent.path().join("backup");
    for name in IDENTITY {
        let path = folder.join(name);
        let before = fs::read(&path).unwrap();
        let mut changed = before.clone();
        changed[0] ^= 1;
        for bytes in [&changed[..], &before[1..]] {
            fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", backup::write(&engine, &folder.join(CONFIGURATION), &backup).unwrap_err());
            assert!(error.contains(name) && error.contains("hint: "), "{name}: {error}");
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "{name}: something is left");
        }
        fs::write(&path, before).unwrap();
    }
    back_up(&engine, &folder, &backup);
    restored(&backup, &parent.path().join("new"), "a passphrase", false).unwrap();
}

#[test]
fn backup_with_a_configuration_that_no_broker_can_read_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let backup = parent.path().join("backup");
    let configuration = folder.join(CONFIGURATION);
    let before = fs::read(&configuration).unwrap();
    for text in ["listen = 7\n", "listen = \"127.0.0.1:0\"\n[limits]\nqueue = 0\n"] {
        fs::write(&configuration, text).unwrap();
        let error = format!("{:#}", backup::write(&engine, &configuration, &backup).unwrap_err());
        assert!(error.contains(CONFIGURATION) && error.contains("hint: "), "{error}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left");
    }
    fs::write(&configuration, before).unwrap();
    back_up(&engine, &folder, &backup);
}

/// The member `database` of a backup, as tar unpacks it.
fn taken_out(backup: &Path, to: &Path) {
    let mut archive = tar::Archive::new(fs::File::open(backup).unwrap());
    let mut first = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(first.path().unwrap(), Path::new(DATABASE));
    std::io::copy(&mut first, &mut fs::File::create_new(to).unwrap()).unwrap();
}

#[test]
fn database_taken_out_of_a_backup_is_not_restored_as_a_backup() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let [backup, taken] = ["backup", "taken"].map(|name| parent.path().join(name));
    back_up(&engine, &folder, &backup);
    drop(engine);
    taken_out(&backup, &taken);
    let before = files(&folder);
    let error = format!("{:#}", restored(&taken, &folder, "a passphrase", true).unwrap_err());
    assert!(
        error.contains("no signature") && error.contains("hint: ") && error.contains("--database-alone"),
        "{error}"
    );
    assert!(files(&folder) == before);
    // The operator may decide so, and not about a backup.
    let choices = Choices { replace: true, database_alone: true, ..Choices::default() };
    let ask = || Ok(Zeroizing::new(b"a passphrase".to_vec()));
    let error = restore::run(&folder.join(CONFIGURATION), &backup, choices, &ask).unwrap_err().to_string();
    assert!(error.contains("omit --database-alone"), "{error}");
    restore::run(&folder.join(CONFIGURATION), &taken, choices, &ask).unwrap();
}

#[test]
fn restore_is_refused_while_a_broker_that_started_meanwhile_has_the_database_open() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let backup = parent.path().join("backup");
    back_up(&engine, &folder, &backup);
    drop(engine);
    let started = std::cell::RefCell::new(None);
    let choices = Choices { replace: true, ..Choices::default() };
    // It starts while the operator enters the passphrase.
    let ask = || {
        *started.borrow_mut() = Some(open(&folder).unwrap());
        Ok(Zeroizing::new(b"a passphrase".to_vec()))
    };
    let error = format!("{:#}", restore::run(&folder.join(CONFIGURATION), &backup, choices, &ask).unwrap_err());
    assert!(error.contains("another process") && error.contains("hint: "), "{error}");
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let is_left = |name: &std::ffi::OsString| name.to_string_lossy().contains("before-");
    assert!(!names.iter().any(is_left), "{names:?}");
    // The broker has lost nothing.
    let engine = started.take().unwrap();
    enrol_with(&engine, "two", Bytes32([2; 32])).unwrap();
    // Before the passphrase is asked for, as soon as another process has the database open.
    let never = || panic!("the passphrase is asked for");
    restore::run(&folder.join(CONFIGURATION), &backup, choices, &never).unwrap_err();
    drop(engine);
    assert_eq!(open(&folder).unwrap().check_rows().unwrap().nodes, 2);
    restored(&backup, &folder, "a passphrase", true).unwrap();
    assert_eq!(open(&folder).unwrap().check_rows().unwrap().nodes, 1);
}

/// Two operators restore on a new host: the second does not take the database of the first away.
#[test]
fn restore_without_replace_leaves_a_database_alone_that_appeared_meanwhile() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let [backup, new] = ["backup", "new"].map(|name| parent.path().join(name));
    back_up(&engine, &folder, &backup);
    drop(engine);
    let first = std::cell::RefCell::new(None);
    let ask = || {
        restored(&backup, &new, "a passphrase", false).unwrap();
        let engine = open(&new).unwrap();
        enrol_with(&engine, "two", Bytes32([2; 32])).unwrap();
        *first.borrow_mut() = Some(engine);
        Ok(Zeroizing::new(b"a passphrase".to_vec()))
    };
    let second = restore::run(&new.join(CONFIGURATION), &backup, Choices::default(), &ask);
    let error = format!("{:#}", second.expect_err("the database of the first restore was replaced"));
    assert!(error.contains("exists now") && error.contains("--replace"), "{error}");
    assert!(new.join("database-wal").exists(), "the log of the open database was removed");
    let engine = first.take().unwrap();
    enrol_with(&engine, "three", Bytes32([3; 32])).unwrap();
    drop(engine);
    assert_eq!(open(&new).unwrap().check_rows().unwrap().nodes, 3);
}

#[test]
fn backup_with_another_signature_is_refused_before_its_database_is_opened() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    let other_parent = tempfile::tempdir().unwrap();
    let (_, other) = broker(other_parent.path());
    let [database, backup, new] = ["copy", "backup", "new"].map(|name| parent.path().join(name));
    engine.copy_database(&database).unwrap();
    pack(&backup, &database, &folder, &other);
    let never = || panic!("the passphrase is asked for");
    let restored = restore::run(&new.join(CONFIGURATION), &backup, Choices::default(), &never);
    let error = format!("{:#}", restored.unwrap_err());
    assert!(error.contains("not signed by the broker of this backup"), "{error}");
    assert!(!new.exists());
}

/// The directory of the database may be on another file system than broker.toml: what a restore sets aside stays where it is.
#[test]
fn leaves_that_a_restore_sets_aside_stay_beside_a_database_that_is_a_link() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, engine) = broker(parent.path());
    drop(engine);
    // Another file system, where the machine has one.
    let elsewhere = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    fs::copy(folder.join(DATABASE), elsewhere.path().join(DATABASE)).unwrap();
    fs::remove_file(folder.join(DATABASE)).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join(DATABASE), folder.join(DATABASE)).unwrap();
    let engine = open(&folder).unwrap();
    let backup = parent.path().join("backup");
    back_up(&engine, &folder, &backup);
    fill_audit(&engine, MIN_IN_DATABASE + 2 * WIDTH);
    drop(engine);
    restored(&backup, &folder, "a passphrase", true).unwrap();
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with("audit.before-")).collect()
    };
    assert_eq!((names(&folder).len(), names(elsewhere.path()).len()), (0, 1));
    open(&folder).unwrap().admin(&AdminCommand::AuditVerify { heads: vec![] }).unwrap();
}
