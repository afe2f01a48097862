//! The server: TLS 1.3 with a key of its own, a few connections at a time, each for a few seconds.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use attest::message;
use connection::TimedSocket;
use measurements::canonical::Document;
use ring::digest::{SHA256, digest};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::node::Node;
use crate::places::Places;
use crate::request::{self, Request};

/// For each read and write, and for a whole connection: two questions, each of which waits for the TPM.
const PATIENCE: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(20);

/// A TLS key, and how to speak with it.
pub struct Server {
    config: Arc<ServerConfig>,
    tls_key: [u8; 32],
}

type Stream = StreamOwned<ServerConnection, TimedSocket>;

impl Server {
    /// Makes a key.
    ///
    /// # Errors
    /// A library's, in its words.
    pub fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let made = rcgen::generate_simple_self_signed(vec!["cairn-node".into()])?;
        let key = digest(&SHA256, &rcgen::PublicKeyData::subject_public_key_info(&made.signing_key));
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], private)?;
        Ok(Self { config: Arc::new(config), tls_key: key.as_ref().try_into()? })
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// The listener's.
    pub fn serve(&self, listener: &TcpListener, node: &Arc<Node>) -> Result<Infallible, Box<dyn std::error::Error>> {
        let places = Places::default();
        loop {
            let Ok((socket, address)) = listener.accept() else {
                // Too many open files, or a connection that is gone again: neither is for ever.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            let Some(place) = places.take(address.ip()) else { continue };
            let (config, tls_key, node) = (self.config.clone(), self.tls_key, node.clone());
            std::thread::spawn(move || {
                // Whoever asked has gone, or does not speak as we do: there is nobody to tell.
                let _ = converse(config, socket, &tls_key, &node);
                drop(place);
            });
        }
    }
}

fn converse(
    config: Arc<ServerConfig>,
    socket: TcpStream,
    tls_key: &[u8; 32],
    node: &Node,
) -> Result<(), Box<dyn std::error::Error>> {
    let socket = TimedSocket::new(socket, PATIENCE, Instant::now() + WHOLE)?;
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, socket);
    loop {
        match next(&mut stream)? {
            Some(Ok(request)) => {
                let (status, body) = respond(&request, tls_key, node);
                send(&mut stream, status, &body)?;
            }
            Some(Err(status)) => {
                send(&mut stream, status, &[])?;
                break;
            }
            None => break,
        }
    }
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

/// The next request, the status that it has instead, or nothing at the end of the connection.
fn next(stream: &mut Stream) -> std::io::Result<Option<Result<Request, u16>>> {
    let (mut received, mut piece) = (Vec::new(), [0; 2048]);
    loop {
        match request::parse(&received) {
            Ok(Some(request)) => return Ok(Some(Ok(request))),
            Err(status) => return Ok(Some(Err(status))),
            Ok(None) => {}
        }
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            count => received.extend_from_slice(&piece[..count]),
        }
    }
}

fn respond(request: &Request, tls_key: &[u8; 32], node: &Node) -> (u16, Vec<u8>) {
    match request.path.as_str() {
        "/attest/1/question" => with(&request.body, |question| node.answer(&question, tls_key)),
        "/attest/1/activate" => with(&request.body, |activate| node.activate(&activate, tls_key)),
        _ => (404, vec![]),
    }
}

fn with<Q: Document, A: Document>(
    body: &[u8],
    answer: impl FnOnce(Q) -> Result<A, crate::node::Error>,
) -> (u16, Vec<u8>) {
    let Ok((question, _)) = message::read(body) else { return (400, vec![]) };
    let answered = answer(question).map_err(|error| error.to_string());
    match answered.and_then(|answer| message::write(&answer).map_err(|refusal| refusal.to_string())) {
        Ok(sent) => (200, sent.bytes),
        Err(reason) => {
            eprintln!("cairn: a question could not be answered: {reason}");
            (500, vec![])
        }
    }
}

fn send(stream: &mut Stream, status: u16, body: &[u8]) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}
