//! What the broker shows of itself: `/health`, `/ready` and `/metrics`.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::engine::{Engine, Reply, WitnessFigures};
use crate::server::{ACCEPT_RETRY, GRACE};

pub(crate) fn health(engine: &Engine) -> Reply {
    let state = if engine.is_sealed() { "sealed" } else { "serving" };
    Reply { status: 200, body: format!("{{\"state\":\"{state}\"}}\n").into_bytes(), retry_after: None }
}

/// Runs the check of the store where it is due, on a thread that may wait for the disk.
pub(crate) async fn check_store(engine: &Arc<Engine>) {
    if engine.is_store_check_due() {
        let engine = engine.clone();
        // Without a result, that of the last check holds.
        let _ = tokio::task::spawn_blocking(move || engine.check_store()).await;
    }
}

/// Whether a node would get a decision now.
pub(crate) async fn ready(engine: &Arc<Engine>) -> Reply {
    check_store(engine).await;
    match engine.readiness() {
        Ok(()) => Reply { status: 200, body: b"{\"state\":\"ready\"}\n".to_vec(), retry_after: None },
        Err(unready) => unready.into(),
    }
}

pub(crate) fn answer(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    if let Some(seconds) = reply.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// /health, /ready and /metrics by plain HTTP, for the broker's own host.
pub async fn serve_metrics(listener: TcpListener, engine: Arc<Engine>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let engine = engine.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let engine = engine.clone();
            async move {
                Ok::<_, std::convert::Infallible>(match request.uri().path() {
                    "/health" => answer(health(&engine)),
                    "/ready" => answer(ready(&engine).await),
                    // Every allowed release is judged for it, on a thread that is not of the server.
                    "/metrics" => match tokio::task::spawn_blocking(move || metrics(&engine)).await {
                        Ok(response) => response,
                        Err(_) => answer(Reply::unavailable()),
                    },
                    _ => answer(Reply { status: 404, body: vec![], retry_after: None }),
                })
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(socket), service);
        tokio::spawn(timeout(GRACE, connection));
    }
}

/// OpenMetrics 1.0.
fn metrics(engine: &Engine) -> Response<Full<Bytes>> {
    let mut text = String::from("# TYPE cairn_broker_sealed gauge\n");
    text += &format!("cairn_broker_sealed {}\n", u8::from(engine.is_sealed()));
    text += "# TYPE cairn_broker_clock_behind_seconds gauge\n# UNIT cairn_broker_clock_behind_seconds seconds\n";
    text += &format!("cairn_broker_clock_behind_seconds {}\n", engine.clock_behind());
    text += "# TYPE cairn_broker_decisions counter\n";
    for (code, count) in engine.counts() {
        text += &format!("cairn_broker_decisions_total{{code=\"{code}\"}} {count}\n");
    }
    text += "# TYPE cairn_broker_predictions gauge\n";
    text += &format!("cairn_broker_predictions {}\n", engine.predictions());
    if let Some(figures) = engine.figures() {
        text += "# TYPE cairn_broker_releases gauge\n";
        for (standing, count) in [("good", figures.good), ("refused", figures.refused)] {
            text += &format!("cairn_broker_releases{{standing=\"{standing}\"}} {count}\n");
        }
        if let Some(expires) = figures.expires {
            text += "# TYPE cairn_broker_channel_expires_seconds gauge\n# UNIT cairn_broker_channel_expires_seconds seconds\n";
            text += &format!("cairn_broker_channel_expires_seconds {expires}\n");
            text += "# TYPE cairn_broker_channel_expired gauge\n";
            text += &format!("cairn_broker_channel_expired {}\n", u8::from(figures.expired));
        }
    }
    if let Some(boots) = engine.unreported_boots() {
        text += "# TYPE cairn_broker_unreported_boots gauge\n";
        text += &format!("cairn_broker_unreported_boots {boots}\n");
    }
    text += &witnesses(engine);
    text += "# EOF\n";
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn witnesses(engine: &Engine) -> String {
    let figures = engine.witness_figures();
    let mut text = String::new();
    for (name, value) in [
        ("cairn_broker_witness_leaves", (|witness| witness.size) as fn(&WitnessFigures) -> u64),
        ("cairn_broker_witness_time_seconds", |witness| witness.time),
        ("cairn_broker_witness_conflict", |witness| u64::from(witness.has_conflict)),
    ] {
        if figures.is_empty() {
            break;
        }
        text += &format!("# TYPE {name} gauge\n");
        if name.ends_with("_seconds") {
            text += &format!("# UNIT {name} seconds\n");
        }
        for witness in &figures {
            // OpenMetrics, section 3.1: escapes of label values are those of Rust for these characters.
            text += &format!("{name}{{witness={:?}}} {}\n", witness.name, value(witness));
        }
    }
    text
}
