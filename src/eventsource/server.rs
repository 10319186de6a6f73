//! The server: accepts connections and serves the service, gRPC health and reflection (v1 and v1alpha).

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, stream};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{debug, warn};

use super::{
    link::Link, metrics::StreamMetrics, proto::eventing_server::EventingServer, service::Service, socket::Socket,
};
use crate::{delivery::Deliveries, net::Acceptor, readiness::Readiness, telemetry::Traces};

/// Argo Events sends no keepalive, so the server does. A peer that does not answer is disconnected after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval of TCP keepalive probes after the first.
const TCP_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The time limit for a peer that accepts no bytes. As long as keepalive takes to notice a peer that sends none.
const WRITE_TIMEOUT: Duration = KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT);
/// The streams of a connection. An EventSource opens one, a proxy may combine a few hundred.
const MAX_STREAMS: u32 = 1024;
const MAX_HEADERS: u32 = 16 * 1024;

/// The descriptors of the service, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/generic.bin"));

/// Options of a [`Server`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces that may be subscribed to; `None` for all.
    pub namespaces: Option<Vec<Arc<str>>>,
    /// The time limit of a drain. It begins when the drain does, and includes the time in which delivery ends the
    /// streams. Connections that are open at its end are dropped.
    pub drain: Duration,
    /// The destination of the streams' spans.
    pub traces: Traces,
}

/// The gRPC server for subscribers.
#[derive(Debug)]
pub struct Server {
    deliveries: Deliveries,
    options: Options,
    readiness: Readiness,
    metrics: StreamMetrics,
}

/// Why the server cannot serve.
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
    /// Creates a server whose streams attach to these deliveries. Streams stay open without events until `readiness` is
    /// ready for the first time. gRPC health follows `readiness`.
    pub fn new(deliveries: Deliveries, options: Options, readiness: Readiness, metrics: StreamMetrics) -> Self {
        Self { deliveries, options, readiness, metrics }
    }

    /// Serves until `drain` is cancelled and all connections are closed, or [`Options::drain`] has passed.
    ///
    /// # Errors
    /// Serving is not possible at all. Errors of single connections are counted and logged.
    pub async fn serve(self, listener: TcpListener, drain: CancellationToken) -> Result<(), ServeError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let (was_ready_tx, was_ready) = watch::channel(false);
        let Options { namespaces, drain: drain_limit, traces } = self.options;
        let service = Service::new(self.deliveries, namespaces, was_ready, drain.clone(), self.metrics.clone(), traces);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .http2_max_header_list_size(Some(MAX_HEADERS))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(EventingServer::new(service))
            .serve_with_incoming_shutdown(incoming(listener, self.metrics), drain.clone().cancelled_owned());
        let report = report_health(health, self.readiness, was_ready_tx, drain.clone());
        let deadline = async {
            drain.cancelled().await;
            sleep(drain_limit).await;
        };
        tokio::select! {
            result = async { tokio::join!(server, report).0 } => Ok(result?),
            () = deadline => {
                warn!(limit_s = drain_limit.as_secs_f64(), "drain time limit reached, dropping open connections");
                Ok(())
            }
        }
    }
}

/// Copies readiness to gRPC health until the drain begins.
async fn report_health(
    health: HealthReporter,
    readiness: Readiness,
    was_ready: watch::Sender<bool>,
    drain: CancellationToken,
) {
    let mut ready = readiness.subscribe();
    loop {
        let is_ready = *ready.borrow_and_update() && !drain.is_cancelled();
        if is_ready {
            was_ready.send_if_modified(|was_ready| !std::mem::replace(was_ready, true));
        }
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

/// The accepted connections. Never ends and never fails.
fn incoming(
    listener: TcpListener,
    metrics: StreamMetrics,
) -> impl Stream<Item = Result<Link<Socket<TcpStream>>, io::Error>> + Send + 'static {
    stream::unfold((Acceptor::new(listener), metrics), |(mut acceptor, metrics)| async move {
        loop {
            let on_error = |error: &io::Error| {
                metrics.accept_errors.inc();
                warn!(%error, "cannot accept connection, retrying");
            };
            let (tcp, peer) = acceptor.accept(on_error).await;
            if let Err(error) = set_keepalive(&tcp) {
                debug!(%peer, %error, "connection closed before it was served");
                continue;
            }
            let socket = Socket::new(tcp, peer, WRITE_TIMEOUT, &metrics);
            let link = Link::new(socket).with_peer_addr(peer);
            return Some((Ok(link), (acceptor, metrics)));
        }
    })
}

/// Enables TCP keepalive, which tonic does not do for connections that it has not accepted itself.
fn set_keepalive(tcp: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(TCP_PROBE_INTERVAL);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}
