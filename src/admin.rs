//! Health, readiness, metrics and a status page over HTTP, for the kubelet, for Prometheus and for people.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process answers at all |
//! | `/readyz` | 200, or 503 and what still blocks, one condition a line |
//! | `/metrics` | OpenMetrics with exemplars where the scraper accepts it, else Prometheus' text format |
//! | `/` | a page for people |
//!
//! Nobody has to identify himself here, so nothing here tells of a tenant's runs beyond counts, and nobody can hold on
//! to anything: a connection is for one request and has ten seconds in all, and no more than 64 are served at once.

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
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::exposition::Exposition;
use crate::{
    readiness::Readiness,
    store::{Size, Store},
};

/// How many connections are served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection has for its request and the answer to it.
const CONNECTION: Duration = Duration::from_secs(10);
/// How much of a request's head is read.
const MAX_HEAD: usize = 16 * 1024;
/// How long nothing is accepted after the system could not give a connection (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// How long answers may still be written when the server stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What there is to tell.
#[derive(Debug)]
pub struct Admin {
    /// What `/metrics` shows.
    pub registry: Registry,
    /// What `/readyz` tells.
    pub readiness: Readiness,
    /// Whose size the status page shows.
    pub store: Arc<Store>,
    /// How many streams are attached.
    pub subscribers: Gauge,
    /// When the server started.
    pub started: Instant,
    /// What else the status page shows, in this order: how the server is configured.
    pub facts: Vec<(&'static str, String)>,
}

/// Serves until `stop` is cancelled.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let router = router(admin);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection to the admin port");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    // What is not written by then is cut off as the set is dropped.
    timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await.ok();
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let outcome = timeout(CONNECTION, served).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection to the admin port ended early"),
        Err(error) => debug!(%error, "a connection to the admin port was too slow"),
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
    let blockers = admin.readiness.blockers();
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
            error!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Html<String> {
    let blockers = admin.readiness.blockers();
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
