//! A connection to somebody whose key is judged by us and by no certificate authority: TLS 1.3, and HTTP/1.1 inside it, over a connection that we own, so that evidence can be bound to it.
//!
//! Whoever connects gets the SHA-256 of the other side's public key, which proved itself in the handshake, and the exporter of the connection; what that key may be is for the caller to say. Answers are bounded, and have a length.
//!
//! Time is bounded twice: each read and write by `patience`, and a whole exchange by [`EXCHANGE`] times as much, so that a peer that sends a byte now and then holds nobody.

mod deadline;
pub mod http;
mod tls;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use attest::binding::EXPORTER;
use rustls::{ClientConnection, StreamOwned};

pub use deadline::TimedSocket;
pub use http::{LARGEST, Response};

/// An exchange may take this many times the patience: connect, handshake and first answer together, then each request with its answer.
pub const EXCHANGE: u32 = 3;

/// Why there is no answer. All of these may pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is there.
    #[error("{address} does not answer: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The handshake failed, or the connection broke.
    #[error("the connection to {address} broke: {source}")]
    Broken {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// TLS cannot be spoken.
    #[error("TLS with {address}: {reason}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// What came is no answer.
    #[error("{address} answered what cannot be read: {reason}")]
    Answer {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: &'static str,
    },
}

/// An open connection.
pub struct Connection {
    address: SocketAddr,
    stream: StreamOwned<ClientConnection, TimedSocket>,
    tls_key: [u8; 32],
    exporter: [u8; 32],
    /// Length of an exchange.
    exchange: Duration,
    /// Whether a request was answered on it: the first one shares the deadline of the handshake.
    is_used: bool,
    /// Longest body of an answer, in bytes.
    most: usize,
}

impl Connection {
    /// Connects, and completes the handshake. `patience` is for each read and write; [`EXCHANGE`] times as long is for all of it with the first answer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(address: SocketAddr, patience: Duration) -> Result<Self, Error> {
        let connect = |source| Error::Connect { address, source };
        let broken = |source| Error::Broken { address, source };
        let tls = |reason: String| Error::Tls { address, reason };
        let exchange = patience * EXCHANGE;
        let socket = TimedSocket::connect(address, patience, Instant::now() + exchange).map_err(connect)?;
        let client = tls::client(address).map_err(|error| tls(error.to_string()))?;
        let mut stream = StreamOwned::new(client, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(broken)?;
        }
        let tls_key = tls::peer_key(&stream.conn).map_err(|error| tls(error.to_string()))?;
        let exporter =
            stream.conn.export_keying_material([0; 32], EXPORTER, None).map_err(|error| tls(error.to_string()))?;
        Ok(Self { address, stream, tls_key, exporter, exchange, is_used: false, most: LARGEST })
    }

    /// Bounds the body of an answer, in bytes, where [`LARGEST`] is too much.
    #[must_use]
    pub fn with_limit(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the other side.
    pub fn tls_key(&self) -> &[u8; 32] {
        &self.tls_key
    }

    /// 32 bytes that only the two ends of this connection have (RFC 8446, section 7.5).
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn get(&mut self, path: &str) -> Result<Response, Error> {
        self.request("GET", path, &[])
    }

    /// Sends a document to `path`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn post(&mut self, path: &str, body: &[u8]) -> Result<Response, Error> {
        self.request("POST", path, body)
    }

    fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Response, Error> {
        let address = self.address;
        if self.is_used {
            self.stream.sock.set_deadline(Instant::now() + self.exchange);
        }
        self.is_used = true;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // Who gets too much answers before it has all, and closes: what it said is worth more than that it closed.
        let sent = self.send(head.as_bytes()).and_then(|()| self.send(body));
        match (self.receive(), sent) {
            (Ok(response), _) => Ok(response),
            (Err(_), Err(error)) => Err(error),
            (Err(error), Ok(())) => Err(error),
        }
    }

    /// Sends bytes as they are: a part of a request, or what is none.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let address = self.address;
        let sent = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        sent.map_err(|source| Error::Broken { address, source })
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn receive(&mut self) -> Result<Response, Error> {
        let address = self.address;
        let broken = |source| Error::Broken { address, source };
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let parsed = http::parse(&received, self.most).map_err(|reason| Error::Answer { address, reason })?;
            if let Some(response) = parsed {
                return Ok(response);
            }
            match self.read(&mut piece).map_err(broken)? {
                0 => return Err(Error::Answer { address, reason: "the answer was cut short" }),
                count => received.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Reads without writing, which the other side may not take any more.
    fn read(&mut self, piece: &mut [u8]) -> std::io::Result<usize> {
        let StreamOwned { conn, sock } = &mut self.stream;
        loop {
            match conn.reader().read(piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            conn.read_tls(sock)?;
            conn.process_new_packets().map_err(std::io::Error::other)?;
        }
    }
}
