//! A peer that sends a byte now and then, each in time, holds nobody longer than the deadline of an exchange.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use connection::{Connection, EXCHANGE, Error};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const PATIENCE: Duration = Duration::from_millis(200);
/// Between two bytes: far below the patience.
const INTERVAL: Duration = Duration::from_millis(20);
/// Far above the deadline, and below the 8 s that the drip would take.
const MOST: Duration = Duration::from_secs(5);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

type Tls = StreamOwned<ServerConnection, TcpStream>;

fn serve(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    address
}

fn serve_tls(answer: impl Fn(&mut Tls) + Send + 'static) -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(vec!["a peer".into()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    serve(move |socket| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
        let mut piece = [0; 4096];
        while stream.read(&mut piece).is_ok_and(|count| count > 0) {
            answer(&mut stream);
        }
    })
}

/// Sends bytes one by one until the other side has gone.
fn drip(stream: &mut impl Write, bytes: impl Iterator<Item = u8>) {
    for byte in bytes {
        if stream.write_all(&[byte]).and_then(|()| stream.flush()).is_err() {
            return;
        }
        thread::sleep(INTERVAL);
    }
}

/// The error of an exchange, which must end between the deadline and [`MOST`].
fn must_end(address: SocketAddr) -> Error {
    let begun = Instant::now();
    let answered = Connection::open(address, PATIENCE).and_then(|mut connection| connection.get("/krp/1/broker"));
    assert!(begun.elapsed() < MOST, "held for {:?}", begun.elapsed());
    assert!(begun.elapsed() >= PATIENCE * EXCHANGE - INTERVAL, "left after {:?}", begun.elapsed());
    answered.unwrap_err()
}

#[test]
fn a_peer_that_drips_its_handshake_is_left_at_the_deadline() {
    // The head of a record of 16 KiB, then its bytes.
    let record = [0x16, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat_n(0, 400));
    let address = serve(move |mut socket| drip(&mut socket, record.clone()));
    let error = must_end(address).to_string();
    assert!(error.contains("took too long"), "{error}");
}

#[test]
fn a_peer_that_drips_its_answer_is_left_at_the_deadline() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n";
    let address = serve_tls(move |stream| drip(stream, head.iter().copied().chain(std::iter::repeat_n(b' ', 400))));
    let error = must_end(address).to_string();
    assert!(error.contains("took too long"), "{error}");
}

#[test]
fn a_slow_answer_arrives_and_each_later_request_has_a_deadline_of_its_own() {
    let address = serve_tls(|stream| {
        let (first, rest) = ANSWER.split_at(20);
        stream.write_all(first).and_then(|()| stream.flush()).unwrap();
        thread::sleep(PATIENCE / 2);
        stream.write_all(rest).and_then(|()| stream.flush()).unwrap();
    });
    let mut connection = Connection::open(address, PATIENCE).unwrap();
    for _ in 0..2 {
        assert_eq!(connection.get("/krp/1/broker").unwrap().body, b"{}");
        thread::sleep(PATIENCE * EXCHANGE);
    }
}

#[test]
fn an_answer_above_the_limit_of_its_connection_is_refused() {
    let answer = |stream: &mut Tls| stream.write_all(ANSWER).and_then(|()| stream.flush()).unwrap();
    let address = serve_tls(answer);
    assert!(Connection::open(address, PATIENCE).unwrap().with_limit(2).get("/").is_ok());
    let error = Connection::open(address, PATIENCE).unwrap().with_limit(1).get("/").unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}
