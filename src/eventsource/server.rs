//! The server: accepts connections and serves the service, gRPC health and reflection (v1 and v1alpha).
//!
//! # Memory of a connection
//!
//! The settings of HTTP/2 below bound what one connection can occupy. tonic has no setting for the send buffer of a stream:
//! hyper takes the next messages of a stream while the peer's window has room, up to 400 KiB beyond what the socket
//! accepts, and one message more. [Delivery](crate::delivery) bounds the bytes that are sent and not acknowledged, by
//! stream and in all, and so those in this buffer and in the socket's.

use std::{future::pending, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{debug, warn};

use super::{
    admission::Admission, incoming::Incoming, metrics::StreamMetrics, options::Options,
    proto::eventing_server::EventingServer, proxies::Proxies, refusals::Refusals, request::RequestLimits,
    service::Service, tls::Tls,
};
use crate::{delivery::Deliveries, readiness::Readiness, store::Store};

/// Argo Events sends no keepalive, so the server does. A peer that does not answer is disconnected after both.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The streams of a connection. An EventSource opens one, a proxy may combine those of all subscribers.
const MAX_STREAMS: u32 = 1024;
/// The size of a request's headers, decoded: a bearer token and what proxies add. As in grpc-java.
const MAX_HEADERS: u32 = 8 * 1024;
/// The bytes of a request that are not read yet: a whole message, see
/// [`Limits`](super::options::Limits), and some more. hyper's default is 1 MiB.
const STREAM_WINDOW: u32 = 96 * 1024;
/// The same for all streams of a connection. hyper's default is 1 MiB.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// The size of a frame, which is read as a whole. The smallest that HTTP/2 allows.
const MAX_FRAME: u32 = 16 * 1024;
/// Streams that the peer has reset before the server has seen them. Beyond that, the connection is closed: only an attack
/// resets streams that fast (CVE-2023-44487). h2's default.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that the server has reset because the peer violated HTTP/2, in the life of a connection. Beyond that, the
/// connection is closed. hyper's default, which leaves room for frames that cross the end of a stream on the way.
const MAX_LOCAL_ERROR_RESETS: usize = 1024;
/// The send buffer of a connection in the kernel, which doubles it for its bookkeeping. Enough for 10,000 events a second
/// over 1 ms; the kernel's own choice is up to 4 MiB a connection for a peer that does not read.
const SEND_BUFFER: usize = 32 * 1024;
/// The size of a request to health or reflection.
const MAX_OTHER_REQUEST: usize = 4 * 1024;

/// The descriptors of the service, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/generic.bin"));

/// The gRPC server for subscribers.
#[derive(Debug)]
pub struct Server {
    deliveries: Deliveries,
    store: Arc<Store>,
    options: Options,
    readiness: Readiness,
    metrics: StreamMetrics,
    tls: Option<Tls>,
}

/// The reason why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The compiled descriptors are invalid.
    #[error("gRPC reflection is not available: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Server {
    /// Creates a server whose streams attach to these deliveries. A stream stays open without events until `store` has
    /// listed its namespace. gRPC health follows `readiness`.
    pub fn new(
        deliveries: Deliveries,
        store: Arc<Store>,
        options: Options,
        readiness: Readiness,
        metrics: StreamMetrics,
    ) -> Self {
        Self { deliveries, store, options, readiness, metrics, tls: None }
    }

    /// Requires TLS of connections.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Serves until `drain` is cancelled and all connections are closed, or [`Options::drain`] has passed.
    ///
    /// # Errors
    /// Serving is not possible at all. Errors of single connections are counted and logged.
    pub async fn serve(self, listener: TcpListener, drain: CancellationToken) -> Result<(), ServeError> {
        let Options { namespaces, access, limits, limit_hits, drain: drain_limit, traces } = self.options;
        let admission = Admission::new(limits, limit_hits);
        let refusals = Arc::new(Refusals::new(self.metrics.clone(), traces.clone()));
        let service = Service {
            deliveries: self.deliveries,
            store: self.store,
            namespaces,
            access,
            drain: drain.clone(),
            metrics: self.metrics.clone(),
            traces,
            refusals: refusals.clone(),
            proxies: Proxies::new(self.metrics.clone()),
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        if let Err(error) = SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER) {
            debug!(%error, "cannot limit the send buffer of connections");
        }
        let reload = self.tls.clone().map(Tls::reload);
        let incoming = Incoming::new(listener, admission.clone(), self.tls, self.metrics).into_stream();
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .http2_max_header_list_size(Some(MAX_HEADERS))
            .initial_stream_window_size(Some(STREAM_WINDOW))
            .initial_connection_window_size(Some(CONNECTION_WINDOW))
            .max_frame_size(Some(MAX_FRAME))
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESETS))
            .layer(RequestLimits::new(admission, refusals))
            .add_service(health_service.max_decoding_message_size(MAX_OTHER_REQUEST))
            .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_OTHER_REQUEST))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_OTHER_REQUEST))
            .add_service(EventingServer::new(service).max_decoding_message_size(limits.request_bytes))
            .serve_with_incoming_shutdown(incoming, drain.clone().cancelled_owned());
        let report = report_health(health, self.readiness, drain.clone());
        let deadline = async {
            drain.cancelled().await;
            sleep(drain_limit).await;
        };
        let reload = async {
            match reload {
                Some(reload) => reload.await,
                None => pending().await,
            }
        };
        tokio::select! {
            result = async { tokio::join!(server, report).0 } => Ok(result?),
            never = reload => match never {},
            () = deadline => {
                warn!(limit_s = drain_limit.as_secs_f64(), "drain time limit reached, dropping open connections");
                Ok(())
            }
        }
    }
}

/// Copies readiness to gRPC health until the drain begins.
async fn report_health(health: HealthReporter, readiness: Readiness, drain: CancellationToken) {
    let mut ready = readiness.subscribe();
    loop {
        let is_ready = *ready.borrow_and_update() && !drain.is_cancelled();
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", <EventingServer<Service> as NamedService>::NAME] {
            health.set_service_status(name, status).await;
        }
        if drain.is_cancelled() {
            return;
        }
        tokio::select! {
            Ok(()) = ready.changed() => {}
            () = drain.cancelled() => {}
        }
    }
}
