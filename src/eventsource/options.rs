//! Options of the server, and the limits that protect tenants from each other.

use std::{sync::Arc, time::Duration};

use crate::{
    access::Access,
    telemetry::{LimitHits, Traces},
};

/// Options of a [`Server`](super::Server).
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespaces that may be subscribed to; `None` for all.
    pub namespaces: Option<Vec<Arc<str>>>,
    /// Access control of subscriptions.
    pub access: Access,
    /// The limits of connections, streams and requests.
    pub limits: Limits,
    /// Counts the hits of limits.
    pub limit_hits: LimitHits,
    /// The time limit of a drain. It begins when the drain does, and includes the time in which delivery ends the
    /// streams. Connections that are open at its end are dropped.
    pub drain: Duration,
    /// The destination of the streams' spans.
    pub traces: Traces,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespaces: None,
            access: Access::default(),
            limits: Limits::default(),
            limit_hits: LimitHits::default(),
            drain: Duration::from_secs(5),
            traces: Traces::default(),
        }
    }
}

/// The limits of connections, streams and requests. `docs/limits.md` says what to do when one is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open streams. A subscriber needs about 38 KiB, so the default needs 57 MiB of the 128 MiB that the chart allows.
    pub streams: usize,
    /// Open streams of one namespace. A namespace has a few EventSources, and no namespace can take the place of all
    /// others.
    pub streams_per_namespace: usize,
    /// Open streams of one peer's address. A Pod has a few, but a proxy of a mesh or a NAT gateway combines those of
    /// many Pods under its own address.
    pub streams_per_peer: usize,
    /// The size of a request's message: a configuration of 64 KiB, and a name.
    pub request_bytes: usize,
    /// The time for the arrival of a request, and for the beginning of its response. A client sends both parts of a
    /// request at once.
    pub request_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 1536,
            streams_per_namespace: 256,
            streams_per_peer: 1024,
            request_bytes: 72 * 1024,
            request_time: Duration::from_secs(10),
        }
    }
}

/// The least number of connections: small limits of streams must not exclude the clients of health and reflection.
const MIN_CONNECTIONS: usize = 64;

impl Limits {
    /// Open connections. A connection usually has one stream, and as many may be about to open or close.
    pub(super) fn connections(&self) -> usize {
        self.streams.saturating_mul(2).max(MIN_CONNECTIONS)
    }

    /// Open connections of one peer's address.
    pub(super) fn connections_per_peer(&self) -> usize {
        self.streams_per_peer.saturating_mul(2).max(MIN_CONNECTIONS)
    }

    /// HTTP/2 streams that are open although their calls have ended, or have not been seen yet. These wait for a peer
    /// that does not read its responses. Each occupies about 3 KiB.
    pub(super) fn unread_responses(&self) -> usize {
        self.connections()
    }
}
