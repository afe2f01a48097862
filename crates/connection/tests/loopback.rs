//! A connection against a server of rustls on loopback.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use attest::binding::EXPORTER;
use connection::{Connection, Error};
use ring::digest::{SHA256, digest};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(10);

/// The request, and the exporter.
type Seen = (Vec<u8>, [u8; 32]);

/// A server that answers one connection with these bytes, in pieces; gives its address, the digest of its key, and what it saw: the request and its exporter.
fn serve(answer: &'static [u8]) -> (SocketAddr, [u8; 32], JoinHandle<Seen>) {
    let made = rcgen::generate_simple_self_signed(vec!["broker".into()]).unwrap();
    let key = digest(&SHA256, &rcgen::PublicKeyData::subject_public_key_info(&made.signing_key));
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket);
        let mut request = vec![0; 4096];
        let count = stream.read(&mut request).unwrap();
        request.truncate(count);
        for piece in answer.chunks(7) {
            // The other side may have had enough.
            if stream.write_all(piece).and_then(|()| stream.flush()).is_err() {
                break;
            }
        }
        let exporter = stream.conn.export_keying_material([0; 32], EXPORTER, None).unwrap();
        stream.conn.send_close_notify();
        let _ = stream.flush();
        (request, exporter)
    });
    (address, key.as_ref().try_into().unwrap(), server)
}

#[test]
fn both_ends_have_the_same_exporter_and_the_key_is_the_server_s() {
    let (address, key, server) = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut connection = Connection::open(address, PATIENCE).unwrap();
    let response = connection.post("/krp/1/hello", b"{}\n").unwrap();
    assert_eq!((response.status, response.body), (200, b"ok".to_vec()));
    let (request, exporter) = server.join().unwrap();
    assert!(request.starts_with(b"POST /krp/1/hello HTTP/1.1\r\n"));
    assert_eq!((*connection.exporter(), *connection.tls_key()), (exporter, key));
}

#[test]
fn an_answer_that_is_cut_short_is_an_error() {
    let (address, _, server) = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok");
    let error = Connection::open(address, PATIENCE).unwrap().get("/").unwrap_err();
    assert!(matches!(error, Error::Answer { .. } | Error::Broken { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn nobody_and_somebody_without_tls_are_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let plain = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"220 smtp ready\r\n").unwrap());
    assert!(matches!(Connection::open(address, PATIENCE), Err(Error::Broken { .. })));
    plain.join().unwrap();
    assert!(matches!(Connection::open(address, PATIENCE), Err(Error::Connect { .. })));
}
