//! The two text formats of metrics. prometheus-client writes OpenMetrics; scrapers that do not ask for that get the
//! older text format 0.0.4, which has no exemplars, no units, and counters and infos under their full names.

use std::fmt::{self, Write};

use prometheus_client::{encoding::text::encode, registry::Registry};

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Text,
}

impl Exposition {
    /// What a scraper wants that sends this `Accept` header.
    pub(super) fn accepted_by(accept: &str) -> Self {
        let open_metrics = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let refused = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
            parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/openmetrics-text"))
                && !parts.any(refused)
        });
        if open_metrics { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of the header `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The metrics in this format.
    pub(super) fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, registry)?;
        match self {
            Self::OpenMetrics => Ok(text),
            Self::Text => without_open_metrics(&text),
        }
    }
}

/// Rewrites what prometheus-client has written.
fn without_open_metrics(open_metrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    // The family's name in its HELP depends on its type, which comes after it.
    let mut help = None;
    for line in open_metrics.lines() {
        match line.strip_prefix("# ").and_then(|comment| comment.split_once(' ')) {
            Some(("HELP", rest)) => help = rest.split_once(' '),
            Some(("TYPE", rest)) => {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some((_, help)) = help.take() {
                    writeln!(text, "# HELP {name}{suffix} {help}")?;
                }
                writeln!(text, "# TYPE {name}{suffix} {kind}")?;
            }
            _ if line.starts_with('#') => {}
            _ => writeln!(text, "{}", without_exemplar(line))?,
        }
    }
    Ok(text)
}

/// A sample up to its exemplar. A label's value may hold anything, so the search begins after the labels.
fn without_exemplar(sample: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    let after_labels = sample.find(|c| {
        let end = c == ' ' && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        end
    });
    let exemplar = after_labels.and_then(|start| sample[start..].find(" # ").map(|at| start + at));
    &sample[..exemplar.unwrap_or(sample.len())]
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
        product.register("build", "What runs", Info::new([("version", "1")]));
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
    fn the_older_format_has_neither_exemplars_nor_types_that_it_does_not_know() {
        let text = Exposition::Text.encode(&registry()).unwrap();
        let expected = "\
# HELP x_build_info What runs.
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
x_seconds_sum 0.5
x_seconds_count 1
x_seconds_bucket{le=\"1.0\"} 1
x_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_accepts() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(Exposition::accepted_by(prometheus), Exposition::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/openmetrics-text;q=0"] {
            assert_eq!(Exposition::accepted_by(other), Exposition::Text, "{other}");
        }
    }
}
