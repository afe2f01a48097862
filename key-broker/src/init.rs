//! `key-broker init`: keys, an empty database, `cluster.json`, `broker.toml`, and the folder `offline`, which is to be moved away. All of it appears at once, or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::{Assurance, BrokerCertificate, CERTIFICATE_TYPE, Cluster, Device, Keys, Slot};
use attest::hpke::PrivateKey;
use envelope::Envelope;
use measurements::canonical::{self, Document};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use state_disk::layout::Profile;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::engine::sha256;
use crate::inputs;
use crate::seal::{self, Contents, secret_file};
use crate::store::Sqlite;

/// What a new broker is to be.
pub struct Plan {
    /// Where its files go; must not be there.
    pub folder: PathBuf,
    /// The least that evidence must be worth.
    pub assurance: Assurance,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The serial of nodes' state disks; without it, the only disk that is not the image's.
    pub serial: Option<String>,
    /// How nodes protect the sectors of their state disks; the default if missing.
    pub layout: Option<Profile>,
    /// A cluster that is there already, its root key, and the epoch of the new broker's keys.
    pub existing: Option<(PathBuf, PathBuf, u64)>,
}

/// Makes a broker.
pub fn run(plan: &Plan, passphrase: &[u8]) -> Result<()> {
    let folder = &plan.folder;
    ensure!(!folder.exists(), "{} exists: name a folder that is not there yet", folder.display());
    let temporary = folder.with_extension("partial");
    fs::create_dir_all(&temporary).with_context(|| format!("Failed to make {}", temporary.display()))?;
    let made = make(plan, &temporary, passphrase)
        .and_then(|()| fs::rename(&temporary, folder).with_context(|| format!("Failed to make {}", folder.display())));
    if made.is_err() {
        // What is there is of no use; that it cannot be removed is not the error to tell.
        let _ = fs::remove_dir_all(&temporary);
    }
    made
}

fn make(plan: &Plan, folder: &Path, passphrase: &[u8]) -> Result<()> {
    let random = SystemRandom::new();
    let new_key = || Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| anyhow!("no random bytes"));
    let bytes = |bytes: &mut [u8]| random.fill(bytes).map_err(|_| anyhow!("no random bytes"));
    let (root, cluster_bytes, cluster, epoch) = match &plan.existing {
        Some((cluster, root, epoch)) => {
            let file = inputs::configuration(cluster)?;
            let parsed = Cluster::read(&file).map_err(|refusal| anyhow!("{}: {}", cluster.display(), refusal.found))?;
            let pem = Zeroizing::new(inputs::configuration_text(root)?);
            let root =
                key_of(&pem).with_context(|| format!("{} is no key of Ed25519 as init wrote it", root.display()))?;
            ensure!(*epoch >= parsed.epoch, "cluster.json asks for an epoch of at least {}", parsed.epoch);
            (root, file, parsed, *epoch)
        }
        None => {
            let offline = folder.join("offline");
            fs::create_dir(&offline).context("Failed to make the folder for offline keys")?;
            let root = new_key()?;
            secret_file(&offline.join("root.key"), format!("{}\n", hex::encode(root.as_ref())).as_bytes())?;
            let root = Ed25519KeyPair::from_pkcs8(root.as_ref()).map_err(|error| anyhow!("{error}"))?;
            let mut seed = Zeroizing::new([0; 32]);
            bytes(&mut seed[..])?;
            secret_file(&offline.join("recovery.key"), format!("{}\n", hex::encode(&seed[..])).as_bytes())?;
            let mut id = vec![0; 16];
            bytes(&mut id)?;
            let cluster = cluster(plan, &root, &PrivateKey::from_seed(&seed), id)?;
            let file = cluster.write().map_err(|refusal| anyhow!(refusal.found))?;
            (root, file, cluster, 1)
        }
    };
    fs::write(folder.join("cluster.json"), &cluster_bytes).context("Failed to write cluster.json")?;

    let made = rcgen::generate_simple_self_signed(vec!["cairn-broker".into()]).context("Failed to make a TLS key")?;
    secret_file(&folder.join("tls.key"), &made.signing_key.serialize_der())?;
    fs::write(folder.join("tls.der"), made.cert.der()).context("Failed to write the TLS certificate")?;
    let tls_key = digest(&SHA256, &rcgen::PublicKeyData::subject_public_key_info(&made.signing_key));

    drop(Sqlite::create(&folder.join("database")).context("Failed to create the database")?);

    let (message, audit) = (new_key()?, new_key()?);
    let mut wrapping = vec![0; 32];
    bytes(&mut wrapping)?;
    let contents = Contents {
        message: Hex(message.as_ref().to_vec()),
        audit: Hex(audit.as_ref().to_vec()),
        epochs: BTreeMap::from([(epoch, Hex(wrapping))]),
        cluster: Some(Bytes32(sha256(&cluster_bytes))),
    };
    seal::write(&folder.join("sealed.json"), &contents, passphrase)?;
    let message = Ed25519KeyPair::from_pkcs8(message.as_ref()).map_err(|error| anyhow!("{error}"))?;
    let audit = Ed25519KeyPair::from_pkcs8(audit.as_ref()).map_err(|error| anyhow!("{error}"))?;
    let certificate = BrokerCertificate {
        audit_key: Some(Bytes32(public(&audit)?)),
        cluster: cluster.id.clone(),
        epoch,
        message_key: Bytes32(public(&message)?),
        schema: BrokerCertificate::SCHEMA.into(),
        tls_key: Bytes32(tls_key.as_ref().try_into()?),
    };
    let envelope = Envelope::sign(CERTIFICATE_TYPE, &canonical::write(&certificate)?, "root", &root);
    fs::write(folder.join("certificate.json"), serde_json::to_vec(&envelope)?)
        .context("Failed to write the certificate")?;
    // The root key may be of another cluster.
    cluster
        .certificate(&serde_json::to_vec(&envelope)?)
        .map_err(|refusal| anyhow!("the root key is none of cluster.json's: {}", refusal.found))?;
    fs::write(folder.join("broker.toml"), Config::text(plan.listen)).context("Failed to write broker.toml")?;
    Ok(())
}

fn cluster(plan: &Plan, root: &Ed25519KeyPair, recovery: &PrivateKey, id: Vec<u8>) -> Result<Cluster> {
    let device = plan.serial.clone().map_or(Device::OnlyOther, Device::Serial);
    Ok(Cluster {
        assurance: plan.assurance,
        broker: Keys { keys: vec![Bytes32(public(root)?)], threshold: 1 },
        epoch: 1,
        id: Hex(id),
        recovery: Keys { keys: vec![Bytes32(recovery.public())], threshold: 1 },
        schema: Cluster::SCHEMA.into(),
        slots: vec![Slot { device, layout: plan.layout, mount: "/var".into(), name: "state".into() }],
    })
}

fn public(key: &Ed25519KeyPair) -> Result<[u8; 32]> {
    Ok(key.public_key().as_ref().try_into()?)
}

/// A root key as `init` wrote it: PKCS#8 in hexadecimal digits, and a newline.
fn key_of(text: &str) -> Result<Ed25519KeyPair> {
    let bytes = Zeroizing::new(hex::decode(text.trim())?);
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|error| anyhow!("{error}"))
}

/// What each word of `--assurance` means.
pub const WORDS: &str = "\
  development   references that nobody signed are taken: for trying things out
  simulated     hardware that is none
  tpm-virtual   a TPM that the host makes: the host is trusted
  tpm-discrete  a TPM of a manufacturer; its bus is not covered
  snp           AMD SEV-SNP (no key is released on it yet)
  tdx           Intel TDX (no key is released on it yet)";

/// Reads a word of `--assurance`.
pub fn assurance(word: Option<&str>) -> Result<Assurance> {
    let Some(word) = word else {
        bail!("Choose the least that evidence must be worth, with --assurance; there is no default:\n{WORDS}")
    };
    let all = [
        Assurance::Development,
        Assurance::Simulated,
        Assurance::TpmVirtual,
        Assurance::TpmDiscrete,
        Assurance::Snp,
        Assurance::Tdx,
    ];
    let found = all.into_iter().find(|assurance| assurance.name() == word);
    found.with_context(|| format!("{word:?} is none of the words for --assurance:\n{WORDS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(folder: &Path) -> Plan {
        let listen = "127.0.0.1:0".parse().unwrap();
        Plan {
            folder: folder.join("broker"),
            assurance: Assurance::Development,
            listen,
            serial: None,
            layout: None,
            existing: None,
        }
    }

    #[test]
    fn a_broker_is_made_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        run(&plan(folder.path()), b"a passphrase").unwrap();
        let file = |name: &str| fs::read(folder.path().join("broker").join(name)).unwrap();
        let cluster = Cluster::read(&file("cluster.json")).unwrap();
        cluster.certificate(&file("certificate.json")).unwrap();
        Sqlite::open(&folder.path().join("broker/database")).unwrap();
        let error = run(&plan(folder.path()), b"a passphrase").unwrap_err().to_string();
        assert!(error.contains("exists"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_lost_broker_is_followed_by_another_with_the_same_root_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        run(&plan(folder.path()), b"a passphrase").unwrap();
        let broker = folder.path().join("broker");
        let next = |name: &str, root: PathBuf, epoch| Plan {
            folder: folder.path().join(name),
            existing: Some((broker.join("cluster.json"), root, epoch)),
            ..plan(folder.path())
        };
        run(&next("second", broker.join("offline/root.key"), 2), b"a passphrase").unwrap();
        assert_eq!(
            fs::read(folder.path().join("second/cluster.json")).unwrap(),
            fs::read(broker.join("cluster.json")).unwrap()
        );
        assert!(run(&next("third", broker.join("offline/root.key"), 0), b"a passphrase").is_err());
        let other = Plan { folder: folder.path().join("other"), ..plan(folder.path()) };
        run(&other, b"a passphrase").unwrap();
        let error = run(&next("fourth", folder.path().join("other/offline/root.key"), 2), b"x").unwrap_err();
        assert!(error.to_string().contains("root key"), "{error:#}");
        assert!(!folder.path().join("fourth").exists());
    }

    #[test]
    fn assurance_has_no_default() {
        assert_eq!(assurance(Some("tpm-virtual")).unwrap(), Assurance::TpmVirtual);
        for word in [None, Some("best")] {
            assert!(assurance(word).unwrap_err().to_string().contains("tpm-discrete"));
        }
    }
}
