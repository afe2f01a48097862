//! The decisions of the broker: what a node shows is verified in a fixed order, cheap checks first; what follows is decided and written in one transaction with the audit log. No socket is known here; clock and randomness are given.

mod admin;
mod adopt;
mod audit;
mod backup;
mod clock;
mod commit;
mod compositions;
mod deadlines;
mod decision;
mod destroyed;
mod disks;
mod event_logs;
mod evidence;
mod grant;
mod hello;
mod identity;
mod latch;
mod limits;
mod nodes;
mod outcome;
mod policy;
mod published;
mod ready;
mod records;
mod refusals;
mod reply;
mod restored;
mod share;
mod shown;
mod standing;
mod upkeep;
mod verifiers;
mod witness;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::{BrokerCertificate, Cluster};
use attest::message::Hello;
use measurements::compose::Configuration;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::Ed25519KeyPair;
use transparency::verifier_key::VerifierKey;
use zeroize::Zeroizing;

use crate::code::{Code, Own};
use crate::store::{Error, RowKey, Sqlite, Store, Table, Transaction};

pub use admin::AdminCommand;
pub use adopt::{Adopt, SecretText};
use audit::{Bundles, Leaf, Signer};
pub use backup::Rows;
use clock::Clock;
use compositions::Compositions;
use deadlines::Deadlines;
pub use decision::Answer;
use event_logs::EventLogs;
pub(crate) use hello::sha256;
use limits::Limits;
pub use limits::network;
use outcome::Stop;
use ready::StoreCheck;
pub use ready::Unready;
use records::{Node, get};
pub use reply::Reply;
pub use restored::{Missing, Restored, adopt_bundles, merge_bundles};
pub use standing::Figures;
use verifiers::Verifiers;
pub use witness::{Submission, Trouble, WitnessFigures};

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a node has to answer a challenge.
    pub challenge: Duration,
    /// How long a node has to report what became of a release.
    pub commit: Duration,
    /// How long a node waits before it asks again after a hold.
    pub hold: Duration,
    /// How many hellos a node may send in a minute.
    pub hellos_per_minute: u32,
    /// How long disks are still unlocked after the channel's state has expired.
    pub stale_unlock: Duration,
    /// How many rebuilders must have made a logged release again.
    pub least_rebuilders: u64,
    /// How long a transaction waits for others, of this process and of another that has locked the database.
    pub store: Duration,
    /// How long a node's certificate is good.
    pub certificate: Duration,
    /// How many boots in a row may unlock a disk without a report, before the next one is held.
    pub unreported_boots: u32,
    /// How many refusals of strangers are written into the audit log in a minute.
    pub strangers_per_minute: u32,
    /// Who signs the heads of the audit log.
    pub witnesses: Vec<VerifierKey>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            challenge: Duration::from_secs(60),
            commit: Duration::from_secs(600),
            hold: Duration::from_secs(5),
            hellos_per_minute: 60,
            strangers_per_minute: 60,
            certificate: Duration::from_secs(90 * 24 * 3600),
            store: Duration::from_secs(10),
            unreported_boots: 3,
            stale_unlock: Duration::from_secs(14 * 24 * 3600),
            least_rebuilders: 0,
            witnesses: Vec::new(),
        }
    }
}

/// What the seal protects.
pub struct Keys {
    /// Signs messages.
    pub message: Ed25519KeyPair,
    /// Signs the heads of the audit log.
    pub audit: Ed25519KeyPair,
    /// Keys that wrap shares, by their epochs.
    pub epochs: BTreeMap<u64, Zeroizing<[u8; 32]>>,
    /// SHA-256 of cluster.json, if the box has it.
    pub cluster: Option<Bytes32>,
    /// SHA-256 of the file of the box.
    pub sealed: Bytes32,
    /// The envelope of the broker's certificate.
    pub certificate: Vec<u8>,
}

/// What an operator may do about rows that were not written with the broker's keys.
const TRUST_HINT: &str = "if the database, or the backup that it was restored from, is of version 4 or older and was written by this broker alone: key-broker unseal --trust-database, or key-broker restore --database-alone --trust-database for a copy that is restored";

/// Key of the authentication codes of rows.
fn row_key(keys: &Keys) -> Result<RowKey> {
    let (_, key) = keys.epochs.first_key_value().context("the sealed box has no key of an epoch")?;
    Ok(RowKey::derive(key))
}

/// Keys that are open, and what follows from them.
struct Open {
    keys: Keys,
    certificate: BrokerCertificate,
}

/// What a connection has said so far.
pub struct Conversation {
    /// Where the hello came from.
    address: IpAddr,
    hello: Hello,
    hello_digest: [u8; 32],
    challenge_digest: [u8; 32],
    exporter: [u8; 32],
    session: [u8; 16],
    /// What the node's TPM must activate, if its attestation key is not known.
    secret: Option<Zeroizing<[u8; 32]>>,
    bank: measurements::Bank,
    /// Session of the node's last release before the challenge: a quote for the challenge is newer than it.
    last: Option<Hex>,
    until: Instant,
}

/// The broker.
pub struct Engine {
    store: Box<dyn Store>,
    /// Older leaves of the audit log.
    bundles: Bundles,
    /// Logs of refused and held nodes.
    event_logs: EventLogs,
    /// Why leaves could not be moved to bundles the last time.
    moving: Mutex<Option<String>>,
    /// What hinders a witness, by its verifier key.
    troubles: Mutex<BTreeMap<String, Trouble>>,
    cluster: Cluster,
    /// SHA-256 of cluster.json.
    cluster_digest: [u8; 32],
    /// SHA-256 of tls.key and tls.der.
    tls: OnceLock<[[u8; 32]; 2]>,
    configuration: Configuration,
    origin: String,
    settings: Settings,
    open: RwLock<Option<Arc<Open>>>,
    compositions: Compositions,
    limits: Mutex<Limits>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    random: SystemRandom,
    clock: Clock,
    deadlines: Deadlines,
    check: StoreCheck,
    verifiers: Verifiers,
}

/// Every endorsement key in the index must be that of the node that it names: a key of a machine that is gone would open the disks of its successor.
fn check_keys(transaction: &dyn Transaction) -> Result<(), Error> {
    for (key, name) in transaction.last(Table::EndorsementKeys, usize::MAX)? {
        let node: Option<Node> = get(transaction, Table::Nodes, &name)?;
        if node.is_none_or(|node| node.ek.0[..] != key[..]) {
            return Err(Error::Work(format!(
                "the endorsement key sha256:{} names node {:?}, whose record has another key; somebody changed the database: restore a backup with `key-broker restore`",
                hex::encode(key),
                String::from_utf8_lossy(&name)
            )));
        }
    }
    Ok(())
}

impl Engine {
    /// Opens the database; nothing is released before [`Engine::unseal`].
    ///
    /// # Errors
    /// The cluster's file or the database cannot be used.
    pub fn open(database: &Path, cluster_json: &[u8], settings: Settings) -> Result<Self> {
        let cluster = Cluster::read(cluster_json).map_err(|refusal| anyhow!(refusal.found))?;
        let store = Sqlite::open_with(database, settings.store)
            .with_context(|| format!("Failed to open {}", database.display()))?;
        let origin = format!("cairn/{}/audit", hex::encode(&cluster.id.0));
        let not_asked = settings.witnesses.iter().map(|key| (key.to_string(), Trouble::not_asked())).collect();
        Ok(Self {
            store: Box::new(store),
            bundles: Bundles::of(database),
            event_logs: EventLogs::of(database),
            moving: Mutex::default(),
            troubles: Mutex::new(not_asked),
            configuration: Configuration::cluster(cluster_json),
            cluster_digest: sha256(cluster_json),
            tls: OnceLock::new(),
            cluster,
            origin,
            limits: Mutex::new(Limits::new(settings.hellos_per_minute, settings.strangers_per_minute)),
            settings,
            open: RwLock::new(None),
            compositions: Compositions::new(),
            counts: Mutex::default(),
            random: SystemRandom::new(),
            clock: Clock::new(0),
            deadlines: Deadlines::default(),
            check: StoreCheck::new(),
            verifiers: Verifiers::new(),
        })
    }

    /// Takes the keys.
    ///
    /// # Errors
    /// They are not of this cluster, rows of the database were not written with them, or the shares of an older database cannot be wrapped again.
    pub fn unseal(&self, keys: Keys) -> Result<()> {
        let open = self.opened(keys)?;
        self.store.authenticate(row_key(&open.keys)?).map_err(|error| match error {
            error @ Error::Unauthenticated { .. } => anyhow!("{error}\nhint: {TRUST_HINT}"),
            error => error.into(),
        })?;
        self.serve_with(open)
    }

    /// Takes the keys, and authenticates the rows of the database as they are: those of an older version have no authentication codes. An operator must know that only this broker has written them. Returns how many rows had no code, or a
    /// wrong one.
    ///
    /// # Errors
    /// As for [`Engine::unseal`].
    pub fn unseal_and_trust(&self, keys: Keys) -> Result<usize> {
        let open = self.opened(keys)?;
        let mut trusted = 0;
        self.store.trust_rows(row_key(&open.keys)?, &mut |transaction, rows| {
            trusted = rows;
            check_keys(transaction)?;
            let what = format!("rows of the database trusted as they were: {trusted}");
            audit::append(transaction, self.administered(String::new(), what), &self.signer(&open)).map(drop)
        })?;
        self.store.authenticate(row_key(&open.keys)?)?;
        self.serve_with(open)?;
        Ok(trusted)
    }

    /// The keys, which are those of the certificate and the cluster.
    fn opened(&self, keys: Keys) -> Result<Open> {
        // It names the recovery keys to which shares are sealed.
        anyhow::ensure!(
            keys.cluster.is_none_or(|expected| expected.0 == self.cluster_digest),
            "cannot use cluster.json: SHA-256 {} is not the one of the sealed box\nhint: restore the file that `key-broker init` wrote, for example from a backup",
            hex::encode(self.cluster_digest)
        );
        let certificate = self
            .cluster
            .certificate(&keys.certificate)
            .map_err(|refusal| anyhow!("the broker's certificate does not fit cluster.json: {}", refusal.found))?;
        let public = ring::signature::KeyPair::public_key(&keys.message);
        anyhow::ensure!(public.as_ref() == certificate.message_key.0, "the broker's certificate is of another key");
        let audit = ring::signature::KeyPair::public_key(&keys.audit);
        anyhow::ensure!(
            certificate.audit_key.is_none_or(|key| audit.as_ref() == key.0),
            "the broker's certificate is of another key of the audit log"
        );
        anyhow::ensure!(
            keys.epochs.contains_key(&certificate.epoch),
            "the key of epoch {} is missing",
            certificate.epoch
        );
        Ok(Open { keys, certificate })
    }

    /// Serves with keys that fit the database.
    fn serve_with(&self, open: Open) -> Result<()> {
        self.store.look(&mut |transaction| {
            check_keys(transaction)?;
            self.clock.at_least(audit::latest_time(transaction)?);
            Ok(())
        })?;
        if self.clock_behind() > 0 {
            eprintln!(
                "key-broker: the host's clock is {} s behind the latest time of the audit log: time goes on from there; correct the clock",
                self.clock_behind()
            );
        }
        self.bind_shares(&open).context("cannot wrap the shares of an older database")?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(open));
        Ok(())
    }

    /// Whether nothing can be released yet.
    pub fn is_sealed(&self) -> bool {
        self.keys().is_none()
    }

    /// The broker's certificate, while it is open.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.keys().map(|open| open.keys.certificate.clone())
    }

    fn keys(&self) -> Option<Arc<Open>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn signer<'a>(&'a self, open: &'a Open) -> Signer<'a> {
        Signer { origin: &self.origin, key: &open.keys.audit, now: self.seconds() }
    }

    fn random<const N: usize>(&self) -> Result<Zeroizing<[u8; N]>, Stop> {
        let mut bytes = Zeroizing::new([0; N]);
        let filled = self.random.fill(&mut bytes[..]);
        filled.map_err(|_| Stop::Unavailable("the kernel gives no random bytes".into()))?;
        Ok(bytes)
    }

    fn now(&self) -> String {
        let seconds = i64::try_from(self.seconds()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
    }

    /// A decision of an operator, for the audit log.
    fn administered(&self, node: String, found: String) -> Leaf {
        let code = Code::from(Own::Administered).name().into();
        Leaf { number: 0, time: self.now(), request: String::new(), node, code, found }
    }

    fn seconds(&self) -> u64 {
        self.clock.seconds()
    }

    /// By how many seconds the host's clock is behind the latest time that the broker knows.
    pub fn clock_behind(&self) -> u64 {
        self.clock.behind()
    }

    fn count(&self, code: Code) {
        self.count_answer(code.name());
    }

    /// Counts an answer: a code, or the name of one that is not a decision.
    fn count_answer(&self, name: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    /// How often each code was given since the start.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
pub(crate) mod tests;
