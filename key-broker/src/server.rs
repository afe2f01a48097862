//! The server that nodes talk to: TLS 1.3 over connections that are ours, HTTP/1.1 inside. Everything a stranger can take is bounded: connections, time, bytes, requests of an address, work that waits for a processor.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use attest::binding::EXPORTER;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Limits};
use crate::connections::{Entry, Places, Stage, Unproven};
use crate::engine::{Conversation, Engine, Reply, network};
use crate::monitoring::{answer, check_store, health, ready};
use crate::pace::Pace;

/// Largest bodies: without logs, and with them.
const SMALL: usize = 16 << 10;
const LARGE: usize = 1 << 20;
/// Large bodies that are read at a time, of all connections together (128 MiB), of which one network has a quarter. Small ones are as many as connections, so no connection keeps out another one's.
const LARGE_BODIES: usize = 128;
const LARGE_BODIES_PER_ADDRESS: usize = 32;
/// How often addresses are forgotten that have not asked for a while: to find them takes longer the more there are.
const SWEEP: Duration = Duration::from_secs(1);
/// Commits and resumptions of a connection that spend nothing of its address, once it has shown an enrolled node.
const REQUESTS_OF_A_NODE: u32 = 32;
/// How long a new connection waits for the place of one that is closed for it.
const HANDOVER: Duration = Duration::from_secs(1);
/// Pause after `accept` has failed, for want of file descriptors or because the client has gone.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long running requests have after a signal.
pub const GRACE: Duration = Duration::from_secs(10);

/// What all connections share.
struct Shared {
    engine: Arc<Engine>,
    limits: Limits,
    pace: Pace,
    /// Work that runs, or waits for a processor or for the store.
    queue: Semaphore,
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    /// Large bodies, of evidence.
    large_bodies: Semaphore,
    /// Large bodies of each network.
    evidence: Places,
}

impl Shared {
    /// Requests in the queue.
    fn waiting(&self) -> usize {
        self.limits.queue.saturating_sub(self.queue.available_permits())
    }
}

/// A connection's own state.
struct Peer {
    address: IpAddr,
    exporter: [u8; 32],
    conversation: Mutex<Option<Conversation>>,
    entry: Entry,
    /// The next evidence was paid for by its hello.
    has_paid: AtomicBool,
    /// Requests that are left of [`REQUESTS_OF_A_NODE`].
    free: AtomicU32,
}

impl Peer {
    /// Whether this request spends nothing of its address: evidence after a hello, and what a node asks after its evidence.
    fn is_free(&self, path: &str) -> bool {
        match path {
            "/krp/1/evidence" => self.has_paid.swap(false, Ordering::Relaxed),
            "/krp/1/commit" | "/krp/1/resume" => {
                let spend = |free: u32| free.checked_sub(1);
                self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
            }
            _ => false,
        }
    }

    /// Notes what the answer to a message says about the peer: only an enrolled node gets a release or a hold.
    fn note(&self, path: &str, status: u16) {
        match (path, status) {
            ("/krp/1/hello", 200) => {
                self.has_paid.store(true, Ordering::Relaxed);
                self.entry.set(Stage::Unproven);
            }
            ("/krp/1/evidence", 200 | 202) => {
                self.free.store(REQUESTS_OF_A_NODE, Ordering::Relaxed);
                self.entry.set(Stage::Proven);
            }
            ("/krp/1/hello" | "/krp/1/evidence", _) => self.entry.set(Stage::Unproven),
            _ => {}
        }
    }
}

/// TLS 1.3 with the broker's key, whose files the engine notes.
pub fn tls(config: &Config, engine: &Engine) -> Result<Arc<ServerConfig>> {
    let read = |name: &str| {
        let path = config.file(name);
        std::fs::read(&path).with_context(|| format!("Failed to read {}: restore it", path.display()))
    };
    let (key, certificate) = (read("tls.key")?, read("tls.der")?);
    engine.note_tls(&key, &certificate);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let certificate = CertificateDer::from(certificate);
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .context("tls.key and tls.der do not belong together: restore them")?;
    Ok(Arc::new(tls))
}

/// Serves until `stop` says so, then lets running requests end.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    engine: Arc<Engine>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let quota = Quota::per_minute(NonZeroU32::new(limits.requests_per_minute).unwrap_or(NonZeroU32::MIN));
    let connections = Arc::new(Semaphore::new(limits.connections));
    let most = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let shared = Arc::new(Shared {
        engine,
        pace: Pace::new(Instant::now()),
        queue: Semaphore::new(limits.queue),
        addresses: RateLimiter::keyed(quota),
        large_bodies: Semaphore::new(LARGE_BODIES),
        evidence: Places::new(LARGE_BODIES_PER_ADDRESS),
        limits,
    });
    let acceptor = TlsAcceptor::from(tls);
    let places = Places::new(shared.limits.connections_per_address);
    let unproven = Unproven::default();
    let mut swept = Instant::now();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                make_room(&error, &unproven);
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        if swept.elapsed() > SWEEP {
            shared.addresses.retain_recent();
            swept = Instant::now();
        }
        let network = network(address.ip());
        // Too many of this network: the new connection is closed, and the client may retry.
        let Some(place) = places.take(network) else { continue };
        // Too many in all: a connection that has not shown a node is closed, if there is one.
        let permit = connections.clone().try_acquire_owned().ok();
        if permit.is_none() && !unproven.close_one() {
            continue;
        }
        // Before the next connection is accepted, which may close this one.
        let (entry, closing) = unproven.enter(network);
        let (shared, acceptor, stop) = (shared.clone(), acceptor.clone(), stop.clone());
        let connections = connections.clone();
        tokio::spawn(async move {
            let served = async {
                let _permit = match permit {
                    Some(permit) => permit,
                    None => match timeout(HANDOVER, connections.acquire_owned()).await {
                        Ok(Ok(permit)) => permit,
                        _ => return,
                    },
                };
                let whole = Duration::from_secs(shared.limits.connection_seconds);
                // The client has gone, or does not speak the protocol: there is no one to report to.
                let _ = timeout(whole, converse(shared, acceptor, socket, (address, entry), stop)).await;
            };
            tokio::select! {
                () = served => {}
                () = closing.notified() => {}
            }
            drop(place);
        });
    }
    // All permits are back when all connections have ended.
    let _ = timeout(GRACE, connections.acquire_many(most)).await;
    Ok(())
}

/// Without a free file descriptor no connection is accepted before another ends: an unproven one is closed.
fn make_room(error: &std::io::Error, unproven: &Unproven) {
    let is_exhausted = |code| code == Errno::EMFILE as i32 || code == Errno::ENFILE as i32;
    if error.raw_os_error().is_some_and(is_exhausted) {
        unproven.close_one();
    }
}

async fn converse(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    socket: TcpStream,
    (address, entry): (SocketAddr, Entry),
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let patience = Duration::from_secs(shared.limits.patience_seconds);
    socket.set_nodelay(true)?;
    // A handshake is two messages: whoever has not sent his by then has nothing to send.
    let handshake = Duration::from_secs(shared.limits.handshake_seconds);
    let stream = timeout(handshake, acceptor.accept(socket)).await??;
    let exporter = stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None)?;
    let peer = Arc::new(Peer {
        address: address.ip(),
        exporter,
        conversation: Mutex::new(None),
        entry,
        has_paid: AtomicBool::new(false),
        free: AtomicU32::new(0),
    });
    let service = service_fn(move |request| {
        let (shared, peer) = (shared.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(respond(&shared, &peer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_headers(32)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => Ok(done?),
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            Ok(connection.await?)
        }
    }
}

async fn respond(shared: &Arc<Shared>, peer: &Arc<Peer>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut reply = reply(shared, peer, request).await;
    if matches!(reply.status, 429 | 503) {
        reply.retry_after = Some(shared.pace.retry_after(shared.waiting(), Instant::now()));
    }
    answer(reply)
}

async fn reply(shared: &Arc<Shared>, peer: &Arc<Peer>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    if !peer.is_free(&path) && shared.addresses.check_key(&network(peer.address)).is_err() {
        return Reply::busy();
    }
    match (request.method(), path.as_str()) {
        (&Method::GET, "/health") => health(&shared.engine),
        (&Method::GET, "/ready") => ready(&shared.engine).await,
        (&Method::GET, "/krp/1/broker") => certificate(&shared.engine).await,
        (&Method::POST, "/krp/1/hello" | "/krp/1/commit" | "/krp/1/resume") => {
            work(shared, peer, request, path, SMALL).await
        }
        (&Method::POST, "/krp/1/evidence") => {
            // A large body is read only after a hello on the same connection.
            let has_said_hello = peer.conversation.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if has_said_hello {
                work(shared, peer, request, path, LARGE).await
            } else {
                // The refusal answers an empty request, because this one was not read: no node ends its boot for it.
                let (engine, peer) = (shared.engine.clone(), peer.clone());
                let refused = tokio::task::spawn_blocking(move || {
                    engine.bind(engine.no_session(peer.address), &[], &peer.exporter)
                });
                refused.await.unwrap_or_else(|_| Reply::unavailable())
            }
        }
        _ => Reply { status: 404, body: vec![], retry_after: None },
    }
}

/// Reads a body, and lets the engine decide.
async fn work(shared: &Arc<Shared>, peer: &Arc<Peer>, request: Request<Incoming>, path: String, most: usize) -> Reply {
    let status = |status: u16| Reply { status, body: vec![], retry_after: None };
    let patience = Duration::from_secs(shared.limits.patience_seconds);
    let is_large = most > SMALL;
    let place = is_large.then(|| shared.evidence.take(network(peer.address)));
    if matches!(place, Some(None)) {
        return Reply::unavailable();
    }
    let room = is_large.then(|| shared.large_bodies.try_acquire());
    if matches!(room, Some(Err(_))) {
        return Reply::unavailable();
    }
    let body = match timeout(patience, Limited::new(request.into_body(), most).collect()).await {
        Err(_) => return status(408),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return status(413),
        Ok(Err(_)) => return status(400),
        Ok(Ok(body)) => body.to_bytes(),
    };
    // Evidence and a report are in time when they have arrived in time: the wait for a processor or for the store is not the node's.
    let arrived = Instant::now();
    let Ok(queued) = shared.queue.try_acquire() else {
        shared.pace.turned_away(Instant::now());
        return Reply::unavailable();
    };
    if is_large {
        // A node that has sent its evidence keeps its connection until it is judged.
        peer.entry.set(Stage::Proven);
    }
    let (engine, asking) = (shared.engine.clone(), peer.clone());
    let message = path.clone();
    let decided = tokio::task::spawn_blocking(move || {
        let (path, peer) = (message, asking);
        let now = Instant::now();
        let mut conversation = peer.conversation.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match path.as_str() {
            "/krp/1/hello" => engine.hello(&mut conversation, (peer.address, peer.exporter), now, &body),
            "/krp/1/evidence" => engine.evidence(&mut conversation, peer.address, arrived, &body),
            "/krp/1/commit" => engine.commit(peer.address, &body, arrived),
            _ => engine.resume(peer.address, &body),
        };
        engine.bind(answer, &body, &peer.exporter)
    });
    let reply = decided.await.unwrap_or_else(|_| Reply::unavailable());
    peer.note(&path, reply.status);
    drop(queued);
    if reply.status != 503 {
        shared.pace.decided(shared.waiting(), Instant::now());
    }
    reply
}

/// The broker's certificate. Without its store a broker decides nothing: the node is sent to the next address.
async fn certificate(engine: &Arc<Engine>) -> Reply {
    let Some(body) = engine.certificate() else { return Reply::sealed() };
    check_store(engine).await;
    if engine.is_store_available() { Reply { status: 200, body, retry_after: None } } else { Reply::unavailable() }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn accept_without_free_file_descriptor_closes_an_unproven_connection() {
        let unproven = Unproven::default();
        let (_entry, _closing) = unproven.enter(Ipv4Addr::LOCALHOST.into());
        make_room(&Errno::ECONNABORTED.into(), &unproven);
        make_room(&Errno::EMFILE.into(), &unproven);
        assert!(!unproven.close_one(), "the connection is open");
        let (_entry, _closing) = unproven.enter(Ipv4Addr::LOCALHOST.into());
        make_room(&Errno::ECONNABORTED.into(), &unproven);
        assert!(unproven.close_one(), "the connection was closed");
    }
}
