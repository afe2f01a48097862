//! A broker that the cluster's root key has named and that lies: it speaks TLS and the protocol as a broker does, and answers with what no broker may say. Each connection gets the next lie of a script; after the last one it is
//! honest, or forwards to a broker that is.

mod lie;
mod messages;

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use attest::binding::EXPORTER;
use attest::bytes::{Bytes32, Hex};
use attest::cluster::{Assurance, Cluster, Device, Keys, Slot};
use measurements::canonical::Document;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::attester::SLOT;
use crate::broker::Broker;

pub use lie::Lie;
use messages::Liar;

/// A cluster with its root key: what makes a broker one of it.
pub struct Identity {
    /// Its document.
    pub cluster: Cluster,
    root: Ed25519KeyPair,
    stored: Stored,
    acknowledged: Stored,
    log: Log,
}

/// Releases by their sessions, or acknowledgements by their commits, which all brokers of a cluster have.
type Stored = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>;
/// Entries of the audit log, which all brokers of a cluster have.
type Log = Arc<AtomicU64>;

impl Identity {
    /// That of a broker, whose root key is in its folder.
    pub fn of(broker: &Broker) -> Result<Self> {
        let root = std::fs::read_to_string(broker.file("offline/root.key")).context("Failed to read the root key")?;
        let root = Ed25519KeyPair::from_pkcs8(&hex::decode(root.trim())?).map_err(|error| anyhow!("{error}"))?;
        Ok(Self::new_of(broker.cluster_document()?, root))
    }

    /// A new one, of epoch 2, that requires a TPM.
    pub fn new() -> Result<Self> {
        let root = new_key()?;
        let key = Bytes32(root.public_key().as_ref().try_into()?);
        let cluster = Cluster {
            assurance: Assurance::TpmVirtual,
            broker: Keys { keys: vec![key], threshold: 1 },
            epoch: 2,
            id: Hex(vec![7; 16]),
            recovery: Keys { keys: vec![Bytes32([9; 32])], threshold: 1 },
            schema: Cluster::SCHEMA.into(),
            slots: vec![Slot { device: Device::OnlyOther, layout: None, mount: "/var".into(), name: SLOT.into() }],
        };
        Ok(Self::new_of(cluster, root))
    }

    fn new_of(cluster: Cluster, root: Ed25519KeyPair) -> Self {
        Self { cluster, root, stored: Stored::default(), acknowledged: Stored::default(), log: Log::default() }
    }
}

/// What follows after the last lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The truth.
    Honest,
    /// The truth of the broker at this port of loopback.
    Forward(u16),
}

/// A liar on a port of loopback; it ends when dropped.
pub struct LyingBroker {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Drop for LyingBroker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
    }
}

fn new_key() -> Result<Ed25519KeyPair> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| anyhow!("no random bytes"))?;
    Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|error| anyhow!("{error}"))
}

fn sha256(bytes: &[u8]) -> Result<[u8; 32]> {
    measurements::Bank::Sha256.digest(bytes).try_into().map_err(|_| anyhow!("a digest of another length"))
}

impl LyingBroker {
    /// One of this cluster, with a lie for each connection.
    pub fn start(identity: &Identity, script: &[Lie], then: Then) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["a liar".into()])?;
        let tls_key = sha256(&rcgen::PublicKeyData::subject_public_key_info(&made.signing_key))?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], private)?;
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
        let (address, ended) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let mut liar = Liar::new(identity, tls_key)?;
        let (config, requests) = (Arc::new(config), Arc::new(Mutex::new(Vec::new())));
        let (until, log) = (ended.clone(), requests.clone());
        let mut script: VecDeque<Lie> = script.iter().copied().collect();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if until.load(Ordering::SeqCst) {
                    return;
                }
                // The node has what it needs, or has gone.
                let _ = match (script.pop_front(), then) {
                    (None, Then::Forward(port)) => forward(socket, port),
                    (lie, _) => converse(&mut liar, lie, &config, socket, &log),
                };
            }
        });
        Ok(Self { address, ended, requests })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Paths that were requested of it, but not that of the certificate.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn converse(
    liar: &mut Liar,
    lie: Option<Lie>,
    config: &Arc<ServerConfig>,
    socket: TcpStream,
    requests: &Mutex<Vec<String>>,
) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut stream = StreamOwned::new(ServerConnection::new(config.clone())?, socket);
    liar.begin(lie);
    loop {
        let (path, body) = request(&mut stream)?;
        let exporter = stream.conn.export_keying_material([0; 32], EXPORTER, None)?;
        if path != "/krp/1/broker" {
            requests.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        }
        let (status, answer) = liar.answer(&path, &body, &exporter)?;
        let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\n\r\n", answer.len());
        stream.write_all(&[head.as_bytes(), &answer].concat())?;
        stream.flush()?;
    }
}

/// Forwards a connection until both sides have closed it; the next one is accepted meanwhile.
fn forward(socket: TcpStream, port: u16) -> Result<()> {
    let broker = TcpStream::connect(("127.0.0.1", port))?;
    for (mut from, mut to) in [(socket.try_clone()?, broker.try_clone()?), (broker, socket)] {
        std::thread::spawn(move || {
            // Whichever side ends, the other one sees it.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
    Ok(())
}

/// A request's path and body.
fn request(stream: &mut Stream) -> Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let path = head.split(' ').nth(1).context("no path")?.to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).context("no length")?;
    let mut body = vec![0; length.trim().parse()?];
    stream.read_exact(&mut body)?;
    Ok((path, body))
}
