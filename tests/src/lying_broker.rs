//! A broker that the cluster's root key has named and that lies: it speaks TLS and the protocol as a broker does, and answers with what no broker may say. For nodes in virtual machines, which must end their boot.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use attest::binding::{EXPORTER, Transcript};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::{BrokerCertificate, CERTIFICATE_TYPE, Cluster};
use attest::hpke::{self, Context as Sealing};
use attest::message::{self, Challenge, DiskGrant, Hello, Receipt, Release};
use envelope::Envelope;
use measurements::canonical::{self, Document};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use zeroize::Zeroizing;

use crate::attester::{SLOT, random};
use crate::broker::Broker;

/// What it lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The challenge answers another hello.
    AnotherHello,
    /// The release is signed by another key.
    AnotherSigner,
    /// The release is that of an earlier conversation.
    Earlier,
    /// A bit of the sealed share is flipped.
    FlippedBit,
    /// The release is for another slot.
    AnotherSlot,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AnotherHello, Self::AnotherSigner, Self::Earlier, Self::FlippedBit, Self::AnotherSlot];
}

/// A liar on a port of loopback; it ends when dropped.
pub struct LyingBroker {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Drop for LyingBroker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// What a conversation needs.
struct Liar {
    lie: Lie,
    key: Ed25519KeyPair,
    certificate: Vec<u8>,
    config: Arc<ServerConfig>,
}

fn new_key() -> Result<Ed25519KeyPair> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| anyhow!("no random bytes"))?;
    Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|error| anyhow!("{error}"))
}

fn sha256(bytes: &[u8]) -> Result<[u8; 32]> {
    measurements::Bank::Sha256.digest(bytes).try_into().map_err(|_| anyhow!("a digest of another length"))
}

impl LyingBroker {
    /// One of the cluster of `broker`, whose root key is in its folder.
    pub fn start(broker: &Broker, lie: Lie) -> Result<Self> {
        let root = std::fs::read_to_string(broker.file("offline/root.key")).context("Failed to read the root key")?;
        let root = Ed25519KeyPair::from_pkcs8(&hex::decode(root.trim())?).map_err(|error| anyhow!("{error}"))?;
        let cluster = broker.cluster_document()?;
        let made = rcgen::generate_simple_self_signed(vec!["a liar".into()])?;
        let tls_key = sha256(&rcgen::PublicKeyData::subject_public_key_info(&made.signing_key))?;
        let key = new_key()?;
        let certificate = certificate(&cluster, &root, &key, tls_key)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], private)?;
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
        let (port, ended) = (listener.local_addr()?.port(), Arc::new(AtomicBool::new(false)));
        let liar = Liar { lie, key, certificate, config: Arc::new(config) };
        let until = ended.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if until.load(Ordering::SeqCst) {
                    return;
                }
                // The node has what it needs, or has gone.
                let _ = liar.converse(socket);
            }
        });
        Ok(Self { port, ended })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn certificate(cluster: &Cluster, root: &Ed25519KeyPair, key: &Ed25519KeyPair, tls_key: [u8; 32]) -> Result<Vec<u8>> {
    let certificate = BrokerCertificate {
        cluster: cluster.id.clone(),
        epoch: cluster.epoch,
        message_key: Bytes32(key.public_key().as_ref().try_into()?),
        schema: BrokerCertificate::SCHEMA.into(),
        tls_key: Bytes32(tls_key),
    };
    let envelope = Envelope::sign(CERTIFICATE_TYPE, &canonical::write(&certificate)?, "root", root);
    Ok(serde_json::to_vec(&envelope)?)
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

impl Liar {
    fn converse(&self, socket: TcpStream) -> Result<()> {
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut stream = StreamOwned::new(ServerConnection::new(self.config.clone())?, socket);
        let (mut hello, mut asked) = (None, None);
        loop {
            let (path, body) = request(&mut stream)?;
            let answer = match path.as_str() {
                "/krp/1/broker" => self.certificate.clone(),
                "/krp/1/hello" => {
                    let (said, digest): (Hello, _) = message::read(&body)?;
                    let (sent, challenge) = self.challenge(digest)?;
                    let exporter = stream.conn.export_keying_material([0; 32], EXPORTER, None)?;
                    asked = Some(Transcript::new(&digest, &challenge, &exporter));
                    hello = Some(said);
                    sent
                }
                _ => {
                    let (hello, asked) = hello.as_ref().zip(asked).context("no hello was said")?;
                    self.release(hello, asked)?
                }
            };
            let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n\r\n", answer.len());
            stream.write_all(&[head.as_bytes(), &answer].concat())?;
            stream.flush()?;
        }
    }

    /// The envelope, and the digest of what is in it.
    fn challenge(&self, hello: [u8; 32]) -> Result<(Vec<u8>, [u8; 32])> {
        let hello = if self.lie == Lie::AnotherHello { [7; 32] } else { hello };
        let challenge = Challenge {
            bank: measurements::Bank::Sha384,
            credential: None,
            epoch: 1,
            hello: Bytes32(hello),
            nonce: Bytes32(random()?),
            schema: Challenge::SCHEMA.into(),
            session: Hex(vec![1; 16]),
            ttl: 60,
            version: 1,
        };
        let sent = message::sign(&challenge, "broker", &self.key)?;
        Ok((sent.bytes, sent.digest))
    }

    fn release(&self, hello: &Hello, asked: Transcript) -> Result<Vec<u8>> {
        let transcript = if self.lie == Lie::Earlier { [9; 32] } else { *asked.as_bytes() };
        let share = hpke::seal(&[3; 32], &hello.hpke_key.0, Sealing::Release(&transcript), &Zeroizing::new(random()?))?;
        let mut release = Release {
            assurance: "development".into(),
            commit_within: 600,
            disk: DiskGrant {
                generation: 0,
                headers: vec![],
                id: "0b5f6c6e-0a00-4000-8000-00000000000f".into(),
                overwrite: true,
                recovery: None,
                slot: SLOT.into(),
            },
            receipt: Receipt { checkpoint: String::new(), root: Bytes32([0; 32]), size: 0 },
            request: "0".repeat(32),
            schema: Release::SCHEMA.into(),
            share,
            transcript: Bytes32(transcript),
        };
        match self.lie {
            Lie::FlippedBit => release.share.ciphertext.0[0] ^= 1,
            Lie::AnotherSlot => release.disk.slot = "other".into(),
            _ => {}
        }
        let other = new_key()?;
        let key = if self.lie == Lie::AnotherSigner { &other } else { &self.key };
        Ok(message::sign(&release, "broker", key)?.bytes)
    }
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
