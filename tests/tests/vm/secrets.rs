//! The secrets of a disk are looked for wherever they could have been left: in what was printed, in the broker's files, on the disks, in the memory of the running system.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use attest::hpke::PrivateKey;
use attest::recovery::Recovery;
use cairn_tests::environment::output_of;
use cairn_tests::node::Node;
use cairn_tests::suite::Suite;
use cairn_tests::watch::Watched;
use state_disk::layout::{RECOVERY, RECOVERY_LENGTH};
use state_disk::{id, keys, recovery};
use xtask::vm::Machine;
use zeroize::Zeroizing;

use crate::Row;
use crate::nodes::broker_for;

/// Of the machine.
const MEMORY: u64 = 1 << 30;
/// Half of the volume key, which is a whole AES key: the kernel must have it somewhere.
const HALF: usize = 32;

pub fn rows() -> Vec<Row> {
    vec![Row::new("neither_share_nor_passphrase_is_anywhere", nowhere)]
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(bytes, needle).is_some()
}

/// What is looked for: as bytes, and as somebody might print them.
fn forms(name: &str, secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let hex = hex::encode(secret);
    let upper = hex.to_uppercase();
    vec![
        (name.to_owned(), secret.to_vec()),
        (format!("{name} in hexadecimal"), hex.into_bytes()),
        (format!("{name} in hexadecimal"), upper.into_bytes()),
    ]
}

fn nowhere(suite: &Suite, row: &str) -> Result<()> {
    let broker = broker_for(&suite.image)?;
    let node = Node::new(suite, "one", &suite.image, &broker)?;
    let mut consoles = node.must_open(suite, row)?.vm.console().text();
    let machine = Machine { inspectable: true, ..node.machine(&node.disk())? };
    let mut watched = Watched::start(suite, row, &machine)?;
    watched.must_run()?;

    let disk = fs::read(node.disk()).context("Failed to read the disk")?;
    let document = recovery::find(&disk[RECOVERY..RECOVERY + RECOVERY_LENGTH]).context("no recovery document")?;
    let document = Recovery::read(document)?;
    let seed = fs::read_to_string(broker.file("offline/recovery.key"))?;
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(seed.trim(), &mut bytes[..])?;
    let share = document.open(&PrivateKey::from_seed(&bytes))?;
    let share: [u8; 32] = share.as_slice().try_into()?;
    let passphrase = keys::derive(&share, &id::parse(&document.disk).context("no id")?).passphrase;
    let secrets = [forms("the share", &share), forms("the passphrase", &passphrase[..])].concat();

    // That the search finds what is there: the kernel needs the volume key, and nothing else of these.
    let volume_key = volume_key(suite, &node, &broker.file("passphrase-of-the-test"), &passphrase[..])?;
    let needles: Vec<&[u8]> = secrets.iter().map(|(_, form)| form.as_slice()).chain([&volume_key[..HALF]]).collect();
    let found = watched.vm.search_memory(MEMORY, &needles)?;
    ensure!(found.last() == Some(&true), "not even the volume key is found in memory: the search is blind");
    for ((name, _), found) in secrets.iter().zip(&found) {
        ensure!(!found, "{name} is in the memory of the running system");
    }
    consoles += &watched.vm.console().text();
    drop(watched);

    let mut places = vec![("the console".to_owned(), consoles.into_bytes()), ("the state disk".into(), disk)];
    places.push(("the image".into(), fs::read(node.image())?));
    for entry in fs::read_dir(broker.file(""))? {
        let path = entry?.path();
        if path.is_file() {
            places.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    ensure!(places.iter().any(|(name, _)| name.ends_with("database")), "the broker has no database");
    for words in [&["audit", "tail", "1000"][..], &["disk", "list"], &["node", "show", "one"]] {
        places.push((format!("{words:?}"), broker.admin(words)?.to_string().into_bytes()));
    }
    places.push(("what the broker printed".into(), broker.printed()?));
    for (place, bytes) in &places {
        for (name, form) in &secrets {
            ensure!(!contains(bytes, form), "{name} is in {place}");
        }
    }
    let argument_vectors = arguments()?;
    ensure!(secrets.iter().all(|(_, form)| !contains(&argument_vectors, form)), "a secret is an argument");
    Ok(())
}

/// The arguments and environments of all processes here.
fn arguments() -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        for name in ["cmdline", "environ"] {
            // Those of others, and of processes that have ended, cannot be read.
            all.extend(fs::read(entry.path().join(name)).unwrap_or_default());
        }
    }
    Ok(all)
}

/// The volume key, by stock cryptsetup.
fn volume_key(suite: &Suite, node: &Node, file: &std::path::Path, passphrase: &[u8]) -> Result<Vec<u8>> {
    fs::write(file, passphrase).context("Failed to write the passphrase")?;
    let folder = tempfile::tempdir()?;
    let sandbox = suite.sandbox.clone().bind_read_only(&node.disk(), "/tmp/disk").bind_read_only(file, "/tmp/key");
    let sandbox = sandbox.bind(folder.path(), "/tmp/out");
    let mut dump = sandbox.command("cryptsetup");
    dump.args(["luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", "/tmp/out/volume"]);
    let dumped = output_of(dump.args(["--key-file", "/tmp/key", "/tmp/disk"]));
    fs::remove_file(file).context("Failed to remove the passphrase")?;
    dumped?;
    let key = fs::read(folder.path().join("volume"))?;
    if key.len() == 2 * HALF { Ok(key) } else { Err(anyhow!("the volume key has {} bytes", key.len())) }
}
