//! Regular expressions in filters.

use regex_syntax::{
    ParserBuilder,
    hir::{Hir, HirKind, Look},
};

/// The most bytes of an expression that is parsed.
const MAX_PATTERN: usize = 4096;

/// The way in which an expression matches a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Anchoring {
    /// The whole text, or explicitly any beginning or end (`.*`).
    Whole,
    /// Also texts that only contain, begin with, or end with a match.
    Part,
    /// The parser does not know the expression. Go's may: the two dialects differ in rare cases.
    Unknown(String),
}

/// Returns how an expression matches.
pub(super) fn anchoring(pattern: &str) -> Anchoring {
    if pattern.len() > MAX_PATTERN {
        return Anchoring::Unknown(format!("it has more than {MAX_PATTERN} bytes"));
    }
    // Without Unicode, as a class would need its tables; a text of other characters is compared byte by byte all the same.
    let parsed = ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern);
    match parsed {
        Ok(expression) if begins(&expression) && ends(&expression) => Anchoring::Whole,
        Ok(_) => Anchoring::Part,
        Err(regex_syntax::Error::Parse(error)) => Anchoring::Unknown(error.kind().to_string()),
        // It is well-formed, with a class of characters that needs Unicode.
        Err(_) if pattern.starts_with('^') && pattern.ends_with('$') => Anchoring::Whole,
        Err(_) => Anchoring::Part,
    }
}

fn begins(expression: &Hir) -> bool {
    expression.properties().look_set_prefix().contains(Look::Start) || edge(expression, true)
}

fn ends(expression: &Hir) -> bool {
    expression.properties().look_set_suffix().contains(Look::End) || edge(expression, false)
}

/// Returns whether an expression begins (or ends) with a repetition without a limit.
fn edge(expression: &Hir, first: bool) -> bool {
    match expression.kind() {
        HirKind::Repetition(repetition) => repetition.max.is_none(),
        HirKind::Capture(capture) => edge(&capture.sub, first),
        HirKind::Concat(parts) => {
            let part = if first { parts.first() } else { parts.last() };
            part.is_some_and(|part| edge(part, first))
        }
        HirKind::Alternation(branches) => {
            branches.iter().all(|branch| if first { begins(branch) } else { ends(branch) })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_are_told_from_parts() {
        for whole in [
            "^penguin$",
            "^(a|b)$",
            "^a$|^b$",
            r"^\[Demo\] TFX$",
            "^penguin-.*$",
            "^penguin-.*",
            ".*",
            "^.+$",
            r"\Aa\z",
            "^größe$",
        ] {
            assert_eq!(anchoring(whole), Anchoring::Whole, "{whole}");
        }
        for part in ["penguin", "^penguin", "penguin$", "^a|b$", "a|^b$", "penguin-pipeline", r"^a\$", ""] {
            assert_eq!(anchoring(part), Anchoring::Part, "{part}");
        }
        for unknown in ["(", "[a", "a{2,1}", "*"] {
            assert!(matches!(anchoring(unknown), Anchoring::Unknown(_)), "{unknown}");
        }
    }
}
