//! The decisions of the broker: what a node shows is verified in a fixed order, cheap checks first; what follows is decided and written in one transaction with the audit log. No socket is known here; clock and randomness are given.

mod admin;
mod audit;
mod commit;
mod disks;
mod evidence;
mod hello;
mod limits;
mod policy;
mod published;
mod records;
mod shown;
mod standing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use attest::cluster::{BrokerCertificate, Cluster};
use attest::message::{self, Hello, Hold, Refused};
use measurements::canonical::Document;
use measurements::compose::{Composition, Configuration};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::Ed25519KeyPair;
use zeroize::Zeroizing;

use crate::code::{Code, Own, Refusal};
use crate::store::{Sqlite, Store};

pub use admin::AdminCommand;
use audit::{Leaf, Signer};
use limits::Limits;
pub use standing::Figures;

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
    /// How many refusals of strangers are written into the audit log in a minute.
    pub strangers_per_minute: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            challenge: Duration::from_secs(60),
            commit: Duration::from_secs(600),
            hold: Duration::from_secs(5),
            hellos_per_minute: 60,
            strangers_per_minute: 60,
            stale_unlock: Duration::from_secs(14 * 24 * 3600),
            least_rebuilders: 0,
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
    /// The envelope of the broker's certificate.
    pub certificate: Vec<u8>,
}

/// Keys that are open, and what follows from them.
struct Open {
    keys: Keys,
    certificate: BrokerCertificate,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status of HTTP.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Seconds to wait.
    pub retry_after: Option<u32>,
}

/// What a connection has said so far.
pub struct Conversation {
    hello: Hello,
    hello_digest: [u8; 32],
    challenge_digest: [u8; 32],
    exporter: [u8; 32],
    session: [u8; 16],
    /// What the node's TPM must activate, if its attestation key is not known.
    secret: Option<Zeroizing<[u8; 32]>>,
    bank: measurements::Bank,
    until: Instant,
}

type Compositions = BTreeMap<(Vec<u8>, [u8; 32]), Arc<Composition>>;

/// The broker.
pub struct Engine {
    store: Box<dyn Store>,
    cluster: Cluster,
    configuration: Configuration,
    origin: String,
    settings: Settings,
    open: RwLock<Option<Arc<Open>>>,
    compositions: Mutex<Compositions>,
    limits: Mutex<Limits>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    random: SystemRandom,
}

impl Engine {
    /// Opens the database; nothing is released before [`Engine::unseal`].
    ///
    /// # Errors
    /// The cluster's file or the database cannot be used.
    pub fn open(database: &Path, cluster_json: &[u8], settings: Settings) -> Result<Self> {
        let cluster = Cluster::read(cluster_json).map_err(|refusal| anyhow!(refusal.found))?;
        let store = Sqlite::open(database).with_context(|| format!("Failed to open {}", database.display()))?;
        let origin = format!("cairn/{}/audit", hex::encode(&cluster.id.0));
        Ok(Self {
            store: Box::new(store),
            configuration: Configuration::cluster(cluster_json),
            cluster,
            origin,
            limits: Mutex::new(Limits::new(settings.hellos_per_minute, settings.strangers_per_minute)),
            settings,
            open: RwLock::new(None),
            compositions: Mutex::default(),
            counts: Mutex::default(),
            random: SystemRandom::new(),
        })
    }

    /// Takes the keys.
    ///
    /// # Errors
    /// They are not of this cluster.
    pub fn unseal(&self, keys: Keys) -> Result<()> {
        let certificate = self
            .cluster
            .certificate(&keys.certificate)
            .map_err(|refusal| anyhow!("the broker's certificate does not fit cluster.json: {}", refusal.found))?;
        let public = ring::signature::KeyPair::public_key(&keys.message);
        anyhow::ensure!(public.as_ref() == certificate.message_key.0, "the broker's certificate is of another key");
        anyhow::ensure!(
            keys.epochs.contains_key(&certificate.epoch),
            "the key of epoch {} is missing",
            certificate.epoch
        );
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Open { keys, certificate }));
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
        Signer { origin: &self.origin, key: &open.keys.audit }
    }

    fn random<const N: usize>(&self) -> Result<Zeroizing<[u8; N]>, Refusal> {
        let mut bytes = Zeroizing::new([0; N]);
        let filled = self.random.fill(&mut bytes[..]);
        filled.map_err(|_| Refusal::new(Own::State, "the kernel gives no random bytes"))?;
        Ok(bytes)
    }

    fn now() -> String {
        jiff::Timestamp::now().round(jiff::Unit::Second).map(|time| time.to_string()).unwrap_or_default()
    }

    fn seconds() -> u64 {
        jiff::Timestamp::now().as_second().unsigned_abs()
    }

    fn count(&self, code: Code) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(code.name()).or_default() += 1;
    }

    /// How often each code was given since the start.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A refusal: written into the audit log as often as strangers may, and the same to whoever asks.
    fn refuse(&self, node: Option<&str>, refusal: &Refusal) -> Reply {
        self.count(refusal.code);
        let Ok(request) = self.random::<16>() else { return Reply::unavailable() };
        let request = hex::encode(&request[..]);
        let may = node.is_some()
            || self.limits.lock().unwrap_or_else(PoisonError::into_inner).stranger_may_be_written(Instant::now());
        if may && let Some(open) = self.keys() {
            let leaf = Leaf {
                number: 0,
                time: Self::now(),
                request: request.clone(),
                node: node.unwrap_or_default().to_owned(),
                code: refusal.code.name().to_owned(),
                found: refusal.found.clone(),
            };
            let written = self
                .store
                .transact(&mut |transaction| audit::append(transaction, leaf.clone(), &self.signer(&open)).map(drop));
            if let Err(error) = written {
                eprintln!("key-broker: a refusal could not be written into the audit log: {error}");
            }
        }
        let refused = Refused { request, schema: Refused::SCHEMA.into() };
        Reply::document(403, &refused, None)
    }

    fn hold(&self, node: &str, refusal: &Refusal) -> Reply {
        let reply = self.refuse(Some(node), refusal);
        let Ok((refused, _)) = message::read::<Refused>(&reply.body) else { return reply };
        let retry_after = u32::try_from(self.settings.hold.as_secs()).unwrap_or(u32::MAX);
        let hold = Hold { request: refused.request, retry_after, schema: Hold::SCHEMA.into() };
        Reply::document(202, &hold, Some(retry_after))
    }
}

impl Reply {
    /// Nothing can be said now.
    pub fn unavailable() -> Self {
        Self { status: 503, body: b"{\"state\":\"unavailable\"}\n".to_vec(), retry_after: Some(5) }
    }

    /// Nothing can be said before the broker is unsealed.
    pub fn sealed() -> Self {
        Self { status: 503, body: b"{\"state\":\"sealed\"}\n".to_vec(), retry_after: Some(5) }
    }

    fn document<D: Document>(status: u16, document: &D, retry_after: Option<u32>) -> Self {
        match message::write(document) {
            Ok(sent) => Self { status, body: sent.bytes, retry_after },
            Err(_) => Self::unavailable(),
        }
    }
}
