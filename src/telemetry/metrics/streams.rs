//! What is counted on the side of Argo Events: the names and labels are those of linkerd's policy controller, which
//! other dashboards know.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// One of a fixed set of reasons.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The reason.
    pub reason: &'static str,
}

/// A gRPC method.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MethodLabels {
    /// `generic.Eventing`.
    pub grpc_service: &'static str,
    /// `StartEventSource`.
    pub grpc_method: &'static str,
    /// `server_stream`.
    pub grpc_type: &'static str,
}

/// A gRPC method, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandledLabels {
    /// `generic.Eventing`.
    pub grpc_service: &'static str,
    /// `StartEventSource`.
    pub grpc_method: &'static str,
    /// `server_stream`.
    pub grpc_type: &'static str,
    /// The name of the status code, as grpc-go writes it.
    pub grpc_code: &'static str,
}

/// The one method there is.
const METHOD: MethodLabels =
    MethodLabels { grpc_service: "generic.Eventing", grpc_method: "StartEventSource", grpc_type: "server_stream" };

/// What is counted on the side of Argo Events.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    started: Family<MethodLabels, Counter>,
    handled: Family<HandledLabels, Counter>,
    sent: Family<MethodLabels, Counter>,
    handling_seconds: Family<MethodLabels, Histogram>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were closed because the peer said or took nothing, by reason.
    pub connections_given_up: Family<ReasonLabel, Counter>,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// Refused requests by reason: the gRPC code in lower case.
    pub refused: Family<ReasonLabel, Counter>,
}

impl StreamMetrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            started: Family::default(),
            handled: Family::default(),
            sent: Family::default(),
            handling_seconds: Family::new_with_constructor(|| Histogram::new([0.1, 1.0, 300.0, 3600.0])),
            connections: Gauge::default(),
            connections_given_up: Family::default(),
            accept_errors: Counter::default(),
            refused: Family::default(),
        };
        // What can be counted is there from the start: a series without a past has no rate.
        let MethodLabels { grpc_service, grpc_method, grpc_type } = METHOD;
        for grpc_code in ["Canceled", "Unavailable", "InvalidArgument", "PermissionDenied"] {
            drop(metrics.handled.get_or_create(&HandledLabels { grpc_service, grpc_method, grpc_type, grpc_code }));
        }
        for reason in ["InvalidArgument", "PermissionDenied", "Unavailable"] {
            drop(metrics.refused.get_or_create(&ReasonLabel { reason }));
        }
        for reason in ["silent", "stalled"] {
            drop(metrics.connections_given_up.get_or_create(&ReasonLabel { reason }));
        }
        registry.register("grpc_server_started", "Streams that were begun", metrics.started.clone());
        registry.register("grpc_server_handled", "Streams that have ended, by status code", metrics.handled.clone());
        registry.register("grpc_server_msg_sent", "Messages that were sent on streams", metrics.sent.clone());
        registry.register("grpc_server_handling_seconds", "How long streams lasted", metrics.handling_seconds.clone());
        registry.register("connections", "Connections of subscribers that are open", metrics.connections.clone());
        registry.register(
            "connections_given_up",
            "Connections that were closed because the peer said or took nothing, by reason",
            metrics.connections_given_up.clone(),
        );
        registry.register(
            "accept_errors",
            "Connections of subscribers that could not be accepted",
            metrics.accept_errors.clone(),
        );
        registry.register("subscriptions_refused", "Refused subscriptions by reason", metrics.refused.clone());
        metrics
    }

    /// A stream was begun.
    pub fn started(&self) {
        self.started.get_or_create(&METHOD).inc();
    }

    /// A message was sent.
    pub fn sent(&self) {
        self.sent.get_or_create(&METHOD).inc();
    }

    /// A stream has ended with this code, after so many seconds.
    pub fn handled(&self, grpc_code: &'static str, seconds: f64) {
        let MethodLabels { grpc_service, grpc_method, grpc_type } = METHOD;
        self.handled.get_or_create(&HandledLabels { grpc_service, grpc_method, grpc_type, grpc_code }).inc();
        self.handling_seconds.get_or_create(&METHOD).observe(seconds);
    }
}
