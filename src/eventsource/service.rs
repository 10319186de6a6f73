//! The method `StartEventSource`: accepts or refuses a subscription.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use super::{
    config,
    link::{LinkInfo, StreamAcks},
    metrics::StreamMetrics,
    proto::{self, eventing_server::Eventing},
    stream::{EventStream, StreamGuard, refusal_span, shutting_down},
};
use crate::{
    delivery::Deliveries,
    model::Subscription,
    telemetry::{LogThrottle, Traces, grpc},
};

/// The characters of a refused EventSource's name in the log: the name may have any length and content.
const MAX_LOGGED_NAME: usize = 64;
/// The refused EventSources whose last logged refusal is remembered.
const REFUSALS: usize = 1024;

/// See the module.
pub(super) struct Service {
    deliveries: Deliveries,
    /// The namespaces that may be subscribed to; `None` for all.
    namespaces: Option<Vec<Arc<str>>>,
    /// Turns true when the server is ready for the first time.
    was_ready: watch::Receiver<bool>,
    drain: CancellationToken,
    metrics: StreamMetrics,
    traces: Traces,
    /// An EventSource repeats a refused request every five seconds.
    refusals: Mutex<LogThrottle<RefusalKey>>,
}

/// The peer, and a hash of the EventSource's name, because the name may have any length.
type RefusalKey = (Option<IpAddr>, u64);

type Events = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

#[tonic::async_trait]
impl Eventing for Service {
    type StartEventSourceStream = Events;

    async fn start_event_source(&self, request: Request<proto::EventSource>) -> Result<Response<Events>, Status> {
        let started = Instant::now();
        let link = request.extensions().get::<LinkInfo>().cloned();
        let peer = link.as_ref().and_then(LinkInfo::peer_addr);
        let acks = link.and_then(|link| link.stream_acks(request.metadata().as_ref()));
        let event_source = request.into_inner();
        match self.admit(&event_source) {
            Ok(subscription) => {
                // Delivery logs the stream with its pending runs once the store is filled.
                debug!(
                    namespace = %subscription.namespace, subscription = %subscription.name,
                    peer = peer.map(tracing::field::display), "accepted subscription"
                );
                if acks.is_none() {
                    warn!(
                        namespace = %subscription.namespace, subscription = %subscription.name,
                        peer = peer.map(tracing::field::display), "stream without acknowledgements, its events cannot be confirmed"
                    );
                }
                Ok(Response::new(self.events(subscription, peer, acks)))
            }
            Err(status) => {
                self.record_refusal(&event_source.name, peer, &status, started.elapsed());
                Err(status)
            }
        }
    }
}

impl Service {
    pub(super) fn new(
        deliveries: Deliveries,
        namespaces: Option<Vec<Arc<str>>>,
        was_ready: watch::Receiver<bool>,
        drain: CancellationToken,
        metrics: StreamMetrics,
        traces: Traces,
    ) -> Self {
        let refusals = LogThrottle::new(REFUSALS).into();
        Self { deliveries, namespaces, was_ready, drain, metrics, traces, refusals }
    }

    /// Returns the requested subscription, or the status of its refusal.
    fn admit(&self, event_source: &proto::EventSource) -> Result<Subscription, Status> {
        if self.drain.is_cancelled() {
            return Err(shutting_down());
        }
        let subscription = config::parse(&event_source.name, &event_source.config)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(namespaces) = &self.namespaces
            && !namespaces.contains(&subscription.namespace)
        {
            return Err(Status::permission_denied(format!(
                "kfpNamespace {:?} is not served here; write one of the namespaces in the server's flag --namespaces, \
                 or have this one added there",
                &*subscription.namespace
            )));
        }
        Ok(subscription)
    }

    /// Records every refusal in the metrics, and those that the throttle allows in the log and the traces.
    fn record_refusal(&self, event_source: &str, peer: Option<SocketAddr>, status: &Status, duration: Duration) {
        self.metrics.call_started();
        self.metrics.call_ended(status.code(), duration);
        self.metrics.subscription_refused(status.code());
        let key = refusal_key(peer, event_source);
        let is_logged = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).allows(key, &status.message());
        if is_logged {
            let name: String = event_source.chars().take(MAX_LOGGED_NAME).collect();
            warn!(
                event_source = ?name, peer = peer.map(tracing::field::display), code = grpc::names(status.code()).go,
                reason = status.message(), "refused subscription"
            );
            self.traces.record(refusal_span(&name, status.code(), duration));
        }
    }

    /// The stream of an accepted subscription. It stays open without events until the server is ready, because Argo
    /// Events 1.9.4 to 1.9.9 hang forever after three refusals.
    fn events(&self, subscription: Subscription, peer: Option<SocketAddr>, acks: Option<StreamAcks>) -> Events {
        let mut guard = StreamGuard::new(&subscription, self.metrics.clone(), self.traces.clone());
        let (deliveries, drain, mut was_ready) = (self.deliveries.clone(), self.drain.clone(), self.was_ready.clone());
        let attached = async move {
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    let status = guard.end(shutting_down());
                    return stream::once(async { Err(status) }).left_stream();
                }
                // An error means that the server was dropped, which ends this stream soon.
                _ = was_ready.wait_for(|was_ready| *was_ready) => {}
            }
            let attached = deliveries.attach(subscription, peer, guard.span());
            EventStream::new(attached, acks, guard).right_stream()
        };
        attached.into_stream().flatten().boxed()
    }
}

fn refusal_key(peer: Option<SocketAddr>, event_source: &str) -> RefusalKey {
    let mut hasher = DefaultHasher::new();
    event_source.hash(&mut hasher);
    (peer.map(|peer| peer.ip()), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_are_throttled_by_peer_address_and_event_source() {
        let mut refusals = LogThrottle::new(REFUSALS);
        let peer = |host, port| Some(SocketAddr::from(([10, 0, 0, host], port)));
        assert!(refusals.allows(refusal_key(peer(1, 1), "a"), &"no namespace"));
        assert!(!refusals.allows(refusal_key(peer(1, 2), "a"), &"no namespace"), "another port");
        assert!(refusals.allows(refusal_key(peer(1, 1), "b"), &"no namespace"), "another EventSource");
        assert!(refusals.allows(refusal_key(peer(2, 1), "a"), &"no namespace"), "another peer");
        assert!(refusals.allows(refusal_key(None, "a"), &"no namespace"), "an unknown peer");
    }
}
