//! The admin port: health, readiness, metrics and a status page over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the delivery task runs, else 503 |
//! | `/readyz` | 200 and the scopes that fail, or 503 and everything that fails, one a line |
//! | `/conditions` | the text of `/readyz`, always with 200 |
//! | `/metrics` | OpenMetrics with exemplars where the scraper accepts it, else Prometheus' text format |
//! | `/loglevel` | the log level; a PUT from within the Pod changes it until the next restart |
//! | `/` | a status page |
//!
//! The port is unauthenticated. So it shows no more of a tenant's runs than counts, and its connections are limited: see
//! `connections`. With a listener of their own, metrics are on that one only, so that a NetworkPolicy can distinguish
//! scrapers from the kubelet.

mod connections;
mod exposition;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::exposition::Exposition;
use crate::{
    readiness::{Heartbeat, Readiness},
    store::{Size, Store},
    telemetry::{LimitHits, log},
};

/// The age of the delivery task's heartbeat at which the process counts as dead. The task beats every second, and none
/// of its turns takes more than milliseconds.
const MAX_HEARTBEAT_AGE: Duration = Duration::from_secs(30);
/// The limit of a request's body, in bytes: a log level.
const MAX_BODY: usize = 1024;

/// The state behind the admin port.
#[derive(Debug)]
pub struct Admin {
    /// The metrics for `/metrics`.
    pub registry: Registry,
    /// The conditions for `/readyz`.
    pub readiness: Readiness,
    /// The sign of life for `/livez`.
    pub heartbeat: Heartbeat,
    /// The log whose level `/loglevel` shows and changes.
    pub log: log::Handle,
    /// The hits of this port's limits.
    pub limits: LimitHits,
    /// The store whose size the status page shows.
    pub store: Arc<Store>,
    /// The number of attached streams.
    pub subscribers: Gauge,
    /// The start of the server.
    pub started: Instant,
    /// Further rows of the status page, in this order: the server's configuration.
    pub facts: Vec<(&'static str, String)>,
}

/// Serves until `stop` is cancelled. Answers in progress then have `last_answers` to complete. With `metrics_listener`,
/// metrics are served there and not on `listener`.
pub async fn serve(
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    admin: Admin,
    stop: CancellationToken,
    last_answers: Duration,
) {
    let admin = Arc::new(admin);
    let limits = admin.limits.clone();
    let metrics = Router::new().route("/metrics", get(metrics));
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/conditions", get(conditions))
        .route("/loglevel", get(log_level).put(set_log_level))
        .route("/", get(status))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let (routes, metrics) = match &metrics_listener {
        Some(_) => (routes, metrics),
        None => (routes.merge(metrics), Router::new()),
    };
    let serve_routes = |listener, routes: Router<Arc<Admin>>| {
        connections::serve(listener, routes.with_state(admin.clone()), limits.clone(), stop.clone(), last_answers)
    };
    match metrics_listener {
        Some(metrics_listener) => {
            tokio::join!(serve_routes(listener, routes), serve_routes(metrics_listener, metrics));
        }
        None => serve_routes(listener, routes).await,
    }
}

async fn livez(State(admin): State<Arc<Admin>>) -> Response {
    let age = admin.heartbeat.age();
    if age < MAX_HEARTBEAT_AGE {
        return "ok\n".into_response();
    }
    let body = format!("delivery: no turn of the task for {} s\n", age.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let ready = admin.readiness.is_ready();
    let mut body = if ready { "ok\n".to_owned() } else { String::new() };
    for (condition, reason) in admin.readiness.problems() {
        body.extend([&condition, ": ", &one_line(&reason), "\n"]);
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body).into_response()
}

/// For readers that show no text of a 503: `kubectl get --raw`.
async fn conditions(state: State<Arc<Admin>>) -> Response {
    let mut response = readyz(state).await;
    *response.status_mut() = StatusCode::OK;
    response
}

async fn log_level(State(admin): State<Arc<Admin>>) -> String {
    format!("{}\n", admin.log.level())
}

/// Only for a person inside the Pod (`kubectl exec`, `kubectl port-forward`): at the level `trace`, the log contains the
/// names of all tenants' runs.
async fn set_log_level(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: String,
) -> Response {
    if !is_local(peer.ip()) {
        let refusal =
            "the log level can be changed from 127.0.0.1 or ::1 only, for example through kubectl port-forward\n";
        return (StatusCode::FORBIDDEN, refusal).into_response();
    }
    let level: log::Level = match body.trim().parse() {
        Ok(level) => level,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match admin.log.set(&level) {
        Ok(()) => {
            info!(%level, "log level changed");
            format!("{level}\n").into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Returns whether a connection is that of a process in the Pod. Istio's sidecar connects from 127.0.0.6 for clients
/// elsewhere.
fn is_local(peer: IpAddr) -> bool {
    peer == Ipv4Addr::LOCALHOST || peer == Ipv6Addr::LOCALHOST
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
    let problems = admin.readiness.problems().into_iter().map(|(name, reason)| format!("{name}: {reason}"));
    let ready = [if admin.readiness.is_ready() { "yes" } else { "no" }.to_owned()];
    let ready = ready.into_iter().chain(problems).collect::<Vec<_>>().join("; ");
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
