//! The document of the guarantees names the tests that show them; each of these has to be there.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{collections::BTreeSet, fs, path::Path};

/// A test named in the document: its file, and its function.
type Named<'a> = (&'a str, &'a str);

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands in backticks as `file.rs::function`.
fn named(text: &str) -> Vec<Named<'_>> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split_once(".rs::").map(|_| quoted))
        .map(split)
        .collect()
}

fn split(quoted: &str) -> Named<'_> {
    let (file, function) = quoted.rsplit_once("::").unwrap();
    (file, function)
}

/// The functions of a source file that are tests: those behind a line that is `#[test]`, `#[tokio::test]` or the like,
/// with other attributes and comments in between.
fn tests(source: &str) -> BTreeSet<&str> {
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
fn every_test_that_the_document_names_is_there() {
    let document = read("docs/guarantees.md");
    let missing: Vec<_> =
        named(&document).into_iter().filter(|(file, function)| !tests(&read(file)).contains(function)).collect();
    assert!(missing.is_empty(), "no test of this name in this file: {missing:#?}");
}

#[test]
fn every_guarantee_has_a_test_on_the_real_neighbours() {
    let document = read("docs/guarantees.md");
    let sections: Vec<_> = document.split("\n## ").skip(1).collect();
    for n in 1..=8 {
        let begin = format!("G{n}: ");
        let section = sections.iter().find(|section| section.starts_with(&begin));
        let section = section.unwrap_or_else(|| panic!("no section about G{n}"));
        let real = named(section).into_iter().filter(|(file, _)| file.starts_with("tests/")).count();
        assert!(real > 0, "G{n}");
    }
}

#[test]
fn a_test_is_found_whatever_stands_before_it_and_nothing_else_is() {
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
    assert_eq!(tests(source), BTreeSet::from(["plain", "with_more", "property"]));
    assert_eq!(named("- `tests/x.rs::a_b`, and `x` or `a::b`"), [("tests/x.rs", "a_b")]);
}
