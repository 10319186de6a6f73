//! The admin port: health, readiness, metrics and a status page over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the process answers |
//! | `/readyz` | 200, or 503 with the conditions that block, one a line |
//! | `/metrics` | OpenMetrics with exemplars where the scraper accepts it, else Prometheus' text format |
//! | `/` | a status page |
//!
//! This port is unauthenticated. So it shows no more of a tenant's runs than counts, and its connections are limited:
//! one request each, within ten seconds, and 64 at once.

mod exposition;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::exposition::Exposition;
use crate::{
    net::Acceptor,
    readiness::Readiness,
    store::{Size, Store},
};

/// The limit of concurrent connections. Further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;
/// The deadline of a connection: request and answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit of a request's head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The state behind the admin port.
#[derive(Debug)]
pub struct Admin {
    /// The metrics for `/metrics`.
    pub registry: Registry,
    /// The conditions for `/readyz`.
    pub readiness: Readiness,
    /// The store whose size the status page shows.
    pub store: Arc<Store>,
    /// The number of attached streams.
    pub subscribers: Gauge,
    /// The start of the server.
    pub started: Instant,
    /// Further rows of the status page, in this order: the server's configuration.
    pub facts: Vec<(&'static str, String)>,
}

/// Serves until `stop` is cancelled. Answers in progress then have `last_answers` to complete.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken, last_answers: Duration) {
    let router = router(admin);
    let mut acceptor = Acceptor::new(listener);
    let mut connections = JoinSet::new();
    let on_error = |error: &io::Error| warn!(%error, "cannot accept a connection to the admin port");
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (stream, _) = acceptor.accept(on_error), if connections.len() < MAX_CONNECTIONS => {
                connections.spawn(connection(stream, router.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // Dropping the set aborts the rest.
    timeout(last_answers, async { while connections.join_next().await.is_some() {} }).await.ok();
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection to the admin port failed"),
        Err(_) => debug!("connection to the admin port timed out"),
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/", get(status))
        .with_state(Arc::new(admin))
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let blockers = admin.readiness.problems();
    if blockers.is_empty() {
        return "ok\n".into_response();
    }
    let mut body = String::new();
    for (condition, reason) in blockers {
        body.extend([&condition, ": ", &one_line(&reason), "\n"]);
    }
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::accepted_by(accept);
    match exposition.encode(&admin.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition.content_type())], text).into_response(),
        Err(error) => {
            error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Html<String> {
    let blockers = admin.readiness.problems();
    let ready = match blockers.len() {
        0 => "yes".to_owned(),
        _ => blockers.into_iter().map(|(name, reason)| format!("no, {name}: {reason}")).collect::<Vec<_>>().join("; "),
    };
    let Size { workflows, namespaces } = admin.store.size();
    let uptime = Duration::from_secs(admin.started.elapsed().as_secs());
    let live = [
        ("ready", ready),
        ("up for", humantime::format_duration(uptime).to_string()),
        ("subscribers", admin.subscribers.get().to_string()),
        ("workflows", format!("{workflows} in {namespaces} namespaces")),
    ];
    let mut rows = String::new();
    for (name, value) in admin.facts.iter().chain(&live) {
        rows.extend(["<tr><th>", &escaped(name), "</th><td>", &escaped(value), "</td></tr>\n"]);
    }
    Html(include_str!("admin/status.html").replace("{rows}", &rows))
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
