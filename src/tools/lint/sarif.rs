//! A report in SARIF 2.1.0, which code scanning of GitHub, GitLab and others shows beside the lines.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Finding, Report, Severity, rules};
use crate::telemetry::VERSION;

/// Characters of a path that stay in a URI (RFC 3986, `pchar` and `/`).
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@').remove(b'+');

/// The report of one run.
pub fn log(report: &Report) -> Value {
    let rules: Vec<Value> = rules::ALL
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": { "text": rule.summary },
                "defaultConfiguration": { "level": level(rule.severity) },
            })
        })
        .collect();
    let results: Vec<Value> = report.findings.iter().map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "model-update-eventsource", "semanticVersion": VERSION, "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let mut location = json!({});
    if let Some(file) = &finding.file {
        location["physicalLocation"] = json!({ "artifactLocation": { "uri": uri(file) } });
        if let Some(at) = finding.at {
            location["physicalLocation"]["region"] = json!({ "startLine": at.line, "startColumn": at.column });
        }
    }
    if let Some(object) = &finding.object {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": object, "kind": "resource" }]);
    }
    json!({
        "ruleId": finding.rule.id,
        "ruleIndex": rules::ALL.iter().position(|rule| *rule == finding.rule),
        "level": level(finding.severity),
        "message": { "text": finding.message },
        "locations": [location],
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// The URI of a file: relative to the folder of the run, as code scanning expects, or absolute.
fn uri(file: &str) -> String {
    let path = file.strip_prefix("./").unwrap_or(file);
    let encoded = utf8_percent_encode(path, PATH);
    if path.starts_with('/') { format!("file://{encoded}") } else { encoded.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("./apps/team a/ä.yaml"), "apps/team%20a/%C3%A4.yaml");
        assert_eq!(uri("/etc/x.yaml"), "file:///etc/x.yaml");
    }
}
