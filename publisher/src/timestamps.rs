//! A timestamp authority (RFC 3161) over HTTP: it is sent the digest of a signature, and says when it saw it. Rekor v2 vouches for no time, so this is what tells a signature before a key's end from one after it.
//!
//! Its answer is judged at once, as verifiers will, and kept before anything is logged.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::StatusCode;
use reqwest::blocking::Client;
use ring::rand::{SecureRandom as _, SystemRandom};
use transparency::timestamp::Request;

use crate::http::{self, body_of, shown};

/// Where timestamps are fetched.
pub struct TimestampAuthority {
    /// Address to which requests are posted.
    pub address: String,
    client: Client,
}

impl TimestampAuthority {
    /// The authority at `address`; a request that takes longer than `patience` is given up.
    pub fn new(address: &str, patience: Duration) -> Result<Self> {
        Ok(Self { address: address.to_owned(), client: http::client(patience)? })
    }

    /// The response (TimeStampResp in DER) for a signature. That it is the answer to this request is all that is known of it.
    pub fn stamp(&self, signature: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; 16];
        SystemRandom::new().fill(&mut nonce).map_err(|_| anyhow!("The system has no random numbers"))?;
        let request = Request::new(signature, nonce).context("Failed to write a timestamp request")?;
        let address = &self.address;
        let posted = self.client.post(address).header("content-type", "application/timestamp-query");
        let posted = posted.body(request.bytes().to_vec()).send();
        let response = posted.with_context(|| format!("The timestamp authority does not answer at {address}"))?;
        let status = response.status();
        let body =
            body_of(response).with_context(|| format!("The timestamp authority's answer at {address} broke off"))?;
        match status {
            StatusCode::OK | StatusCode::CREATED => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                bail!("There is no timestamp authority at {address} ({status}): is the address right?")
            }
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                bail!("The timestamp authority refuses the request ({status}): {}", shown(&body))
            }
            status => bail!("The timestamp authority has a problem of its own ({status}): {}", shown(&body)),
        }
        let answered = request.is_answered_by(&body);
        answered.map_err(|found| anyhow!("The answer at {address} is of no use, {found}: {}", shown(&body)))?;
        Ok(body)
    }
}
