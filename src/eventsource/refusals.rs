//! The record of refused requests: all in the metrics, and those that a throttle allows in the log and the traces. An
//! EventSource repeats a refused request every five seconds.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tonic::Status;
use tracing::warn;

use super::{metrics::StreamMetrics, stream::refusal_span};
use crate::telemetry::{LogThrottle, Traces, grpc};

/// The characters of a refused EventSource's name in the log: the name may have any length and content.
const MAX_LOGGED_NAME: usize = 64;
/// The refused EventSources whose last logged refusal is remembered.
const REMEMBERED: usize = 1024;

/// See the module.
pub(super) struct Refusals {
    metrics: StreamMetrics,
    traces: Traces,
    throttle: Mutex<LogThrottle<Key>>,
    hasher: RandomState,
}

/// The peer, and a hash of the EventSource's name, because the name may have any length.
type Key = (Option<IpAddr>, u64);

impl Refusals {
    pub(super) fn new(metrics: StreamMetrics, traces: Traces) -> Self {
        Self { metrics, traces, throttle: LogThrottle::new(REMEMBERED).into(), hasher: RandomState::new() }
    }

    /// Records a refused request. The name of the EventSource is unknown if the request was not read.
    pub(super) fn record(
        &self,
        event_source: Option<&str>,
        peer: Option<SocketAddr>,
        status: &Status,
        duration: Duration,
    ) {
        self.metrics.call_started();
        self.metrics.call_ended(status.code(), duration);
        self.metrics.subscription_refused(status.code());
        if !self.is_logged(event_source, peer, status) {
            return;
        }
        let name: Option<String> = event_source.map(|name| name.chars().take(MAX_LOGGED_NAME).collect());
        warn!(
            event_source = name.as_ref().map(tracing::field::debug),
            peer = peer.map(tracing::field::display),
            code = grpc::names(status.code()).go,
            reason = status.message(),
            "refused subscription"
        );
        self.traces.record(refusal_span(name.as_deref(), status.code(), duration));
    }

    fn is_logged(&self, event_source: Option<&str>, peer: Option<SocketAddr>, status: &Status) -> bool {
        let key = (peer.map(|peer| peer.ip()), self.hasher.hash_one(event_source));
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).allows(key, &status.message())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn refusals() -> Refusals {
        Refusals::new(StreamMetrics::new(&mut Registry::default()), Traces::default())
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_throttled_by_peer_address_and_event_source() {
        let refusals = refusals();
        let peer = |host, port| Some(SocketAddr::from(([10, 0, 0, host], port)));
        let status = Status::invalid_argument("no namespace");
        assert!(refusals.is_logged(Some("a"), peer(1, 1), &status));
        assert!(!refusals.is_logged(Some("a"), peer(1, 2), &status), "another port");
        assert!(refusals.is_logged(Some("b"), peer(1, 1), &status), "another EventSource");
        assert!(refusals.is_logged(Some("a"), peer(2, 1), &status), "another peer");
        assert!(refusals.is_logged(Some("a"), None, &status), "an unknown peer");
        assert!(refusals.is_logged(None, peer(1, 1), &status), "an unknown EventSource");
        assert!(refusals.is_logged(Some("a"), peer(1, 1), &Status::invalid_argument("not YAML")), "another reason");
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(refusals.is_logged(Some("a"), peer(1, 1), &Status::invalid_argument("not YAML")), "ten minutes later");
    }
}
