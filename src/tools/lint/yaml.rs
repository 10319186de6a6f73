//! YAML with the position of every key and value.

use std::{fmt, ops::Range};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    DefaultMessageFormatter, Error, Location, MessageFormatter as _, Options, Spanned, alias_limits, budget, options,
    options::NonFiniteFloatPolicy,
};

use super::node::{Block, Key, Node, Position, Value};
use crate::eventsource::config::quoted;

/// The deepest nesting. A Sensor with a Workflow in it has about 20. Each level takes stack.
const MAX_DEPTH: usize = 32;
/// Texts, lists and mappings of a document, including those from aliases. An object of the size that Kubernetes accepts
/// (1.5 MiB) has fewer.
const MAX_NODES: usize = 100_000;
/// References to another place in the document.
const MAX_ALIASES: usize = 1_000;
/// Characters of the parser's message in a finding.
const MAX_PROBLEM: usize = 160;

/// The reason why a text is not YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(super) struct SyntaxError {
    /// Its place.
    pub(super) at: Position,
    /// The problem, and what to write instead.
    pub(super) problem: String,
}

/// The documents of a file, divided as `kubectl` divides them: at lines of `---`. Each is the bytes of its text, and
/// the lines before it.
pub(super) fn documents(text: &str) -> Vec<(Range<usize>, usize)> {
    let mut documents = Vec::new();
    let (mut start, mut first_line) = (0, 0);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let end = offset + line.len();
        let rest = line.strip_prefix("---").map(str::trim);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#')) {
            documents.push((start..offset, first_line));
            (start, first_line) = (end, index + 1);
        }
        offset = end;
    }
    documents.push((start..offset, first_line));
    documents
}

/// Parses one document, after `lines` others of its file.
///
/// # Errors
/// If it is not YAML, or exceeds a limit.
pub(super) fn parse(text: &str, lines: usize) -> Result<Node, SyntaxError> {
    let raw: Raw = serde_saphyr::from_str_with_options(text, bounds()).map_err(|error| syntax_error(&error, lines))?;
    Ok(raw.into_node(text, lines))
}

/// Limits of the parser: a manifest may come from a tenant's repository.
fn bounds() -> Options {
    options! {
        budget: budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_recorded_anchor_events: MAX_NODES,
        },
        alias_limits: alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_alias_expansions_per_anchor: MAX_ALIASES,
        },
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

fn syntax_error(error: &Error, lines: usize) -> SyntaxError {
    let at = error.location().and_then(|location| position(&location, lines));
    let at = at.unwrap_or(Position { line: lines + 1, column: 1 });
    let problem = match error {
        Error::AliasError { error, .. } => return syntax_error(error, lines),
        Error::DuplicateMappingKey { key, .. } => {
            format!("the key {} is repeated; remove one of the two", quoted(key.as_deref().unwrap_or_default()))
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => too_complex(),
        Error::UnknownAnchor { .. } => "a text that begins with * must be in quotes".to_owned(),
        other => {
            let message = DefaultMessageFormatter.format_message(other).into_owned();
            let first = message.lines().next().unwrap_or_default();
            if first.contains(RECURSION) {
                return SyntaxError { at, problem: too_complex() };
            }
            let printable = first.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
            format!("not valid YAML: {}", printable.take(MAX_PROBLEM).collect::<String>())
        }
    };
    SyntaxError { at, problem }
}

/// The parser's words for brackets that are nested too deeply for it.
const RECURSION: &str = "recursion limit";

fn too_complex() -> String {
    format!(
        "the document is nested too deeply or has too many values or aliases (at most {MAX_DEPTH} levels, {MAX_NODES} values \
         and {MAX_ALIASES} aliases); divide it by lines of ---"
    )
}

/// The place in a file. `None` where the parser knows none.
fn position(location: &Location, lines: usize) -> Option<Position> {
    let place = |number: u64| usize::try_from(number).ok().filter(|number| *number > 0);
    Some(Position { line: lines + place(location.line())?, column: place(location.column())? })
}

/// A value as the parser gives it.
struct Raw(Spanned<RawValue>);

enum RawValue {
    Null,
    Bool(bool),
    Number,
    Text(String),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl Raw {
    fn into_node(self, text: &str, lines: usize) -> Node {
        let Spanned { value, referenced, defined } = self.0;
        let block = matches!(value, RawValue::Text(_)).then(|| block(text, &defined, lines)).flatten();
        let value = match value {
            RawValue::Null => Value::Null,
            RawValue::Bool(value) => Value::Bool(value),
            RawValue::Number => Value::Number,
            RawValue::Text(text) => Value::Text(text),
            RawValue::List(items) => Value::List(items.into_iter().map(|item| item.into_node(text, lines)).collect()),
            RawValue::Map(entries) => {
                let entry = |(key, value): (Spanned<String>, Raw)| {
                    let at = position(&key.referenced, lines);
                    (Key { text: key.value, at }, value.into_node(text, lines))
                };
                Value::Map(entries.into_iter().map(entry).collect())
            }
        };
        Node { value, at: position(&referenced, lines), block }
    }
}

/// The place of the lines of a text, if it is written as a literal block. The parser's location is that of the first line
/// with content.
fn block(text: &str, location: &Location, lines: usize) -> Option<Block> {
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    let before = text.get(..start)?;
    let (above, indentation) = before.rsplit_once('\n')?;
    if !indentation.bytes().all(|byte| byte == b' ') {
        return None;
    }
    let (index, header) = above.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).last()?;
    let header = header.split(" #").next().unwrap_or_default().trim_end();
    let is_literal = header.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-')).ends_with('|');
    is_literal.then(|| Block { line: lines + index + 2, indentation: indentation.len() })
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = RawValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<RawValue, E> {
        Ok(RawValue::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<RawValue, E> {
        Ok(RawValue::Number)
    }

    fn visit_i128<E>(self, _: i128) -> Result<RawValue, E> {
        Ok(RawValue::Number)
    }

    fn visit_u128<E>(self, _: u128) -> Result<RawValue, E> {
        Ok(RawValue::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<RawValue, E> {
        Ok(RawValue::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<RawValue, E> {
        Ok(RawValue::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(RawValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawValue, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(RawValue::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(node: &'a Node, path: &[&str]) -> &'a Node {
        node.at_path(path).unwrap_or_else(|| panic!("{path:?}"))
    }

    fn at(line: usize, column: usize) -> Option<Position> {
        Some(Position { line, column })
    }

    #[test]
    fn keys_and_values_have_positions() {
        let node = parse("a:\n  - b: 1\n    ü: \"two\"\n  -\nc: {d: true}\n", 10).unwrap();
        let (key, list) = node.entry("a").unwrap();
        assert_eq!(key.at, at(11, 1));
        let (key, text) = list.items()[0].entry("ü").unwrap();
        assert_eq!((key.at, text.at, text.text()), (at(13, 5), at(13, 8), Some("two")));
        assert!(list.items()[1].is_null());
        assert_eq!(find(&node, &["c", "d"]).at, at(15, 8));
    }

    #[test]
    fn lines_of_a_block_are_mapped_to_the_file() {
        let text = "a:\n  config: |-\n\n    # words\n    key: value\n  other: text\n";
        let node = parse(text, 0).unwrap();
        let config = find(&node, &["a", "config"]);
        assert_eq!(config.text(), Some("\n# words\nkey: value"));
        let block = config.block.unwrap();
        assert_eq!(block.position(Position { line: 3, column: 6 }), Position { line: 5, column: 10 });
        assert_eq!(find(&node, &["a", "other"]).block, None);
    }

    #[test]
    fn documents_are_divided_as_kubectl_does() {
        let text = "---\na: 1\n--- # second\nb: |\n  ---\n---\nc: 1";
        let found: Vec<_> = documents(text).into_iter().map(|(bytes, lines)| (&text[bytes], lines)).collect();
        assert_eq!(found, [("", 0), ("a: 1\n", 1), ("b: |\n  ---\n", 3), ("c: 1", 6)]);
    }

    #[test]
    fn an_error_names_its_place() {
        for (text, place, words) in [
            ("a: 1\na: 2\n", (2, 1), "the key \"a\" is repeated"),
            ("a: *b\n", (1, 4), "must be in quotes"),
            ("a: [1\nb: 2\n", (2, 2), "not valid YAML"),
        ] {
            let error = parse(text, 5).unwrap_err();
            assert!(error.problem.contains(words), "{error}");
            assert_eq!(error.at, Position { line: 5 + place.0, column: place.1 }, "{text:?}: {error}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let previous = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        for text in [bomb, "[".repeat(1000), "- ".repeat(1000)] {
            assert!(parse(&text, 0).unwrap_err().problem.contains("too deeply"));
        }
        let wide = format!("[{}]", "x, ".repeat(MAX_NODES + 1));
        assert!(parse(&wide, 0).unwrap_err().problem.contains("too many values"));
    }
}
