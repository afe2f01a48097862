//! Showing a broker what this machine is, and getting the share of its disk's key (docs/protocol.md). The conversation itself is in [`attester`]; here are this machine's TPM and logs, and what is left for the running system.
//!
//! The key that the share is sealed to is created here, in memory, and goes with this boot.

mod evidence;
mod machine;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use attest::cluster::{Cluster, Hints};
use attest::hpke::PrivateKey;
use attest::message::{Ack, Commit, CommitResult, DiskState, Purpose};
use attester::{Acknowledged, Attester, Error, Settings};
use ring::digest::{Context as Hash, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::code::Code;
use crate::console;
use crate::failure::Failure;
use crate::tpm::Tpm;

pub use attester::Released;
pub use evidence::Stages;
use machine::TpmMachine;

/// For each read and write.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the running system finds what the broker sent.
const FOLDER: &str = "/run/cairn";

/// This machine, as a broker sees it.
pub struct Node<'a> {
    attester: Attester<'a, TpmMachine<'a>>,
}

impl From<Error<Self>> for Failure {
    fn from(error: Error<Self>) -> Self {
        let what = error.to_string();
        match error {
            Error::Machine(failure) => failure,
            Error::AttestationRefused(_) => Self::new(Code::AttestationRefused, what),
            Error::CommitRefused(_) => Self::new(Code::CommitRefused, what),
            Error::ReleaseInvalid(_) => Self::new(Code::ReleaseInvalid, what),
            Error::GrantInvalid(_) => Self::new(Code::GrantInvalid, what),
        }
    }
}

impl<'a> Node<'a> {
    /// Creates the keys of this boot.
    ///
    /// # Errors
    /// `TPM_FAILED`, `ENTROPY_MISSING`, `BROKER_UNKNOWN`.
    pub fn new(
        tpm: &'a mut Tpm,
        cluster: &'a Cluster,
        hints: Option<&Hints>,
        min_version: u32,
    ) -> Result<Self, Failure> {
        let brokers = addresses(hints)?;
        let keys = tpm.keys()?;
        let hpke = PrivateKey::from_seed(&seed(tpm)?);
        let bundle = hints.and_then(|hints| hints.release);
        let settings = Settings { cluster, bundle, min_version, patience: PATIENCE };
        let attester = Attester::new(TpmMachine { tpm, keys }, settings, &brokers, hpke)?;
        Ok(Self { attester })
    }

    /// Asks until there is a decision. `purposes` are tried in order: the next one after a refusal.
    ///
    /// # Errors
    /// `ATTESTATION_REFUSED`, `RELEASE_INVALID`, `GRANT_INVALID`, `TPM_FAILED`, `EVENT_LOG_UNREADABLE`.
    pub fn release(&mut self, slot: &str, disk: &DiskState, purposes: &[Purpose]) -> Result<Released, Failure> {
        Ok(self.attester.release(slot, disk, purposes)?)
    }

    /// Reports what became of a release, until a broker has acknowledged it.
    ///
    /// # Errors
    /// `COMMIT_REFUSED`, `RELEASE_INVALID`, `TPM_FAILED`.
    pub fn must_commit(
        &mut self,
        released: &Released,
        result: &CommitResult,
        generation: u64,
        stages: &Stages,
    ) -> Result<Acknowledged, Failure> {
        let commit = self.report(released, result, generation, stages)?;
        let acknowledged = self.attester.must_commit(released, &commit)?;
        keep(&acknowledged);
        Ok(acknowledged)
    }

    /// Reports what became of a release; nothing where no broker has acknowledged it after a few tries.
    ///
    /// # Errors
    /// `COMMIT_REFUSED`, `RELEASE_INVALID`, `TPM_FAILED`.
    pub fn try_commit(
        &mut self,
        released: &Released,
        result: &CommitResult,
        generation: u64,
        stages: &Stages,
    ) -> Result<Option<Acknowledged>, Failure> {
        let commit = self.report(released, result, generation, stages)?;
        let acknowledged = self.attester.try_commit(released, &commit)?;
        acknowledged.iter().for_each(keep);
        Ok(acknowledged)
    }

    fn report(
        &mut self,
        released: &Released,
        result: &CommitResult,
        generation: u64,
        stages: &Stages,
    ) -> Result<Commit, Failure> {
        Ok(self.attester.report(released, result, generation, stages.ends())?)
    }

    /// Takes the keys out of the TPM.
    pub fn close(self) {
        let TpmMachine { tpm, keys } = self.attester.into_machine();
        tpm.flush(keys);
    }

    /// The TPM, for measurements between the messages.
    pub fn tpm(&mut self) -> &mut Tpm {
        self.attester.machine().tpm
    }
}

/// The brokers that the hints name.
fn addresses(hints: Option<&Hints>) -> Result<Vec<SocketAddr>, Failure> {
    let brokers: Vec<SocketAddr> =
        hints.iter().flat_map(|hints| &hints.brokers).filter_map(|broker| broker.parse().ok()).collect();
    if brokers.is_empty() {
        let what = "the image has a cluster.json and no hints.json that names a broker";
        return Err(Failure::new(Code::BrokerUnknown, what));
    }
    Ok(brokers)
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

/// What the broker sent, for the running system. A node without these files runs, and cannot show who certified it.
fn keep(acknowledged: &Acknowledged) {
    let Acknowledged { ack: Ack { certificate, receipt, .. }, broker } = acknowledged;
    let write = |name: &str, bytes: &[u8]| fs::write(format!("{FOLDER}/{name}"), bytes);
    let kept = fs::create_dir_all(FOLDER)
        .and_then(|()| {
            certificate.as_ref().map_or(Ok(()), |certificate| write("node-certificate.json", certificate.as_bytes()))
        })
        .and_then(|()| write("broker-certificate.json", broker))
        .and_then(|()| write("receipt", receipt.checkpoint.as_bytes()));
    if let Err(error) = kept {
        console::line(&format!("the broker's certificate of this node cannot be kept in {FOLDER}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(brokers: &[&str]) -> Hints {
        let brokers = brokers.iter().map(|broker| (*broker).to_owned()).collect();
        Hints { brokers, network: None, release: None, schema: "cairn.hints/1".into() }
    }

    #[test]
    fn node_without_the_address_of_a_broker_is_rejected() {
        assert_eq!(addresses(Some(&hints(&["192.0.2.1:7443"]))).unwrap().len(), 1);
        for none in [None, Some(hints(&[])), Some(hints(&["broker.example:7443"]))] {
            let failure = addresses(none.as_ref()).expect_err("accepted");
            assert_eq!(failure.code(), Code::BrokerUnknown);
        }
    }

    #[test]
    fn each_end_of_a_conversation_has_its_code() {
        let code = |error: Error<Failure>| Failure::from(error).code();
        assert_eq!(code(Error::AttestationRefused(String::new())), Code::AttestationRefused);
        assert_eq!(code(Error::CommitRefused(String::new())), Code::CommitRefused);
        assert_eq!(code(Error::ReleaseInvalid(String::new())), Code::ReleaseInvalid);
        assert_eq!(code(Error::GrantInvalid(String::new())), Code::GrantInvalid);
        assert_eq!(code(Error::Machine(Failure::new(Code::TpmFailed, ""))), Code::TpmFailed);
    }
}
