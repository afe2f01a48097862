//! What this node can show: its TPM, its logs, its certificates.

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use attest::bytes::{Bytes32, Hex};
use attest::runtime::{self, Activate, Activated, Answer, Question};
use measurements::Bank;
use measurements::canonical::Document;
use node_tpm::Keys;
use ring::digest::{SHA256, digest};
use tss_esapi::Context;
use tss_esapi::constants::CapabilityType;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::CapabilityData;
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};

const DEVICE: &str = "/dev/tpmrm0";
/// Both logs belong to root; systemd hands this service a copy of each (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const EVENT_LOG: &str = "event-log";
const USER_SPACE_LOG: &str = "user-space-log";
/// The agent leaves what the broker said of this node, and of itself.
const NODE_CERTIFICATE: &str = "/run/cairn/node-certificate.json";
const BROKER_CERTIFICATE: &str = "/run/cairn/broker-certificate.json";
/// The head of the broker's audit log that came with them.
const RECEIPT: &str = "/run/cairn/receipt";

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TPM.
    #[error("the TPM {DEVICE}: {0}")]
    Tpm(#[from] tss_esapi::Error),
    /// Its keys.
    #[error("the TPM {DEVICE}: {0}")]
    Keys(#[from] node_tpm::Error),
    /// No bank.
    #[error("the TPM {DEVICE} has neither the bank SHA-384 nor SHA-256")]
    Bank,
    /// A log.
    #[error("cannot read the credential {0}: {1}")]
    Log(&'static str, std::io::Error),
}

/// The TPM of this node, and its keys. They are created once: a TPM needs seconds for the endorsement key.
struct Tpm {
    context: Context,
    keys: Option<Keys>,
}

/// This node.
pub struct Node {
    tpm: Mutex<Tpm>,
    bank: Bank,
    /// Of the endorsement key: it stays the same, and each reading would leave something behind in the context.
    ek_certificate: Option<Vec<u8>>,
}

impl Node {
    /// Opens the TPM.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open() -> Result<Self, Error> {
        let mut context = Context::new(TctiNameConf::Device(DeviceConfig::from_str(DEVICE)?))?;
        let bank = bank(&mut context)?;
        let ek_certificate = node_tpm::endorsement_certificate(&mut context);
        let keys = Some(Keys::make(&mut context)?);
        Ok(Self { tpm: Mutex::new(Tpm { context, keys }), bank, ek_certificate })
    }

    /// Answers a question that came in over a connection with this TLS key.
    ///
    /// # Errors
    /// [`Error`].
    pub fn answer(&self, question: &Question, tls_key: &[u8; 32]) -> Result<Answer, Error> {
        let (keys, quote) = self.with_keys(|context, keys| {
            let extra_data = runtime::extra_data(&question.nonce.0, tls_key, &name(keys.attestation_key()));
            let quote = keys.quote(context, self.bank, &extra_data)?;
            Ok(((keys.attestation_key().to_vec(), keys.endorsement_key().to_vec()), quote))
        })?;
        Ok(Answer {
            ak: Hex(keys.0),
            bank: self.bank,
            certificate: text(NODE_CERTIFICATE),
            broker: text(BROKER_CERTIFICATE),
            ek: Hex(keys.1),
            ek_certificate: self.ek_certificate.clone().map(Hex),
            event_log: Hex(read(EVENT_LOG)?),
            quote: Hex(quote.attest),
            receipt: text(RECEIPT),
            registers: quote.registers.into_values().map(Hex).collect(),
            schema: Answer::SCHEMA.into(),
            signature: Hex(quote.signature),
            user_space_log: String::from_utf8_lossy(&read(USER_SPACE_LOG)?).into_owned(),
        })
    }

    /// Activates a credential, and proves it for this connection.
    ///
    /// # Errors
    /// [`Error`]: among others, the credential is for another TPM.
    pub fn activate(&self, activate: &Activate, tls_key: &[u8; 32]) -> Result<Activated, Error> {
        let credential = &activate.credential;
        let secret = self.with_keys(|context, keys| keys.activate(context, &credential.blob.0, &credential.seed.0))?;
        let proof = Bytes32(runtime::activation(&secret, tls_key));
        Ok(Activated { proof, schema: Activated::SCHEMA.into() })
    }

    /// Runs a command with the keys. They are created again only if the TPM has lost them, by a reset: a client can make a command fail as often as it likes.
    fn with_keys<T>(
        &self,
        run: impl FnOnce(&mut Context, &Keys) -> Result<T, node_tpm::Error>,
    ) -> Result<T, node_tpm::Error> {
        let mut tpm = self.tpm.lock().unwrap_or_else(PoisonError::into_inner);
        let Tpm { context, keys } = &mut *tpm;
        let current = match keys.take() {
            Some(current) => current,
            None => Keys::make(context)?,
        };
        let done = run(context, &current);
        if done.is_ok() || current.are_loaded(context) {
            *keys = Some(current);
        } else {
            current.flush(context);
        }
        done
    }
}

/// SHA-384 where it is active, else SHA-256, never SHA-1.
fn bank(context: &mut Context) -> Result<Bank, Error> {
    /// More banks than any TPM has.
    const MOST_BANKS: u32 = 16;
    let (capability, _) = context.get_capability(CapabilityType::AssignedPcr, 0, MOST_BANKS)?;
    let CapabilityData::AssignedPcr(selections) = capability else { return Err(Error::Bank) };
    let is_active = |algorithm: HashingAlgorithm| {
        let mut all = selections.get_selections().iter();
        all.any(|selection| selection.hashing_algorithm() == algorithm && !selection.is_empty())
    };
    let banks = [(HashingAlgorithm::Sha384, Bank::Sha384), (HashingAlgorithm::Sha256, Bank::Sha256)];
    banks.into_iter().find(|(algorithm, _)| is_active(*algorithm)).map(|(_, bank)| bank).ok_or(Error::Bank)
}

/// Name of a key with this public area (TCG TPM 2.0 Library, Part 1, section 16).
fn name(area: &[u8]) -> Vec<u8> {
    const ALG_SHA256: [u8; 2] = [0, 0x0b];
    [&ALG_SHA256[..], digest(&SHA256, area).as_ref()].concat()
}

fn read(name: &'static str) -> Result<Vec<u8>, Error> {
    let folder = std::env::var_os(CREDENTIALS).unwrap_or_default();
    fs::read(Path::new(&folder).join(name)).map_err(|error| Error::Log(name, error))
}

/// A node without a cluster has none.
fn text(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(path)).ok()
}
