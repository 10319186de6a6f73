//! The connection to the API server.
//!
//! kube's own stack of layers is set up anew here, for what it lacks: a connection whose peer has silently gone is
//! noticed (keepalive, `TCP_USER_TIMEOUT`, deadlines for headers and for silence), nothing is retried behind our back,
//! an established watch is noticed when its headers come (not only when the next object changes), and failures
//! are counted and logged once, by us.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tower::{BoxError, Layer, Service, ServiceBuilder};

use crate::telemetry::metrics::{
    KubernetesMetrics,
    kubernetes::{RequestLabels, VerbLabel},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the headers of an answer. A large list's come only when the API server has put its page together.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a watch lasts before the API server ends it and it is resumed. Withdrawn rights show then.
pub(super) const WATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may be silent while an answer is read. Longer than any watch, which may be silent to its end.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(75);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a Pod's service account was found, or it could not be read.
    #[error(
        "no way to the Kubernetes API: set KUBECONFIG to a kubeconfig, or run in a Pod with a service account: {0}"
    )]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration's certificates, credentials or headers are not usable.
    #[error("the Kubernetes configuration cannot be used: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// A client of the API server that knows when a watch is established. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) kube: kube::Client,
    established: Established,
    pub(super) metrics: KubernetesMetrics,
}

impl Client {
    /// Connects as every Kubernetes client does: `KUBECONFIG`, else the Pod's service account.
    ///
    /// # Errors
    /// Where there is neither, or what it says cannot be used.
    pub async fn infer(metrics: KubernetesMetrics) -> Result<Self, ConnectError> {
        Self::new(Config::infer().await?, metrics)
    }

    /// Connects as this configuration says. Its deadlines are set here.
    ///
    /// # Errors
    /// Where what it says cannot be used.
    pub fn new(mut config: Config, metrics: KubernetesMetrics) -> Result<Self, ConnectError> {
        config.headers.push((
            http::header::USER_AGENT,
            http::HeaderValue::from_static(concat!("model-update-eventsource/", env!("CARGO_PKG_VERSION"))),
        ));
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE_IDLE));
        http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let https = config.rustls_https_connector_with_connector(http).map_err(Box::new)?;
        let mut connector = TimeoutConnector::new(https);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_read_timeout(Some(SILENCE_TIMEOUT));
        let http_client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);

        let established = Established::default();
        let service = ServiceBuilder::new()
            .layer(ObserveLayer { established: established.clone(), metrics: metrics.clone() })
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(Box::new)?)
            .layer(config.extra_headers_layer().map_err(Box::new)?)
            .map_err(BoxError::from)
            .service(http_client);
        let kube = ClientBuilder::new(service, config.default_namespace).build();
        Ok(Self { kube, established, metrics })
    }

    /// Follows how often a watch of this path has been established.
    pub(super) fn established(&self, path: &str) -> watch::Receiver<u64> {
        self.established.subscribe(path)
    }
}

/// How often a watch was established, by the path that it watches.
#[derive(Clone, Default)]
struct Established(Arc<Mutex<HashMap<String, watch::Sender<u64>>>>);

impl Established {
    fn subscribe(&self, path: &str) -> watch::Receiver<u64> {
        self.lock().entry(path.to_owned()).or_default().subscribe()
    }

    fn count(&self, path: &str) {
        if let Some(sender) = self.lock().get(path) {
            sender.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct ObserveLayer {
    established: Established,
    metrics: KubernetesMetrics,
}

/// Counts requests, gives them a deadline for their headers, and notices established watches.
#[derive(Clone)]
struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, layer: self.clone() }
    }
}

/// There was no answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server has not begun to answer within {} s", HEADERS_TIMEOUT.as_secs())]
struct NoAnswer;

impl<S, B> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let verb = verb(&request);
        let path = request.uri().path().to_owned();
        let response = self.inner.call(request);
        let ObserveLayer { established, metrics } = self.layer.clone();
        Box::pin(async move {
            let start = Instant::now();
            let result = timeout(HEADERS_TIMEOUT, response).await.unwrap_or_else(|_| Err(NoAnswer.into()));
            let code = match &result {
                Ok(response) => response.status().as_str().to_owned(),
                Err(_) => "error".to_owned(),
            };
            metrics.requests.get_or_create(&RequestLabels { verb, code }).inc();
            metrics.request_seconds.get_or_create(&VerbLabel { verb }).observe(start.elapsed().as_secs_f64());
            if verb == "watch" && result.as_ref().is_ok_and(|response| response.status().is_success()) {
                established.count(&path);
            }
            result
        })
    }
}

fn verb(request: &Request<Body>) -> &'static str {
    let watches = || request.uri().query().unwrap_or_default().split('&').any(|pair| pair == "watch=true");
    match *request.method() {
        Method::GET if watches() => "watch",
        Method::GET => "list",
        Method::PATCH => "patch",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_verb() {
        let verb_of = |method: Method, uri: &str| {
            verb(&Request::builder().method(method).uri(uri).body(Body::empty()).expect("a valid request"))
        };
        assert_eq!(verb_of(Method::GET, "/apis/x?&watch=true&timeoutSeconds=60"), "watch");
        assert_eq!(verb_of(Method::GET, "/apis/x?limit=5"), "list");
        assert_eq!(verb_of(Method::PATCH, "/apis/x/y"), "patch");
        assert_eq!(verb_of(Method::POST, "/apis/x"), "other");
    }
}
