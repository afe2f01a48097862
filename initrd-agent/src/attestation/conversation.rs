//! One conversation with a broker, and its end: hello and challenge, evidence and release; resumption of a release whose answer was lost; commit and acknowledgement.

use attest::binding::{Binding, Commitment, Transcript, activation};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::BrokerCertificate;
use attest::hpke::Context;
use attest::message::{
    self, Ack, Challenge, Commit, CommitResult, DiskState, Evidence, Hello, Hold, Purpose, Refused, Release, Resume,
    VERSION,
};
use connection::{Connection, Response};
use measurements::Bank;
use measurements::canonical::Document;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Node, PATIENCE, Released, Stages, Wait, evidence};
use crate::code::Code;
use crate::failure::Failure;

/// How a request ended.
pub(super) enum Answer {
    Released(Box<Released>),
    Wait(Wait),
    Refused(String),
}

/// Evidence that was sent and not answered.
#[derive(Clone)]
pub(super) struct Pending {
    slot: String,
    purpose: Purpose,
    transcript: Transcript,
    session: Vec<u8>,
    bank: Bank,
}

/// A broker that the cluster's root keys have named, at the other end of a connection.
pub(super) struct Broker {
    connection: Connection,
    certificate: BrokerCertificate,
    envelope: Vec<u8>,
}

fn wait(why: impl Into<String>) -> Wait {
    Wait { why: why.into(), seconds: None }
}

fn invalid(refusal: &attest::Refusal) -> Failure {
    Failure::new(Code::ReleaseInvalid, refusal.to_string())
}

impl Node<'_> {
    /// Says hello, answers the challenge with evidence. Once evidence is on its way, `pending` says how to ask for its answer again.
    pub(super) fn converse(
        &mut self,
        slot: &str,
        disk: &DiskState,
        purpose: Purpose,
        pending: &mut Option<Pending>,
    ) -> Result<Answer, Failure> {
        let mut broker = match self.connect() {
            Ok(broker) => broker,
            Err(wait) => return Ok(Answer::Wait(wait)),
        };
        let (hello, hello_digest) = self.hello(slot, disk, purpose)?;
        let response = match broker.connection.post("/krp/1/hello", &hello) {
            Ok(response) if response.status == 200 => response,
            Ok(response) => return Ok(refused_or_wait(&response)),
            Err(error) => return Ok(Answer::Wait(wait(error.to_string()))),
        };
        let (challenge, challenge_digest): (Challenge, _) =
            message::open(&response.body, &broker.certificate.message_key).map_err(|refusal| invalid(&refusal))?;
        self.check(&challenge, &hello_digest, &broker.certificate)?;
        let transcript = Transcript::new(&hello_digest, &challenge_digest, broker.connection.exporter());
        let evidence = self.evidence(&challenge, &transcript, disk, purpose)?;
        let asked = Pending {
            slot: slot.to_owned(),
            purpose,
            transcript,
            session: challenge.session.0.clone(),
            bank: challenge.bank,
        };
        match broker.connection.post("/krp/1/evidence", &evidence) {
            Ok(response) => {
                let answer = self.released(&response, &broker.certificate, &asked)?;
                if matches!(answer, Answer::Released(_)) {
                    self.kept = Some(broker);
                }
                Ok(answer)
            }
            Err(error) => {
                *pending = Some(asked);
                Ok(Answer::Wait(wait(error.to_string())))
            }
        }
    }

    /// Asks for an answer that was lost.
    pub(super) fn resume(&mut self, asked: Pending, pending: &mut Option<Pending>) -> Result<Answer, Failure> {
        let resume = Resume { schema: Resume::SCHEMA.into(), session: Hex(asked.session.clone()) };
        let resume = message::write(&resume).map_err(|refusal| invalid(&refusal))?;
        let answered = self.connect().and_then(|mut broker| {
            let response = broker.connection.post("/krp/1/resume", &resume.bytes);
            response.map(|response| (response, broker)).map_err(|error| wait(error.to_string()))
        });
        match answered {
            Ok((response, broker)) if response.status == 200 => self.released(&response, &broker.certificate, &asked),
            // Nothing was released: begin anew.
            Ok((response, _)) if response.status == 403 => {
                Ok(Answer::Wait(wait("the broker has no answer to send again")))
            }
            Ok((response, _)) => {
                *pending = Some(asked);
                Ok(refused_or_wait(&response))
            }
            Err(wait) => {
                *pending = Some(asked);
                Ok(Answer::Wait(wait))
            }
        }
    }

    /// The first broker that answers and is one of the cluster's.
    fn connect(&self) -> Result<Broker, Wait> {
        let mut last = wait("no broker is named");
        for address in &self.brokers {
            let answered = Connection::open(*address, PATIENCE).and_then(|mut connection| {
                let response = connection.get("/krp/1/broker")?;
                Ok((connection, response))
            });
            last = match answered {
                Err(error) => wait(format!("broker unreachable: {error}")),
                Ok((_, Response { status: 503, retry_after, .. })) => {
                    Wait { why: format!("the broker at {address} is sealed or busy"), seconds: retry_after }
                }
                Ok((connection, response)) => match self.cluster.broker(&response.body, connection.tls_key()) {
                    Ok(certificate) => return Ok(Broker { connection, certificate, envelope: response.body }),
                    Err(refusal) => wait(format!("{address} is no broker of this cluster: {refusal}")),
                },
            };
        }
        Err(last)
    }

    fn hello(&self, slot: &str, disk: &DiskState, purpose: Purpose) -> Result<(Vec<u8>, [u8; 32]), Failure> {
        let mut nonce = [0; 32];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| Failure::new(Code::EntropyMissing, "the kernel gives no random bytes"))?;
        let hello = Hello {
            ak: Hex(self.keys.attestation_key().to_vec()),
            disk: disk.clone(),
            ek: Hex(self.keys.endorsement_key().to_vec()),
            hpke_key: Bytes32(self.hpke.public()),
            nonce: Bytes32(nonce),
            purpose,
            schema: Hello::SCHEMA.into(),
            slot: slot.to_owned(),
            versions: [self.least_version, VERSION],
        };
        message::write(&hello).map(|sent| (sent.bytes, sent.digest)).map_err(|refusal| invalid(&refusal))
    }

    fn check(&self, challenge: &Challenge, hello: &[u8; 32], broker: &BrokerCertificate) -> Result<(), Failure> {
        let refuse = |what: String| Err(Failure::new(Code::ReleaseInvalid, what));
        if challenge.hello.0 != *hello {
            return refuse("the broker answers another hello than this machine's".into());
        }
        if !(self.least_version..=VERSION).contains(&challenge.version) {
            return refuse(format!("the broker speaks version {} of the protocol", challenge.version));
        }
        if challenge.epoch != broker.epoch {
            return refuse(format!(
                "the broker's challenge is of epoch {}, its certificate of {}",
                challenge.epoch, broker.epoch
            ));
        }
        if challenge.bank == Bank::Sha1 || !self.tpm.banks().contains(&challenge.bank) {
            return refuse(format!(
                "the broker asks for the bank {}, which is not active or not to be believed",
                challenge.bank
            ));
        }
        Ok(())
    }

    fn evidence(
        &mut self,
        challenge: &Challenge,
        transcript: &Transcript,
        disk: &DiskState,
        purpose: Purpose,
    ) -> Result<Vec<u8>, Failure> {
        let activation = challenge.credential.as_ref().and_then(|credential| {
            let secret = self.tpm.activate(&self.keys, &credential.blob.0, &credential.seed.0)?;
            Some(Bytes32(activation(&secret, transcript)))
        });
        let name = name(self.keys.attestation_key());
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
        let quote = self.tpm.quote(&self.keys, challenge.bank, &binding.extra_data())?;
        let evidence = Evidence {
            activation,
            event_log: Hex(evidence::event_log()?),
            quote: Hex(quote.attest),
            registers: quote.registers.into_values().map(Hex).collect(),
            release: self.bundle,
            schema: Evidence::SCHEMA.into(),
            session: challenge.session.clone(),
            signature: Hex(quote.signature),
            user_space_log: evidence::user_space_log()?,
        };
        message::write(&evidence).map(|sent| sent.bytes).map_err(|refusal| invalid(&refusal))
    }

    /// What the answer to evidence means; a release is checked.
    fn released(&self, response: &Response, broker: &BrokerCertificate, asked: &Pending) -> Result<Answer, Failure> {
        if response.status == 202 {
            let hold: Option<Hold> = message::read(&response.body).map(|(hold, _)| hold).ok();
            return Ok(Answer::Wait(match hold {
                Some(hold) => Wait {
                    why: format!(
                        "hold: an operator must decide on request {} of this machine, ek sha256:{}",
                        hold.request,
                        self.endorsement_key()
                    ),
                    seconds: Some(hold.retry_after),
                },
                None => wait("hold: the broker says no more"),
            }));
        }
        if response.status != 200 {
            return Ok(refused_or_wait(response));
        }
        let (release, digest): (Release, _) =
            message::open(&response.body, &broker.message_key).map_err(|refusal| invalid(&refusal))?;
        let refuse = |what: &str| Err(Failure::new(Code::ReleaseInvalid, what));
        if release.transcript.0 != *asked.transcript.as_bytes() {
            return refuse("the release answers another conversation");
        }
        if release.disk.slot != asked.slot {
            return refuse("the release is for another slot");
        }
        let opened = self
            .hpke
            .open(&release.share, Context::Release(asked.transcript.as_bytes()))
            .map_err(|refusal| invalid(&refusal))?;
        let mut share = Zeroizing::new([0; 32]);
        if opened.len() != share.len() {
            return refuse("the share does not have 32 bytes");
        }
        share.copy_from_slice(&opened);
        let Pending { purpose, session, bank, .. } = asked.clone();
        Ok(Answer::Released(Box::new(Released { release, digest, purpose, share, session, bank })))
    }

    pub(super) fn commit_message(
        &mut self,
        released: &Released,
        result: &CommitResult,
        generation: u64,
        stages: &Stages,
    ) -> Result<Commit, Failure> {
        let (header_digest, volume) = match result {
            CommitResult::Formatted { header, volume } | CommitResult::Opened { header, volume } => {
                (&header.0[..], &volume.0[..])
            }
            CommitResult::Failed { .. } => (&[][..], &[][..]),
        };
        let commitment = Commitment { release: &released.digest, header_digest, volume, generation };
        let quote = self.tpm.quote(&self.keys, released.bank, &commitment.extra_data())?;
        Ok(Commit {
            generation,
            quote: Hex(quote.attest),
            registers: quote.registers.into_values().map(Hex).collect(),
            release: Bytes32(released.digest),
            result: result.clone(),
            schema: Commit::SCHEMA.into(),
            session: Hex(released.session.clone()),
            signature: Hex(quote.signature),
            stages: stages.ends().clone(),
        })
    }

    /// The acknowledgement, and the certificate of the broker that gave it.
    pub(super) fn send_commit(&mut self, commit: &Commit) -> Result<Result<(Ack, Vec<u8>), Wait>, Failure> {
        let sent = message::write(commit).map_err(|refusal| invalid(&refusal))?;
        let post = |mut broker: Broker| {
            let response = broker.connection.post("/krp/1/commit", &sent.bytes);
            response.map(|response| (response, broker)).map_err(|error| wait(error.to_string()))
        };
        // The connection of the release is there for as long as the broker is patient; said twice, a report is answered twice.
        let kept = self.kept.take().and_then(|broker| post(broker).ok());
        let answered = kept.map_or_else(|| self.connect().and_then(post), Ok);
        let (response, broker) = match answered {
            Ok(answered) => answered,
            Err(wait) => return Ok(Err(wait)),
        };
        if response.status != 200 {
            return match refused_or_wait(&response) {
                Answer::Refused(request) => {
                    let what =
                        format!("the broker refused request {request}, the report of what became of its release");
                    Err(Failure::new(Code::CommitRefused, what))
                }
                Answer::Wait(wait) => Ok(Err(wait)),
                Answer::Released(_) => Ok(Err(wait("the broker answered something else"))),
            };
        }
        let (ack, _): (Ack, _) =
            message::open(&response.body, &broker.certificate.message_key).map_err(|refusal| invalid(&refusal))?;
        if ack.commit.0 != sent.digest {
            return Err(Failure::new(
                Code::ReleaseInvalid,
                "the broker acknowledges another report than this machine's",
            ));
        }
        Ok(Ok((ack, broker.envelope)))
    }
}

fn refused_or_wait(response: &Response) -> Answer {
    match (response.status, message::read::<Refused>(&response.body)) {
        (403, Ok((refused, _))) => Answer::Refused(refused.request),
        (429 | 503, _) => {
            Answer::Wait(Wait { why: "the broker is busy or sealed".into(), seconds: response.retry_after })
        }
        (status, _) => Answer::Wait(wait(format!("the broker answered with status {status}"))),
    }
}

/// Name of a key with this public area (TCG TPM 2.0 Library, Part 1, section 16).
fn name(area: &[u8]) -> Vec<u8> {
    const ALG_SHA256: [u8; 2] = [0, 0x0b];
    [&ALG_SHA256[..], digest(&SHA256, area).as_ref()].concat()
}
