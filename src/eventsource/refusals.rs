//! The record of refused requests: all in the metrics, and those that a throttle allows in the log and the traces. An
//! EventSource repeats a refused request every five seconds, and any client can send others with ever new names.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::Status;
use tracing::warn;

use super::{metrics::StreamMetrics, stream::refusal_span};
use crate::telemetry::{LogThrottle, Traces, grpc};

/// The characters of a refused EventSource's name in the log: the name may have any length and content.
const MAX_LOGGED_NAME: usize = 64;
/// The refused EventSources whose last logged refusal is remembered.
const REMEMBERED: usize = 1024;
/// The interval of the limits of lines.
const INTERVAL: Duration = Duration::from_secs(60);
/// Lines of one peer's address in an interval. The refusals of the EventSources behind a proxy are logged in a few of them.
const MAX_LINES_OF_PEER: usize = 60;
/// Lines of all peers.
const MAX_LINES: usize = 600;

/// See the module.
pub(super) struct Refusals {
    metrics: StreamMetrics,
    traces: Traces,
    throttle: Mutex<(LogThrottle<Key>, Lines)>,
    hasher: RandomState,
}

/// The lines of an interval.
#[derive(Default)]
struct Lines {
    since: Option<Instant>,
    total: usize,
    by_peer: HashMap<Option<IpAddr>, usize>,
}

impl Lines {
    fn is_used_up(&mut self, peer: Option<IpAddr>) -> bool {
        let now = Instant::now();
        if self.since.is_none_or(|since| now >= since + INTERVAL) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        self.total >= MAX_LINES || self.by_peer.get(&peer).is_some_and(|lines| *lines >= MAX_LINES_OF_PEER)
    }

    fn count(&mut self, peer: Option<IpAddr>) {
        self.total += 1;
        *self.by_peer.entry(peer).or_default() += 1;
    }
}

/// The peer, and a hash of the EventSource's name, because the name may have any length.
type Key = (Option<IpAddr>, u64);

impl Refusals {
    pub(super) fn new(metrics: StreamMetrics, traces: Traces) -> Self {
        Self {
            metrics,
            traces,
            throttle: (LogThrottle::new(REMEMBERED), Lines::default()).into(),
            hasher: RandomState::new(),
        }
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
        let peer = peer.map(|peer| peer.ip());
        let key = (peer, self.hasher.hash_one(event_source));
        let mut guard = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let (throttle, lines) = &mut *guard;
        let is_logged = !lines.is_used_up(peer) && throttle.allows(key, &status.message());
        if is_logged {
            lines.count(peer);
        }
        is_logged
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

    #[tokio::test(start_paused = true)]
    async fn refusals_with_ever_new_names_are_limited() {
        let refusals = refusals();
        let status = Status::invalid_argument("no namespace");
        let logged = |host: [u8; 2], names: usize| {
            let peer = Some(SocketAddr::from(([10, 0, host[0], host[1]], 1)));
            (0..names).filter(|name| refusals.is_logged(Some(&name.to_string()), peer, &status)).count()
        };
        assert_eq!(logged([0, 1], 1000), 60);
        assert_eq!(logged([0, 2], 1), 1, "another peer");
        tokio::time::advance(INTERVAL).await;
        assert_eq!(logged([0, 1], 120), 60, "those that were not logged before");
        tokio::time::advance(INTERVAL).await;
        let hosts = (0..=u16::MAX).map(u16::to_be_bytes);
        assert_eq!(hosts.map(|host| logged(host, 1)).sum::<usize>(), 600, "of all peers");
    }
}
