//! Consistency of `docs/guarantees-tests.md` with the tests and with `docs/guarantees.md`, and of the tests that
//! `docs/performance.md` names.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{collections::BTreeSet, fs, path::Path};

const CONTRACT: &str = "docs/guarantees.md";
const APPENDIX: &str = "docs/guarantees-tests.md";
const COUNTS: &str = "docs/performance.md";

/// Path of a test in the appendix: its file, and its function.
type TestPath<'a> = (&'a str, &'a str);

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Tests written as `file.rs::function` in backticks.
fn named_tests(text: &str) -> Vec<TestPath<'_>> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|quoted| quoted.contains(".rs::")).map(|quoted| quoted.rsplit_once("::").unwrap()).collect()
}

/// Rows of the document's tables, without their heads.
fn rows(document: &str) -> impl Iterator<Item = &str> {
    document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise |"))
}

/// Headings of the sections about guarantees: `G1: at least once`.
fn guarantees(document: &str) -> Vec<&str> {
    document.lines().filter_map(|line| line.strip_prefix("## ")).filter(|title| title.starts_with('G')).collect()
}

/// Test functions of a source file: those below a line `#[test]` or `#[tokio::test…`, with other attributes and
/// comments in between.
fn test_functions(source: &str) -> BTreeSet<&str> {
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((before, after)) = line.split_once("fn ") {
            if is_test && matches!(before.trim(), "" | "async" | "pub" | "pub async") {
                tests.extend(after.split(['(', '<']).next());
            }
            is_test = false;
        }
    }
    tests
}

#[test]
fn every_named_test_exists() {
    let documents = [APPENDIX, COUNTS].map(read);
    assert!(documents.iter().all(|document| !named_tests(document).is_empty()));
    let named = documents.iter().flat_map(|document| named_tests(document));
    let missing: Vec<_> = named.filter(|(file, name)| !test_functions(&read(file)).contains(name)).collect();
    assert!(missing.is_empty(), "no test of this name in this file: {missing:#?}");
}

#[test]
fn every_promise_has_a_test() {
    let document = read(APPENDIX);
    let without: Vec<_> = rows(&document).filter(|row| named_tests(row).is_empty()).collect();
    assert!(without.is_empty(), "rows without a test: {without:#?}");
    assert_eq!(
        rows(&document).flat_map(named_tests).count(),
        named_tests(&document).len(),
        "tests outside of the tables"
    );
}

/// The contract and the appendix have the same guarantees, and each has a test of the whole program or with real peers.
#[test]
fn every_guarantee_has_an_integration_test() {
    let (contract, appendix) = (read(CONTRACT), read(APPENDIX));
    assert_eq!(guarantees(&contract).len(), 8);
    assert_eq!(guarantees(&contract), guarantees(&appendix));
    for title in guarantees(&appendix) {
        let section = appendix.split("\n## ").find(|section| section.starts_with(title)).unwrap();
        assert!(named_tests(section).iter().any(|(file, _)| file.starts_with("tests/")), "{title}");
    }
}

#[test]
fn test_functions_are_recognized() {
    let source = "
        #[test]
        fn plain() {}
        #[tokio::test(flavor = \"multi_thread\")]
        /// Documented.
        async fn with_more() {}
        fn helper() {}
        #[test]
        fn property(op in any()) {}
    ";
    assert_eq!(test_functions(source), BTreeSet::from(["plain", "with_more", "property"]));
    assert_eq!(named_tests("| p | `tests/x.rs::a_b`, and `x` or `a::b` |"), [("tests/x.rs", "a_b")]);
}
