//! One conversation with the broker, over TLS.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use attest::binding::{Transcript, answered};
use attest::bytes::Bytes32;
use attest::cluster::Cluster;
use attest::message::{self, Ack, Challenge, Commit, Evidence, Hello, Hold, Refused, Resume};
use connection::{Connection, Response};
use measurements::canonical::Document;

/// For each read and write.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer that is not the one that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the {what} was answered with {}", response.status)]
pub struct Answered {
    /// What was sent.
    pub what: &'static str,
    /// What came.
    pub response: Response,
}

/// What was sent must be answered with 200.
fn must(what: &'static str, response: Response) -> Result<Response> {
    ensure!(response.status == 200, Answered { what, response });
    Ok(response)
}

/// A connection to a broker of the cluster.
pub struct Wire {
    connection: Connection,
    message_key: Bytes32,
}

impl Wire {
    /// Connects; the other end must be a broker of this cluster.
    pub fn open(address: SocketAddr, cluster: &Cluster) -> Result<Self> {
        let mut connection = Connection::open(address, PATIENCE)?;
        let response = must("question for the certificate", connection.get("/krp/1/broker")?)?;
        let certificate = cluster.broker(&response.body, connection.tls_key())?;
        Ok(Self { connection, message_key: certificate.message_key })
    }

    /// Sends bytes. A refusal or a hold must be signed, for this request on this connection.
    pub fn post(&mut self, path: &str, body: &[u8]) -> Result<Response> {
        let response = self.connection.post(path, body)?;
        let answers = match response.status {
            202 => message::open::<Hold>(&response.body, &self.message_key).context("the hold")?.0.answers,
            403 => message::open::<Refused>(&response.body, &self.message_key).context("the refusal")?.0.answers,
            _ => return Ok(response),
        };
        // Evidence without a hello is refused unread.
        let expected = [body, &[]].map(|request| answered(request, self.connection.exporter()));
        ensure!(expected.contains(&answers.0), "a decision of another request or connection");
        Ok(response)
    }

    /// Sends a message.
    pub fn say<M: Document>(&mut self, path: &str, message: &M) -> Result<Response> {
        self.post(path, &message::write(message)?.bytes)
    }

    /// Says hello; the answer must be a challenge.
    pub fn begin(self, hello: Hello) -> Result<Talk> {
        self.begin_changed(hello, |_| ())
    }

    /// Says hello; on its way it is changed.
    pub fn begin_changed(mut self, hello: Hello, change: impl FnOnce(&mut Hello)) -> Result<Talk> {
        let hello_digest = message::write(&hello)?.digest;
        let mut sent = hello.clone();
        change(&mut sent);
        let response = must("hello", self.say("/krp/1/hello", &sent)?)?;
        let (challenge, challenge_digest) =
            message::open::<Challenge>(&response.body, &self.message_key).context("the challenge")?;
        let (exporter, message_key) = (*self.connection.exporter(), self.message_key);
        Ok(Talk { wire: self, hello, hello_digest, challenge, challenge_digest, exporter, message_key })
    }

    /// Asks for a reply again.
    pub fn resume(&mut self, session: &attest::bytes::Hex) -> Result<Response> {
        self.say("/krp/1/resume", &Resume { schema: Resume::SCHEMA.into(), session: session.clone() })
    }

    /// Reports; the answer must be an acknowledgement.
    pub fn must_acknowledge(&mut self, commit: &Commit) -> Result<Ack> {
        let response = must("commit", self.say("/krp/1/commit", commit)?)?;
        let (ack, _) = message::open::<Ack>(&response.body, &self.message_key).context("the acknowledgement")?;
        ensure!(ack.commit.0 == message::write(commit)?.digest, "another commit was acknowledged");
        Ok(ack)
    }
}

/// A conversation that has begun. Its fields are what the node believes; a test may change them.
pub struct Talk {
    /// The connection.
    pub wire: Wire,
    /// As the node said it.
    pub hello: Hello,
    /// Its digest.
    pub hello_digest: [u8; 32],
    /// As the broker said it.
    pub challenge: Challenge,
    /// Its digest.
    pub challenge_digest: [u8; 32],
    /// The exporter of the connection.
    pub exporter: [u8; 32],
    /// The broker's key.
    pub message_key: Bytes32,
}

impl Talk {
    /// The transcript.
    pub fn transcript(&self) -> Transcript {
        super::transcript(&self.hello_digest, &self.challenge_digest, &self.exporter)
    }

    /// Sends evidence.
    pub fn show(&mut self, evidence: &Evidence) -> Result<Response> {
        self.wire.say("/krp/1/evidence", evidence)
    }

    /// Sends evidence; the answer must be a release.
    pub fn must_release(&mut self, evidence: &Evidence) -> Result<Response> {
        must("evidence", self.show(evidence)?)
    }
}
