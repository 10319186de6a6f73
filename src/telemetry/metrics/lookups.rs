//! The questions to ML Metadata.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// From a fast answer to the deadline of a whole lookup, in seconds.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// What the side of ML Metadata reports of its work. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LookupMetrics {
    lookups: Family<OutcomeLabel, Counter>,
    duration: Histogram,
    calls: Family<CallLabels, Counter>,
    cache_hits: Counter,
}

/// How a lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The run has put out at least one serving model.
    Found,
    /// It has put out none.
    NoModel,
    /// ML Metadata does not know the run.
    NoContext,
    /// The run's context belongs to another namespace.
    ForeignContext,
    /// There was no answer, or none that makes sense.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [Self::Found, Self::NoModel, Self::NoContext, Self::ForeignContext, Self::Failed];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NoModel => "no_model",
            Self::NoContext => "no_context",
            Self::ForeignContext => "foreign_context",
            Self::Failed => "failed",
        }
    }
}

impl Default for LookupMetrics {
    fn default() -> Self {
        let lookups = Family::<OutcomeLabel, Counter>::default();
        for outcome in Outcome::ALL {
            // An outcome that has not come up yet is a zero and not a gap in a graph.
            drop(lookups.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }));
        }
        Self { lookups, duration: Histogram::new(BUCKETS), calls: Family::default(), cache_hits: Counter::default() }
    }
}

impl LookupMetrics {
    /// Makes the metrics and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "mlmd_lookups",
            "Lookups of a run's models in ML Metadata, by outcome; answers from memory are not among them",
            metrics.lookups.clone(),
        );
        registry.register(
            "mlmd_lookup_duration_seconds",
            "Time from the first to the last call of a lookup, in seconds, whatever its outcome",
            metrics.duration.clone(),
        );
        registry.register(
            "mlmd_calls",
            "Calls to ML Metadata, by method and by gRPC status code (or timeout, malformed)",
            metrics.calls.clone(),
        );
        registry.register(
            "mlmd_cache_hits",
            "Questions answered from memory or together with an equal question under way",
            metrics.cache_hits.clone(),
        );
        metrics
    }

    /// A lookup has ended.
    pub fn looked_up(&self, outcome: Outcome, took: Duration) {
        self.lookups.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A call has ended. Both labels are of bounded sets.
    pub fn called(&self, method: &'static str, code: &'static str) {
        self.calls.get_or_create(&CallLabels { method, code }).inc();
    }

    /// A question needed no lookup of its own.
    pub fn answered_from_memory(&self) {
        self.cache_hits.inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn every_outcome_is_there_from_the_start_and_every_event_is_counted() {
        let mut registry = Registry::default();
        let metrics = LookupMetrics::new(&mut registry);
        metrics.looked_up(Outcome::Found, Duration::from_millis(7));
        metrics.called("GetArtifactsByContext", "unavailable");
        metrics.answered_from_memory();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "mlmd_lookups_total{outcome=\"found\"} 1",
            "mlmd_lookups_total{outcome=\"no_context\"} 0",
            "mlmd_lookup_duration_seconds_bucket{le=\"0.01\"} 1",
            "mlmd_lookup_duration_seconds_count 1",
            "mlmd_calls_total{method=\"GetArtifactsByContext\",code=\"unavailable\"} 1",
            "mlmd_cache_hits_total 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
