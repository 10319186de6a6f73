//! Metrics of lookups in a source of models.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use tonic::Code;

use super::error::CallCode;
use crate::{delivery::LookupError, model::RunModels};

/// Upper bounds of the buckets in seconds, from a fast answer to a slow chain of calls.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Lookups, calls and cache hits of one source. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
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
    method: &'static str,
    code: CallCode,
}

/// The outcome of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    /// The run produced at least one serving model.
    Found,
    /// The run produced none.
    NoModel,
    /// The source has no record of the run.
    NoContext,
    /// The run's record belongs to another namespace.
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

impl EncodeLabelValue for CallCode {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.label())
    }
}

impl Metrics {
    /// Creates the metrics and registers them under names that begin with `prefix`. `source` is the name in their help.
    pub(crate) fn new(registry: &mut Registry, prefix: &str, source: &str) -> Self {
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
            format!("{prefix}_lookups"),
            format!("Lookups of a run's models in {source} by outcome, without cache hits"),
            metrics.lookups.clone(),
        );
        registry.register(
            format!("{prefix}_lookup_duration_seconds"),
            format!("Duration of a lookup in {source}, all calls included"),
            metrics.duration.clone(),
        );
        registry.register(
            format!("{prefix}_calls"),
            format!(
                "Calls to {source} by method and by gRPC status code (or timeout, malformed, too_large, overloaded)"
            ),
            metrics.calls.clone(),
        );
        let help = format!("Lookups in {source} answered from the cache");
        registry.register(format!("{prefix}_cache_hits"), help, metrics.cache_hits.clone());
        metrics
    }

    /// Counts a lookup with this answer.
    pub(crate) fn answered(&self, answer: &Result<RunModels, LookupError>, duration: Duration) {
        let outcome = match answer {
            Ok(found) if found.models.is_empty() => Outcome::NoModel,
            Ok(_) => Outcome::Found,
            Err(LookupError::NoContext) => Outcome::NoContext,
            Err(LookupError::ForeignContext { .. }) => Outcome::ForeignContext,
            Err(LookupError::TooLarge) => Outcome::TooLarge,
            Err(LookupError::Failed { .. }) => Outcome::Failed,
        };
        self.lookup_ended(outcome, duration);
    }

    fn lookup_ended(&self, outcome: Outcome, duration: Duration) {
        self.lookups.get_or_create(&OutcomeLabel { outcome }).inc();
        self.duration.observe(duration.as_secs_f64());
    }

    /// Starts the counts of successful calls at zero: this source may never be called, and its metric is to exist all the
    /// same.
    pub(crate) fn expect_calls(&self, methods: &[&'static str]) {
        for method in methods {
            drop(self.calls.get_or_create(&CallLabels { method, code: CallCode::Grpc(Code::Ok) }));
        }
    }

    /// Counts a call.
    pub(crate) fn call_ended(&self, method: &'static str, code: CallCode) {
        self.calls.get_or_create(&CallLabels { method, code }).inc();
    }

    /// Counts a lookup that needed no call.
    pub(crate) fn cache_hit(&self) {
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
        let metrics = Metrics::new(&mut registry, "mlmd", "ML Metadata");
        metrics.lookup_ended(Outcome::Found, Duration::from_millis(7));
        metrics.call_ended("GetArtifactsByContext", CallCode::Grpc(Code::Unavailable));
        metrics.call_ended("GetEventsByArtifactIDs", CallCode::Timeout);
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
