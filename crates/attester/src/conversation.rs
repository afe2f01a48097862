//! One conversation with a broker, and its end: hello and challenge, evidence and release; resumption of a release whose answer was lost; commit and acknowledgement.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use attest::binding::{Binding, Commitment, Transcript, activation};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::BrokerCertificate;
use attest::hpke::Context;
use attest::message::{
    self, Ack, Challenge, Commit, CommitResult, DiskState, Evidence, Hello, Purpose, Release, Resume, Sent, VERSION,
};
use connection::{Connection, Response};
use measurements::Bank;
use measurements::canonical::Document;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::answer::{Answer, Asked};
use crate::unanswered::Unanswered;
use crate::wait::{Kind, Wait};
use crate::{Acknowledged, Attester, Error, KnownBroker, Machine, Released, all_hex, checks};

/// Longest answer: an envelope of a message of 16 KiB, in base64.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// More brokers than a cluster has.
const MAX_KNOWN_KEYS: usize = 16;

/// How a request ended.
pub(crate) enum Outcome {
    Released(Box<Released>),
    Wait(Wait),
    Refused(String),
    /// The session has no stored reply at this time.
    NothingStored,
}

/// A session whose evidence was sent and not answered by a decision. With the HPKE key of the boot it is enough to open the session's release.
pub(crate) struct Pending {
    slot: String,
    purpose: Purpose,
    transcript: Transcript,
    session: Vec<u8>,
    bank: Bank,
}

/// A broker that the cluster's root keys have named, at the other end of a connection.
pub(crate) struct Broker {
    address: SocketAddr,
    connection: Connection,
    certificate: BrokerCertificate,
    envelope: Vec<u8>,
}

impl Broker {
    fn post<M: Document>(&mut self, path: &str, sent: &Sent, known: &[KnownBroker]) -> Answer<M> {
        let response = match self.connection.post(path, &sent.bytes) {
            Ok(response) => response,
            Err(error) => return Answer::Wait(Wait::new(Kind::Unreachable, self.address, error.to_string())),
        };
        let exporter = self.connection.exporter();
        let (address, key) = (self.address, self.certificate.message_key);
        Asked { address, request: &sent.bytes, exporter, key, known }.read(&response)
    }
}

fn write<D: Document, E>(message: &D) -> Result<Sent, Error<E>> {
    message::write(message).map_err(|refusal| Error::ReleaseInvalid(refusal.to_string()))
}

impl<M: Machine> Attester<'_, M> {
    /// Says hello, answers the challenge with evidence. A session whose evidence got no decision is added to `unanswered`.
    pub(crate) fn converse(
        &mut self,
        slot: &str,
        disk: &DiskState,
        purpose: Purpose,
        unanswered: &mut Unanswered<Pending>,
    ) -> Result<Outcome, Error<M::Error>> {
        let mut broker = match self.connect() {
            Ok(broker) => broker,
            Err(wait) => return Ok(Outcome::Wait(wait)),
        };
        let hello = self.hello(slot, disk, purpose)?;
        let (challenge, challenge_digest) = match broker.post::<Challenge>("/krp/1/hello", &hello, &[]) {
            Answer::Message(challenge, digest, _) if challenge.hello.0 == hello.digest => (challenge, digest),
            other => return Ok(self.outcome(other, broker.address, "a challenge for another hello")),
        };
        let received = Instant::now();
        let versions = self.settings.min_version..=VERSION;
        let ek = self.endorsement_key_digest();
        checks::challenge(&challenge, &broker.certificate, versions, (self.machine.banks(), &ek))?;
        let transcript = Transcript::new(&hello.digest, &challenge_digest, broker.connection.exporter());
        let evidence = self.evidence(&challenge, &transcript, disk, purpose)?;
        let asked = Pending {
            slot: slot.to_owned(),
            purpose,
            transcript,
            session: challenge.session.0.clone(),
            bank: challenge.bank,
        };
        let answer = broker.post("/krp/1/evidence", &evidence, &[]);
        let outcome = self.released(answer, broker.address, &asked)?;
        match &outcome {
            Outcome::Released(_) => self.kept = Some(broker),
            // A hold is a decision. Everything else may have hidden a release: it is asked for before a new one, which a latched boot would not get.
            Outcome::Wait(wait) if wait.kind != Kind::Held => {
                unanswered.add(asked, received, Duration::from_secs(challenge.ttl.into()));
            }
            Outcome::Wait(_) | Outcome::Refused(_) | Outcome::NothingStored => {}
        }
        Ok(outcome)
    }

    /// Asks for an answer that was lost.
    pub(crate) fn resume(&mut self, asked: &Pending) -> Result<Outcome, Error<M::Error>> {
        let resume = Resume { schema: Resume::SCHEMA.into(), session: Hex(asked.session.clone()) };
        let resume = write(&resume)?;
        let mut broker = match self.connect() {
            Ok(broker) => broker,
            Err(wait) => return Ok(Outcome::Wait(wait)),
        };
        let answer = broker.post("/krp/1/resume", &resume, &self.known);
        Ok(match self.released(answer, broker.address, asked)? {
            Outcome::Refused(_) => Outcome::NothingStored,
            outcome => outcome,
        })
    }

    /// The first broker that answers and is one of the cluster's.
    fn connect(&mut self) -> Result<Broker, Wait> {
        let mut last = None;
        for address in self.brokers.in_order() {
            match self.ask_certificate(address) {
                Ok(broker) => {
                    self.brokers.begin_at(address);
                    let message_key = broker.certificate.message_key;
                    let is_known = self.known.iter().any(|known| known.message_key == message_key);
                    if !is_known && self.known.len() < MAX_KNOWN_KEYS {
                        self.known.push(KnownBroker { message_key, certificate: broker.envelope.clone() });
                    }
                    let audit_key = broker.certificate.audit_key;
                    if !self.audit_keys.contains(&audit_key) && self.audit_keys.len() < MAX_KNOWN_KEYS {
                        self.audit_keys.push(audit_key);
                    }
                    return Ok(broker);
                }
                Err(wait) => last = Some(wait),
            }
        }
        let detail = "no broker is named".into();
        Err(last.unwrap_or(Wait { kind: Kind::Unreachable, address: None, detail, asked: None }))
    }

    fn ask_certificate(&self, address: SocketAddr) -> Result<Broker, Wait> {
        let answered = Connection::open(address, self.settings.patience).and_then(|connection| {
            let mut connection = connection.with_limit(MAX_ANSWER_BYTES);
            let response = connection.get("/krp/1/broker")?;
            Ok((connection, response))
        });
        let unreachable = |error: connection::Error| Wait::new(Kind::Unreachable, address, error.to_string());
        let (connection, response) = answered.map_err(unreachable)?;
        let Response { status, retry_after, body } = response;
        if matches!(status, 408 | 429 | 503) {
            let wait = Wait::new(Kind::Unavailable, address, "sealed, busy or without its store");
            return Err(Wait { asked: retry_after, ..wait });
        }
        let certificate = self.settings.cluster.broker(&body, connection.tls_key()).map_err(|refusal| {
            Wait::new(Kind::NotABroker, address, format!("not a broker of this cluster: {refusal}"))
        })?;
        Ok(Broker { address, connection, certificate, envelope: body })
    }

    fn hello(&mut self, slot: &str, disk: &DiskState, purpose: Purpose) -> Result<Sent, Error<M::Error>> {
        let nonce = self.machine.random().map_err(Error::Machine)?;
        write(&Hello {
            ak: Hex(self.machine.attestation_key().to_vec()),
            disk: disk.clone(),
            ek: Hex(self.machine.endorsement_key().to_vec()),
            hpke_key: Bytes32(self.hpke.public()),
            nonce: Bytes32(nonce),
            purpose,
            schema: Hello::SCHEMA.into(),
            slot: slot.to_owned(),
            versions: [self.settings.min_version, VERSION],
        })
    }

    fn evidence(
        &mut self,
        challenge: &Challenge,
        transcript: &Transcript,
        disk: &DiskState,
        purpose: Purpose,
    ) -> Result<Sent, Error<M::Error>> {
        let activation = challenge.credential.as_ref().and_then(|credential| {
            let secret = self.machine.activate(&credential.blob.0, &credential.seed.0)?;
            Some(Bytes32(activation(&secret, transcript)))
        });
        let name = name(self.machine.attestation_key());
        let hpke_key = self.hpke.public();
        let (disk_id, header_digest) = match (purpose, disk) {
            (Purpose::Unlock, DiskState::Luks { uuid, digest }) => (uuid.as_bytes(), &digest.0[..]),
            _ => (&[][..], &[][..]),
        };
        let binding = Binding {
            transcript: *transcript,
            hpke_key: &hpke_key,
            ak_name: &name,
            purpose: purpose.into(),
            disk_id,
            header_digest,
        };
        let quote = self.machine.quote(challenge.bank, &binding.extra_data()).map_err(Error::Machine)?;
        write(&Evidence {
            activation,
            event_log: Hex(self.machine.event_log().map_err(Error::Machine)?),
            quote: Hex(quote.attest),
            registers: all_hex(quote.registers),
            release: self.settings.bundle,
            schema: Evidence::SCHEMA.into(),
            session: challenge.session.clone(),
            signature: Hex(quote.signature),
            user_space_log: self.machine.user_space_log().map_err(Error::Machine)?,
        })
    }

    /// A decision or a wait; a message that came here is one of another conversation.
    fn outcome<D>(&self, answer: Answer<D>, address: SocketAddr, replayed: &str) -> Outcome {
        match answer {
            Answer::Message(..) => Outcome::Wait(Wait::new(Kind::NotADecision, address, format!("replay: {replayed}"))),
            Answer::Refused { request } => Outcome::Refused(request),
            Answer::Held { request, retry_after } => {
                let detail = format!(
                    "an operator must decide on request {request} of this machine, ek sha256:{}",
                    self.endorsement_key_digest()
                );
                Outcome::Wait(Wait { asked: Some(retry_after), ..Wait::new(Kind::Held, address, detail) })
            }
            Answer::Wait(wait) => Outcome::Wait(wait),
        }
    }

    /// What the answer to evidence means; a release is checked.
    fn released(
        &self,
        answer: Answer<Release>,
        address: SocketAddr,
        asked: &Pending,
    ) -> Result<Outcome, Error<M::Error>> {
        let (release, digest) = match answer {
            Answer::Message(release, digest, _) if release.transcript.0 == *asked.transcript.as_bytes() => {
                (release, digest)
            }
            other => return Ok(self.outcome(other, address, "a release for another conversation")),
        };
        checks::release(&release, self.settings.cluster, &asked.slot, asked.purpose)?;
        checks::receipt(&release.receipt, self.settings.cluster, &self.audit_keys)?;
        let opened = self
            .hpke
            .open(&release.share, Context::Release(asked.transcript.as_bytes()))
            .map_err(|refusal| Error::ReleaseInvalid(refusal.to_string()))?;
        let mut share = Zeroizing::new([0; 32]);
        if opened.len() != share.len() {
            return Err(Error::ReleaseInvalid("the share does not have 32 bytes".into()));
        }
        share.copy_from_slice(&opened);
        let (purpose, session, bank) = (asked.purpose, asked.session.clone(), asked.bank);
        Ok(Outcome::Released(Box::new(Released { release, digest, purpose, share, session, bank })))
    }

    pub(crate) fn commit_message(
        &mut self,
        released: &Released,
        result: &CommitResult,
        generation: u64,
        stages: &BTreeMap<String, u32>,
    ) -> Result<Commit, Error<M::Error>> {
        let (header_digest, volume) = match result {
            CommitResult::Formatted { header, volume } | CommitResult::Opened { header, volume } => {
                (&header.0[..], &volume.0[..])
            }
            CommitResult::Failed { .. } => (&[][..], &[][..]),
        };
        let commitment = Commitment { release: &released.digest, header_digest, volume, generation };
        let quote = self.machine.quote(released.bank, &commitment.extra_data()).map_err(Error::Machine)?;
        Ok(Commit {
            generation,
            quote: Hex(quote.attest),
            registers: all_hex(quote.registers),
            release: Bytes32(released.digest),
            result: result.clone(),
            schema: Commit::SCHEMA.into(),
            session: Hex(released.session.clone()),
            signature: Hex(quote.signature),
            stages: stages.clone(),
        })
    }

    /// The acknowledgement, and the certificate of the broker that signed it.
    pub(crate) fn send_commit(
        &mut self,
        released: &Released,
        commit: &Commit,
    ) -> Result<Result<Acknowledged, Wait>, Error<M::Error>> {
        let sent = write(commit)?;
        let post = |broker: &mut Broker, known: &[KnownBroker]| broker.post::<Ack>("/krp/1/commit", &sent, known);
        // The broker that released the share may keep the connection for the report; a report that is sent twice is answered twice.
        let kept = self.kept.take().map(|mut broker| (post(&mut broker, &self.known), broker));
        let is_answered =
            |answer: &Answer<Ack>| !matches!(answer, Answer::Wait(wait) if wait.kind == Kind::Unreachable);
        let (answer, broker) = match kept.filter(|(answer, _)| is_answered(answer)) {
            Some(answered) => answered,
            None => match self.connect() {
                Ok(mut broker) => (post(&mut broker, &self.known), broker),
                Err(wait) => return Ok(Err(wait)),
            },
        };
        let (ack, signer) = match answer {
            Answer::Message(ack, _, signer) if ack.commit.0 == sent.digest => (ack, signer),
            other => {
                return match self.outcome(other, broker.address, "an acknowledgement of another report") {
                    Outcome::Refused(request) => Err(Error::CommitRefused(format!(
                        "the broker refused request {request}, the report of what became of its release"
                    ))),
                    Outcome::Wait(wait) => Ok(Err(wait)),
                    Outcome::Released(_) | Outcome::NothingStored => {
                        Ok(Err(Wait::new(Kind::NotADecision, broker.address, "not an acknowledgement")))
                    }
                };
            }
        };
        checks::receipt(&ack.receipt, self.settings.cluster, &self.audit_keys)?;
        checks::grows(&released.release.receipt, &ack.receipt)?;
        // The broker that answered may repeat what another one signed before it was lost.
        let other =
            self.known.iter().find(|known| known.message_key == signer && signer != broker.certificate.message_key);
        let broker = other.map_or(broker.envelope, |known| known.certificate.clone());
        Ok(Ok(Acknowledged { ack, broker }))
    }
}

/// Name of a key with this public area (TCG TPM 2.0 Library, Part 1, section 16).
fn name(area: &[u8]) -> Vec<u8> {
    const ALG_SHA256: [u8; 2] = [0, 0x0b];
    [&ALG_SHA256[..], digest(&SHA256, area).as_ref()].concat()
}
