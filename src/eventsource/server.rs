//! Accepts subscribers' connections and serves them: the service, gRPC health, and reflection (v1 and v1alpha).

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, stream};
use rand::RngExt;
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

use super::{link::Link, proto::eventing_server::EventingServer, refusals::Refusals, service::Service, socket::Socket};
use crate::{
    delivery::Deliveries,
    readiness::Readiness,
    telemetry::{Traces, metrics::StreamMetrics},
};

/// Argo Events never asks whether we are there; we ask it. A connection that died silently is dropped after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// One of which nothing is taken, what keepalive sends included, is not kept for longer either.
const PATIENCE: Duration = KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT);
/// An EventSource opens one stream a connection; a proxy may put a few hundred together.
const MAX_STREAMS: u32 = 1024;
const MAX_HEADERS: u32 = 16 * 1024;
/// After a connection that could not be accepted, which may mean that there are no more file descriptors. Each further
/// failure in a row doubles it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(2);

/// The file descriptors of what is served, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/generic.bin"));

/// Who may subscribe to what, and who is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces that may be subscribed to; `None` for all.
    pub namespaces: Option<Vec<Arc<str>>>,
    /// How long connections may stay open after a drain has begun.
    pub drain: Duration,
    /// Where the spans of streams go.
    pub traces: Traces,
}

/// The server that Argo Events dials.
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
    /// The descriptors compiled into this program are broken.
    #[error("gRPC reflection cannot be offered: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Server {
    /// A server whose streams attach to these deliveries. A valid request is held open until `readiness` is ready for
    /// the first time; gRPC health follows `readiness` all the time.
    pub fn new(deliveries: Deliveries, options: Options, readiness: Readiness, metrics: StreamMetrics) -> Self {
        Self { deliveries, options, readiness, metrics }
    }

    /// Serves until `drain` is cancelled and all streams have ended (delivery ends them), or that has taken too long.
    ///
    /// # Errors
    /// Where serving is not possible at all; what concerns one connection only is counted and logged.
    pub async fn serve(self, listener: TcpListener, drain: CancellationToken) -> Result<(), ServeError> {
        let limit = self.options.drain;
        let (health, health_service) = tonic_health::server::health_reporter();
        let (filled_tx, filled) = watch::channel(false);
        let service = Service {
            deliveries: self.deliveries,
            namespaces: self.options.namespaces,
            filled,
            drain: drain.clone(),
            metrics: self.metrics.clone(),
            traces: self.options.traces,
            refusals: Refusals::default().into(),
        };
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
        let report = report_health(health, self.readiness, filled_tx, drain.clone());
        let deadline = async {
            drain.cancelled().await;
            sleep(limit).await;
        };
        tokio::select! {
            result = async { tokio::join!(server, report).0 } => Ok(result?),
            () = deadline => {
                warn!(?limit, "dropping connections that are still open at the end of the drain");
                Ok(())
            }
        }
    }
}

/// Follows readiness until the drain begins.
async fn report_health(
    health: HealthReporter,
    readiness: Readiness,
    filled: watch::Sender<bool>,
    drain: CancellationToken,
) {
    let mut ready = readiness.subscribe();
    loop {
        let is_ready = *ready.borrow_and_update() && !drain.is_cancelled();
        if is_ready {
            filled.send_if_modified(|filled| !std::mem::replace(filled, true));
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

/// The connections that come in. Never ends, and never fails.
fn incoming(
    listener: TcpListener,
    metrics: StreamMetrics,
) -> impl Stream<Item = Result<Link<Socket<TcpStream>>, io::Error>> + Send + 'static {
    stream::unfold((listener, metrics), |(listener, metrics)| async move {
        let mut pause = ACCEPT_PAUSE;
        loop {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    if let Err(error) = set_options(&tcp) {
                        debug!(%peer, "a connection was gone before it could be served: {error}");
                        continue;
                    }
                    let socket = Socket::new(tcp, peer, PATIENCE, &metrics);
                    let link = Link::new(socket).with_peer_addr(peer);
                    return Some((Ok(link), (listener, metrics)));
                }
                Err(error) => {
                    metrics.accept_errors.inc();
                    warn!("a connection could not be accepted: {error}");
                    let jittered = rand::rng().random_range(pause / 2..=pause);
                    sleep(jittered).await;
                    pause = MAX_ACCEPT_PAUSE.min(pause * 2);
                }
            }
        }
    })
}

/// tonic sets no options on connections that we accept ourselves.
fn set_options(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(Duration::from_secs(10));
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}
