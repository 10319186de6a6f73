//! Glob patterns for names of pipelines: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}` and `\` before a character that is meant
//! literally.
//!
//! Tenants choose both patterns and names, and both are evaluated by the task that delivers for every tenant. So the
//! work of a match is bounded by the length of the pattern times the length of the name, whatever both contain, and a
//! pattern is kept as text: compiled automata (globset, regex) would take up to a thousand times its size.

use std::{iter::Peekable, str::Chars};

/// Maximum number of alternatives in all, after nested braces are expanded.
const MAX_ALTERNATIVES: usize = 64;
/// Maximum size of all alternatives together in characters: that of the longest pattern times a few alternatives.
const MAX_EXPANDED: usize = 4096;

/// The reason why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGlob {
    /// `[` without `]`.
    #[error("[ without a closing ]; write [[] for the character itself")]
    UnclosedClass,
    /// A range whose end comes before its beginning.
    #[error("the range {0}-{1} is empty")]
    EmptyRange(char, char),
    /// `{` without `}`.
    #[error("{{ without a closing }}; write [{{] for the character itself")]
    UnclosedAlternatives,
    /// `}` without `{`.
    #[error("}} without an opening {{; write [}}] for the character itself")]
    UnopenedAlternatives,
    /// A `\` at the end.
    #[error("\\ at the end; write \\\\ for the character itself")]
    DanglingEscape,
    /// Braces that expand to too many or too long alternatives.
    #[error("its braces expand to more than {MAX_ALTERNATIVES} alternatives or {MAX_EXPANDED} characters")]
    TooManyAlternatives,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    AnyCharacter,
    AnySequence,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn accepts(&self, character: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == character,
            Self::AnyCharacter | Self::AnySequence => true,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != *negated
            }
        }
    }
}

/// Checks a pattern.
///
/// # Errors
/// The first problem of a malformed pattern.
pub fn check(pattern: &str) -> Result<(), InvalidGlob> {
    alternatives(pattern).map(drop)
}

/// Returns whether the whole name matches the pattern. A malformed pattern matches nothing; see [`check`].
pub fn matches(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    alternatives(pattern).is_ok_and(|alternatives| alternatives.iter().any(|tokens| tokens_match(tokens, &name)))
}

/// The usual algorithm with a single alternative: on a mismatch, the latest `*` takes one character more. Earlier ones
/// need not, so there is one position to return to, and each character of the name is compared with each token at most
/// once for it.
fn tokens_match(tokens: &[Token], name: &[char]) -> bool {
    let (mut token, mut position) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while position < name.len() {
        match tokens.get(token) {
            Some(Token::AnySequence) => {
                token += 1;
                retry = Some((token, position));
            }
            Some(one) if one.accepts(name[position]) => {
                token += 1;
                position += 1;
            }
            _ => {
                let Some((after_star, begin)) = retry else { return false };
                (token, position) = (after_star, begin + 1);
                retry = Some((token, position));
            }
        }
    }
    tokens[token..].iter().all(|token| *token == Token::AnySequence)
}

/// The alternatives of a pattern, with their braces expanded.
fn alternatives(pattern: &str) -> Result<Vec<Vec<Token>>, InvalidGlob> {
    let mut rest = pattern.chars().peekable();
    let alternatives = sequence(&mut rest, false)?;
    match rest.next() {
        None => Ok(alternatives),
        Some(_) => Err(InvalidGlob::UnopenedAlternatives),
    }
}

/// Reads up to the end, or inside braces up to the `,` or `}` that ends an alternative.
fn sequence(rest: &mut Peekable<Chars<'_>>, in_braces: bool) -> Result<Vec<Vec<Token>>, InvalidGlob> {
    let mut expanded = vec![Vec::new()];
    while let Some(&character) = rest.peek() {
        if character == '}' || (in_braces && character == ',') {
            break;
        }
        rest.next();
        let token = match character {
            '{' => {
                let inner = braces(rest)?;
                expanded = product(&expanded, &inner)?;
                continue;
            }
            '*' => Token::AnySequence,
            '?' => Token::AnyCharacter,
            '[' => class(rest)?,
            '\\' => Token::Literal(rest.next().ok_or(InvalidGlob::DanglingEscape)?),
            literal => Token::Literal(literal),
        };
        expanded.iter_mut().for_each(|tokens| tokens.push(token.clone()));
    }
    Ok(expanded)
}

fn braces(rest: &mut Peekable<Chars<'_>>) -> Result<Vec<Vec<Token>>, InvalidGlob> {
    let mut all = Vec::new();
    loop {
        all.extend(sequence(rest, true)?);
        check_size(&all)?;
        match rest.next() {
            Some(',') => {}
            Some(_) => return Ok(all),
            None => return Err(InvalidGlob::UnclosedAlternatives),
        }
    }
}

fn product(left: &[Vec<Token>], right: &[Vec<Token>]) -> Result<Vec<Vec<Token>>, InvalidGlob> {
    if left.len() * right.len() > MAX_ALTERNATIVES {
        return Err(InvalidGlob::TooManyAlternatives);
    }
    let joined = left.iter().flat_map(|left| right.iter().map(|right| [&left[..], right].concat())).collect::<Vec<_>>();
    check_size(&joined)?;
    Ok(joined)
}

fn check_size(alternatives: &[Vec<Token>]) -> Result<(), InvalidGlob> {
    let size: usize = alternatives.iter().map(Vec::len).sum();
    if alternatives.len() > MAX_ALTERNATIVES || size > MAX_EXPANDED {
        return Err(InvalidGlob::TooManyAlternatives);
    }
    Ok(())
}

/// Reads the rest of `[…]`. A `]` that comes first, and a `-` that comes first or last, are literal.
fn class(rest: &mut Peekable<Chars<'_>>) -> Result<Token, InvalidGlob> {
    let negated = rest.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let first = rest.next().ok_or(InvalidGlob::UnclosedClass)?;
        if first == ']' && !ranges.is_empty() {
            return Ok(Token::Class { negated, ranges });
        }
        let mut range = (first, first);
        let mut ahead = rest.clone();
        if ahead.next() == Some('-')
            && let Some(last) = ahead.next()
            && last != ']'
        {
            *rest = ahead;
            range.1 = last;
        }
        if range.0 > range.1 {
            return Err(InvalidGlob::EmptyRange(range.0, range.1));
        }
        ranges.push(range);
    }
}

#[cfg(test)]
mod tests;
