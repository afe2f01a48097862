//! A log of Rekor v1 besides: the public log's older kind, which most tools read. It is written by the crate `sigstore`, as `hashedrekord 0.0.1` over SHA-256 of what DSSE signs, and its inclusion and signed head are verified by it.
//!
//! The time and the number that it says of an entry are in no proof. The proof that it gives is in no bundle: it is a file beside that, as the log's own interface writes entries.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sigstore::crypto::CosignVerificationKey;
use sigstore::rekor::apis::configuration::Configuration;
use sigstore::rekor::apis::entries_api::{create_log_entry, get_log_entry_by_uuid};
use sigstore::rekor::apis::{Error, ResponseContent};
use sigstore::rekor::models::ProposedEntry;
use sigstore::rekor::models::hashedrekord::{AlgorithmKind, Data, Hash, PublicKey, Signature, Spec};
use sigstore::rekor::models::log_entry::{Body, LogEntry};
use tokio::runtime::{Builder, Runtime};
use transparency::key::Key;

use crate::files;
use crate::http::{CONNECT, shown};
use crate::signer::public_pem;

const ENTRIES: &str = "api/v1/log/entries";
const VERSION: &str = "0.0.1";
/// Number of the tree and hash of the leaf, in hexadecimal.
const UUID_LENGTH: usize = 80;

/// Which log of Rekor v1 is written to, too.
#[derive(Args, Clone, Debug)]
pub struct RekorV1Args {
    /// Address of a log of Rekor v1 that is written to as well
    #[arg(long, value_name = "URL", requires = "rekor_v1_key")]
    rekor_v1: Option<String>,
    /// That log's public key, PEM
    #[arg(long, value_name = "FILE", requires = "rekor_v1")]
    rekor_v1_key: Option<PathBuf>,
}

/// A log of Rekor v1.
pub struct RekorV1 {
    configuration: Configuration,
    key: CosignVerificationKey,
    runtime: Runtime,
}

/// What is logged of a statement.
#[derive(Clone, Copy)]
pub struct Logged<'a> {
    /// What DSSE signs.
    pub signed: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// Whose it is.
    pub key: &'a Key,
}

impl RekorV1 {
    /// The log of these arguments, if they name one. It is not asked yet.
    pub fn open(args: &RekorV1Args, patience: Duration) -> Result<Option<Self>> {
        let (Some(address), Some(path)) = (&args.rekor_v1, &args.rekor_v1_key) else { return Ok(None) };
        let key = CosignVerificationKey::try_from_pem(&files::read(path)?);
        let key = key.with_context(|| format!("{} is no public key in PEM", path.display()))?;
        let client = reqwest::Client::builder().connect_timeout(CONNECT.min(patience)).timeout(patience).build();
        let client = client.context("Failed to set up the HTTP client")?;
        let base_path = address.trim_end_matches('/').to_owned();
        let configuration = Configuration { base_path, client, ..Configuration::default() };
        let runtime = Builder::new_current_thread().enable_all().build().context("Failed to set up the HTTP client")?;
        Ok(Some(Self { configuration, key, runtime }))
    }

    /// Where entries are posted.
    pub fn address(&self) -> String {
        format!("{}/{ENTRIES}", self.configuration.base_path)
    }

    /// The number of the entry in the file `path`: that of an earlier run, or a new one, which the log is asked for.
    pub fn publish(&self, logged: &Logged, path: &Path) -> Result<i64> {
        if let Some(bytes) = files::read_if_there(path)? {
            let entry = read(&bytes).and_then(|entry| self.verify(&entry, logged).map(|()| entry));
            let entry = entry.with_context(|| {
                format!("{} is there, but is not this statement's entry in this log: move it away", path.display())
            })?;
            return Ok(entry.log_index);
        }
        let entry = self.create(logged)?;
        self.verify(&entry, logged).with_context(|| format!("What {} answers is not believed", self.address()))?;
        files::write(path, &write(&entry)?)?;
        Ok(entry.log_index)
    }

    /// The entry that the log makes, or has.
    fn create(&self, logged: &Logged) -> Result<LogEntry> {
        let configuration = self.configuration.clone();
        let entry = ProposedEntry::Hashedrekord { api_version: VERSION.into(), spec: spec(logged) };
        match self.run(async move { create_log_entry(&configuration, entry).await })? {
            Err(Error::ResponseError(ResponseContent { status: StatusCode::CONFLICT, content, .. })) => {
                let uuid = uuid_in(&content);
                self.get(uuid.with_context(|| {
                    format!("The log has the entry, but does not say where: {}", shown(content.as_bytes()))
                })?)
            }
            outcome => outcome.map_err(|error| self.explain(error)),
        }
    }

    fn get(&self, uuid: String) -> Result<LogEntry> {
        let configuration = self.configuration.clone();
        let found = self.run(async move { get_log_entry_by_uuid(&configuration, &uuid).await })?;
        found.map_err(|error| self.explain(error))
    }

    /// The crate takes answers apart at fixed places, and panics where there is nothing.
    fn run<T: Send + 'static>(&self, asking: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let outcome = self.runtime.block_on(async { tokio::spawn(asking).await });
        std::panic::set_hook(hook);
        outcome.map_err(|_| anyhow!("The answer at {} is no entry: is that a log of Rekor v1?", self.address()))
    }

    fn explain<T>(&self, error: Error<T>) -> anyhow::Error {
        let address = self.address();
        match error {
            Error::ResponseError(ResponseContent { status, content, .. }) => match status {
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                    anyhow!("There is no Rekor v1 at {address} ({status}): is the address right?")
                }
                status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    anyhow!("The log refuses the entry ({status}): {}", shown(content.as_bytes()))
                }
                status => anyhow!("The log has a problem of its own ({status}): {}", shown(content.as_bytes())),
            },
            Error::Reqwest { source } => {
                anyhow::Error::new(source).context(format!("The log does not answer at {address}"))
            }
            Error::Serde { source } => anyhow::Error::new(source)
                .context(format!("The answer at {address} is no entry: is that a log of Rekor v1?")),
            Error::Io { source } => anyhow::Error::new(source).context(format!("Failed to read from {address}")),
        }
    }

    /// That the entry is of this signature, and in a head that the log has signed.
    fn verify(&self, entry: &LogEntry, logged: &Logged) -> Result<()> {
        let Body::hashedrekord(body) = &entry.body else { bail!("It is an entry of another kind than hashedrekord") };
        ensure!(body.api_version == VERSION, "It is a hashedrekord {}, {VERSION} is expected", body.api_version);
        let found: Spec = serde_json::from_value(body.spec.clone()).context("The entry's body is not understood")?;
        let expected = spec(logged);
        ensure!(found.data == expected.data, "It is the entry of another statement");
        ensure!(found.signature.content == expected.signature.content, "It is the entry of another signature");
        let key = found.signature.public_key.decode().ok();
        let key = key.and_then(|pem| crate::key_file::public_key(pem.as_bytes()).ok());
        ensure!(key.as_ref() == Some(logged.key), "It is the entry of another key");
        let included = entry.verify_inclusion(&self.key);
        included
            .map_err(|error| anyhow!("{error}"))
            .context("The log's proof is not good: is --rekor-v1-key that of this log?")
    }
}

/// The entry as the log's interface takes it.
pub fn request(logged: &Logged) -> Value {
    json!({"apiVersion": VERSION, "kind": "hashedrekord", "spec": spec(logged)})
}

fn spec(logged: &Logged) -> Spec {
    let key = PublicKey::new(STANDARD.encode(public_pem(logged.key)));
    let hash = Hash::new(AlgorithmKind::sha256, hex::encode(Sha256::digest(logged.signed)));
    Spec::new(Signature::new(STANDARD.encode(logged.signature), key), Data::new(hash))
}

/// The uuid that a log names in an error.
fn uuid_in(text: &str) -> Option<String> {
    let is_hex = |word: &&str| word.len() == UUID_LENGTH && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split(|letter: char| !letter.is_ascii_alphanumeric()).find(is_hex).map(str::to_owned)
}

/// `{"<uuid>": {...}}`, the body in base64.
fn write(entry: &LogEntry) -> Result<Vec<u8>> {
    let body = serde_json_canonicalizer::to_vec(&entry.body).context("Failed to write an entry")?;
    let mut value = serde_json::to_value(entry).context("Failed to write an entry")?;
    value["body"] = STANDARD.encode(body).into();
    let uuid = value.as_object_mut().and_then(|fields| fields.remove("uuid"));
    let uuid = uuid.as_ref().and_then(Value::as_str).context("The log's entry has no uuid")?;
    Ok(format!("{}\n", json!({ uuid: value })).into_bytes())
}

fn read(bytes: &[u8]) -> Result<LogEntry> {
    let value: serde_json::Map<String, Value> = serde_json::from_slice(bytes).context("It is no entry")?;
    let mut entries = value.into_iter();
    let (Some((uuid, value)), None) = (entries.next(), entries.next()) else { bail!("It is not one entry") };
    let entry: LogEntry = value.to_string().parse().context("It is no entry")?;
    Ok(LogEntry { uuid: Some(uuid), ..entry })
}

#[cfg(test)]
mod tests {
    use envelope::{Envelope, pre_authentication_encoding};
    use transparency::statement::PAYLOAD_TYPE;

    use super::*;

    /// What a real Rekor v1 (1.5.3) wrote; `tests/tests/log/recorded.rs` makes it anew.
    fn recorded(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/rekor-v1").join(name)
    }

    #[test]
    fn an_entry_of_a_real_log_is_written_as_it_was_read_and_no_change_of_it_is_believed() {
        let log = |key: &str| {
            let args = RekorV1Args { rekor_v1: Some("http://127.0.0.1:1/".into()), rekor_v1_key: Some(recorded(key)) };
            RekorV1::open(&args, Duration::from_secs(1)).unwrap().unwrap()
        };
        let envelope = Envelope::parse(&files::read(&recorded("provenance.dsse.json")).unwrap()).unwrap();
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, &envelope.unverified_payload().unwrap());
        let (_, signature) = envelope.signatures().unwrap().remove(0);
        let key = crate::key_file::public_key(&files::read(&recorded("release.pub")).unwrap()).unwrap();
        let logged = Logged { signed: &signed, signature: &signature, key: &key };

        let bytes = files::read(&recorded("provenance.rekor-v1.json")).unwrap();
        let entry = read(&bytes).unwrap();
        assert_eq!(write(&entry).unwrap(), bytes);
        log("log.pub").verify(&entry, &logged).unwrap();
        assert!(log("release.pub").verify(&entry, &logged).is_err());
        for other in [
            Logged { signed: b"something else", ..logged },
            Logged { signature: b"something else", ..logged },
            Logged { key: &Key::ed25519([1; 32]), ..logged },
        ] {
            assert!(log("log.pub").verify(&entry, &other).is_err());
        }
        type Change = fn(&mut LogEntry);
        let changes: [Change; 6] = [
            |entry| entry.verification.inclusion_proof = None,
            |entry| entry.verification.inclusion_proof.as_mut().unwrap().checkpoint.clear(),
            |entry| entry.verification.inclusion_proof.as_mut().unwrap().hashes.clear(),
            |entry| entry.verification.inclusion_proof.as_mut().unwrap().tree_size += 1,
            |entry| entry.verification.inclusion_proof.as_mut().unwrap().log_index = -1,
            |entry| entry.body = Body::default(),
        ];
        for change in changes {
            let mut changed = entry.clone();
            change(&mut changed);
            assert!(log("log.pub").verify(&changed, &logged).is_err(), "{changed:?}");
        }
    }

    #[test]
    fn a_uuid_is_found_in_an_error_and_nothing_else_is_taken_for_one() {
        let uuid = "0f".repeat(40);
        assert_eq!(uuid_in(&format!("an equivalent entry exists with UUID {uuid}\"}}")), Some(uuid.clone()));
        for text in ["", "UUID", &uuid[1..], &format!("{uuid}0"), &"xy".repeat(40)] {
            assert_eq!(uuid_in(text), None, "{text}");
        }
    }
}
