//! `EventSource.config`: the YAML in which a subscriber says what it wants.
//!
//! The message of a refusal is all that its author ever sees (in the log of the EventSource's Pod, every five seconds),
//! so each names the key, what is wrong with it, and what to write instead. None repeats more than a few words of the
//! input.

mod words;
mod yaml;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use self::{words::quoted, yaml::MAX_CONFIG};
use crate::model::{
    ArtifactTypes, Include, IncludeField, PipelineFilter, Subscription, SubscriptionName,
    subscription::{NotADnsLabel, is_dns_label},
};

/// How many patterns or types a list may hold, and how many octets each may have. A pattern becomes a regular expression,
/// which every stream keeps, and which is compiled recursively.
const MAX_LIST: usize = 64;
const MAX_ENTRY: usize = 256;

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
    /// It is larger than a configuration can be.
    #[error("config has more than {MAX_CONFIG} octets: it takes a few lines, such as `{NAMESPACE}: my-team`")]
    TooLarge,
    /// There is nothing in it.
    #[error("config is empty: write at least `{NAMESPACE}: <the namespace whose runs are wanted>`")]
    Empty,
    /// It is in another encoding.
    #[error("config is not UTF-8 after octet {valid_up_to}: save it as UTF-8")]
    NotUtf8 {
        /// How many octets are.
        valid_up_to: usize,
    },
    /// It cannot be read.
    #[error(
        "config is not valid YAML: line {line}: {problem}; write each key as `{NAMESPACE}: my-team` on a line of its \
         own, and put texts with special characters in quotes"
    )]
    NotYaml {
        /// Where.
        line: u64,
        /// What the parser says.
        problem: String,
    },
    /// A key is there more than once.
    #[error("config has the key {key} twice, again on line {line}: leave one of them out")]
    DuplicateKey {
        /// The key, in quotes (an excerpt).
        key: String,
        /// Where it is for the second time.
        line: u64,
    },
    /// It is more than one.
    #[error("config has several YAML documents, the second on line {line}: write every key in one, without `---`")]
    SeveralDocuments {
        /// Where the second one begins.
        line: u64,
    },
    /// It costs too much to read.
    #[error(
        "config is nested too deeply, too long or has too many aliases on line {line}: write plain values and lists, \
         such as `{PIPELINES}: [\"penguin-*\"]`"
    )]
    TooComplex {
        /// Where that was noticed.
        line: u64,
    },
    /// It is a list or a single value.
    #[error("config is {0}, but has to be a mapping: write `{NAMESPACE}: <the namespace whose runs are wanted>`")]
    NotAMapping(&'static str),
    /// There is a key that nobody knows.
    #[error("config has the unknown key {key}: {}", suggestion(.nearest))]
    UnknownKey {
        /// What was written, in quotes (an excerpt).
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
    let keys = yaml::read(config)?;
    if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(ConfigError::UnknownKey { key: quoted(key), nearest: words::nearest(key, KEYS) });
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
        Some(other) => refuse(words::is_no_text(other)),
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
        Some(other) => refuse(words::is_no_text(other)),
    }
}

fn pipelines(keys: &Map<String, Value>) -> Result<PipelineFilter, ConfigError> {
    const EXAMPLE: &str = "a list such as `pipelines: [\"penguin-*\"]`, or leave it out for every pipeline";
    let Some(patterns) = strings(keys, PIPELINES, EXAMPLE)? else { return Ok(PipelineFilter::default()) };
    PipelineFilter::matching(patterns).map_err(|error| {
        let why = match error.kind() {
            // Its words are about an expression that nobody has written, and fill several lines.
            globset::ErrorKind::Regex(_) => "it is too complicated".to_owned(),
            kind => kind.to_string(),
        };
        let problem = format!("{} is not a glob pattern: {why}", quoted(error.glob().unwrap_or_default()));
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
        Some(other) => return refuse(format!("is {}, not a duration", words::kind(other))),
    };
    let problem = match humantime::parse_duration(text) {
        Ok(age) if age >= Duration::from_secs(1) => return Ok(Some(age)),
        Ok(_) => "is less than a second",
        Err(_) if text.starts_with('-') => "is negative",
        Err(_) if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) => "has no unit",
        Err(humantime::DurationError::NumberOverflow) => "is longer than anything lasts",
        Err(_) => "is not a duration",
    };
    refuse(format!("{} {problem}", quoted(text)))
}

fn include(keys: &Map<String, Value>) -> Result<Include, ConfigError> {
    const EXAMPLE: &str = "a list of any of namespace, workflowName, workflowUid, runId, traceparent, or leave it out";
    let Some(fields) = strings(keys, INCLUDE, EXAMPLE)? else { return Ok(Include::default()) };
    let field = |name: &str| {
        IncludeField::ALL.into_iter().find(|field| field.key() == name).ok_or_else(|| ConfigError::Value {
            key: INCLUDE,
            problem: match words::nearest(name, IncludeField::ALL.map(IncludeField::key)) {
                Some(meant) => format!("there is no field {}, did you mean {meant}?", quoted(name)),
                None => format!("there is no field {}", quoted(name)),
            },
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
        Some(Value::Null) => return refuse("has no value".to_owned()),
        Some(other) => return refuse(format!("is {}, not a list", words::kind(other))),
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
            Value::String(text) if text.len() > MAX_ENTRY => {
                return refuse(format!("{} has more than {MAX_ENTRY} octets", quoted(text)));
            }
            Value::String(text) => strings.push(text.as_str()),
            other => return refuse(format!("has an entry that {}", words::is_no_text(other))),
        }
    }
    Ok(Some(strings))
}

#[cfg(test)]
mod tests;
