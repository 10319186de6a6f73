use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};
use proptest::prelude::*;

use super::*;

#[test]
fn each_construct_matches_what_it_says() {
    for (pattern, name, expected) in [
        ("penguin", "penguin", true),
        ("penguin", "penguins", false),
        ("penguin-*", "penguin-", true),
        ("penguin-*", "penguin-a/b", true),
        ("*", "", true),
        ("?", "é", true),
        ("?", "", false),
        ("[a-c]x", "bx", true),
        ("[!a-c]x", "bx", false),
        ("[^a-c]x", "dx", true),
        ("[]]", "]", true),
        ("[a-]", "-", true),
        ("{taxi,penguin}-?", "taxi-1", true),
        ("{a,{b,c}d}", "cd", true),
        ("a{,b}", "a", true),
        ("a,b", "a,b", true),
        (r"\*", "*", true),
        (r"\*", "x", false),
        ("*a*b", "xaxxab", true),
        ("*a*b", "xaxxabc", false),
        ("Penguin", "penguin", false),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern:?} and {name:?}");
    }
}

#[test]
fn a_malformed_pattern_is_named() {
    for (pattern, expected) in [
        ("[a", InvalidGlob::UnclosedClass),
        ("[z-a]", InvalidGlob::EmptyRange('z', 'a')),
        ("{a,b", InvalidGlob::UnclosedAlternatives),
        ("a}", InvalidGlob::UnopenedAlternatives),
        ("a\\", InvalidGlob::DanglingEscape),
        ("{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", InvalidGlob::TooManyAlternatives),
    ] {
        assert_eq!(check(pattern), Err(expected), "{pattern:?}");
    }
}

/// The largest filter against the longest name. A debug build takes about a tenth of the limit here.
#[test]
fn no_pattern_is_slow() {
    let patterns = (190..=253).map(|length| format!("*a{}", "?".repeat(length)));
    let hard = ["*a".repeat(100), "*[!b]".repeat(50), "{a*,*a,a*a}".repeat(3)];
    let name = "a".repeat(511) + "b";
    let begin = Instant::now();
    for pattern in patterns.chain(hard) {
        check(&pattern).unwrap();
        matches(&pattern, &name);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

fn reference(pattern: &str) -> Option<GlobMatcher> {
    Some(GlobBuilder::new(pattern).empty_alternates(true).build().ok()?.compile_matcher())
}

proptest! {
    /// globset is the reference for the syntax that users know. (Its `**` depends on slashes, and its classes know no
    /// escapes; neither is generated.)
    #[test]
    fn patterns_mean_what_globset_makes_of_them(
        pattern in r"(a|b|\?|x\*|\[ab\]|\[!a\]|\{a,b\}|\{ab,\}|\\\*){0,8}",
        name in "[ab*x]{0,10}",
    ) {
        let Some(reference) = reference(&pattern) else { return Ok(()) };
        prop_assert_eq!(matches(&pattern, &name), reference.is_match(&name), "{} and {}", pattern, name);
    }

    #[test]
    fn any_text_is_checked_and_matched_without_a_panic(pattern in r"[\[\]{},*?!\\a-]{0,40}", name in ".{0,20}") {
        if check(&pattern).is_err() {
            prop_assert!(!matches(&pattern, &name));
        }
    }
}
