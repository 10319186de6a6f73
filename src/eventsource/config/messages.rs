//! Parts of the messages about a configuration. A message is one line and repeats at most a few words of the input.

use serde_json::Value;

use crate::model::RunOutcome;

/// The characters of the input in a message, as they are shown.
const MAX_EXCERPT: usize = 60;
/// A key or field of more bytes is no misspelling.
const MAX_MISSPELLED: usize = 32;
/// The largest edit distance of a misspelling.
const MAX_DISTANCE: usize = 2;

/// The beginning of a text in quotes, with unprintable characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut excerpt = String::from("\"");
    let mut length = 0;
    for character in text.chars() {
        // An apostrophe needs no escape between double quotes.
        let shown = if character == '\'' { "'".to_owned() } else { character.escape_debug().to_string() };
        length += shown.chars().count();
        if length > MAX_EXCERPT {
            excerpt.push('…');
            break;
        }
        excerpt.push_str(&shown);
    }
    excerpt.push('"');
    excerpt
}

/// The first characters of a text that may contain input, without control characters.
pub(super) fn clipped(text: &str, max: usize) -> String {
    let printable = text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character });
    printable.take(max).collect()
}

/// The kind of a value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// The problem of a value that is not text.
pub(super) fn not_text(value: &Value) -> String {
    match value {
        Value::Null => "has no value".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("is {}, not text (quotes make it text)", kind(value)),
        _ => format!("is {}, not text", kind(value)),
    }
}

/// The known name that was probably meant: it contains `written`, or differs from it only in case, punctuation and at
/// most [`MAX_DISTANCE`] letters.
pub(crate) fn nearest(written: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    if written.len() > MAX_MISSPELLED {
        return None;
    }
    let written = written.to_ascii_lowercase().replace(['-', '_', ' '], "");
    let distances = known.into_iter().map(|known| {
        let plain = known.to_ascii_lowercase();
        let is_part = written.len() >= 3 && plain.contains(&written);
        (if is_part { 1 } else { strsim::levenshtein(&written, &plain) }, known)
    });
    distances.min().filter(|(distance, _)| *distance <= MAX_DISTANCE).map(|(_, known)| known)
}

/// The outcome that was probably meant. Argo's phases and everyday words count too.
pub(super) fn nearest_outcome(written: &str) -> Option<RunOutcome> {
    const WORDS: [(&str, RunOutcome); 7] = [
        ("succeeded", RunOutcome::Succeeded),
        ("success", RunOutcome::Succeeded),
        ("successful", RunOutcome::Succeeded),
        ("failed", RunOutcome::Failed),
        ("failure", RunOutcome::Failed),
        ("error", RunOutcome::Failed),
        ("errored", RunOutcome::Failed),
    ];
    let nearest = nearest(written, WORDS.map(|(word, _)| word))?;
    WORDS.into_iter().find(|(word, _)| *word == nearest).map(|(_, outcome)| outcome)
}
