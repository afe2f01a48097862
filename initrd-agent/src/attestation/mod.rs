//! Showing a broker what this machine is, and getting the share of its disk's key (docs/protocol.md). Whatever may pass (network, a broker that is down, sealed or busy, a hold) is waited for, with growing pauses and one
//! line for each change; a refusal is final.
//!
//! What the broker says is believed only under a key that the cluster's root keys have named, and for this conversation alone. The key that the share is sealed to is made here, in memory that is locked, and goes with this boot.

mod backoff;
mod conversation;
mod evidence;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use attest::bytes::Bytes32;
use attest::cluster::{Cluster, Hints};
use attest::hpke::PrivateKey;
use attest::message::{Ack, CommitResult, DiskState, Purpose, Release};
use node_tpm::Keys;
use ring::digest::{Context as Hash, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::code::Code;
use crate::console;
use crate::failure::Failure;
use crate::tpm::Tpm;

use backoff::Backoff;
use conversation::{Answer, Pending};
pub use evidence::Stages;

/// For each read and write.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the running system finds what the broker said.
const FOLDER: &str = "/run/cairn";
/// How often a disk that was unlocked tries to say so before it goes on.
const LENIENT_TRIES: u32 = 4;

/// This machine, as a broker sees it.
pub struct Node<'a> {
    tpm: &'a mut Tpm,
    keys: Keys,
    cluster: &'a Cluster,
    brokers: Vec<SocketAddr>,
    /// SHA-256 of the bundle of the release that this node was given.
    bundle: Option<Bytes32>,
    /// The broker that released a share, at the other end of the connection.
    kept: Option<conversation::Broker>,
    hpke: PrivateKey,
    least_version: u32,
}

/// A release that was checked.
pub struct Released {
    /// The release.
    pub release: Release,
    /// SHA-256 of its payload, which the boot is closed with.
    pub digest: [u8; 32],
    /// What it was asked for.
    pub purpose: Purpose,
    /// The share of the disk's key.
    pub share: Zeroizing<[u8; 32]>,
    session: Vec<u8>,
    bank: measurements::Bank,
}

/// An acknowledgement that was checked, and the certificate of the broker that gave it.
pub struct Acknowledged {
    /// The acknowledgement.
    pub ack: Ack,
    /// The envelope of the certificate.
    pub broker: Vec<u8>,
}

/// What waits: why, and how long at least.
struct Wait {
    why: String,
    seconds: Option<u32>,
}

impl<'a> Node<'a> {
    /// Makes the keys of this boot.
    ///
    /// # Errors
    /// `TPM_FAILED`, `ENTROPY_MISSING`, `BROKER_UNKNOWN`.
    pub fn new(
        tpm: &'a mut Tpm,
        cluster: &'a Cluster,
        hints: Option<&Hints>,
        least_version: u32,
    ) -> Result<Self, Failure> {
        let brokers: Vec<SocketAddr> =
            hints.iter().flat_map(|hints| &hints.brokers).filter_map(|broker| broker.parse().ok()).collect();
        if brokers.is_empty() {
            let what = "the image has a cluster.json and no hints.json that names a broker";
            return Err(Failure::new(Code::BrokerUnknown, what));
        }
        let keys = tpm.keys()?;
        let hpke = PrivateKey::from_seed(&seed(tpm)?);
        let bundle = hints.and_then(|hints| hints.release);
        Ok(Self { tpm, keys, cluster, brokers, bundle, kept: None, hpke, least_version })
    }

    /// SHA-256 of the endorsement key's public area, by which an operator knows this machine.
    pub fn endorsement_key(&self) -> String {
        hex::encode(ring::digest::digest(&SHA256, self.keys.endorsement_key()))
    }

    /// Asks until there is a release. `purposes` are tried in order: the next one after a refusal.
    ///
    /// # Errors
    /// `ATTESTATION_REFUSED`, `BROKER_NOT_GENUINE`, `TPM_FAILED` and what else does not pass.
    pub fn release(&mut self, slot: &str, disk: &DiskState, purposes: &[Purpose]) -> Result<Released, Failure> {
        let mut backoff = Backoff::new();
        let mut purposes = purposes.iter().copied();
        let mut purpose = purposes.next().unwrap_or(Purpose::Unlock);
        let mut pending: Option<Pending> = None;
        loop {
            let answer = match pending.take() {
                Some(asked) => self.resume(asked, &mut pending)?,
                None => self.converse(slot, disk, purpose, &mut pending)?,
            };
            match answer {
                Answer::Released(released) => return Ok(*released),
                Answer::Wait(Wait { why, seconds }) => backoff.wait(&why, seconds),
                Answer::Refused(request) => match purposes.next() {
                    Some(next) => purpose = next,
                    None => {
                        let what = format!(
                            "the broker refused request {request} of this machine, ek sha256:{}",
                            self.endorsement_key()
                        );
                        return Err(Failure::new(Code::AttestationRefused, what));
                    }
                },
            }
        }
    }

    /// Says what became of a release, with a second quote. Without `must`, a broker that does not answer is given up after a few tries.
    ///
    /// # Errors
    /// `COMMIT_REFUSED`, `TPM_FAILED`.
    pub fn commit(
        &mut self,
        released: &Released,
        result: &CommitResult,
        generation: u64,
        stages: &Stages,
        must: bool,
    ) -> Result<Option<Acknowledged>, Failure> {
        let mut backoff = Backoff::new();
        let commit = self.commit_message(released, result, generation, stages)?;
        for attempt in 1.. {
            match self.send_commit(&commit)? {
                Ok((ack, broker)) => {
                    keep(&ack, &broker);
                    return Ok(Some(Acknowledged { ack, broker }));
                }
                Err(Wait { why, .. }) if !must && attempt >= LENIENT_TRIES => {
                    console::line(&format!(
                        "the broker could not be told that the disk is open: {why}; it is told at the next boot"
                    ));
                    return Ok(None);
                }
                Err(Wait { why, seconds }) => backoff.wait(&why, seconds),
            }
        }
        Ok(None)
    }

    /// Takes the keys out of the TPM.
    pub fn close(self) {
        self.tpm.flush(self.keys);
    }

    /// The TPM, for measurements between the messages.
    pub fn tpm(&mut self) -> &mut Tpm {
        self.tpm
    }
}

/// Random bytes of the kernel and of the TPM together: neither alone is relied on.
fn seed(tpm: &mut Tpm) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let mut kernel = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(&mut kernel[..])
        .map_err(|_| Failure::new(Code::EntropyMissing, "the kernel gives no random bytes"))?;
    let mut hash = Hash::new(&SHA256);
    hash.update(&kernel[..]);
    hash.update(&tpm.random()?);
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(hash.finish().as_ref());
    Ok(seed)
}

/// What the broker said, for the running system. A node without these files runs, and cannot show who certified it.
fn keep(ack: &Ack, broker: &[u8]) {
    let write = |name: &str, bytes: &[u8]| fs::write(format!("{FOLDER}/{name}"), bytes);
    let kept = fs::create_dir_all(FOLDER)
        .and_then(|()| {
            ack.certificate
                .as_ref()
                .map_or(Ok(()), |certificate| write("node-certificate.json", certificate.as_bytes()))
        })
        .and_then(|()| write("broker-certificate.json", broker))
        .and_then(|()| write("receipt", ack.receipt.checkpoint.as_bytes()));
    if let Err(error) = kept {
        console::line(&format!("the broker's certificate of this node cannot be kept in {FOLDER}: {error}"));
    }
}
