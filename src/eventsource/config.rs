//! `EventSource.config`: the YAML in which a subscriber says what it wants.
//!
//! The message of a refusal is all that its author ever sees (in the log of the EventSource's Pod, every five seconds),
//! so each names the key, what is wrong with it, and what to write instead. None repeats more than a few words of the
//! input.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use crate::model::{
    ArtifactTypes, Include, IncludeField, PipelineFilter, Subscription, SubscriptionName,
    subscription::{NotADnsLabel, is_dns_label},
};

/// A configuration is a few lines; what is larger than this many octets is none.
const MAX_CONFIG: usize = 64 * 1024;
/// How many patterns or types a list may hold.
const MAX_LIST: usize = 256;
/// How much of the input a message repeats, in characters.
const MAX_EXCERPT: usize = 40;

const NAMESPACE: &str = "kfpNamespace";
const SUBSCRIPTION: &str = "subscription";
const PIPELINES: &str = "pipelines";
const ARTIFACT_TYPES: &str = "artifactTypes";
const MAX_AGE: &str = "maxAge";
const INCLUDE: &str = "include";
const KEYS: [&str; 6] = [NAMESPACE, SUBSCRIPTION, PIPELINES, ARTIFACT_TYPES, MAX_AGE, INCLUDE];

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is larger than [`MAX_CONFIG`].
    #[error("config has more than {MAX_CONFIG} octets: it takes a few lines, see {NAMESPACE}")]
    TooLarge,
    /// There is nothing in it.
    #[error("config is empty: write at least `{NAMESPACE}: <the namespace whose runs are wanted>`")]
    Empty,
    /// It cannot be read.
    #[error("config is not valid YAML: {0}")]
    NotYaml(String),
    /// It is a list or a single value.
    #[error("config is {0}, but has to be a mapping: write `{NAMESPACE}: <the namespace whose runs are wanted>`")]
    NotAMapping(&'static str),
    /// There is a key that nobody knows.
    #[error("config has the unknown key {key:?}: {}", suggestion(.nearest))]
    UnknownKey {
        /// What was written (an excerpt).
        key: String,
        /// A key that may have been meant.
        nearest: Option<&'static str>,
    },
    /// The one key that is needed is not there.
    #[error("{NAMESPACE} is missing: write `{NAMESPACE}: <the namespace whose runs are wanted>`")]
    NoNamespace,
    /// A key has a value that it cannot have.
    #[error("{key}: {problem}; write {example}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// What is right.
        example: &'static str,
    },
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(key) => format!("did you mean {key}?"),
        None => format!("the keys are {}", KEYS.join(", ")),
    }
}

/// Reads the configuration of the EventSource of this name.
///
/// # Errors
/// Whatever is not exactly as documented.
pub fn parse(event_source: &str, config: &[u8]) -> Result<Subscription, ConfigError> {
    if config.len() > MAX_CONFIG {
        return Err(ConfigError::TooLarge);
    }
    let text = std::str::from_utf8(config)
        .map_err(|error| ConfigError::NotYaml(format!("it is not UTF-8 after octet {}", error.valid_up_to())))?;
    let value: Value = match serde_saphyr::from_str(text) {
        Ok(value) => value,
        Err(_) if has_no_content(text) => return Err(ConfigError::Empty),
        Err(error) => return Err(ConfigError::NotYaml(first_line(&error.to_string()))),
    };
    let keys = match value {
        Value::Object(keys) => keys,
        Value::Null => return Err(ConfigError::Empty),
        other => return Err(ConfigError::NotAMapping(kind(&other))),
    };
    if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(ConfigError::UnknownKey { key: excerpt(key), nearest: nearest(key) });
    }
    Ok(Subscription {
        namespace: namespace(&keys)?,
        name: subscription(&keys, event_source)?,
        pipelines: pipelines(&keys)?,
        artifact_types: Arc::new(artifact_types(&keys)?),
        max_age: max_age(&keys)?,
        include: include(&keys)?,
    })
}

fn namespace(keys: &Map<String, Value>) -> Result<Arc<str>, ConfigError> {
    let refuse = |problem| Err(ConfigError::Value { key: NAMESPACE, problem, example: "`kfpNamespace: my-team`" });
    match keys.get(NAMESPACE) {
        None => Err(ConfigError::NoNamespace),
        Some(Value::String(name)) if is_dns_label(name) => Ok(name.as_str().into()),
        Some(Value::String(name)) if name.is_empty() => refuse("is empty".to_owned()),
        Some(Value::String(name)) => refuse(format!("{} cannot be a namespace: it {NotADnsLabel}", quoted(name))),
        Some(other) => refuse(is_not(other, "text")),
    }
}

fn subscription(keys: &Map<String, Value>, event_source: &str) -> Result<SubscriptionName, ConfigError> {
    let refuse = |problem| {
        Err(ConfigError::Value {
            key: SUBSCRIPTION,
            problem,
            example: "a name such as `subscription: deployer`, or leave it out to use the EventSource's name",
        })
    };
    match keys.get(SUBSCRIPTION) {
        None => Ok(SubscriptionName::derived_from(event_source)),
        Some(Value::String(name)) => match SubscriptionName::new(name) {
            Ok(name) => Ok(name),
            Err(error) => refuse(format!("{} {error}", quoted(name))),
        },
        Some(other) => refuse(is_not(other, "text")),
    }
}

fn pipelines(keys: &Map<String, Value>) -> Result<PipelineFilter, ConfigError> {
    const EXAMPLE: &str = "a list such as `pipelines: [\"penguin-*\"]`, or leave it out for every pipeline";
    let Some(patterns) = strings(keys, PIPELINES, EXAMPLE)? else { return Ok(PipelineFilter::default()) };
    PipelineFilter::matching(patterns).map_err(|error| ConfigError::Value {
        key: PIPELINES,
        problem: format!("{} is not a glob pattern ({})", quoted(error.glob().unwrap_or_default()), error.kind()),
        example: EXAMPLE,
    })
}

fn artifact_types(keys: &Map<String, Value>) -> Result<ArtifactTypes, ConfigError> {
    const EXAMPLE: &str = "a list such as `artifactTypes: [system.Model]`, or leave it out for pushed models";
    Ok(strings(keys, ARTIFACT_TYPES, EXAMPLE)?.map_or_else(ArtifactTypes::default, ArtifactTypes::named))
}

fn max_age(keys: &Map<String, Value>) -> Result<Option<Duration>, ConfigError> {
    let refuse = |problem| {
        Err(ConfigError::Value {
            key: MAX_AGE,
            problem,
            example: "a duration with its unit such as `maxAge: 12h` (s, m, h, d, w), or leave it out for no limit",
        })
    };
    match keys.get(MAX_AGE) {
        None => Ok(None),
        Some(Value::String(text)) => match humantime::parse_duration(text) {
            Ok(age) if age < Duration::from_secs(1) => refuse(format!("{} is less than a second", quoted(text))),
            Ok(age) => Ok(Some(age)),
            Err(_) => refuse(format!("{} is not a duration", quoted(text))),
        },
        Some(Value::Number(number)) => refuse(format!("{number} has no unit")),
        Some(other) => refuse(is_not(other, "a duration")),
    }
}

fn include(keys: &Map<String, Value>) -> Result<Include, ConfigError> {
    const EXAMPLE: &str = "a list of any of namespace, workflowName, workflowUid, runId, traceparent, or leave it out";
    let Some(fields) = strings(keys, INCLUDE, EXAMPLE)? else { return Ok(Include::default()) };
    let field = |name: &str| {
        IncludeField::ALL.into_iter().find(|field| field.key() == name).ok_or_else(|| ConfigError::Value {
            key: INCLUDE,
            problem: format!("there is no field {}", quoted(name)),
            example: EXAMPLE,
        })
    };
    fields.into_iter().map(field).collect()
}

/// A list of texts, none empty, at least one.
fn strings<'a>(
    keys: &'a Map<String, Value>,
    key: &'static str,
    example: &'static str,
) -> Result<Option<Vec<&'a str>>, ConfigError> {
    let refuse = |problem| Err(ConfigError::Value { key, problem, example });
    let values = match keys.get(key) {
        None => return Ok(None),
        Some(Value::Array(values)) => values,
        Some(other) => return refuse(is_not(other, "a list")),
    };
    if values.is_empty() {
        return refuse("is an empty list, which would match nothing".to_owned());
    }
    if values.len() > MAX_LIST {
        return refuse(format!("has more than {MAX_LIST} entries"));
    }
    let mut strings = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::String(text) if text.is_empty() => return refuse("has an empty entry".to_owned()),
            Value::String(text) => strings.push(text.as_str()),
            other => return refuse(format!("has an entry that {}", is_not(other, "text"))),
        }
    }
    Ok(Some(strings))
}

fn is_not(value: &Value, wanted: &str) -> String {
    format!("is {}, not {wanted}", kind(value))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// Whether there is nothing but blanks, comments and document markers.
fn has_no_content(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

fn quoted(text: &str) -> String {
    format!("{:?}", excerpt(text))
}

fn excerpt(text: &str) -> String {
    let mut characters = text.chars();
    let mut excerpt: String = characters.by_ref().take(MAX_EXCERPT).collect();
    if characters.next().is_some() {
        excerpt.push('…');
    }
    excerpt
}

/// What a parser says, without the picture of the input that it draws below.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).chars().take(200).collect()
}

/// The known key that differs from this one in case, or in at most two letters.
fn nearest(key: &str) -> Option<&'static str> {
    if key.len() > 32 {
        return None;
    }
    let key = key.to_ascii_lowercase().replace(['-', '_'], "");
    KEYS.into_iter()
        .map(|known| (distance(&key, &known.to_ascii_lowercase()), known))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, known)| known)
}

/// How many letters have to be put in, left out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
