//! The tables of flags and variables, made from the definition of the command line.

use std::{collections::BTreeMap, env, fmt::Write as _, fs};

use clap::{Arg, Command, CommandFactory as _};
use model_update_eventsource::cli::Cli;

use super::{file, read};

const PAGE: &str = "docs/configuration.md";
const BY: &str = "made by tests/documentation/configuration.rs from the program";

/// The program's command line, with the flags that its parts share.
pub(super) fn program() -> Command {
    let mut program = Cli::command();
    program.build();
    program
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// The meaning of a flag, and its default.
fn meaning(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (text, noted) = match help.split_once(" [default: ") {
        Some((text, default)) => (text.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let names: Vec<_> = arg.get_possible_values().iter().map(|value| code(value.get_name())).collect();
    let is_switch = !arg.get_action().takes_values();
    let values = if names.is_empty() || is_switch { String::new() } else { format!(": {}", names.join(", ")) };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| code(&value.to_string_lossy())).collect();
    let default = if !noted.is_empty() {
        noted
    } else if is_switch {
        "off".to_owned()
    } else if defaults.is_empty() {
        "–".to_owned()
    } else {
        defaults.join(", ")
    };
    (format!("{}{values}", cell(&text)), cell(&default))
}

fn variable(arg: &Arg) -> Option<String> {
    arg.get_env().map(|name| name.to_string_lossy().into_owned())
}

/// A table of the flags of `serve` for each heading of its help, in its order.
fn flags() -> String {
    let program = program();
    let serve = program.find_subcommand("serve").unwrap();
    let mut tables: Vec<(String, String)> = Vec::new();
    for arg in serve.get_arguments() {
        let Some(name) = arg.get_long().filter(|name| !["help", "version"].contains(name)) else { continue };
        let heading = arg.get_help_heading().unwrap_or("Options").to_owned();
        let (meaning, default) = meaning(arg);
        let variable = variable(arg).unwrap_or_else(|| panic!("--{name} has no variable"));
        if !tables.iter().any(|(known, _)| *known == heading) {
            let head = "| flag | variable | meaning | default |\n|---|---|---|---|\n".to_owned();
            tables.push((heading.clone(), head));
        }
        let (_, table) = tables.iter_mut().find(|(known, _)| *known == heading).unwrap();
        writeln!(table, "| `--{name}` | `{variable}` | {meaning} | {default} |").unwrap();
    }
    let sections: Vec<_> = tables.iter().map(|(heading, table)| format!("### {heading}\n\n{table}")).collect();
    sections.join("\n")
}

/// A table of the variables of all commands but `serve`.
fn variables() -> String {
    let program = program();
    let mut rows: BTreeMap<String, (String, String, Vec<String>)> = BTreeMap::new();
    for command in program.get_subcommands().filter(|command| command.get_name() != "serve") {
        for arg in command.get_arguments() {
            let (Some(variable), Some(long)) = (variable(arg), arg.get_long()) else { continue };
            let row = rows.entry(variable).or_insert_with(|| (long.to_owned(), meaning(arg).0, Vec::new()));
            row.2.push(code(command.get_name()));
        }
    }
    let mut table = "| variable | flag | commands | meaning |\n|---|---|---|---|\n".to_owned();
    for (variable, (long, meaning, commands)) in rows {
        writeln!(table, "| `{variable}` | `--{long}` | {} | {meaning} |", commands.join(", ")).unwrap();
    }
    table
}

/// Compares a part of the page with what it is made from, or replaces it.
fn check(page: &str, name: &str, expected: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: {BY} -->"), format!("<!-- end of {name} -->"));
    let (before, rest) = page.split_once(&begin).unwrap();
    let (shown, after) = rest.split_once(&end).unwrap();
    if env::var_os("UPDATE_DOCS").is_none() {
        assert_eq!(shown.trim(), expected.trim(), "run UPDATE_DOCS=1 cargo test --test documentation");
    }
    format!("{before}{begin}\n{}\n{end}{after}", expected.trim_end())
}

#[test]
fn the_page_lists_every_flag_and_variable() {
    let page = read(PAGE);
    let page = check(&page, "flags", &flags());
    let page = check(&page, "variables", &variables());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file(PAGE), page).unwrap();
    }
}

#[test]
fn the_keys_of_the_page_are_those_of_the_parser() {
    let page = read(PAGE);
    let section = page.split("\n## ").find(|section| section.starts_with("Subscription\n")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: Vec<_> = rows.map(|(key, _)| key.to_owned()).collect();
    assert_eq!(documented, super::schemas::keys_of_the_parser());
}
