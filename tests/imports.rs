//! The rules of the house, read from its sources: imports run one way, the adapters do not know each other, generated
//! types stay in their adapter, files stay readable, and no file lies around that nothing compiles.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Who may import whom: a module may import those with a smaller number. Those with the same number do not know each
/// other. Leaves may be imported by all and import nothing but each other.
const ORDER: [(&str, u8); 16] = [
    ("main", 7),
    ("cli", 6),
    ("app", 5),
    ("eventsource", ADAPTER),
    ("mlmd", ADAPTER),
    ("k8s", ADAPTER),
    ("sim", ADAPTER),
    ("admin", ADAPTER),
    ("delivery", 3),
    ("store", 2),
    ("model", 1),
    ("backoff", LEAF),
    ("failpoint", LEAF),
    ("net", LEAF),
    ("telemetry", LEAF),
    ("readiness", LEAF),
];
const ADAPTER: u8 = 4;
const LEAF: u8 = 0;
/// About what a reader holds in mind at once. Long tests go to a `tests.rs` beside their subject, or to several below it.
const MAX_LINES: usize = 450;

#[test]
fn imports_run_one_way() {
    let order: BTreeMap<&str, u8> = ORDER.into();
    let mut wrong = Vec::new();
    for file in sources("src") {
        let modules = module_path(&file);
        let Some(&importer) = modules.first() else { continue };
        let Some(&rank) = order.get(importer) else {
            wrong
                .push(format!("{}: the module `{importer}` has no place in ORDER of tests/imports.rs", file.display()));
            continue;
        };
        for imported in imports(&read(&file), modules.len()).into_iter().filter(|name| name != importer) {
            let allowed = match order.get(imported.as_str()) {
                Some(&other) => other == LEAF || (other < rank && rank != LEAF),
                // Something that lib.rs itself defines.
                None => true,
            };
            if !allowed {
                wrong.push(format!("{}: `{importer}` must not import `{imported}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the order in src/lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn generated_types_stay_in_their_adapter() {
    for file in sources("src") {
        let tokens = tokens(&read(&file));
        if tokens.iter().any(|token| token == "include_proto") {
            let adapter = module_path(&file).first().is_some_and(|module| ORDER.contains(&(module, ADAPTER)));
            let named = file.ends_with("proto.rs") || tokens.windows(3).any(|three| three == ["mod", "proto", "{"]);
            assert!(adapter && named, "{}: generated code belongs in a module `proto` of an adapter", file.display());
        }
        let public = |three: &[String]| matches!(&*three[0], "pub" | ")") && three[1] == "mod" && three[2] == "proto";
        assert!(!tokens.windows(3).any(public), "{}: `mod proto` must be private", file.display());
    }
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = sources("src")
        .into_iter()
        .chain(sources("tests"))
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, file)| format!("{} has {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "longer than {MAX_LINES} lines, split by subject:\n{}", long.join("\n"));
}

#[test]
fn every_source_file_is_compiled() {
    let roots = [PathBuf::from("src/lib.rs"), PathBuf::from("src/main.rs")].into_iter().chain(test_roots());
    let mut reached = BTreeSet::new();
    let mut open: Vec<PathBuf> = roots.collect();
    while let Some(file) = open.pop() {
        if reached.insert(file.clone()) {
            open.extend(declared(&file));
        }
    }
    let forgotten: Vec<String> = sources("src")
        .into_iter()
        .chain(sources("tests"))
        .filter(|file| !reached.contains(file))
        .map(|file| file.display().to_string())
        .collect();
    assert!(forgotten.is_empty(), "declared by no `mod`, so never compiled:\n{}", forgotten.join("\n"));
}

#[test]
fn the_reader_of_sources_finds_what_it_looks_for() {
    let source = r#"
        use crate::{model::{Uid, Workflow}, store, telemetry::{self, log}}; // not crate::cli
        use super::super::delivery::Driver;
        /* nor crate::app */
        fn f<'a>(x: &'a str) -> char { let _ = "crate::mlmd"; crate::k8s::f('{'); '"' }
        mod inline { use super::super::not_the_root; use super::super::super::admin; }
    "#;
    let found: Vec<String> = imports(source, 2).into_iter().collect();
    assert_eq!(found, ["admin", "delivery", "k8s", "model", "store", "telemetry"]);
}

/// The Rust files under a folder of the project that belong to it: those that git knows, or all, where there is no git.
fn sources(folder: &str) -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "-z", folder]).current_dir(root()).output();
    let tracked = listed.ok().filter(|output| output.status.success()).map(|output| {
        let names = String::from_utf8(output.stdout).unwrap();
        names.split_terminator('\0').map(PathBuf::from).collect::<Vec<_>>()
    });
    let mut files = tracked.filter(|files| !files.is_empty()).unwrap_or_else(|| walk(Path::new(folder)));
    // A file that is deleted and not committed yet is still listed.
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs") && root().join(file).exists());
    files
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// What cargo makes a test of: `tests/x.rs` and `tests/x/main.rs`.
fn test_roots() -> impl Iterator<Item = PathBuf> {
    sources("tests").into_iter().filter(|file| {
        let depth = file.components().count();
        depth == 2 || (depth == 3 && file.ends_with("main.rs"))
    })
}

/// `src/a/b.rs` is the module `a::b`; lib.rs is none.
fn module_path(file: &Path) -> Vec<&str> {
    let inside = file.strip_prefix("src").unwrap().with_extension("");
    let modules: Vec<&str> = file.iter().skip(1).map(|part| part.to_str().unwrap().trim_end_matches(".rs")).collect();
    if inside == Path::new("lib") { Vec::new() } else { modules }
}

/// The files that a file's `mod x;` name, with `#[path = "…"]` heeded.
fn declared(file: &Path) -> Vec<PathBuf> {
    let folder = file.parent().unwrap();
    let is_root = ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| file.ends_with(name))
        || test_roots().any(|root| root == file);
    let below = if is_root { folder.to_owned() } else { file.with_extension("") };
    let text = read(file);
    let mut path_attribute = None;
    let mut files = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            path_attribute = Some(folder.join(path));
            continue;
        }
        let tokens = tokens(line);
        if let [.., keyword, name, end] = &tokens[..]
            && (keyword == "mod" && end == ";")
        {
            let candidates = match path_attribute.take() {
                Some(path) => vec![normal(&path)],
                None => vec![below.join(format!("{name}.rs")), below.join(name).join("mod.rs")],
            };
            files.extend(candidates.into_iter().filter(|candidate| root().join(candidate).exists()));
        }
    }
    files
}

/// Takes out `a/..`.
fn normal(path: &Path) -> PathBuf {
    path.iter().fold(PathBuf::new(), |mut whole, part| {
        if part == ".." {
            whole.pop()
        } else {
            whole.push(part);
            true
        };
        whole
    })
}

/// The modules on the crate's top level that a source names, through `crate::` or enough `super::`. `depth` is the
/// number of modules down to this file.
fn imports(source: &str, depth: usize) -> BTreeSet<String> {
    let tokens = tokens(source);
    let at = |index: usize| tokens.get(index).map_or("", String::as_str);
    let mut found = BTreeSet::new();
    let (mut braces, mut inline) = (0, Vec::new());
    let mut index = 0;
    while index < tokens.len() {
        match at(index) {
            "{" => {
                if index >= 2 && at(index - 2) == "mod" {
                    inline.push(braces);
                }
                braces += 1;
            }
            "}" => {
                braces -= 1;
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            "crate" | "model_update_eventsource" if at(index + 1) == "::" => {
                first_names(&tokens[index + 2..], &mut found)
            }
            "super" => {
                let mut supers = 1;
                while at(index + 1) == "::" && at(index + 2) == "super" {
                    supers += 1;
                    index += 2;
                }
                if supers == depth + inline.len() && at(index + 1) == "::" {
                    first_names(&tokens[index + 2..], &mut found);
                }
            }
            _ => {}
        }
        index += 1;
    }
    found
}

/// The name that a path goes on with, or those that a group of paths does.
fn first_names(rest: &[String], found: &mut BTreeSet<String>) {
    let is_name = |token: &String| token.chars().all(|c| c.is_alphanumeric() || c == '_');
    if rest.first().is_some_and(|token| token != "{") {
        found.extend(rest.first().filter(|token| is_name(token)).cloned());
        return;
    }
    let mut depth = 0;
    let mut begins = false;
    for token in rest {
        match token.as_str() {
            "{" => (depth, begins) = (depth + 1, depth == 0),
            "}" if depth == 1 => return,
            "}" => depth -= 1,
            "," => begins = depth == 1,
            _ if begins && depth == 1 => {
                begins = false;
                found.extend(Some(token).filter(|token| is_name(token)).cloned());
            }
            _ => {}
        }
    }
}

/// Names, `::`, and other characters one by one; without comments, texts and characters in quotes.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let starts = |index: usize, text: &str| text.chars().enumerate().all(|(i, c)| chars.get(index + i) == Some(&c));
    let skip_to = |mut index: usize, end: &str| {
        while index < chars.len() && !starts(index, end) {
            index += if chars[index] == '\\' && end == "\"" { 2 } else { 1 };
        }
        index + end.len()
    };
    let mut tokens = Vec::new();
    let mut index = 0;
    while index < chars.len() {
        let c = chars[index];
        if starts(index, "//") {
            index = skip_to(index, "\n");
        } else if starts(index, "/*") {
            index = skip_to(index, "*/");
        } else if starts(index, "r#\"") {
            index = skip_to(index + 3, "\"#");
        } else if c == '"' {
            index = skip_to(index + 1, "\"");
        } else if c == '\'' {
            // A character in quotes, or else a lifetime.
            let escaped = chars.get(index + 1) == Some(&'\\');
            let quoted = escaped || chars.get(index + 2) == Some(&'\'');
            index = if quoted { skip_to(index + if escaped { 3 } else { 2 }, "'") } else { index + 1 };
        } else if c.is_alphanumeric() || c == '_' {
            let end = (index..chars.len()).find(|i| !(chars[*i].is_alphanumeric() || chars[*i] == '_'));
            let end = end.unwrap_or(chars.len());
            tokens.push(chars[index..end].iter().collect());
            index = end;
        } else if starts(index, "::") {
            tokens.push("::".into());
            index += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.into());
            }
            index += 1;
        }
    }
    tokens
}
