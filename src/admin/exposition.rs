//! The text formats of metrics: OpenMetrics for scrapers that accept it, else Prometheus' format without exemplars.

use std::fmt;

use prometheus_client::{
    encoding::{prometheus_text, text},
    registry::Registry,
};

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Exposition {
    /// Chooses the format by the scraper's `Accept` header.
    pub(super) fn accepted_by(accept: &str) -> Self {
        let open_metrics = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let excluded = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
            parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/openmetrics-text"))
                && !parts.any(excluded)
        });
        if open_metrics { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Returns the value of the header `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }

    /// Encodes the metrics.
    pub(super) fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut body = String::new();
        match self {
            Self::OpenMetrics => text::encode(&mut body, registry)?,
            Self::Prometheus => prometheus_text::encode(&mut body, registry)?,
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{
        counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge, info::Info,
    };

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let product = registry.sub_registry_with_prefix("x");
        product.register("build", "Version", Info::new([("version", "1")]));
        let events = Family::<[(&str, &str); 1], Counter>::default();
        events.get_or_create(&[("reason", "a } # {\" b")]).inc();
        product.register("events", "Events", events);
        product.register("size", "Size", Gauge::<i64>::default());
        let seconds = HistogramWithExemplars::new([1.0].into_iter());
        seconds.observe(0.5, Some([("trace_id", "0af7")]), None);
        product.register("seconds", "Time", seconds);
        registry
    }

    #[test]
    fn open_metrics_has_exemplars_and_an_end() {
        let text = Exposition::OpenMetrics.encode(&registry()).unwrap();
        assert!(text.contains("x_seconds_bucket{le=\"1.0\"} 1 # {trace_id=\"0af7\"} 0.5"), "{text}");
        assert!(text.contains("# TYPE x_events counter\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn the_prometheus_format_has_full_names_and_no_exemplars() {
        let text = Exposition::Prometheus.encode(&registry()).unwrap();
        let expected = "\
# HELP x_build_info Version.
# TYPE x_build_info gauge
x_build_info{version=\"1\"} 1
# HELP x_events_total Events.
# TYPE x_events_total counter
x_events_total{reason=\"a } # {\\\" b\"} 1
# HELP x_size Size.
# TYPE x_size gauge
x_size 0
# HELP x_seconds Time.
# TYPE x_seconds histogram
x_seconds_bucket{le=\"1\"} 1
x_seconds_bucket{le=\"+Inf\"} 1
x_seconds_sum 0.5
x_seconds_count 1
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_accept_header_chooses_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(Exposition::accepted_by(prometheus), Exposition::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/openmetrics-text;q=0"] {
            assert_eq!(Exposition::accepted_by(other), Exposition::Prometheus, "{other}");
        }
    }
}
