//! Metrics of subscribers' connections and streams. The `grpc_server_*` metrics have the names and labels of linkerd's
//! policy controller, which existing dashboards know.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tonic::Code;

use crate::telemetry::grpc;

/// A gRPC method.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_type: &'static str,
}

/// A gRPC method and the status of its calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandledLabels {
    #[prometheus(flatten)]
    method: MethodLabels,
    grpc_code: CodeLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: CodeLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    reason: CloseReason,
}

/// A status code as grpc-go writes it, for example `InvalidArgument`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct CodeLabel(Code);

impl EncodeLabelValue for CodeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        grpc::names(self.0).go.encode(encoder)
    }
}

/// The reason why the server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CloseReason {
    /// The HTTP/2 preface did not arrive in time.
    Silent,
    /// The peer accepted no bytes for too long.
    Stalled,
}

impl CloseReason {
    /// The value of the label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Stalled => "stalled",
        }
    }
}

impl EncodeLabelValue for CloseReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.name().encode(encoder)
    }
}

/// The statuses of refused requests.
const REFUSALS: [Code; 5] =
    [Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied, Code::ResourceExhausted, Code::Unavailable];

/// The labels of the only method.
const METHOD: MethodLabels =
    MethodLabels { grpc_service: "generic.Eventing", grpc_method: "StartEventSource", grpc_type: "server_stream" };

/// Metrics of subscribers' connections and streams. Cheap to clone, and small: each connection and stream has a clone.
#[derive(Clone, Debug)]
pub struct StreamMetrics(Arc<Metrics>);

/// The metrics of [`StreamMetrics`].
#[derive(Debug)]
pub struct Metrics {
    started: Family<MethodLabels, Counter>,
    handled: Family<HandledLabels, Counter>,
    sent: Family<MethodLabels, Counter>,
    handling_seconds: Family<MethodLabels, Histogram>,
    /// Open connections.
    pub(super) connections: Gauge,
    closed: Family<ClosedLabels, Counter>,
    /// Errors of `accept`.
    pub(super) accept_errors: Counter,
    refused: Family<RefusedLabels, Counter>,
    /// Streams whose requests have passed a proxy.
    pub(super) proxied_streams: Counter,
}

impl Deref for StreamMetrics {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.0
    }
}

impl StreamMetrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Metrics {
            started: Family::default(),
            handled: Family::default(),
            sent: Family::default(),
            handling_seconds: Family::new_with_constructor(|| Histogram::new([0.1, 1.0, 300.0, 3600.0])),
            connections: Gauge::default(),
            closed: Family::default(),
            accept_errors: Counter::default(),
            refused: Family::default(),
            proxied_streams: Counter::default(),
        };
        // Usual series exist from the start: the first increment of a new series does not appear in its rate.
        for code in REFUSALS.into_iter().chain([Code::Cancelled]) {
            drop(metrics.handled(code));
        }
        for code in REFUSALS {
            drop(metrics.refused(code));
        }
        for reason in [CloseReason::Silent, CloseReason::Stalled] {
            drop(metrics.closed(reason));
        }
        registry.register("grpc_server_started", "Calls started", metrics.started.clone());
        registry.register("grpc_server_handled", "Calls ended, by gRPC status code", metrics.handled.clone());
        registry.register("grpc_server_msg_sent", "Messages sent on streams", metrics.sent.clone());
        registry.register(
            "grpc_server_handling_seconds",
            "Duration of calls, from the request to the end of the stream",
            metrics.handling_seconds.clone(),
        );
        registry.register("connections", "Open connections of subscribers", metrics.connections.clone());
        registry.register(
            "connections_closed",
            "Connections closed by the server because the peer sent no HTTP/2 preface (silent) or accepted no bytes (stalled)",
            metrics.closed.clone(),
        );
        registry.register(
            "accept_errors",
            "Connections of subscribers that could not be accepted",
            metrics.accept_errors.clone(),
        );
        registry.register(
            "subscriptions_refused",
            "Refused subscriptions, by gRPC status code",
            metrics.refused.clone(),
        );
        registry.register(
            "proxied_streams",
            "Streams behind a proxy, which acknowledges events in place of the subscriber",
            metrics.proxied_streams.clone(),
        );
        Self(Arc::new(metrics))
    }
}

impl Metrics {
    /// Counts a started call.
    pub(super) fn call_started(&self) {
        self.started.get_or_create(&METHOD).inc();
    }

    /// Counts a message sent on a stream.
    pub(super) fn message_sent(&self) {
        self.sent.get_or_create(&METHOD).inc();
    }

    /// Counts a call that ended with this status.
    pub(super) fn call_ended(&self, code: Code, duration: Duration) {
        self.handled(code).inc();
        self.handling_seconds.get_or_create(&METHOD).observe(duration.as_secs_f64());
    }

    /// Counts a refused subscription.
    pub(super) fn subscription_refused(&self, code: Code) {
        self.refused(code).inc();
    }

    /// Counts a connection that the server closed.
    pub(super) fn connection_closed(&self, reason: CloseReason) {
        self.closed(reason).inc();
    }

    fn handled(&self, code: Code) -> impl Deref<Target = Counter> {
        self.handled.get_or_create(&HandledLabels { method: METHOD, grpc_code: CodeLabel(code) })
    }

    fn refused(&self, code: Code) -> impl Deref<Target = Counter> {
        self.refused.get_or_create(&RefusedLabels { reason: CodeLabel(code) })
    }

    pub(super) fn closed(&self, reason: CloseReason) -> impl Deref<Target = Counter> {
        self.closed.get_or_create(&ClosedLabels { reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_as_grpc_go_and_the_dashboards_expect_them() {
        let mut registry = Registry::default();
        let metrics = StreamMetrics::new(&mut registry);
        metrics.call_started();
        metrics.call_ended(Code::Cancelled, Duration::from_secs(1));
        metrics.subscription_refused(Code::ResourceExhausted);
        metrics.connection_closed(CloseReason::Stalled);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            r#"grpc_server_handled_total{grpc_service="generic.Eventing",grpc_method="StartEventSource",grpc_type="server_stream",grpc_code="Canceled"} 1"#,
            r#"subscriptions_refused_total{reason="ResourceExhausted"} 1"#,
            r#"subscriptions_refused_total{reason="InvalidArgument"} 0"#,
            r#"subscriptions_refused_total{reason="Unauthenticated"} 0"#,
            r#"connections_closed_total{reason="silent"} 0"#,
            r#"connections_closed_total{reason="stalled"} 1"#,
        ] {
            assert!(text.lines().any(|actual| actual == line), "{line} is missing in\n{text}");
        }
    }
}
