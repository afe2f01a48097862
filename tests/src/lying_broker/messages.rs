//! The liar's messages: those of a broker, with the lie of the connection in them.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use attest::binding::{Transcript, answered};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::{BrokerCertificate, CERTIFICATE_TYPE, Cluster};
use attest::hpke::{self, Context as Sealing};
use attest::message::{
    self, Ack, Challenge, Commit, CommitResult, DiskGrant, Evidence, Hello, Hold, Purpose, Receipt, Refused, Release,
    Resume,
};
use attest::recovery::{DiskStatement, Recovery};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envelope::Envelope;
use measurements::canonical::{self, Document};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::{Identity, Lie, Log, Stored, new_key};
use crate::attester::{SLOT, random};

const DISK: &str = "0b5f6c6e-0a00-4000-8000-00000000000f";

/// A broker's keys, and what it lies about now.
pub(super) struct Liar {
    cluster: Cluster,
    key: Ed25519KeyPair,
    other: Ed25519KeyPair,
    /// Signs the heads of its audit log.
    audit: Ed25519KeyPair,
    certificates: Certificates,
    lie: Option<Lie>,
    hello: Option<(Hello, [u8; 32])>,
    challenge: [u8; 32],
    /// Sessions and releases of evidence that has not reached the broker yet, oldest first.
    held_back: VecDeque<(Vec<u8>, Vec<u8>)>,
    stored: Stored,
    /// Acknowledgements by the digests of their commits.
    acknowledged: Stored,
    log: Log,
}

struct Certificates {
    honest: Vec<u8>,
    copied: Vec<u8>,
    foreign: Vec<u8>,
    lower: Vec<u8>,
}

type Answer = (u16, Vec<u8>);

impl Liar {
    pub(super) fn new(identity: &Identity, tls_key: [u8; 32]) -> Result<Self> {
        let Identity { cluster, root, stored, acknowledged, log } = identity;
        let (key, other, audit) = (new_key()?, new_key()?, new_key()?);
        let certificate = |root: &Ed25519KeyPair, tls_key: [u8; 32], epoch: u64| -> Result<Vec<u8>> {
            let certificate = BrokerCertificate {
                audit_key: Some(Bytes32(audit.public_key().as_ref().try_into()?)),
                cluster: cluster.id.clone(),
                epoch,
                message_key: Bytes32(key.public_key().as_ref().try_into()?),
                schema: BrokerCertificate::SCHEMA.into(),
                tls_key: Bytes32(tls_key),
            };
            let envelope = Envelope::sign(CERTIFICATE_TYPE, &canonical::write(&certificate)?, "root", root);
            Ok(serde_json::to_vec(&envelope)?)
        };
        let epoch = cluster.epoch;
        let certificates = Certificates {
            honest: certificate(root, tls_key, epoch)?,
            copied: certificate(root, [6; 32], epoch)?,
            foreign: certificate(&other, tls_key, epoch)?,
            lower: certificate(root, tls_key, epoch.saturating_sub(1))?,
        };
        let (cluster, stored, log) = (cluster.clone(), stored.clone(), log.clone());
        let acknowledged = acknowledged.clone();
        let (held_back, challenge) = (VecDeque::new(), [0; 32]);
        Ok(Self {
            cluster,
            key,
            other,
            audit,
            certificates,
            lie: None,
            hello: None,
            challenge,
            held_back,
            stored,
            acknowledged,
            log,
        })
    }

    /// A new connection.
    pub(super) fn begin(&mut self, lie: Option<Lie>) {
        self.lie = lie;
        self.hello = None;
    }

    pub(super) fn answer(&mut self, path: &str, body: &[u8], exporter: &[u8; 32]) -> Result<Answer> {
        if let ("/krp/1/broker", Some(Lie::NoCertificate(status))) = (path, self.lie) {
            return Ok((status, vec![]));
        }
        match path {
            "/krp/1/broker" => Ok((200, self.certificate())),
            "/krp/1/hello" => self.challenge(body),
            "/krp/1/evidence" => self.evidence(body, exporter),
            "/krp/1/resume" => self.resume(body, exporter),
            "/krp/1/commit" => self.commit(body, exporter),
            _ => bail!("{path} was requested"),
        }
    }

    fn certificate(&self) -> Vec<u8> {
        let Certificates { honest, copied, foreign, lower } = &self.certificates;
        match self.lie {
            Some(Lie::CopiedCertificate) => copied.clone(),
            Some(Lie::ForeignRoot) => foreign.clone(),
            Some(Lie::LowerEpoch) => lower.clone(),
            Some(Lie::LongCertificate) => [&honest[..], &[b' '; 64 << 10]].concat(),
            _ => honest.clone(),
        }
    }

    fn challenge(&mut self, body: &[u8]) -> Result<Answer> {
        let (said, digest): (Hello, _) = message::read(body)?;
        if self.lie == Some(Lie::UnsignedRefusalOfHello) {
            return Ok((403, unsigned(&refused(body, &[0; 32]))?));
        }
        let mut challenge = Challenge {
            bank: measurements::Bank::Sha384,
            credential: None,
            epoch: self.cluster.epoch,
            hello: Bytes32(digest),
            nonce: Bytes32(random()?),
            schema: Challenge::SCHEMA.into(),
            session: Hex(random()?[..16].to_vec()),
            ttl: 60,
            version: 1,
        };
        match self.lie {
            Some(Lie::AnotherHello) => challenge.hello = Bytes32([7; 32]),
            Some(Lie::AnotherEpoch) => challenge.epoch += 1,
            Some(Lie::WeakBank) => challenge.bank = measurements::Bank::Sha1,
            _ => {}
        }
        let sent = message::sign(&challenge, "broker", &self.key)?;
        self.challenge = sent.digest;
        self.hello = Some((said, digest));
        Ok((200, sent.bytes))
    }

    /// The lies that are told instead of a release, or of its repetition.
    fn no_release(&self, body: &[u8], exporter: &[u8; 32]) -> Result<Option<Answer>> {
        let refusal = |body: &[u8], exporter: &[u8; 32], key| -> Result<Option<Answer>> {
            Ok(Some((403, message::sign(&refused(body, exporter), "broker", key)?.bytes)))
        };
        match self.lie {
            Some(Lie::UnsignedRefusal) => Ok(Some((403, unsigned(&refused(body, exporter))?))),
            Some(Lie::UnsignedHold) => Ok(Some((202, unsigned(&hold(body, exporter))?))),
            Some(Lie::Hold) => Ok(Some((202, message::sign(&hold(body, exporter), "broker", &self.key)?.bytes))),
            Some(Lie::HoldOfAnotherRequest) => {
                Ok(Some((202, message::sign(&hold(b"another", exporter), "broker", &self.key)?.bytes)))
            }
            Some(Lie::Refusal | Lie::Latched) => refusal(body, exporter, &self.key),
            Some(Lie::RefusalOfAnotherSigner) => refusal(body, exporter, &self.other),
            Some(Lie::RefusalOfAnotherRequest) => refusal(b"another", exporter, &self.key),
            Some(Lie::RefusalOfAnotherConnection) => refusal(body, &[1; 32], &self.key),
            Some(Lie::Status(status)) => Ok(Some((status, vec![]))),
            Some(Lie::Closed | Lie::HeldBack) => bail!("closes"),
            _ => Ok(None),
        }
    }

    fn evidence(&mut self, body: &[u8], exporter: &[u8; 32]) -> Result<Answer> {
        let (evidence, _): (Evidence, _) = message::read(body)?;
        // It is stored as a broker does it, before the lie is told: of a release that was lost.
        let release = self.release(exporter)?;
        if matches!(self.lie, None | Some(Lie::Status(408 | 503) | Lie::Closed)) {
            let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
            stored.insert(evidence.session.0, release.clone());
        } else if self.lie == Some(Lie::HeldBack) {
            self.held_back.push_back((evidence.session.0, release.clone()));
        } else if self.lie == Some(Lie::Latched) {
            self.stored.lock().unwrap_or_else(PoisonError::into_inner).extend(self.held_back.pop_front());
        }
        Ok(self.no_release(body, exporter)?.unwrap_or((200, release)))
    }

    fn resume(&self, body: &[u8], exporter: &[u8; 32]) -> Result<Answer> {
        let (resume, _): (Resume, _) = message::read(body)?;
        if let Some(answer) = self.no_release(body, exporter)? {
            return Ok(answer);
        }
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        match stored.get(&resume.session.0) {
            Some(release) => Ok((200, release.clone())),
            None => Ok((403, message::sign(&refused(body, exporter), "broker", &self.key)?.bytes)),
        }
    }

    fn release(&mut self, exporter: &[u8; 32]) -> Result<Vec<u8>> {
        let (hello, digest) = self.hello.as_ref().context("no hello was said")?;
        let asked = Transcript::new(digest, &self.challenge, exporter);
        let transcript = if self.lie == Some(Lie::Earlier) { [9; 32] } else { *asked.as_bytes() };
        let share = hpke::seal(&[3; 32], &hello.hpke_key.0, Sealing::Release(&transcript), &Zeroizing::new(random()?))?;
        let recovery = match hello.purpose {
            Purpose::Provision => Some(self.recovery()?),
            Purpose::Unlock => None,
        };
        let mut release = Release {
            assurance: self.cluster.assurance.name().into(),
            commit_within: 600,
            disk: DiskGrant {
                generation: 0,
                headers: vec![],
                id: DISK.into(),
                overwrite: true,
                recovery,
                slot: SLOT.into(),
            },
            receipt: self.receipt(self.append()),
            request: "0".repeat(32),
            schema: Release::SCHEMA.into(),
            share,
            transcript: Bytes32(transcript),
        };
        match self.lie {
            Some(Lie::FlippedBit) => release.share.ciphertext.0[0] ^= 1,
            Some(Lie::AnotherSlot) => release.disk.slot = "other".into(),
            Some(Lie::LowerAssurance) => release.assurance = "simulated".into(),
            Some(Lie::ForeignReceipt) => {
                release.receipt.checkpoint = release.receipt.checkpoint.replace("/audit", "/other");
            }
            _ => {}
        }
        let key = if self.lie == Some(Lie::AnotherSigner) { &self.other } else { &self.key };
        if self.lie == Some(Lie::GenerationTooLarge) {
            let text = String::from_utf8(message::write(&release)?.bytes)?;
            let text = text.replace("\"generation\":0", &format!("\"generation\":{}", u64::MAX));
            let envelope = Envelope::sign(&message::payload_type::<Release>(), text.as_bytes(), "broker", key);
            return Ok(serde_json::to_vec(&envelope)?);
        }
        Ok(message::sign(&release, "broker", key)?.bytes)
    }

    fn recovery(&self) -> Result<Recovery> {
        let mut keys = self.cluster.recovery.keys.clone();
        if self.lie == Some(Lie::ForeignRecoveryKey) {
            keys = vec![Bytes32([0x2a; 32])];
        }
        let seed = random()?;
        Ok(Recovery::seal(DISK, &[3; 32], &keys, || Zeroizing::new(seed))?)
    }

    /// The size of the log with one more entry.
    fn append(&self) -> u64 {
        self.log.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn receipt(&self, size: u64) -> Receipt {
        let origin = format!("cairn/{}/audit", hex::encode(&self.cluster.id.0));
        let root = Bytes32([8; 32]);
        let head = format!("{origin}\n{size}\n{}\n", STANDARD.encode(root.0));
        let key = if self.lie == Some(Lie::ForgedReceipt) { &self.other } else { &self.audit };
        // An id of four bytes, which the node does not read, and the signature (C2SP signed-note).
        let signature = STANDARD.encode([&[0; 4], key.sign(head.as_bytes()).as_ref()].concat());
        Receipt { checkpoint: format!("{head}\n\u{2014} {origin} {signature}\n"), root, size }
    }

    fn commit(&mut self, body: &[u8], exporter: &[u8; 32]) -> Result<Answer> {
        let (commit, digest): (Commit, _) = message::read(body)?;
        match self.lie {
            Some(Lie::UnsignedRefusalOfCommit) => return Ok((403, unsigned(&refused(body, exporter))?)),
            Some(Lie::RefusalOfCommit) => {
                return Ok((403, message::sign(&refused(body, exporter), "broker", &self.key)?.bytes));
            }
            _ => {}
        }
        let acknowledged = self.acknowledged.clone();
        let mut acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ack) = acknowledged.get(&digest[..]) {
            return Ok((200, ack.clone()));
        }
        let size = if self.lie == Some(Lie::ShrunkLog) { 1 } else { self.append() };
        let ack = Ack {
            certificate: None,
            disk: Some(self.statement(&commit)?),
            commit: Bytes32(if self.lie == Some(Lie::AnotherCommit) { [5; 32] } else { digest }),
            generation: commit.generation,
            receipt: self.receipt(size),
            schema: Ack::SCHEMA.into(),
        };
        let ack = message::sign(&ack, "broker", &self.key)?.bytes;
        if self.lie == Some(Lie::ClosedAfterCommit) {
            acknowledged.insert(digest.to_vec(), ack);
            bail!("closes");
        }
        Ok((200, ack))
    }

    /// The statement about the disk of a commit.
    fn statement(&self, commit: &Commit) -> Result<String> {
        let header = match &commit.result {
            CommitResult::Formatted { header, .. } | CommitResult::Opened { header, .. } => *header,
            CommitResult::Failed { .. } => Bytes32([0; 32]),
        };
        let statement = DiskStatement {
            cluster: hex::encode(&self.cluster.id.0),
            disk: DISK.into(),
            generation: commit.generation,
            header,
            node: "one".into(),
            schema: DiskStatement::SCHEMA.into(),
            slot: SLOT.into(),
        };
        Ok(String::from_utf8(message::sign(&statement, "broker", &self.key)?.bytes)?)
    }
}

fn refused(body: &[u8], exporter: &[u8; 32]) -> Refused {
    Refused { answers: Bytes32(answered(body, exporter)), request: "0".repeat(32), schema: Refused::SCHEMA.into() }
}

fn hold(body: &[u8], exporter: &[u8; 32]) -> Hold {
    let answers = Bytes32(answered(body, exporter));
    Hold { answers, request: "0".repeat(32), retry_after: 5, schema: Hold::SCHEMA.into() }
}

fn unsigned<D: Document>(decision: &D) -> Result<Vec<u8>> {
    Ok(message::write(decision)?.bytes)
}
