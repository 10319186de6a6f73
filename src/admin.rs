//! The admin port: health, readiness, metrics and a status page over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 while the delivery task runs, else 503 |
//! | `/readyz` | 200 and the scopes that fail, or 503 and everything that fails, one a line |
//! | `/conditions` | the text of `/readyz`, always with 200 |
//! | `/metrics` | OpenMetrics with exemplars where the scraper accepts it, else Prometheus' text format |
//! | `/loglevel` | the log level; a PUT from within the Pod changes it until the next restart |
//! | `/`, `/statusz.json` | the status, for people and programs |
//!
//! Probes and metrics are unauthenticated, so they show no more of a tenant's runs than counts. The status names runs,
//! and needs the right of a subscription (`reader`), or without tokens at least a host that is no web site's (`host`).
//! Connections are limited: see `connections`. With a listener of their own, metrics are on that one only, so that a
//! NetworkPolicy can distinguish scrapers from the kubelet.

mod connections;
mod exposition;
mod host;
mod html;
mod page;
mod reader;
mod statusz;
mod trace_url;

pub use host::{HostName, HostNameError, HostNames};
pub use trace_url::{TraceUrl, TraceUrlError};

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, RawQuery, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::{
    exposition::Exposition,
    reader::{Readers, Refused},
    statusz::Statusz,
};
use crate::{
    access::Access,
    clock::WallClock,
    delivery::StatusReader,
    readiness::{Heartbeat, Readiness},
    store::{Scope, Store},
    telemetry::{LimitHits, log},
    text::one_line,
};

/// The age of the delivery task's heartbeat at which the process counts as dead. Heartbeats are at most five seconds
/// apart, and no turn of the task takes more than milliseconds.
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
    /// True if the status is served.
    pub has_status: bool,
    /// Further host names of the status.
    pub hosts: HostNames,
    /// The rights of the readers of the status.
    pub access: Access,
    /// The status of the delivery task.
    pub delivery: StatusReader,
    /// The store whose size the status contains.
    pub store: Arc<Store>,
    /// The scopes of the watches.
    pub scopes: Vec<Scope>,
    /// The namespaces that are served; empty: all.
    pub namespaces: Vec<Arc<str>>,
    /// The label selector of runs.
    pub selector: String,
    /// The addresses of traces.
    pub trace_url: Option<TraceUrl>,
    /// The clock for the ages in the status.
    pub clock: WallClock,
    /// The start of the server.
    pub started: Instant,
    /// Further rows of the status page, in this order: the server's configuration.
    pub facts: Vec<(&'static str, String)>,
}

/// The state of the routes.
struct Served {
    admin: Admin,
    readers: Readers,
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
    let limits = admin.limits.clone();
    let has_status = admin.has_status;
    let served = Arc::new(Served { readers: Readers::new(admin.access.clone()), admin });
    let metrics = Router::new().route("/metrics", get(metrics));
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/conditions", get(conditions))
        .route("/loglevel", get(log_level).put(set_log_level))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let routes = if has_status { routes.merge(status_routes()) } else { routes };
    let (routes, metrics) = match &metrics_listener {
        Some(_) => (routes, metrics),
        None => (routes.merge(metrics), Router::new()),
    };
    let serve_routes = |listener, routes: Router<Arc<Served>>| {
        connections::serve(listener, routes.with_state(served.clone()), limits.clone(), stop.clone(), last_answers)
    };
    match metrics_listener {
        Some(metrics_listener) => {
            tokio::join!(serve_routes(listener, routes), serve_routes(metrics_listener, metrics));
        }
        None => serve_routes(listener, routes).await,
    }
}

async fn livez(State(served): State<Arc<Served>>) -> Response {
    let age = served.admin.heartbeat.age();
    if age < MAX_HEARTBEAT_AGE {
        return "ok\n".into_response();
    }
    let body = format!("delivery: no turn of the task for {} s\n", age.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn readyz(State(served): State<Arc<Served>>) -> Response {
    let ready = served.admin.readiness.is_ready();
    let mut body = if ready { "ok\n".to_owned() } else { String::new() };
    for (condition, reason) in served.admin.readiness.problems() {
        body.extend([&condition, ": ", &one_line(&reason), "\n"]);
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body).into_response()
}

/// For readers that show no text of a 503: `kubectl get --raw`.
async fn conditions(state: State<Arc<Served>>) -> Response {
    let mut response = readyz(state).await;
    *response.status_mut() = StatusCode::OK;
    response
}

async fn log_level(State(served): State<Arc<Served>>) -> String {
    format!("{}\n", served.admin.log.level())
}

/// Only for a person inside the Pod (`kubectl exec`, `kubectl port-forward`): at the level `trace`, the log contains
/// the names of all tenants' runs.
async fn set_log_level(
    State(served): State<Arc<Served>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: String,
) -> Response {
    if !is_local(peer.ip()) {
        let refusal =
            "the log level can be changed from 127.0.0.1 or ::1 only, for example through kubectl port-forward\n";
        return (StatusCode::FORBIDDEN, refusal).into_response();
    }
    if let Err(refused) = served.admin.hosts.check(&headers) {
        return refused.into_response();
    }
    let level: log::Level = match body.trim().parse() {
        Ok(level) => level,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match served.admin.log.set(&level) {
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

async fn metrics(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::accepted_by(accept);
    match exposition.encode(&served.admin.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition.content_type())], text).into_response(),
        Err(error) => {
            error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

// === the status ===

fn status_routes() -> Router<Arc<Served>> {
    Router::new()
        .route("/", get(status_page))
        .route("/statusz.json", get(statusz_json))
        .route("/status.css", get(async || asset("text/css; charset=utf-8", page::STYLE)))
        .route("/status.js", get(async || asset("text/javascript; charset=utf-8", page::SCRIPT)))
}

async fn status_page(
    State(served): State<Arc<Served>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let admin = &served.admin;
    if let Err(refused) = served.check_host(&headers) {
        return refused.into_response();
    }
    let has_token = reader::has_token(&headers);
    let (code, page) = match reader::namespace_of(query.as_deref()) {
        Err(Refused { status, text }) => (status, page::health(admin, "", &text, false)),
        Ok(namespace) => match served.status(&headers, &namespace, peer.ip()).await {
            Ok(status) => (StatusCode::OK, page::full(admin, &status)),
            Err(Refused { status, text }) => {
                let is_locked = status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN;
                // Health is for everybody: without a token, the page is complete.
                let code = if is_locked && !has_token { StatusCode::OK } else { status };
                (code, page::health(admin, &namespace, &text, is_locked))
            }
        },
    };
    let content_type = "text/html; charset=utf-8";
    let policy = (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY);
    (code, private(content_type), [policy], page).into_response()
}

async fn statusz_json(
    State(served): State<Arc<Served>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let status = async {
        served.check_host(&headers)?;
        let namespace = reader::namespace_of(query.as_deref())?;
        served.status(&headers, &namespace, peer.ip()).await
    };
    match status.await.map(|status| serde_json::to_vec(&status)) {
        Ok(Ok(body)) => (private("application/json"), body).into_response(),
        Ok(Err(error)) => {
            error!(%error, "cannot encode the status");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let challenge = (self.status == StatusCode::UNAUTHORIZED).then_some([(header::WWW_AUTHENTICATE, "Bearer")]);
        (self.status, challenge, private("text/plain; charset=utf-8"), format!("{}\n", self.text)).into_response()
    }
}

impl Served {
    /// Refuses a host that may be a web site's, unless the reader needs a token, which such a site does not have.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refused> {
        if self.admin.access.needs_token() { Ok(()) } else { self.admin.hosts.check(headers) }
    }

    /// Returns the status that a reader asks for.
    async fn status(&self, headers: &HeaderMap, namespace: &Arc<str>, peer: IpAddr) -> Result<Statusz, Refused> {
        self.readers.check(headers, namespace, peer).await?;
        let delivery = self.admin.delivery.current().await.ok_or_else(|| Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            text: "the delivery task does not answer; see /livez".to_owned(),
        })?;
        Ok(Statusz::new(&self.admin, &delivery, namespace))
    }
}

/// The headers of an answer that belongs to its reader.
fn private(content_type: &'static str) -> [(HeaderName, HeaderValue); 5] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    ]
}

fn asset(content_type: &'static str, content: &'static str) -> Response {
    (private(content_type), content).into_response()
}

#[cfg(test)]
mod tests;
