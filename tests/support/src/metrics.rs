//! Values in the text format of Prometheus and OpenMetrics.

/// Returns the sum of a metric over the label sets that contain all of `labels`, each written `name="value"`.
///
/// # Panics
/// If a value is not a number.
pub(crate) fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let values = page.lines().filter_map(|line| {
        // A label's value may contain spaces, and an exemplar may follow the value.
        let (series, rest) = if line.contains('{') { line.split_once("} ")? } else { line.split_once(' ')? };
        let (family, set) = series.split_once('{').unwrap_or((series, ""));
        let matches = family == name && labels.iter().all(|label| set.contains(label));
        matches.then(|| rest.split(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number"))
    });
    values.sum()
}

#[test]
fn sums_the_matching_series() {
    let page = "# HELP runs help {with} braces\n\
        runs_total{namespace=\"a b\",kind=\"x\"} 1 # {trace_id=\"7\"} 0.5 12.5\n\
        runs_total{namespace=\"c\",kind=\"x\"} 2\n\
        runs_total_more 8\n\
        up 1\n";
    assert!((sum(page, "runs_total", &[]) - 3.0).abs() < f64::EPSILON);
    assert!((sum(page, "runs_total", &["namespace=\"a b\"", "kind=\"x\""]) - 1.0).abs() < f64::EPSILON);
    assert!((sum(page, "up", &[]) - 1.0).abs() < f64::EPSILON);
    assert!(sum(page, "absent", &[]).abs() < f64::EPSILON);
}
