//! The connection to the API server.
//!
//! This is kube's stack of layers with additions: a dead connection is detected (keepalive, `TCP_USER_TIMEOUT`, deadlines
//! for headers and limits on silence), requests are not retried internally, answers are read as they arrive, and every
//! request is counted.

mod answer;
mod observe;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, uri::Scheme};
use hyper::body::Body as HttpBody;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use tower::{BoxError, Service, ServiceBuilder};
use tracing::warn;

pub(super) use self::answer::{Answer, Refusal, RequestError};
use self::observe::ObserveLayer;
use super::KubernetesMetrics;

/// The deadline for a connection, its TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is read at once over HTTP/1. By default it is 400 KiB, and between such buffers, which come and go during a
/// list, the records leave holes that cost 70 bytes for each of 100,000 Workflows. HTTP/2 reads frames of 16 KiB.
const READ_BUFFER: usize = 16 * 1024;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// The reason why a client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a Pod's service account was found, or it cannot be read.
    #[error("no Kubernetes configuration: set KUBECONFIG to a kubeconfig, or run in a Pod with a service account: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration's certificates, credentials or headers are not usable.
    #[error("the Kubernetes configuration is not usable: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// A client of the API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) kube: kube::Client,
    pub(super) metrics: KubernetesMetrics,
}

impl Client {
    /// A client with the usual configuration: `KUBECONFIG`, else the Pod's service account.
    ///
    /// # Errors
    /// If there is neither, or the configuration is not usable.
    pub async fn infer(metrics: KubernetesMetrics) -> Result<Self, ConnectError> {
        Self::new(Config::infer().await?, metrics)
    }

    /// A client with this configuration, except its timeouts.
    ///
    /// # Errors
    /// If the configuration is not usable.
    pub fn new(mut config: Config, metrics: KubernetesMetrics) -> Result<Self, ConnectError> {
        config.headers.push((
            http::header::USER_AGENT,
            http::HeaderValue::from_static(concat!("model-update-eventsource/", env!("CARGO_PKG_VERSION"))),
        ));
        if config.proxy_url.is_some() {
            // HTTPS_PROXY is often set for a whole machine, and rarely meant for its cluster.
            warn!("ignoring the proxy for the Kubernetes API, connecting directly");
        }
        if config.cluster_url.scheme() == Some(&Scheme::HTTP) {
            // Nothing is verified over plain HTTP, so the machine needs no root certificates.
            config.root_cert.get_or_insert_default();
        }
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
        let http_client: HttpClient<_, Body> =
            HttpClient::builder(TokioExecutor::new()).http1_max_buf_size(READ_BUFFER).build(connector);

        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(Box::new)?)
            .layer(config.extra_headers_layer().map_err(Box::new)?)
            .map_err(BoxError::from)
            .service(http_client);
        Ok(Self::over(service, config.default_namespace, metrics))
    }

    /// A client over a service that answers requests: the API server, or a test.
    pub(super) fn over<S, B>(service: S, default_namespace: String, metrics: KubernetesMetrics) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send + 'static,
        S::Future: Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = ServiceBuilder::new().layer(ObserveLayer::new(metrics.clone())).service(service);
        Self { kube: ClientBuilder::new(service, default_namespace).build(), metrics }
    }

    /// Sends a request. Returns the successful answer, to be read with this limit on its silence.
    pub(super) async fn send(&self, request: Request<Vec<u8>>, silence: Duration) -> Result<Answer, RequestError> {
        let response = self.kube.send(request.map(Body::from)).await.map_err(RequestError::Unanswered)?;
        Answer::new(response, silence).await
    }
}
