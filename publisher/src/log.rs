//! A log of Rekor v2 over HTTP: an entry is posted, its answer is the proof; what was logged before is read from tiles.
//!
//! Nothing that the log says is believed here. An error says whether anything can have been logged, and what to do.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use transparency::key::Key;
use transparency::tiles::{Files, Problem};

use crate::http::{self, body_of, shown};

/// Where Rekor v2 takes entries and serves files.
const ENTRIES: &str = "api/v2/log/entries";
const FILES: &str = "api/v2";
/// Where it says the number of an entry that it has.
const INDEX: &str = "x-log-index";

/// What the log answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It has a new entry: protobuf's TransparencyLogEntry as JSON.
    Logged(Value),
    /// It had it already, under this number.
    Known(u64),
}

/// A log.
pub struct Log {
    write: String,
    read: String,
    client: Client,
}

impl Log {
    /// The log that takes entries at `write` and is read at `read`; a request that takes longer than `patience` is given up.
    pub fn new(write: &str, read: &str, patience: Duration) -> Result<Self> {
        let client = http::client(patience)?;
        for address in [write, read] {
            ensure!(
                address.starts_with("http://") || address.starts_with("https://"),
                "cannot use {address:?} as the address of a log\nhint: begin it with http:// or https://"
            );
        }
        let trim = |address: &str| address.trim_end_matches('/').to_owned();
        Ok(Self { write: trim(write), read: trim(read), client })
    }

    /// Where entries are posted.
    pub fn address(&self) -> String {
        format!("{}/{ENTRIES}", self.write)
    }

    /// Posts an entry. The log keeps one of the same bytes only once.
    pub fn post(&self, request: &Value) -> Result<Answer> {
        let address = self.address();
        let posted =
            self.client.post(&address).header("content-type", "application/json").body(request.to_string()).send();
        let response = posted.with_context(|| format!("The log does not answer at {address}"))?;
        let status = response.status();
        let index = response.headers().get(INDEX).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = body_of(response).with_context(|| format!("The log's answer at {address} broke off"))?;
        match status {
            StatusCode::OK | StatusCode::CREATED => {
                let entry = serde_json::from_slice(&body);
                entry.map(Answer::Logged).with_context(|| format!("The log's answer is no entry: {}", shown(&body)))
            }
            StatusCode::CONFLICT => {
                let index = index.as_deref().and_then(|text| text.parse().ok());
                let index = index.with_context(|| format!("The log has the entry, but does not say where ({INDEX})"));
                index.map(Answer::Known)
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                bail!("There is no Rekor v2 at {address} ({status}): is the address right?")
            }
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                bail!("The log refuses the entry ({status}), nothing was logged: {}", shown(&body))
            }
            status => bail!("The log has a problem of its own ({status}): {}", shown(&body)),
        }
    }

    /// The log's newest head.
    pub fn checkpoint(&self) -> Result<String> {
        let bytes = self.read("checkpoint")?;
        String::from_utf8(bytes).context("The log's checkpoint is no text")
    }
}

impl Files for Log {
    fn file(&self, path: &str) -> std::result::Result<Vec<u8>, Problem> {
        self.read(path).map_err(|error| Problem(format!("{error:#}")))
    }
}

impl Log {
    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let address = format!("{}/{FILES}/{path}", self.read);
        let response = self.client.get(&address).send().with_context(|| format!("Failed to read {address}"))?;
        let status = response.status();
        ensure!(status == StatusCode::OK, "Failed to read {address}: the log answers {status}");
        body_of(response).with_context(|| format!("Failed to read {address}"))
    }
}

/// The entry of a signature, as Rekor v2 takes it (hashedrekord 0.0.2).
pub fn request(signed: &[u8], signature: &[u8], key: &Key) -> Value {
    json!({"hashedRekordRequestV002": {
        "digest": STANDARD.encode(Sha256::digest(signed)),
        "signature": {
            "content": STANDARD.encode(signature),
            "verifier": {
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "publicKey": {"rawBytes": STANDARD.encode(key.spki())},
            },
        },
    }})
}
