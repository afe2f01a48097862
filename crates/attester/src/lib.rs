//! The attester's side of KRP/1 (docs/protocol.md): a machine shows a broker of its cluster what it is, gets the share of its disk's key, and reports what became of it.
//!
//! One rule decides what ends a boot: **a decision that a broker of the cluster has signed for this request on this connection**. Everything else is a wait, after which the next address is asked: no answer, a status without a
//! signature, a body that cannot be read, a message that was signed for another conversation. So neither a store that is away nor a thief of a TLS key switches machines off. A message that is signed for this conversation and
//! contradicts `cluster.json` or the request is an error of the cluster's own broker, and ends the boot.
//!
//! The TPM, the logs and the console are behind [`Machine`]; the network is [`connection`].

mod answer;
mod backoff;
mod brokers;
mod checks;
mod conversation;
mod unanswered;
mod wait;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use attest::bytes::{Bytes32, Hex};
use attest::cluster::Cluster;
use attest::hpke::PrivateKey;
use attest::message::{Ack, Commit, CommitResult, DiskState, Purpose, Release};
use measurements::Bank;
use zeroize::Zeroizing;

use backoff::Backoff;
use brokers::Brokers;
use conversation::{Broker, Outcome};
use unanswered::Unanswered;
use wait::Wait;

/// How often a report that may be lost is sent.
const LENIENT_TRIES: u32 = 4;

/// The machine that attests.
pub trait Machine {
    /// Why the machine cannot do its part.
    type Error;

    /// Public area of the endorsement key (TPMT_PUBLIC).
    fn endorsement_key(&self) -> &[u8];
    /// Public area of the attestation key (TPMT_PUBLIC).
    fn attestation_key(&self) -> &[u8];
    /// The active banks.
    fn banks(&self) -> &[Bank];
    /// Quotes PCR 0 to 15 of a bank.
    ///
    /// # Errors
    /// The TPM does not answer.
    fn quote(&mut self, bank: Bank, extra_data: &[u8; 32]) -> Result<Quote, Self::Error>;
    /// Activates a credential; nothing where it was made for another TPM.
    fn activate(&mut self, blob: &[u8], seed: &[u8]) -> Option<Zeroizing<Vec<u8>>>;
    /// 32 random bytes.
    ///
    /// # Errors
    /// There are none.
    fn random(&mut self) -> Result<[u8; 32], Self::Error>;
    /// The firmware's event log.
    ///
    /// # Errors
    /// The log cannot be read.
    fn event_log(&self) -> Result<Vec<u8>, Self::Error>;
    /// systemd's event log.
    ///
    /// # Errors
    /// The log cannot be read.
    fn user_space_log(&self) -> Result<String, Self::Error>;
    /// Prints a line for the operator.
    fn print(&mut self, line: &str);
    /// Sleeps.
    fn sleep(&mut self, pause: Duration);
}

/// A quote over PCR 0 to 15, and their values in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// PCR 0 to 15.
    pub registers: Vec<Vec<u8>>,
}

/// Why the boot ends.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The machine does not do its part.
    #[error("the machine failed")]
    Machine(E),
    /// A broker of the cluster refused this machine.
    #[error("{0}")]
    AttestationRefused(String),
    /// A broker of the cluster refused the report.
    #[error("{0}")]
    CommitRefused(String),
    /// A broker of the cluster signed, for this conversation, what contradicts the request or `cluster.json`.
    #[error("{0}")]
    ReleaseInvalid(String),
    /// The same, of the disk.
    #[error("{0}")]
    GrantInvalid(String),
}

/// What does not change in a boot.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// `cluster.json`.
    pub cluster: &'a Cluster,
    /// SHA-256 of the bundle of the image release that this machine was given.
    pub bundle: Option<Bytes32>,
    /// Lowest version of the protocol that is spoken.
    pub min_version: u32,
    /// For each read and write.
    pub patience: Duration,
}

/// A release that was checked.
pub struct Released {
    /// The release.
    pub release: Release,
    /// SHA-256 of its payload, which the boot is closed with.
    pub digest: [u8; 32],
    /// What it was requested for.
    pub purpose: Purpose,
    /// The share of the disk's key.
    pub share: Zeroizing<[u8; 32]>,
    session: Vec<u8>,
    bank: Bank,
}

/// An acknowledgement that was checked.
pub struct Acknowledged {
    /// The acknowledgement.
    pub ack: Ack,
    /// Certificate of the broker that signed it: an envelope.
    pub broker: Vec<u8>,
}

/// A broker that has shown its certificate in this boot.
pub(crate) struct KnownBroker {
    message_key: Bytes32,
    /// Envelope of its certificate.
    certificate: Vec<u8>,
}

/// A machine in conversation with the brokers of its cluster.
pub struct Attester<'a, M> {
    machine: M,
    settings: Settings<'a>,
    brokers: Brokers,
    /// Brokers that have shown their certificate: one may send what another has signed.
    known: Vec<KnownBroker>,
    /// Keys of their audit logs, with which receipts are verified; `None` for a certificate without one.
    audit_keys: Vec<Option<Bytes32>>,
    /// The broker that released a share, at the other end of the connection.
    kept: Option<Broker>,
    hpke: PrivateKey,
}

impl<'a, M: Machine> Attester<'a, M> {
    /// `hpke` is the key of this boot; `addresses` are those of the brokers, at least one.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub fn new(
        mut machine: M,
        settings: Settings<'a>,
        addresses: &[SocketAddr],
        hpke: PrivateKey,
    ) -> Result<Self, Error<M::Error>> {
        let start = machine.random().map_err(Error::Machine)?[0];
        let brokers = Brokers::starting_at(addresses, usize::from(start));
        Ok(Self { machine, settings, brokers, known: Vec::new(), audit_keys: Vec::new(), kept: None, hpke })
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The machine, back.
    pub fn into_machine(self) -> M {
        self.machine
    }

    /// Asks until there is a decision. `purposes` are tried in order: the next one after a refusal.
    ///
    /// A refusal is final only if no session without a decision has a stored release: evidence that reached a broker late may have latched the boot, and its release is what the boot gets.
    ///
    /// # Errors
    /// All of [`Error`] but [`Error::CommitRefused`].
    pub fn release(&mut self, slot: &str, disk: &DiskState, purposes: &[Purpose]) -> Result<Released, Error<M::Error>> {
        let mut backoff = Backoff::default();
        let mut purposes = purposes.iter().copied();
        let mut purpose = purposes.next().unwrap_or(Purpose::Unlock);
        let mut unanswered = Unanswered::default();
        let mut refusal: Option<String> = None;
        loop {
            let now = Instant::now();
            let outcome = if let Some(asked) = unanswered.next() {
                self.resume(asked)?
            } else if let Some(request) = refusal.take() {
                purpose = purposes.next().ok_or_else(|| self.attestation_refused(&request))?;
                continue;
            } else {
                self.converse(slot, disk, purpose, &mut unanswered)?
            };
            match outcome {
                Outcome::Released(released) => return Ok(*released),
                Outcome::NothingStored => unanswered.skip(now),
                Outcome::Wait(wait) => self.wait(&mut backoff, &wait),
                Outcome::Refused(request) => {
                    refusal = Some(request);
                    unanswered.resume_all();
                }
            }
        }
    }

    fn attestation_refused(&self, request: &str) -> Error<M::Error> {
        let ek = self.endorsement_key_digest();
        Error::AttestationRefused(format!("the broker refused request {request} of this machine, ek sha256:{ek}"))
    }

    /// Report of what became of a release, with a second quote.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub fn report(
        &mut self,
        released: &Released,
        result: &CommitResult,
        generation: u64,
        stages: &std::collections::BTreeMap<String, u32>,
    ) -> Result<Commit, Error<M::Error>> {
        self.commit_message(released, result, generation, stages)
    }

    /// Sends a report until it is acknowledged.
    ///
    /// # Errors
    /// [`Error::CommitRefused`], [`Error::ReleaseInvalid`].
    pub fn must_commit(&mut self, released: &Released, commit: &Commit) -> Result<Acknowledged, Error<M::Error>> {
        let mut backoff = Backoff::default();
        loop {
            match self.send_commit(released, commit)? {
                Ok(acknowledged) => return Ok(acknowledged),
                Err(wait) => self.wait(&mut backoff, &wait),
            }
        }
    }

    /// Sends a report a few times; nothing where no broker acknowledged it.
    ///
    /// # Errors
    /// [`Error::CommitRefused`], [`Error::ReleaseInvalid`].
    pub fn try_commit(
        &mut self,
        released: &Released,
        commit: &Commit,
    ) -> Result<Option<Acknowledged>, Error<M::Error>> {
        let mut backoff = Backoff::default();
        for attempt in 1..=LENIENT_TRIES {
            match self.send_commit(released, commit)? {
                Ok(acknowledged) => return Ok(Some(acknowledged)),
                Err(wait) if attempt == LENIENT_TRIES => {
                    self.machine.print(&format!("report not acknowledged, gave up after {attempt} attempts: {wait}"));
                }
                Err(wait) => self.wait(&mut backoff, &wait),
            }
        }
        Ok(None)
    }

    /// SHA-256 of the endorsement key's public area, in hexadecimal: by it an operator knows this machine.
    pub fn endorsement_key_digest(&self) -> String {
        hex::encode(ring::digest::digest(&ring::digest::SHA256, self.machine.endorsement_key()))
    }

    /// Waits; afterwards the next address is asked.
    fn wait(&mut self, backoff: &mut Backoff, wait: &Wait) {
        self.brokers.rotate();
        if let Some(line) = backoff.line(wait) {
            self.machine.print(&line);
        }
        let pause = backoff.pause(wait, backoff::fraction());
        self.machine.sleep(pause);
    }
}

/// Bytes in hexadecimal.
fn all_hex(registers: Vec<Vec<u8>>) -> Vec<Hex> {
    registers.into_iter().map(Hex).collect()
}
