//! Sends heads of the audit log to witnesses (C2SP tlog-witness), in a thread for each: no request of a node waits for one. A signature is believed by the key of the witness. That a witness knows another log (HTTP status 409 or 422) is not signed: over plain HTTP, whoever is between can say so, too.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::StatusCode;
use reqwest::blocking::Client;
use reqwest::redirect::Policy;
use transparency::verifier_key::VerifierKey;

use crate::config::{Audit, Witness};
use crate::engine::{Engine, Submission, Trouble};

/// Longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 16 << 10;
/// For a whole request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Requests in a round: one, and one more with the size that the witness names.
const ATTEMPTS: usize = 2;

/// Sends each new head of the log to each witness, for ever.
pub fn start(engine: &Arc<Engine>, audit: &Audit) -> Result<()> {
    for Witness { url, key } in audit.witness.clone() {
        let (engine, interval) = (engine.clone(), Duration::from_secs(audit.witness_seconds.max(1)));
        let service = Service::new(&url, TIMEOUT)?;
        std::thread::spawn(move || {
            loop {
                let trouble = round(&engine, &service, &key).err();
                engine.witness_round(&key, trouble);
                std::thread::sleep(interval);
            }
        });
    }
    Ok(())
}

/// Asks for a signature on the newest head.
fn round(engine: &Engine, service: &Service, key: &VerifierKey) -> Result<(), Trouble> {
    let mut has = None;
    for _ in 0..ATTEMPTS {
        let Some(submission) = engine.submission(key, has)? else { return Ok(()) };
        match service.add_checkpoint(&submission)? {
            Answer::Signed(lines) => return engine.cosigned(key, &submission, &lines),
            Answer::Has(size) => has = Some(size),
        }
    }
    Err(Trouble::Waiting("it names another size in each answer".into()))
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Lines with signatures.
    Signed(String),
    /// It knows so many leaves.
    Has(u64),
}

/// The HTTP interface of a witness.
struct Service {
    client: Client,
    url: String,
}

impl Service {
    fn new(url: &str, timeout: Duration) -> Result<Self> {
        let client = Client::builder().timeout(timeout).redirect(Policy::none()).build();
        let url = format!("{}/add-checkpoint", url.trim_end_matches('/'));
        Ok(Self { client: client.context("Failed to make an HTTP client")?, url })
    }

    fn add_checkpoint(&self, submission: &Submission) -> Result<Answer, Trouble> {
        let waiting = |found: String| Trouble::Waiting(format!("{}: {found}", self.url));
        let sent = self.client.post(&self.url).body(submission.body.clone()).send();
        let response = sent.map_err(|error| waiting(format!("{:#}", anyhow::Error::from(error.without_url()))))?;
        let status = response.status();
        let mut bytes = Vec::new();
        let read = response.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| waiting(format!("failed to read its answer: {error}")))?;
        if bytes.len() as u64 > MAX_ANSWER_BYTES {
            return Err(waiting("its answer has more than 16 KiB".into()));
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match status {
            StatusCode::OK => Ok(Answer::Signed(text)),
            StatusCode::CONFLICT => match text.trim_end_matches('\n').parse() {
                Ok(size) if size == submission.old => Err(Trouble::Conflict(format!(
                    "it has signed another log of {size} leaves under the name of this one"
                ))),
                Ok(size) => Ok(Answer::Has(size)),
                Err(_) => Err(waiting("it answers 409 without a size".into())),
            },
            // The proof was verified before it was sent: the witness has another tree.
            StatusCode::UNPROCESSABLE_ENTITY => Err(Trouble::Conflict(format!(
                "the {} leaves that it has signed are not the first ones of this log",
                submission.old
            ))),
            StatusCode::NOT_FOUND => {
                Err(waiting("it does not know this log (404): give its operator `key-broker audit key`".into()))
            }
            StatusCode::FORBIDDEN => Err(waiting(
                "it does not accept the key of this log (403): give its operator `key-broker audit key`".into(),
            )),
            other => Err(waiting(format!("it answers with HTTP status {}", other.as_u16()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    /// A fake witness: it reads one request, and answers with these bytes.
    fn answered(response: Vec<u8>) -> (String, Result<Answer, Trouble>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/prefix/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(socket);
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let from = head.len();
                reader.read_line(&mut head).unwrap();
                if let Some(value) = head[from..].strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            if response.is_empty() {
                // No answer for longer than the broker waits.
                std::thread::sleep(PATIENCE * 2);
            }
            // The broker may have gone.
            let _ = reader.get_mut().write_all(&response);
            format!("{}\n{}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body))
        });
        let submission = Submission::fake(7, "old 7\n\nhead\n");
        let answer = Service::new(&url, PATIENCE).unwrap().add_checkpoint(&submission);
        (server.join().unwrap(), answer)
    }

    fn http(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn request_and_answers_are_those_of_the_specification() {
        let (request, answer) = answered(http("200 OK", "lines\n"));
        assert_eq!(request, "POST /prefix/add-checkpoint HTTP/1.1\nold 7\n\nhead\n");
        assert_eq!(answer, Ok(Answer::Signed("lines\n".into())));
        assert_eq!(answered(http("409 Conflict", "12\n")).1, Ok(Answer::Has(12)));
        for conflict in [http("409 Conflict", "7\n"), http("422 Unprocessable Entity", "")] {
            assert!(matches!(answered(conflict).1, Err(Trouble::Conflict(_))));
        }
    }

    #[test]
    fn what_says_nothing_about_the_log_is_tried_again() {
        let long = "x".repeat(usize::try_from(MAX_ANSWER_BYTES).unwrap() + 1);
        for (response, word) in [
            (http("500 Internal Server Error", ""), "500"),
            (http("404 Not Found", ""), "audit key"),
            (http("403 Forbidden", ""), "audit key"),
            (http("302 Found\r\nlocation: http://127.0.0.1:1/", ""), "302"),
            (http("409 Conflict", "-1\n"), "409"),
            (http("409 Conflict", "7 7\n"), "409"),
            (http("200 OK", &long), "16 KiB"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx".to_vec(), "failed to read"),
            (b"SSH-2.0-x\r\n".to_vec(), "add-checkpoint"),
            (Vec::new(), "add-checkpoint"),
        ] {
            match answered(response).1 {
                Err(Trouble::Waiting(found)) => assert!(found.contains(word), "{found}"),
                other => panic!("{word}: {other:?}"),
            }
        }
    }
}
