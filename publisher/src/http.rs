//! Requests to those who are not believed: they may answer slowly, anything, or too much.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::blocking::{Client, Response};
use transparency::tiles::LARGEST;

/// A connection that takes longer is given up.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Longest part of an answer that is shown.
const SHOWN: usize = 300;

/// A client that gives up a request after `patience`.
pub fn client(patience: Duration) -> Result<Client> {
    let client = Client::builder().connect_timeout(CONNECT.min(patience)).timeout(patience).build();
    client.context("Failed to set up the HTTP client")
}

/// The body of an answer, which ends somewhere.
pub fn body_of(response: Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    response.take(LARGEST as u64 + 1).read_to_end(&mut body)?;
    ensure!(body.len() <= LARGEST, "it has more than {LARGEST} bytes");
    Ok(body)
}

/// The beginning of an answer, without anything that a terminal would obey.
pub fn shown(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().filter(|letter| !letter.is_control()).collect();
    text.chars().take(SHOWN).collect()
}
