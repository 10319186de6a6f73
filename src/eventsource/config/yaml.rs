//! From the octets of a configuration to its keys and values, with what can be wrong on the way in our own words.

use serde_json::{Map, Value};
use serde_saphyr::{
    DefaultMessageFormatter, Error, MessageFormatter as _, Options, alias_limits, budget, options,
    options::NonFiniteFloatPolicy,
};

use super::{ConfigError, words};

/// A configuration is a few lines; what is larger than this many octets is none.
pub(super) const MAX_CONFIG: usize = 64 * 1024;
/// A mapping of lists has two levels. Whoever wrote more is told what is wrong with it, up to here.
const MAX_DEPTH: usize = 8;
/// Texts, lists and mappings, those that come from aliases included.
const MAX_NODES: usize = 4096;
/// How many references to another place of the same text there may be.
const MAX_ALIASES: usize = 64;
/// How much of the parser's own words is repeated, in characters.
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
        other => Err(ConfigError::NotAMapping(words::kind(&other))),
    }
}

/// Anybody may send a configuration, so it may cost next to nothing to find out that it is none.
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

/// The parser's words are for programmers who use it; what happens often gets words for those who wrote the text.
fn refusal(error: &Error) -> ConfigError {
    let line = error.location().map_or(1, |location| location.line());
    let syntax = |problem: &str| ConfigError::NotYaml { line, problem: problem.to_owned() };
    match error {
        Error::AliasError { error, .. } => refusal(error),
        Error::DuplicateMappingKey { key, .. } => {
            ConfigError::DuplicateKey { key: words::quoted(key.as_deref().unwrap_or_default()), line }
        }
        Error::MultipleDocuments { .. } => ConfigError::SeveralDocuments { line },
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => ConfigError::TooComplex { line },
        Error::UnknownAnchor { .. } => syntax("a text that begins with * has to be in quotes"),
        Error::Unexpected { expected: "string scalar", .. } => syntax("a key has to be text"),
        other => {
            let problem = DefaultMessageFormatter.format_message(other);
            syntax(&words::clipped(problem.lines().next().unwrap_or_default(), MAX_PROBLEM))
        }
    }
}

/// Whether there is nothing but blanks, comments and document markers.
fn has_no_content(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| matches!(line, "" | "---" | "...") || line.starts_with('#'))
}
