//! The grammar of Kubernetes' label selectors, as kube-apiserver's own parser reads it (`labels.Parse` of apimachinery).
//!
//! The API server refuses another selector with 400, but only when the server runs. This check finds it at the start, and
//! says where.

use std::fmt;

use crate::model::subscription::has_dns_label_syntax;

/// The limit of a label's value, and of a key without its prefix.
const MAX_NAME: usize = 63;
/// The limit of a key's prefix.
const MAX_PREFIX: usize = 253;

/// The place where a text stops being a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError {
    /// The character at which the error is, counted from 1. One more than there are, if the text ends too early.
    pub position: usize,
    /// The error: what was expected, or which rule is broken.
    pub message: String,
}

impl std::error::Error for SelectorError {}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, message } = self;
        write!(
            f,
            "character {position}: {message}; write it as for kubectl -l, for example pipeline/runid,team in (a,b)"
        )
    }
}

/// Checks a label selector. The empty text is one: it selects everything.
///
/// # Errors
/// If kube-apiserver would refuse it.
pub fn check_selector(selector: &str) -> Result<(), SelectorError> {
    let mut parser = Parser { text: selector, at: 0, start: 0 };
    if parser.peek() == Token::End {
        return Ok(());
    }
    loop {
        parser.requirement()?;
        match parser.next() {
            Token::End => return Ok(()),
            Token::Symbol(",") => {}
            _ => return Err(parser.expected("\",\" or the end")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    /// A key, a value, or one of the words `in` and `notin`, depending on its place.
    Word(&'a str),
    Symbol(&'a str),
}

struct Parser<'a> {
    text: &'a str,
    /// The first byte that was not read.
    at: usize,
    /// The first byte of the latest token.
    start: usize,
}

impl<'a> Parser<'a> {
    /// `key`, `!key`, `key = value`, `key in (value, …)` and the like.
    fn requirement(&mut self) -> Result<(), SelectorError> {
        let negated = self.peek() == Token::Symbol("!");
        if negated {
            self.next();
        }
        let Token::Word(key) = self.next() else {
            return Err(self.expected(if negated { "a label's key" } else { "a label's key or \"!\"" }));
        };
        self.check(check_key(key))?;
        if negated || matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(());
        }
        match self.next() {
            Token::Symbol("=" | "==" | "!=") => self.value(),
            Token::Symbol(">" | "<") => match self.next() {
                Token::Word(value) if value.parse::<i64>().is_ok() => self.check(check_value(value)),
                _ => Err(self.expected("an integer")),
            },
            Token::Word("in" | "notin") => self.values(),
            _ => Err(self.expected("\",\", one of = == != > < in notin, or the end")),
        }
    }

    /// One value, which may be empty.
    fn value(&mut self) -> Result<(), SelectorError> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(());
        }
        match self.next() {
            Token::Word(value) => self.check(check_value(value)),
            _ => Err(self.expected("a value")),
        }
    }

    /// Values in parentheses, separated by commas. Each may be empty, and there may be none.
    fn values(&mut self) -> Result<(), SelectorError> {
        if self.next() != Token::Symbol("(") {
            return Err(self.expected("\"(\""));
        }
        loop {
            if let Token::Word(value) = self.peek() {
                self.next();
                self.check(check_value(value))?;
            }
            match self.next() {
                Token::Symbol(")") => return Ok(()),
                Token::Symbol(",") => {}
                _ => return Err(self.expected("a value, \",\" or \")\"")),
            }
        }
    }

    fn peek(&mut self) -> Token<'a> {
        let (at, start) = (self.at, self.start);
        let token = self.next();
        (self.at, self.start) = (at, start);
        token
    }

    fn next(&mut self) -> Token<'a> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\r', '\n']);
        self.start = self.text.len() - rest.len();
        let symbol = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"].into_iter().find(|it| rest.starts_with(it));
        let length = match symbol {
            Some(symbol) => symbol.len(),
            None => rest.find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<']).unwrap_or(rest.len()),
        };
        self.at = self.start + length;
        match (symbol, &rest[..length]) {
            (Some(_), symbol) => Token::Symbol(symbol),
            (None, "") => Token::End,
            (None, word) => Token::Word(word),
        }
    }

    /// The error of the latest token, where another is needed.
    fn expected(&self, expected: &str) -> SelectorError {
        let found = &self.text[self.start..self.at];
        let found = if found.is_empty() { "the end".to_owned() } else { format!("{found:?}") };
        self.error(format!("expected {expected}, found {found}"))
    }

    /// Returns the error of a rule about the latest token.
    fn check(&self, result: Result<(), String>) -> Result<(), SelectorError> {
        result.map_err(|message| self.error(message))
    }

    fn error(&self, message: String) -> SelectorError {
        SelectorError { position: self.text[..self.start].chars().count() + 1, message }
    }
}

/// Checks a label's key: an optional DNS subdomain and `/`, and a name.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        return Err(format!("the prefix of the key {key:?}, before \"/\", is not a DNS name in lower case"));
    }
    if name.is_empty() || !is_name(name) {
        return Err(format!(
            "the key {key:?} is not a label's key: 1 to {MAX_NAME} letters, digits, '-', '_' and '.', which begin and end \
             with a letter or digit"
        ));
    }
    Ok(())
}

/// Checks a label's value: a name, or empty.
fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "{value:?} is not a label's value: at most {MAX_NAME} letters, digits, '-', '_' and '.', which begin and end with a \
         letter or digit"
    ))
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_PREFIX && text.split('.').all(has_dns_label_syntax)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn selectors_of_kubernetes_are_accepted() {
        for selector in [
            "",
            " ",
            "pipeline/runid",
            "!a",
            "! a",
            "a,!b,c",
            "a=b",
            "a==b",
            " a != b ",
            "a=",
            "a=,b",
            "a in (b)",
            "a in(b,c),d",
            "a notin ( b , c )",
            "a in ()",
            "a in (,)",
            "a in (,b,,c,)",
            "a>7",
            "a < 7",
            "in",
            "notin in (in,notin)",
            "in=notin",
            "A_b.c-9=Z",
            "example.com/a=b\n",
        ] {
            assert_eq!(check_selector(selector), Ok(()), "{selector:?}");
        }
    }

    #[test]
    fn other_texts_are_refused_at_their_position() {
        for (selector, position, words) in [
            ("a b", 3, "expected \",\", one of"),
            ("a,", 3, "expected a label's key or \"!\", found the end"),
            (",a", 1, "found \",\""),
            ("!", 2, "expected a label's key, found the end"),
            ("!!a", 2, "found \"!\""),
            ("!a=b", 3, "expected \",\" or the end"),
            ("a=b=c", 4, "expected \",\" or the end, found \"=\""),
            ("a=b c", 5, "found \"c\""),
            ("a===b", 4, "expected a value"),
            ("a=!b", 3, "expected a value"),
            ("a in b", 6, "expected \"(\""),
            ("a in (b", 8, "found the end"),
            ("a in (b c)", 9, "found \"c\""),
            ("a in (b))", 9, "found \")\""),
            ("a>", 3, "expected an integer, found the end"),
            ("a>,b", 3, "expected an integer, found \",\""),
            ("a>b", 3, "expected an integer, found \"b\""),
            ("a>9223372036854775808", 3, "expected an integer"),
            ("a<-7", 3, "is not a label's value"),
            ("=b", 1, "found \"=\""),
            ("-a", 1, "is not a label's key"),
            ("a/", 1, "is not a label's key"),
            ("/a", 1, "is not a DNS name"),
            ("a/b/c", 1, "is not a label's key"),
            ("A.com/a", 1, "is not a DNS name"),
            ("a..b/a", 1, "is not a DNS name"),
            ("é", 1, "is not a label's key"),
            ("a=é,b=-", 3, "is not a label's value"),
            ("a=b,b=-", 7, "is not a label's value"),
            ("a in (é,-b)", 7, "is not a label's value"),
        ] {
            let error = check_selector(selector).expect_err(selector);
            assert!(error.position == position && error.message.contains(words), "{selector:?}: {error}");
        }
        let long = |count| "x".repeat(count);
        assert_eq!(check_selector(&format!("{}/{}={}", long(63), long(63), long(63))), Ok(()));
        assert_eq!(check_selector(&long(64)).unwrap_err().position, 1);
        assert_eq!(check_selector(&format!("a={}", long(64))).unwrap_err().position, 3);
        assert_eq!(check_selector(&format!("{}/a", long(254))).unwrap_err().position, 1);
    }

    proptest! {
        #[test]
        fn the_position_is_within_the_text_or_at_its_end(selector in r"[a-bé/!=()<>, 0-9.-]{0,24}") {
            if let Err(error) = check_selector(&selector) {
                prop_assert!((1..=selector.chars().count() + 1).contains(&error.position), "{error}");
            }
        }
    }
}
