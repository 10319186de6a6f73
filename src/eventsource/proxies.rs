//! Detection of proxies between subscriber and server. A proxy that treats a connection as HTTP/2 acknowledges events in
//! place of the subscriber, so that an event in its buffers counts as delivered.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use http::HeaderMap;
use tracing::{field::display, warn};

use super::metrics::StreamMetrics;
use crate::{model::Subscription, telemetry::LogThrottle};

/// The headers that proxies add, by their beginning: those of Envoy (Istio), of Linkerd, and of proxies in general.
const HEADER_PREFIXES: [&str; 3] = ["x-envoy-", "x-forwarded-", "l5d-"];
/// The same, by their whole name.
const HEADERS: [&str; 2] = ["forwarded", "via"];
/// The peers of which the last log line is remembered.
const REMEMBERED: usize = 1024;

/// The sign of a proxy in a request: the header, or its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProxyHeader(&'static str);

impl ProxyHeader {
    /// Finds a proxy's header.
    pub(super) fn find(headers: &HeaderMap) -> Option<Self> {
        let known = |name: &str| {
            let by_prefix = HEADER_PREFIXES.into_iter().find(|prefix| name.starts_with(prefix));
            by_prefix.or_else(|| HEADERS.into_iter().find(|header| *header == name))
        };
        headers.keys().find_map(|name| known(name.as_str())).map(Self)
    }
}

/// The record of streams behind proxies: all in the metrics, and those that a throttle allows in the log.
pub(super) struct Proxies {
    metrics: StreamMetrics,
    throttle: Mutex<LogThrottle<Option<IpAddr>>>,
}

impl Proxies {
    pub(super) fn new(metrics: StreamMetrics) -> Self {
        Self { metrics, throttle: LogThrottle::new(REMEMBERED).into() }
    }

    /// Records a stream that a proxy acknowledges.
    pub(super) fn record(&self, header: ProxyHeader, subscription: &Subscription, peer: Option<SocketAddr>) {
        self.metrics.proxied_streams.inc();
        if !self.is_logged(peer) {
            return;
        }
        let peer = peer.map(display);
        warn!(
            namespace = %subscription.namespace, subscription = %subscription.name, peer, header = header.0,
            "subscriber is behind a proxy, which acknowledges its events"
        );
    }

    fn is_logged(&self, peer: Option<SocketAddr>) -> bool {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).allows(peer.map(|peer| peer.ip()), &())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn the_headers_of_proxies_are_known() {
        for (name, expected) in [
            ("x-envoy-attempt-count", Some("x-envoy-")),
            ("x-forwarded-proto", Some("x-forwarded-")),
            ("l5d-dst-canonical", Some("l5d-")),
            ("forwarded", Some("forwarded")),
            ("via", Some("via")),
            ("viaduct", None),
            ("authorization", None),
            ("x-request-id", None),
            ("grpc-accept-encoding", None),
        ] {
            let headers = HeaderMap::from_iter([
                (HeaderName::from_static("te"), HeaderValue::from_static("trailers")),
                (HeaderName::from_static(name), HeaderValue::from_static("x")),
            ]);
            assert_eq!(ProxyHeader::find(&headers), expected.map(ProxyHeader), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_peer_address_is_logged_once_in_ten_minutes() {
        let proxies = Proxies::new(StreamMetrics::new(&mut Registry::default()));
        let peer = |host, port| Some(SocketAddr::from(([10, 0, 0, host], port)));
        assert!(proxies.is_logged(peer(1, 1)));
        assert!(!proxies.is_logged(peer(1, 2)), "another port");
        assert!(proxies.is_logged(peer(2, 1)), "another address");
        tokio::time::advance(std::time::Duration::from_secs(600)).await;
        assert!(proxies.is_logged(peer(1, 1)));
    }
}
