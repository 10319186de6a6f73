//! Reads the keys and values of a configuration, and explains what is wrong with malformed ones.

use serde_json::{Map, Value};
use serde_saphyr::{
    DefaultMessageFormatter, Error, MessageFormatter as _, Options, alias_limits, budget, options,
    options::NonFiniteFloatPolicy,
};

use super::{ConfigError, messages};

/// The largest configuration, in bytes. A usual one is a few lines.
pub(super) const MAX_CONFIG: usize = 64 * 1024;
/// The deepest nesting. A valid configuration has two levels. Up to this limit the message names the key with the extra
/// levels.
const MAX_DEPTH: usize = 8;
/// Texts, lists and mappings, including those from aliases.
const MAX_NODES: usize = 4096;
/// References to another place in the text.
const MAX_ALIASES: usize = 64;
/// The characters of the parser's message in the server's.
const MAX_PROBLEM: usize = 160;

/// The keys and values of a configuration.
pub(super) fn read(config: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    if config.len() > MAX_CONFIG {
        return Err(ConfigError::TooLarge);
    }
    let text =
        std::str::from_utf8(config).map_err(|error| ConfigError::NotUtf8 { valid_up_to: error.valid_up_to() })?;
    let value = match serde_saphyr::from_str_with_options(text, bounds()) {
        Ok(value) => value,
        Err(_) if has_no_content(text) => return Err(ConfigError::Empty),
        Err(error) => return Err(refusal(&error)),
    };
    match value {
        Value::Object(keys) => Ok(keys),
        Value::Null => Err(ConfigError::Empty),
        other => Err(ConfigError::NotAMapping(messages::kind(&other))),
    }
}

/// Limits of the parser. Any client may send a configuration, so a malformed one must cost little.
fn bounds() -> Options {
    options! {
        budget: budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_recorded_anchor_events: 4 * MAX_NODES,
        },
        alias_limits: alias_limits! {
            max_total_replayed_events: 4 * MAX_NODES,
            max_alias_expansions_per_anchor: MAX_ALIASES,
        },
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// Translates an error of the parser. Frequent ones get a message for the author of the configuration.
fn refusal(error: &Error) -> ConfigError {
    let line = error.location().map_or(1, |location| location.line());
    let syntax = |problem: &str| ConfigError::NotYaml { line, problem: problem.to_owned() };
    match error {
        Error::AliasError { error, .. } => refusal(error),
        Error::DuplicateMappingKey { key, .. } => {
            ConfigError::DuplicateKey { key: messages::quoted(key.as_deref().unwrap_or_default()), line }
        }
        Error::MultipleDocuments { .. } => ConfigError::SeveralDocuments { line },
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => ConfigError::TooComplex { line },
        Error::UnknownAnchor { .. } => syntax("a text that begins with * must be in quotes"),
        Error::Unexpected { expected: "string scalar", .. } => syntax("a key must be text"),
        other => {
            let problem = DefaultMessageFormatter.format_message(other);
            syntax(&messages::clipped(problem.lines().next().unwrap_or_default(), MAX_PROBLEM))
        }
    }
}

/// Returns whether the text has only blank lines, comments and document markers.
fn has_no_content(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| matches!(line, "" | "---" | "...") || line.starts_with('#'))
}
