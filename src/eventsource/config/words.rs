//! What messages about a configuration are made of. None repeats more than a few words of the input, and none spans
//! more than a line, whatever the input is.

use serde_json::Value;

/// How much of the input a message repeats, in characters as they are shown.
const MAX_EXCERPT: usize = 60;

/// The beginning of a text in quotes; what is not printable is escaped.
pub(super) fn quoted(text: &str) -> String {
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

/// The beginning of a text that may repeat some of the input, with at most so many characters.
pub(super) fn clipped(text: &str, most: usize) -> String {
    let printable = text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character });
    printable.take(most).collect()
}

/// What a value is, where something else was wanted.
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

/// Says that a value is no text, and what to do if it was meant as one.
pub(super) fn is_no_text(value: &Value) -> String {
    match value {
        Value::Null => "has no value".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("is {}, not text (quotes make it text)", kind(value)),
        _ => format!("is {}, not text", kind(value)),
    }
}

/// The one of `known` that was probably meant: it differs in case, in punctuation or in at most two letters, or
/// contains what was written.
pub(super) fn nearest(written: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    if written.len() > 32 {
        return None;
    }
    let written = written.to_ascii_lowercase().replace(['-', '_', ' '], "");
    let measured = known.into_iter().map(|known| {
        let plain = known.to_ascii_lowercase();
        let part = written.len() >= 3 && plain.contains(&written);
        (if part { 1 } else { distance(&written, &plain) }, known)
    });
    measured.min().filter(|(distance, _)| *distance <= 2).map(|(_, known)| known)
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
