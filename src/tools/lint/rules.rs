//! The rules, each with a stable id.

use serde::Serialize;

use crate::eventsource::config::ConfigError;

/// The weight of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does not work as written.
    Error,
    /// It probably does not do what was meant.
    Warning,
}

/// A rule for manifests.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its id. Users write ids in their settings of CI, so they stay.
    pub id: &'static str,
    /// The weight of its findings.
    pub severity: Severity,
    /// The condition that it checks, as a sentence.
    pub summary: &'static str,
}

macro_rules! rules {
    ($($name:ident = $severity:ident $id:literal $summary:literal;)*) => {
        $(
            #[doc = $summary]
            pub static $name: Rule = Rule { id: $id, severity: Severity::$severity, summary: $summary };
        )*
        /// Every rule, in the order of the documentation.
        pub static ALL: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    UNREADABLE_FILE = Error "unreadable-file" "A file must be readable.";
    FILE_TOO_LARGE = Error "file-too-large" "A file has at most 4 MiB.";
    NOT_YAML = Error "not-yaml" "A document is valid YAML, without repeated keys, of moderate depth and size.";
    NOTHING_TO_CHECK = Warning "nothing-to-check" "The files contain an EventSource or a Sensor.";
    API_VERSION = Error "api-version" "The apiVersion of EventSources and Sensors is argoproj.io/v1alpha1.";
    NAME = Error "name" "An object has a name.";
    WRONG_TYPE = Error "wrong-type" "A field has the type that Argo Events expects.";
    UNKNOWN_KEY = Error "unknown-key" "A generic entry has known keys only: Argo Events ignores others.";
    GENERIC = Error "generic" "An EventSource for this server has entries below spec.generic.";
    URL = Error "url" "An entry has a url, as HOST:PORT.";
    INSECURE = Error "insecure" "An entry has insecure: true: without it Argo Events supplies no credentials, and does not connect.";
    CONFIG = Error "config" "An entry has a config.";
    CONFIG_TOO_LARGE = Error "config-too-large" "A config has at most 64 KiB.";
    CONFIG_EMPTY = Error "config-empty" "A config has keys.";
    CONFIG_NOT_UTF8 = Error "config-not-utf8" "A config is UTF-8.";
    CONFIG_NOT_YAML = Error "config-not-yaml" "A config is valid YAML.";
    CONFIG_DUPLICATE_KEY = Error "config-duplicate-key" "A config has each key once.";
    CONFIG_SEVERAL_DOCUMENTS = Error "config-several-documents" "A config is one YAML document.";
    CONFIG_TOO_COMPLEX = Error "config-too-complex" "A config consists of plain values and lists.";
    CONFIG_NOT_A_MAPPING = Error "config-not-a-mapping" "A config is a mapping.";
    CONFIG_UNKNOWN_KEY = Error "config-unknown-key" "A config has known keys only.";
    CONFIG_MISSING_KEY = Error "config-missing-key" "A config has the key kfpNamespace.";
    CONFIG_INVALID_VALUE = Error "config-invalid-value" "The values of a config are valid.";
    AUTH_SECRET = Error "auth-secret" "authSecret has the name of a Secret and a key in it.";
    SHARED_SUBSCRIPTION = Warning "shared-subscription" "Entries for the same kfpNamespace have subscriptions of different names.";
    DEPENDENCY = Error "dependency" "A Sensor's dependency has a unique name, an eventSourceName and an eventName.";
    TRIGGER = Error "trigger" "A Sensor's trigger has a template with a unique name.";
    UNKNOWN_DEPENDENCY = Error "unknown-dependency" "A trigger's parameter names a dependency of its Sensor.";
    UNKNOWN_EVENT_SOURCE = Warning "unknown-event-source" "A dependency names an EventSource of its namespace.";
    UNKNOWN_EVENT = Error "unknown-event" "A dependency names an event of its EventSource.";
    JSON_BODY = Error "json-body" "Sensors read fields of the body only with jsonBody: true, and decode base64 only without.";
    UNKNOWN_PATH = Error "unknown-path" "Paths of a Sensor exist in the event.";
    NOT_INCLUDED = Error "not-included" "Optional fields that a Sensor reads are in the include list of the config.";
    FILTER = Error "filter" "A data filter has a path, a type, a comparator that exists, and values.";
    INVALID_REGEX = Warning "invalid-regex" "Values of a filter of type string are regular expressions.";
    UNANCHORED_FILTER = Warning "unanchored-filter" "Filters on the pipeline's name match whole names: Argo Events searches a regular expression anywhere in them.";
}

/// The rule that the server's parser applied.
pub fn of_config(error: &ConfigError) -> &'static Rule {
    match error {
        ConfigError::TooLarge => &CONFIG_TOO_LARGE,
        ConfigError::Empty => &CONFIG_EMPTY,
        ConfigError::NotUtf8 { .. } => &CONFIG_NOT_UTF8,
        ConfigError::NotYaml { .. } => &CONFIG_NOT_YAML,
        ConfigError::DuplicateKey { .. } => &CONFIG_DUPLICATE_KEY,
        ConfigError::SeveralDocuments { .. } => &CONFIG_SEVERAL_DOCUMENTS,
        ConfigError::TooComplex { .. } => &CONFIG_TOO_COMPLEX,
        ConfigError::NotAMapping(_) => &CONFIG_NOT_A_MAPPING,
        ConfigError::UnknownKey { .. } => &CONFIG_UNKNOWN_KEY,
        ConfigError::NoNamespace => &CONFIG_MISSING_KEY,
        ConfigError::Value { .. } => &CONFIG_INVALID_VALUE,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_documented() {
        let ids: BTreeSet<&str> = ALL.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), ALL.len());
        let page = include_str!("../../../docs/tools.md");
        for rule in ALL {
            let severity = format!("{:?}", rule.severity).to_lowercase();
            let row = format!("| `{}` | {severity} | {} |", rule.id, rule.summary);
            assert!(page.contains(&row), "docs/tools.md needs the row\n{row}");
        }
    }

    #[test]
    fn a_rule_of_the_parser_has_the_name_of_its_reason() {
        for error in [ConfigError::TooLarge, ConfigError::Empty, ConfigError::NotAMapping("text")] {
            assert_eq!(of_config(&error).id, error.reason().to_lowercase().replace('_', "-"));
        }
    }
}
