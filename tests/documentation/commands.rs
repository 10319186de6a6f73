//! Each command of the documentation runs in a test, or its block is titled as not tried.
//!
//! A command in a block ` ```sh ` without a title is accepted if one of these holds. Everything else needs a title that says why it
//! is not run: ` ```sh title="not tried: needs containers" `.
//!
//! - Its page is a runbook: `tests/helm/runbooks.rs` runs each of them.
//! - A test that names its page contains the command's beginning, and so runs it as it is there; or it is equal to such a command.
//! - It is one of this program, and its command line parses.
//! - It is an upgrade of the chart, and sets documented values only. Each value is set in a variant that tests apply.
//! - It applies manifests of `examples`, all of which tests apply, or creates a namespace for them.
//! - It sets a variable to a constant.

use std::collections::BTreeSet;

use test_support::documented_commands;

use super::{configuration::program, file, files, read};

/// Pages outside of `docs`.
const PAGES: [&str; 4] = ["README.md", "helm/README.md", "examples/README.md", "dashboards/README.md"];
/// The names under which the program is called.
const NAMES: [&str; 3] = ["model-update-eventsource", "kubectl modelupdate", "cargo run --"];
/// Starts of commands that run in every CI run, and where.
const RUN: [(&str, &str); 1] = [("tests/run", ".ci/run")];
/// Shorter beginnings may be there by chance.
const MIN_START: usize = 6;

fn pages() -> Vec<String> {
    let documents = files("docs", ".md").into_iter().filter(|page| !page.starts_with("docs/runbooks/"));
    PAGES.into_iter().map(str::to_owned).chain(documents).collect()
}

/// The texts in quotes of the tests that name a page.
fn literals(page: &str, tests: &[(String, String)]) -> BTreeSet<String> {
    let name = format!("\"{page}\"");
    let of_page = tests.iter().filter(|(_, text)| text.contains(&name));
    let texts = of_page.flat_map(|(_, text)| text.split('"').skip(1).step_by(1)).map(str::trim);
    texts.filter(|text| text.len() >= MIN_START).map(str::to_owned).collect()
}

/// Returns the program's arguments in a command.
fn arguments(command: &str) -> Option<Vec<String>> {
    let command = command.split(" # ").next()?.trim();
    // The program may be one of a pipe, run in a container, or have variables.
    let parts = command.split(" | ").flat_map(|part| part.split(" -- model-").enumerate()).map(|(n, part)| {
        let part = part.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_');
        let part =
            part.strip_prefix('=').map_or(part, |value| value.split_once(' ').map_or("", |(_, part)| part)).trim();
        if n == 0 { part.to_owned() } else { format!("model-{part}") }
    });
    let part = parts.into_iter().find(|part| NAMES.iter().any(|name| part.starts_with(name)))?;
    let name = NAMES.iter().find(|name| part.starts_with(**name))?;
    let arguments = part.strip_prefix(name)?.split_whitespace();
    Some(arguments.map(|argument| argument.trim_matches(['\'', '"']).to_owned()).collect())
}

fn parses(command: &str) -> bool {
    let Some(arguments) = arguments(command) else { return false };
    let line = std::iter::once("model-update-eventsource".to_owned()).chain(arguments);
    match program().try_get_matches_from(line) {
        Ok(_) => true,
        Err(error) => panic!("{command}: {error}"),
    }
}

/// Returns whether a command upgrades the chart, with documented values only.
fn sets_documented_values(command: &str) -> bool {
    if !command.starts_with("helm upgrade model-update-eventsource helm ") {
        return false;
    }
    let values = read("helm/README.md");
    let set = command.split("--set ").skip(1).map(|set| set.trim_start_matches('\'').split('=').next().unwrap());
    set.inspect(|path| assert!(values.contains(&format!("| `{path}` |")), "{command}: no value {path}")).count() > 0
}

/// Returns whether a command creates a namespace, or applies manifests that tests apply.
fn applies_examples(command: &str) -> bool {
    let words: Vec<_> = command.split_whitespace().collect();
    match &words[..] {
        ["kubectl", "create", "namespace", _] => true,
        ["kubectl", "apply", rest @ ..] => {
            let manifests: Vec<_> = rest.windows(2).filter(|two| two[0] == "-f").map(|two| two[1]).collect();
            let exist = |path: &&str| path.starts_with("examples/") && file(path).is_file();
            !manifests.is_empty() && manifests.iter().all(exist)
        }
        _ => false,
    }
}

fn sets_a_constant(command: &str) -> bool {
    let name = command.split('=').next().unwrap();
    let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && name.len() < command.len();
    is_name && !command.contains(['$', ' ', '\n'])
}

#[test]
fn every_command_runs_in_a_test_or_is_titled_as_not_tried() {
    let tests: Vec<_> = files("tests", ".rs").into_iter().map(|path| (path.clone(), read(&path))).collect();
    let mut run = BTreeSet::new();
    let mut open = Vec::new();
    for page in pages() {
        let literals = literals(&page, &tests);
        let is_run = |command: &str| {
            literals.iter().any(|start| command.starts_with(start))
                || RUN.iter().any(|(start, _)| command.starts_with(start))
        };
        for command in documented_commands(&read(&page)) {
            if is_run(&command) {
                run.insert(command);
            } else {
                open.push((page.clone(), command));
            }
        }
    }
    let is_comment = |command: &str| command.trim_start().starts_with('#');
    let missing: Vec<_> = open
        .into_iter()
        .filter(|(_, command)| {
            let is_harmless = is_comment(command) || sets_a_constant(command) || applies_examples(command);
            !is_harmless && !run.contains(command) && !sets_documented_values(command) && !parses(command)
        })
        .map(|(page, command)| format!("{page}: {command}"))
        .collect();
    assert!(
        missing.is_empty(),
        "run these in a test that names their page, or give their blocks a title (```sh title=\"not tried: …\"):\n{}",
        missing.join("\n")
    );
    assert!(run.len() >= 12, "{run:#?}");
}

#[test]
fn the_listed_tests_exist() {
    assert!(read(".ci/run").contains("tests/run"));
}

/// A title says that the block is not run, and why.
#[test]
fn titles_of_commands_say_why_they_are_not_run() {
    for page in pages() {
        for line in read(&page).lines().map(str::trim).filter(|line| line.starts_with("```sh ")) {
            let is_known =
                ["title=\"not tried: ", "title=\"not run by a test"].iter().any(|start| line.contains(start));
            assert!(is_known, "{page}: {line}");
        }
        assert!(!read(&page).contains("```bash"), "{page}: write ```sh, which this test reads");
    }
}
