//! `EventSource.config`: the YAML configuration of a subscription.
//!
//! The author of a configuration sees only the message of its refusal, in the log of the EventSource's Pod. Each message
//! names the key, what is wrong with it, and what to write instead.

mod messages;
mod yaml;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

pub(crate) use self::messages::{nearest, quoted};
use self::yaml::MAX_CONFIG;
use crate::model::{
    ArtifactTypes, Include, IncludeField, PipelineFilter, RunOutcome, Statuses, Subscription, SubscriptionName,
    subscription::{NotADnsLabel, is_dns_label},
};

/// The most entries of a list. The work to match a name grows with the number of patterns.
const MAX_LIST: usize = 64;
/// The most bytes of an entry. The work to match a name grows with the length of a pattern.
const MAX_ENTRY: usize = 256;

const NAMESPACE: &str = "kfpNamespace";
const SUBSCRIPTION: &str = "subscription";
const PIPELINES: &str = "pipelines";
const ARTIFACT_TYPES: &str = "artifactTypes";
const MAX_AGE: &str = "maxAge";
const LATEST_ONLY: &str = "latestOnly";
const STATUSES: &str = "statuses";
const REMEMBER: &str = "remember";
const INCLUDE: &str = "include";
const KEYS: [&str; 9] =
    [NAMESPACE, SUBSCRIPTION, PIPELINES, ARTIFACT_TYPES, MAX_AGE, LATEST_ONLY, STATUSES, REMEMBER, INCLUDE];

/// The reason why a configuration is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It has more than 64 KiB.
    #[error("config is larger than {MAX_CONFIG} bytes; write a few lines, such as `{NAMESPACE}: my-team`")]
    TooLarge,
    /// It has no keys.
    #[error("config is empty; write at least `{NAMESPACE}: <namespace of the runs>`")]
    Empty,
    /// It has another encoding.
    #[error("config is not UTF-8 after byte {valid_up_to}; save it as UTF-8")]
    NotUtf8 {
        /// The bytes that are valid.
        valid_up_to: usize,
    },
    /// It is malformed.
    #[error(
        "config is not valid YAML in line {line}: {problem}; write each key on its own line, such as \
         `{NAMESPACE}: my-team`, and quote text with special characters"
    )]
    NotYaml {
        /// The line of the problem.
        line: u64,
        /// The parser's message.
        problem: String,
    },
    /// A key is repeated.
    #[error("config has the key {key} again in line {line}; remove one of the two")]
    DuplicateKey {
        /// An excerpt of the key, in quotes.
        key: String,
        /// The line of the repetition.
        line: u64,
    },
    /// It has several documents.
    #[error("config has a second YAML document in line {line}; write all keys in one document, without `---`")]
    SeveralDocuments {
        /// The line of the second document.
        line: u64,
    },
    /// It exceeds a limit of the parser.
    #[error(
        "config is nested too deeply, too long or has too many aliases in line {line}; write plain values and lists, \
         such as `{PIPELINES}: [\"penguin-*\"]`"
    )]
    TooComplex {
        /// The line in which the limit was exceeded.
        line: u64,
    },
    /// It is a list or a single value.
    #[error("config is {0}, not a mapping; write `{NAMESPACE}: <namespace of the runs>`")]
    NotAMapping(&'static str),
    /// It has an unknown key.
    #[error("config has the unknown key {key}; {}", suggestion(.nearest))]
    UnknownKey {
        /// An excerpt of the key, in quotes.
        key: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The required key is missing.
    #[error("{NAMESPACE} is missing; write `{NAMESPACE}: <namespace of the runs>`")]
    NoNamespace,
    /// A key has an invalid value.
    #[error("{key} {problem}; write {example}")]
    Value {
        /// The key.
        key: &'static str,
        /// The problem, as a verb phrase.
        problem: String,
        /// A valid value.
        example: &'static str,
    },
}

impl ConfigError {
    /// The key with the problem. `None` if the configuration as a whole is invalid.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::DuplicateKey { key, .. } | Self::UnknownKey { key, .. } => Some(key.trim_matches('"')),
            Self::NoNamespace => Some(NAMESPACE),
            Self::Value { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The kind of the problem: one of a bounded set, for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "CONFIG_TOO_LARGE",
            Self::Empty => "CONFIG_EMPTY",
            Self::NotUtf8 { .. } => "CONFIG_NOT_UTF8",
            Self::NotYaml { .. } => "CONFIG_NOT_YAML",
            Self::DuplicateKey { .. } => "CONFIG_DUPLICATE_KEY",
            Self::SeveralDocuments { .. } => "CONFIG_SEVERAL_DOCUMENTS",
            Self::TooComplex { .. } => "CONFIG_TOO_COMPLEX",
            Self::NotAMapping(_) => "CONFIG_NOT_A_MAPPING",
            Self::UnknownKey { .. } => "CONFIG_UNKNOWN_KEY",
            Self::NoNamespace => "CONFIG_MISSING_KEY",
            Self::Value { .. } => "CONFIG_INVALID_VALUE",
        }
    }
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(key) => format!("did you mean {key}?"),
        None => format!("write one of {}", KEYS.join(", ")),
    }
}

/// Reads the keys of a configuration without a check of their values.
///
/// # Errors
/// It is not a mapping of text to values.
pub fn read_keys(config: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    yaml::read(config)
}

/// Parses the configuration of the EventSource of this name.
///
/// # Errors
/// The configuration is not valid, see [`ConfigError`].
pub fn parse(event_source: &str, config: &[u8]) -> Result<Subscription, ConfigError> {
    let keys = yaml::read(config)?;
    if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(ConfigError::UnknownKey { key: quoted(key), nearest: messages::nearest(key, KEYS) });
    }
    Ok(Subscription {
        namespace: namespace(&keys)?,
        name: subscription(&keys, event_source)?,
        unscoped: None,
        pipelines: pipelines(&keys)?,
        artifact_types: Arc::new(artifact_types(&keys)?),
        max_age: max_age(&keys)?,
        latest_only: flag(&keys, LATEST_ONLY, "`latestOnly: true`, or leave it out to receive every run")?
            .unwrap_or(false),
        statuses: statuses(&keys)?,
        remember: flag(&keys, REMEMBER, "`remember: false`, or leave it out to have deliveries remembered")?
            .unwrap_or(true),
        include: include(&keys)?,
    })
}

fn namespace(keys: &Map<String, Value>) -> Result<Arc<str>, ConfigError> {
    let refuse = |problem| Err(ConfigError::Value { key: NAMESPACE, problem, example: "`kfpNamespace: my-team`" });
    match keys.get(NAMESPACE) {
        None => Err(ConfigError::NoNamespace),
        Some(Value::String(name)) if is_dns_label(name) => Ok(name.as_str().into()),
        Some(Value::String(name)) if name.is_empty() => refuse("is empty".to_owned()),
        Some(Value::String(name)) => refuse(format!("{} {NotADnsLabel}", quoted(name))),
        Some(other) => refuse(messages::not_text(other)),
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
        Some(other) => refuse(messages::not_text(other)),
    }
}

fn pipelines(keys: &Map<String, Value>) -> Result<PipelineFilter, ConfigError> {
    const EXAMPLE: &str = "a list such as `pipelines: [\"penguin-*\"]`, or leave it out for every pipeline";
    let Some(patterns) = strings(keys, PIPELINES, EXAMPLE)? else { return Ok(PipelineFilter::default()) };
    PipelineFilter::matching(patterns).map_err(|(pattern, error)| {
        let problem = format!("{} is not a glob pattern: {error}", quoted(pattern));
        ConfigError::Value { key: PIPELINES, problem, example: EXAMPLE }
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
    let text = match keys.get(MAX_AGE) {
        None => return Ok(None),
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => return refuse(format!("{number} has no unit")),
        Some(Value::Null) => return refuse("has no value".to_owned()),
        Some(other) => return refuse(format!("is {}, not a duration", messages::kind(other))),
    };
    let problem = match humantime::parse_duration(text) {
        Ok(age) if age >= Duration::from_secs(1) => return Ok(Some(age)),
        Ok(_) => "is less than a second",
        Err(_) if text.starts_with('-') => "is negative",
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => "has no unit",
        Err(humantime::DurationError::NumberOverflow) => "is too long",
        Err(_) => "is not a duration",
    };
    refuse(format!("{} {problem}", quoted(text)))
}

/// A value of `true` or `false`.
fn flag(keys: &Map<String, Value>, key: &'static str, example: &'static str) -> Result<Option<bool>, ConfigError> {
    let problem = match keys.get(key) {
        None => return Ok(None),
        Some(Value::Bool(value)) => return Ok(Some(*value)),
        Some(Value::Null) => "has no value".to_owned(),
        Some(Value::String(text)) => format!("is the text {}, not true or false", quoted(text)),
        Some(other) => format!("is {}, not true or false", messages::kind(other)),
    };
    Err(ConfigError::Value { key, problem, example })
}

fn statuses(keys: &Map<String, Value>) -> Result<Statuses, ConfigError> {
    const EXAMPLE: &str = "a list of any of succeeded, failed, or leave it out for succeeded runs only";
    let Some(names) = strings(keys, STATUSES, EXAMPLE)? else { return Ok(Statuses::default()) };
    let mut statuses = Statuses { succeeded: false, failed: false };
    for name in names {
        if name == RunOutcome::Succeeded.as_str() {
            statuses.succeeded = true;
        } else if name == RunOutcome::Failed.as_str() {
            statuses.failed = true;
        } else {
            let problem = unknown_entry("status", name, messages::nearest_outcome(name).map(RunOutcome::as_str));
            return Err(ConfigError::Value { key: STATUSES, problem, example: EXAMPLE });
        }
    }
    Ok(statuses)
}

fn include(keys: &Map<String, Value>) -> Result<Include, ConfigError> {
    const EXAMPLE: &str = "a list of any of namespace, workflowName, workflowUid, runId, traceparent, status, createdAt, \
                           finishedAt, eventId, or leave it out";
    let Some(fields) = strings(keys, INCLUDE, EXAMPLE)? else { return Ok(Include::default()) };
    let field = |name: &str| {
        IncludeField::ALL.into_iter().find(|field| field.key() == name).ok_or_else(|| ConfigError::Value {
            key: INCLUDE,
            problem: unknown_entry("field", name, messages::nearest(name, IncludeField::ALL.map(IncludeField::key))),
            example: EXAMPLE,
        })
    };
    fields.into_iter().map(field).collect()
}

/// The problem of a list with an entry that is none of the known ones.
fn unknown_entry(kind: &str, name: &str, nearest: Option<&'static str>) -> String {
    match nearest {
        Some(meant) => format!("has the unknown {kind} {} (did you mean {meant}?)", quoted(name)),
        None => format!("has the unknown {kind} {}", quoted(name)),
    }
}

/// The texts of a list, which must have at least one, and no empty ones.
fn strings<'a>(
    keys: &'a Map<String, Value>,
    key: &'static str,
    example: &'static str,
) -> Result<Option<Vec<&'a str>>, ConfigError> {
    let refuse = |problem| Err(ConfigError::Value { key, problem, example });
    let values = match keys.get(key) {
        None => return Ok(None),
        Some(Value::Array(values)) => values,
        Some(Value::Null) => return refuse("has no value".to_owned()),
        Some(other) => return refuse(format!("is {}, not a list", messages::kind(other))),
    };
    if values.is_empty() {
        return refuse("is an empty list, which matches nothing".to_owned());
    }
    if values.len() > MAX_LIST {
        return refuse(format!("has more than {MAX_LIST} entries"));
    }
    let mut strings = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::String(text) if text.is_empty() => return refuse("has an empty entry".to_owned()),
            Value::String(text) if text.len() > MAX_ENTRY => {
                return refuse(format!("has the entry {} of more than {MAX_ENTRY} bytes", quoted(text)));
            }
            Value::String(text) => strings.push(text.as_str()),
            other => return refuse(format!("has an entry that {}", messages::not_text(other))),
        }
    }
    Ok(Some(strings))
}

#[cfg(test)]
mod tests;
