//! Gauges by the namespace of the runs, so that alerts can be routed to its owner.
//!
//! A namespace that has had a stream keeps its series, which shows that it has none any more. A subscriber may name any
//! number of namespaces, so the number of series is bounded: those without streams give way first, and the rest is counted
//! together.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    ledger::{NamespaceStats, Now},
    metrics::{DeliveryMetrics, NamespaceLabel},
};
use crate::telemetry::{MAX_NAMESPACES, OTHER_NAMESPACES};

/// See the module.
#[derive(Debug)]
pub(super) struct NamespaceGauges {
    metrics: DeliveryMetrics,
    /// Namespaces with a series.
    shown: HashSet<Arc<str>>,
    /// Set once there has been a rest.
    has_rest: bool,
}

impl NamespaceGauges {
    pub(super) fn new(metrics: DeliveryMetrics) -> Self {
        Self { metrics, shown: HashSet::new(), has_rest: false }
    }

    /// Sets the gauges. `current` has the namespaces with streams.
    pub(super) fn update(&mut self, current: &HashMap<Arc<str>, NamespaceStats>, now: Now) {
        let new = current.keys().filter(|name| !self.shown.contains(*name)).count();
        if self.shown.len() + new > MAX_NAMESPACES {
            let idle: Vec<_> = self.shown.iter().filter(|name| !current.contains_key(*name)).cloned().collect();
            idle.iter().for_each(|name| self.remove(name));
        }
        let mut rest = NamespaceStats::default();
        for (name, stats) in current {
            if self.shown.contains(name) {
                continue;
            }
            if self.shown.len() < MAX_NAMESPACES {
                self.shown.insert(name.clone());
            } else {
                rest.add(*stats);
            }
        }
        for name in &self.shown {
            self.set(name, current.get(name).copied().unwrap_or_default(), now);
        }
        self.has_rest |= rest.streams > 0;
        if self.has_rest {
            self.set(OTHER_NAMESPACES, rest, now);
        }
    }

    fn set(&self, namespace: &str, stats: NamespaceStats, now: Now) {
        let label = NamespaceLabel { namespace: namespace.to_owned() };
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.subscribers.get_or_create(&label).set(gauge(stats.streams));
        self.metrics.pending_runs.get_or_create(&label).set(gauge(stats.pending_runs));
        self.metrics.oldest_pending.get_or_create(&label).set(stats.oldest_pending.map_or(0.0, |oldest| {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact for millions of years")]
            let now_unix = now.unix as f64;
            now_unix - now.instant.saturating_duration_since(oldest).as_secs_f64()
        }));
    }

    fn remove(&mut self, name: &Arc<str>) {
        let label = NamespaceLabel { namespace: name.to_string() };
        self.metrics.subscribers.remove(&label);
        self.metrics.pending_runs.remove(&label);
        self.metrics.oldest_pending.remove(&label);
        self.shown.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use std::time::Instant;

    use super::*;

    /// `numbers` namespaces, with two streams and three pending runs each.
    fn update(gauges: &mut NamespaceGauges, numbers: std::ops::Range<usize>) {
        let instant = Instant::now();
        let stats = NamespaceStats { streams: 2, pending_runs: 3, oldest_pending: Some(instant) };
        let current = numbers.map(|number| (format!("team-{number}").into(), stats)).collect();
        gauges.update(&current, Now { instant, unix: 1_700_000_000 });
    }

    fn lines(registry: &Registry, name: &str) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).map(str::to_owned).collect()
    }

    #[test]
    fn a_namespace_without_streams_keeps_its_series() {
        let mut registry = Registry::default();
        let mut gauges = NamespaceGauges::new(DeliveryMetrics::new(&mut registry));
        update(&mut gauges, 0..1);
        assert_eq!(lines(&registry, "subscribers"), [r#"subscribers{namespace="team-0"} 2"#]);
        assert_eq!(lines(&registry, "runs_pending"), [r#"runs_pending{namespace="team-0"} 3"#]);
        let oldest = "oldest_pending_run_timestamp_seconds";
        assert_eq!(lines(&registry, oldest), [format!(r#"{oldest}{{namespace="team-0"}} 1700000000.0"#)]);
        update(&mut gauges, 0..0);
        assert_eq!(lines(&registry, "subscribers"), [r#"subscribers{namespace="team-0"} 0"#]);
        assert_eq!(lines(&registry, oldest), [format!(r#"{oldest}{{namespace="team-0"}} 0.0"#)]);
    }

    /// Clients may name any number of namespaces; those that are left come and go.
    #[test]
    fn the_series_are_bounded_and_lose_no_stream() {
        let mut registry = Registry::default();
        let mut gauges = NamespaceGauges::new(DeliveryMetrics::new(&mut registry));
        update(&mut gauges, 0..1500);
        let rest = r#"subscribers{namespace="(other)"} 1000"#.to_owned();
        let series = lines(&registry, "subscribers");
        assert!(series.len() == MAX_NAMESPACES + 1 && series.contains(&rest), "{} series", series.len());
        assert_eq!(lines(&registry, "oldest_pending_run_timestamp_seconds").len(), MAX_NAMESPACES + 1);

        update(&mut gauges, 5000..5001);
        let mut series = lines(&registry, "subscribers");
        series.sort();
        assert_eq!(series, [r#"subscribers{namespace="(other)"} 0"#, r#"subscribers{namespace="team-5000"} 2"#]);
        assert_eq!(lines(&registry, "runs_pending").len(), 2);
    }
}
