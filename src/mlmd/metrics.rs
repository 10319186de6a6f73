//! Metrics of lookups in ML Metadata.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::error::CallCode;

/// Upper bounds of the buckets in seconds, from a fast answer to a slow chain of calls.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Lookups, calls and cache hits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LookupMetrics {
    lookups: Family<OutcomeLabel, Counter>,
    duration: Histogram,
    calls: Family<CallLabels, Counter>,
    cache_hits: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: Method,
    code: CallCode,
}

/// The outcome of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// The run produced at least one serving model.
    Found,
    /// The run produced none.
    NoModel,
    /// ML Metadata has no record of the run.
    NoContext,
    /// The run's context belongs to another namespace.
    ForeignContext,
    /// There is more metadata about the run than a lookup reads.
    TooLarge,
    /// A call failed.
    Failed,
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Found, Self::NoModel, Self::NoContext, Self::ForeignContext, Self::TooLarge, Self::Failed];
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Found => "found",
            Self::NoModel => "no_model",
            Self::NoContext => "no_context",
            Self::ForeignContext => "foreign_context",
            Self::TooLarge => "too_large",
            Self::Failed => "failed",
        })
    }
}

/// The methods of the service that lookups call, named as in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
#[expect(clippy::enum_variant_names, reason = "the names of the protocol")]
pub(super) enum Method {
    GetArtifactType,
    GetArtifactsByContext,
    GetContextByTypeAndName,
    GetContextsByExecution,
    GetEventsByArtifactIDs,
    GetExecutionsByContext,
    GetParentContextsByContext,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl EncodeLabelValue for CallCode {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.label())
    }
}

impl LookupMetrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            lookups: Family::default(),
            duration: Histogram::new(BUCKETS),
            calls: Family::default(),
            cache_hits: Counter::default(),
        };
        for outcome in Outcome::ALL {
            // Starts at zero, so that graphs have no gap before the first lookup of an outcome.
            drop(metrics.lookups.get_or_create(&OutcomeLabel { outcome }));
        }
        registry.register(
            "mlmd_lookups",
            "Lookups of a run's models in ML Metadata by outcome, without cache hits",
            metrics.lookups.clone(),
        );
        registry.register(
            "mlmd_lookup_duration_seconds",
            "Duration of a lookup in ML Metadata, all calls included",
            metrics.duration.clone(),
        );
        registry.register(
            "mlmd_calls",
            "Calls to ML Metadata by method and by gRPC status code (or timeout, malformed, too_large, overloaded)",
            metrics.calls.clone(),
        );
        registry.register("mlmd_cache_hits", "Lookups answered from the cache", metrics.cache_hits.clone());
        metrics
    }

    /// Counts a lookup.
    pub(super) fn lookup_ended(&self, outcome: Outcome, duration: Duration) {
        self.lookups.get_or_create(&OutcomeLabel { outcome }).inc();
        self.duration.observe(duration.as_secs_f64());
    }

    /// Counts a call.
    pub(super) fn call_ended(&self, method: Method, code: CallCode) {
        self.calls.get_or_create(&CallLabels { method, code }).inc();
    }

    /// Counts a lookup that needed no call.
    pub(super) fn cache_hit(&self) {
        self.cache_hits.inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use tonic::Code;

    use super::*;

    /// Every outcome is exported from the start, and everything is counted under its labels.
    #[test]
    fn outcomes_start_at_zero_and_everything_is_counted() {
        let mut registry = Registry::default();
        let metrics = LookupMetrics::new(&mut registry);
        metrics.lookup_ended(Outcome::Found, Duration::from_millis(7));
        metrics.call_ended(Method::GetArtifactsByContext, CallCode::Grpc(Code::Unavailable));
        metrics.call_ended(Method::GetEventsByArtifactIDs, CallCode::Timeout);
        metrics.cache_hit();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "mlmd_lookups_total{outcome=\"found\"} 1",
            "mlmd_lookups_total{outcome=\"no_model\"} 0",
            "mlmd_lookups_total{outcome=\"no_context\"} 0",
            "mlmd_lookups_total{outcome=\"foreign_context\"} 0",
            "mlmd_lookups_total{outcome=\"too_large\"} 0",
            "mlmd_lookups_total{outcome=\"failed\"} 0",
            "mlmd_lookup_duration_seconds_bucket{le=\"0.01\"} 1",
            "mlmd_lookup_duration_seconds_count 1",
            "mlmd_calls_total{method=\"GetArtifactsByContext\",code=\"unavailable\"} 1",
            "mlmd_calls_total{method=\"GetEventsByArtifactIDs\",code=\"timeout\"} 1",
            "mlmd_cache_hits_total 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
