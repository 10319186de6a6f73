//! Reads label selectors in their text form: `a`, `!a`, `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, joined by
//! commas. (The comparisons `>` and `<` are left out; nothing here uses them.)

use kube::core::{Expression, Selector};

use super::Refusal;

/// Reads a selector; an empty text selects everything.
pub(super) fn parse(text: &str) -> Result<Selector, Refusal> {
    let mut selector = Selector::default();
    if !text.trim().is_empty() {
        for requirement in requirements(text) {
            selector.extend(expression(requirement.trim())?);
        }
    }
    Ok(selector)
}

/// Cuts at the commas that are not inside parentheses.
fn requirements(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c| {
        inside = (inside || c == '(') && c != ')';
        c == ',' && !inside
    })
}

fn expression(text: &str) -> Result<Expression, Refusal> {
    let refused = || Refusal::bad_request(format!("unable to parse requirement: {text:?}"));
    let key = |key: &str| label_key(key.trim()).ok_or_else(refused);
    let value = |value: &str| label_value(value.trim()).ok_or_else(refused);
    if let Some(absent) = text.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(key(absent)?));
    }
    // The longer operators first: each contains the shorter.
    for (operator, make) in [
        ("!=", Expression::NotEqual as fn(String, String) -> Expression),
        ("==", Expression::Equal),
        ("=", Expression::Equal),
    ] {
        if let Some((left, right)) = text.split_once(operator) {
            return Ok(make(key(left)?, value(right)?));
        }
    }
    let Some((left, right)) = text.split_once(char::is_whitespace) else { return Ok(Expression::Exists(key(text)?)) };
    let right = right.trim();
    let (make, set): (fn(_, _) -> _, _) = match right.strip_prefix("notin") {
        Some(set) => (Expression::NotIn, set),
        None => (Expression::In, right.strip_prefix("in").ok_or_else(refused)?),
    };
    let set = set.trim().strip_prefix('(').and_then(|set| set.strip_suffix(')')).ok_or_else(refused)?;
    let values = set.split(',').map(value).collect::<Result<_, _>>()?;
    Ok(make(key(left)?, values))
}

/// A label's key: a name, with a DNS name and `/` before it or not.
pub(super) fn label_key(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let valid = !name.is_empty() && is_label_part(name) && prefix.is_none_or(is_subdomain);
    valid.then(|| text.to_owned())
}

/// A label's value, which may be empty.
pub(super) fn label_value(text: &str) -> Option<String> {
    (text.is_empty() || is_label_part(text)).then(|| text.to_owned())
}

fn is_label_part(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inner) && outer(text.bytes().next()) && outer(text.bytes().last())
}

/// A name as DNS has it, the form of most names in Kubernetes.
pub(in crate::sim) fn is_subdomain(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last))
            && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt;

    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_requirement_has_to_be_met() {
        let labels = [("pipeline/runid", "1"), ("phase", "Succeeded")];
        for selector in [
            "",
            "pipeline/runid",
            "pipeline/runid=1",
            "pipeline/runid == 1, phase!=Failed",
            "phase in (Failed, Succeeded),pipeline/runid",
            "phase notin (Failed,Error),!other",
            "other!=x",
            "other notin (x)",
        ] {
            assert!(selects(selector, &labels), "{selector}");
        }
        for selector in
            ["other", "!phase", "phase=Failed", "phase in (Failed),pipeline/runid", "phase notin (Succeeded)"]
        {
            assert!(!selects(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for selector in ["a b", "==", "a in b", "a in (b", "a==b,,c", "a/b/c", "a=b c", "-a", "A.b/c_d,E/f"] {
            assert_eq!(parse(selector).unwrap_err().code, 400, "{selector}");
        }
    }
}
