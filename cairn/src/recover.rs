//! `cairn recover`: the passphrase of a state disk, from the share that lies on the disk itself, sealed to the cluster's recovery keys. No broker is asked; the disk is only read.
//!
//! Whoever had the disk could have written all of it: a recovery public key is in every `cluster.json`. So the header is used only if a broker of the cluster has signed a statement about it, which lies beside it, and if it is of the one form that state disks have.
//! It is opened from a copy of what was checked, never from the disk.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use attest::adoption::Adoption;
use attest::bytes::Bytes32;
use attest::cluster::Cluster;
use attest::hpke::PrivateKey;
use attest::recovery::{DiskStatement, Recovery, SignedStatement};
use clap::Args;
use state_disk::layout::{HEADER, RECOVERY, RECOVERY_LENGTH};
use state_disk::{header, id, keys, recovery, statement, unfinished};
use zeroize::Zeroizing;

use crate::inputs::read;

/// Arguments of `recover`.
#[derive(Args)]
#[command(
    after_help = "Example: cairn recover --disk /dev/sdb --cluster cluster.json --key offline/recovery.key --passphrase-file state.key --header-file state.header"
)]
pub struct RecoverArgs {
    /// The state disk, or a copy of it
    #[arg(long, value_name = "DISK")]
    disk: PathBuf,
    /// The cluster's file: its root keys name the brokers whose statements are accepted
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// A recovery key of the cluster, as `key-broker init` made it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where to write what opens the disk; must not be there
    #[arg(long, value_name = "FILE", required_unless_present = "adoption_file", requires = "header_file")]
    passphrase_file: Option<PathBuf>,
    /// Where to write the copy of the checked header that the disk is opened with; must not be there
    #[arg(long, value_name = "FILE", requires = "passphrase_file")]
    header_file: Option<PathBuf>,
    /// Instead of both: where to write what `key-broker disk adopt` reads; must not be there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_file", "header_file"])]
    adoption_file: Option<PathBuf>,
}

/// Maximum size of a file with a key: its digits, and blanks around them.
const MAX_KEY_BYTES: u64 = 4096;

/// Writes the passphrase and the checked header, or the document for a broker; prints how to use them.
pub fn run(args: &RecoverArgs) -> Result<String> {
    let (disk, key) = (args.disk.display(), args.key.display());
    let cluster = read(&args.cluster)?;
    let cluster =
        Cluster::read(&cluster).map_err(|refusal| anyhow!("{}: {}", args.cluster.display(), refusal.found))?;
    let recovery_key = read_key(&args.key)?;
    ensure!(
        cluster.recovery.keys.contains(&Bytes32(recovery_key.public())),
        "{key} is not a recovery key of {}: give the key and the file of one cluster",
        args.cluster.display()
    );
    let mut area = vec![0; HEADER];
    File::open(&args.disk)
        .and_then(|file| file.read_exact_at(&mut area, 0))
        .with_context(|| format!("Failed to read the header of {disk}"))?;
    let (said, statement) = checked(&mut area, &cluster).with_context(|| disk.to_string())?;
    let document = recovery::find(&area[RECOVERY..RECOVERY + RECOVERY_LENGTH])
        .with_context(|| format!("{disk} holds no recovery document"))?;
    let document = Recovery::read(document).map_err(|refusal| anyhow!("{disk}: {}", refusal.found))?;
    ensure!(document.disk == said.disk, "{disk}: the recovery document is that of the disk {}", document.disk);
    let share =
        document.open(&recovery_key).map_err(|refusal| anyhow!("{key} does not open {disk}: {}", refusal.found))?;
    let share: Zeroizing<[u8; 32]> =
        Zeroizing::new(share.as_slice().try_into().with_context(|| format!("the share of {disk} has a wrong length"))?);
    let id = id::parse(&said.disk).with_context(|| format!("{disk}: its id is no UUID"))?;
    let what = format!(
        "disk {} of node {}, slot {}, generation {} or later",
        said.disk, said.node, said.slot, said.generation
    );
    const AGE: &str = "The header was verified. The data behind it may be older than the broker's last record: compare before you use it.";
    match (&args.passphrase_file, &args.header_file, &args.adoption_file) {
        (Some(passphrase), Some(header), None) => {
            write_secret(header, &area)?;
            if let Err(error) = write_secret(passphrase, &keys::derive(&share, &id).passphrase[..]) {
                // Alone it is of no use, and in the way of the next try.
                let _ = std::fs::remove_file(header);
                return Err(error);
            }
            let (header, passphrase) = (header.display(), passphrase.display());
            Ok(format!(
                "{what}\nopen it with: cryptsetup open --header {header} --key-file {passphrase} {disk} state\nthen destroy {passphrase}\n{AGE}\n"
            ))
        }
        (None, None, Some(file)) => {
            let document =
                Adoption::write(&share, &statement).map_err(|refusal| anyhow!("{disk}: {}", refusal.found))?;
            write_secret(file, &document)?;
            let (file, node, slot, generation) = (file.display(), &said.node, &said.slot, said.generation);
            Ok(format!(
                "{what}\nadopt it with: key-broker disk adopt {node} {slot} --generation {generation} --recovery {file}\nthen destroy {file}\n{AGE}\n"
            ))
        }
        _ => bail!(
            "cannot write what opens the disk\nhint: pass --passphrase-file and --header-file, or --adoption-file"
        ),
    }
}

/// The broker's statement about this header, if there is one and the header is as it says. What is not part of the header is taken out of `area`.
fn checked(area: &mut [u8], cluster: &Cluster) -> Result<(DiskStatement, Vec<u8>)> {
    // Everyone with write access to the disk can write the mark: it does not refute a signed statement.
    let is_marked = unfinished::take(area).is_some();
    let (said, bytes) = newest(&statement::take(area), cluster).map_err(|error| match is_marked {
        true => error.context("the disk was never finished: no broker has acknowledged what was written to it"),
        false => error,
    })?;
    header::check(area, &said.header.0, &said.disk).map_err(|error| anyhow!("the header: {error}"))?;
    Ok((said, bytes))
}

/// The newest statement of a broker: there are two where a power cut came while the second copy was written.
fn newest(copies: &[Vec<u8>], cluster: &Cluster) -> Result<(DiskStatement, Vec<u8>)> {
    let mut newest: Option<(DiskStatement, Vec<u8>)> = None;
    let mut refused = None;
    for copy in copies {
        match SignedStatement::verify(copy, cluster) {
            Ok(said) if newest.as_ref().is_none_or(|(newest, _)| said.generation > newest.generation) => {
                newest = Some((said, copy.clone()));
            }
            Ok(_) => {}
            Err(refusal) => refused = Some(refusal.found),
        }
    }
    match (newest, refused) {
        (Some(said), _) => Ok(said),
        (None, Some(found)) => bail!("the statement about the disk is not of a broker of this cluster: {found}"),
        (None, None) => bail!(
            "the disk holds no statement of a broker: it is not a state disk, or it was never committed; open it with its broker, or a restored one"
        ),
    }
}

/// Writes a new file that only its owner reads.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .with_context(|| format!("Failed to write {}", path.display()))
}

/// 64 hexadecimal digits.
fn read_key(path: &Path) -> Result<PrivateKey> {
    let text = Zeroizing::new(input_file::read(path, MAX_KEY_BYTES)?);
    let mut seed = Zeroizing::new([0; 32]);
    let read = hex::decode_to_slice(text.trim_ascii(), &mut seed[..]);
    ensure!(read.is_ok(), "{} is no recovery key: it has 64 hexadecimal digits", path.display());
    Ok(PrivateKey::from_seed(&seed))
}

#[cfg(test)]
mod tests {
    use attest::cluster::{Assurance, BrokerCertificate, CERTIFICATE_TYPE, Device, Keys, Slot};
    use attest::message;
    use envelope::Envelope;
    use measurements::canonical::{self, Document};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use state_disk::layout::STATEMENT;

    use super::*;

    /// Both copies as cryptsetup 2.7.5 wrote them, with the options of a state disk.
    const RECORDED: &[u8] = include_bytes!("../../crates/state-disk/tests/recorded/luks2-header.bin");
    const DISK: &str = "0b5f6c6e-0000-4000-8000-000000000001";

    fn signer(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(key: &Ed25519KeyPair) -> Bytes32 {
        Bytes32(key.public_key().as_ref().try_into().unwrap())
    }

    fn recovery_key(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&Zeroizing::new([seed; 32]))
    }

    fn cluster(root: u8) -> Cluster {
        let keys = |key: Bytes32| Keys { keys: vec![key], threshold: 1 };
        Cluster {
            assurance: Assurance::Development,
            broker: keys(public(&signer(root))),
            epoch: 1,
            id: attest::bytes::Hex(vec![7; 16]),
            recovery: keys(Bytes32(recovery_key(1).public())),
            schema: Cluster::SCHEMA.into(),
            slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: "state".into() }],
        }
    }

    /// A header's area with the share of its disk.
    fn area(header: &[u8], disk: &str) -> Vec<u8> {
        let mut area = header.to_vec();
        area.resize(HEADER, 0);
        let keys = [Bytes32(recovery_key(1).public())];
        let document = Recovery::seal(disk, &[7; 32], &keys, || Zeroizing::new([9; 32])).unwrap();
        assert!(recovery::put(&mut area, &document.write().unwrap()));
        area
    }

    /// The area with a statement that names `disk` and `digest`, by a broker that this root key names.
    fn with_statement(mut area: Vec<u8>, root: u8, disk: &str, digest: [u8; 32]) -> Vec<u8> {
        let (root, broker) = (signer(root), signer(9));
        let id = attest::bytes::Hex(vec![7; 16]);
        let certificate = BrokerCertificate {
            audit_key: None,
            cluster: id.clone(),
            epoch: 1,
            message_key: public(&broker),
            schema: BrokerCertificate::SCHEMA.into(),
            tls_key: Bytes32([0; 32]),
        };
        let certificate = Envelope::sign(CERTIFICATE_TYPE, &canonical::write(&certificate).unwrap(), "root", &root);
        let said = DiskStatement {
            cluster: hex::encode(&id.0),
            disk: disk.into(),
            generation: 3,
            header: Bytes32(digest),
            node: "one".into(),
            schema: DiskStatement::SCHEMA.into(),
            slot: "state".into(),
        };
        let said = message::sign(&said, "broker", &broker).unwrap();
        let certificate = serde_json::to_vec(&certificate).unwrap();
        let document = SignedStatement::write(&certificate, &String::from_utf8(said.bytes).unwrap()).unwrap();
        for (at, copy) in statement::copies(&document).unwrap() {
            area[at..at + copy.len()].copy_from_slice(&copy);
        }
        area
    }

    #[test]
    fn only_the_header_that_a_broker_has_signed_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let good = area(RECORDED, DISK);
        let digest = header::digest(&good);
        let write = |name: &str, area: &[u8]| std::fs::write(at(name), [area, &[5; 4096]].concat()).unwrap();
        write("good", &with_statement(good.clone(), 3, DISK, digest));
        write("unsigned", &good);
        write("zeros", &vec![0; HEADER]);
        // What an attacker can make: the recovery key is public, and so is the form of a header.
        write("self-sealed", &area(&[], DISK));
        write("another root", &with_statement(good.clone(), 4, DISK, digest));
        write("another header", &with_statement(area(&[0; 4096], DISK), 3, DISK, digest));
        let mut changed = with_statement(good.clone(), 3, DISK, digest);
        changed[40_000] ^= 1;
        write("another keyslot", &changed);
        let others = area(RECORDED, "0b5f6c6e-0000-4000-8000-000000000002");
        let digest_of_others = header::digest(&others);
        write("another share", &with_statement(others, 3, DISK, digest_of_others));
        let mut marked = with_statement(good.clone(), 3, DISK, digest);
        marked[state_disk::layout::UNFINISHED..][..4096].copy_from_slice(&unfinished::mark(&[1; 16]));
        write("marked", &marked);
        let mut unfinished_disk = vec![0; HEADER];
        unfinished_disk[state_disk::layout::UNFINISHED..][..4096].copy_from_slice(&unfinished::mark(&[1; 16]));
        write("unfinished", &unfinished_disk);
        let mut torn = with_statement(good.clone(), 3, DISK, digest);
        torn[STATEMENT..STATEMENT + 512].fill(0);
        write("torn", &torn);
        let text = vec![0; HEADER];
        let weak = with_statement(text.clone(), 3, DISK, header::digest(&text));
        write("signed zeros", &weak);
        std::fs::write(at("cluster"), cluster(3).write().unwrap()).unwrap();
        for seed in [1, 2] {
            std::fs::write(at(&seed.to_string()), format!("{}\n", hex::encode([seed; 32]))).unwrap();
        }
        let recover = |disk: &str, key: &str, to: &str| {
            run(&RecoverArgs {
                disk: at(disk),
                cluster: at("cluster"),
                key: at(key),
                passphrase_file: Some(at(to)),
                header_file: Some(at(&format!("{to}.header"))),
                adoption_file: None,
            })
        };
        for (disk, key, words) in [
            ("unsigned", "1", "no statement"),
            ("zeros", "1", "no statement"),
            ("self-sealed", "1", "no statement"),
            ("another root", "1", "not of a broker of this cluster"),
            ("another header", "1", "digest"),
            ("another keyslot", "1", "digest"),
            ("another share", "1", "is that of the disk"),
            ("unfinished", "1", "never finished"),
            ("signed zeros", "1", "the header"),
            ("good", "2", "not a recovery key of"),
            ("good", "good", "it is a LUKS2 disk"),
            ("missing", "1", "Failed to read"),
        ] {
            let error = format!("{:#}", recover(disk, key, "x").unwrap_err());
            assert!(error.contains(words), "{disk}: {error}");
            assert!(!at("x").exists() && !at("x.header").exists(), "{disk}");
        }
        assert!(recover("torn", "1", "torn passphrase").is_ok(), "one copy of the statement is whole");
        assert!(recover("marked", "1", "marked passphrase").is_ok(), "the mark is not signed");
        let words = recover("good", "1", "passphrase").unwrap();
        assert!(words.contains("cryptsetup open --header"), "{words}");
        let id = id::parse(DISK).unwrap();
        assert_eq!(std::fs::read(at("passphrase")).unwrap(), keys::derive(&[7; 32], &id).passphrase.to_vec());
        assert_eq!(std::fs::read(at("passphrase.header")).unwrap(), good, "the copy is what was checked");
        let adopt = |disk: &str, to: &str| {
            let args = RecoverArgs {
                disk: at(disk),
                cluster: at("cluster"),
                key: at("1"),
                passphrase_file: None,
                header_file: None,
                adoption_file: Some(at(to)),
            };
            run(&args)
        };
        let words = adopt("good", "adoption").unwrap();
        assert!(words.contains("key-broker disk adopt one state --generation 3"), "{words}");
        let document = std::fs::read(at("adoption")).unwrap();
        let (share, said) = Adoption::verify(&document, &cluster(3)).unwrap();
        assert_eq!((*share, said.generation, said.header.0), ([7; 32], 3, digest));
        assert!(adopt("good", "adoption").is_err(), "it is never overwritten");
        assert!(adopt("unsigned", "z").is_err() && !at("z").exists());
        // Nothing is overwritten, and nothing is left where the second file cannot be written.
        assert!(recover("good", "1", "passphrase").is_err());
        std::fs::write(at("y"), "").unwrap();
        assert!(recover("good", "1", "y").is_err() && !at("y.header").exists());
    }
}
