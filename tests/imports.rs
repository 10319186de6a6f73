//! Rules for the sources: imports run one way, adapters do not import each other, generated types stay in their
//! adapter, files stay short, and every file is compiled.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Rank of each module: it may import modules of a lower rank, but none of the same rank. Leaves are for all modules,
/// and import only each other.
const ORDER: [(&str, u8); 21] = [
    ("main", 8),
    ("cli", 7),
    ("app", 6),
    ("tools", 6),
    ("eventsource", ADAPTER),
    ("mlmd", ADAPTER),
    ("kfp", ADAPTER),
    ("k8s", ADAPTER),
    ("sim", ADAPTER),
    ("admin", ADAPTER),
    ("lookup", 4),
    ("access", 3),
    ("delivery", 3),
    ("store", 2),
    ("model", 1),
    ("backoff", LEAF),
    ("clock", LEAF),
    ("failpoint", LEAF),
    ("net", LEAF),
    ("telemetry", LEAF),
    ("readiness", LEAF),
];
const ADAPTER: u8 = 5;
const LEAF: u8 = 0;
/// Limit for a file. Long unit tests go to a `tests.rs` beside their subject, or to several files below it.
const MAX_LINES: usize = 450;

#[test]
fn imports_run_one_way() {
    let order: BTreeMap<&str, u8> = ORDER.into();
    let mut wrong = Vec::new();
    for file in sources("src") {
        let modules = module_path(&file);
        let Some(&importer) = modules.first() else { continue };
        let Some(&rank) = order.get(importer) else {
            wrong.push(format!("{}: the module `{importer}` is missing in ORDER of tests/imports.rs", file.display()));
            continue;
        };
        for imported in imports(&read(&file), modules.len()).into_iter().filter(|name| name != importer) {
            let allowed = match order.get(imported.as_str()) {
                Some(&other) => other == LEAF || (other < rank && rank != LEAF),
                // An item of lib.rs.
                None => true,
            };
            if !allowed {
                wrong.push(format!("{}: `{importer}` must not import `{imported}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that break the order in src/lib.rs:\n{}", wrong.join("\n"));
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
    let mut compiled = BTreeSet::new();
    let roots: Vec<PathBuf> = roots().collect();
    let mut open = roots.clone();
    while let Some(file) = open.pop() {
        if compiled.insert(file.clone()) {
            open.extend(declared(&file, roots.contains(&file)));
        }
    }
    let not_compiled: Vec<String> = sources("src")
        .into_iter()
        .chain(sources("tests"))
        .filter(|file| !compiled.contains(file))
        .map(|file| file.display().to_string())
        .collect();
    assert!(not_compiled.is_empty(), "without a `mod`, so never compiled:\n{}", not_compiled.join("\n"));
}

/// `tests/run` finds the peers of a test by these literals, to build them before the test starts.
#[test]
fn peers_are_named_by_literals() {
    for file in sources("tests").into_iter().filter(|file| !file.starts_with("tests/support")) {
        let text = read(&file);
        let mut calls = text.split("Peers::with(").skip(1);
        assert!(file.ends_with("imports.rs") || calls.all(|call| call.starts_with("&[\"")), "{}", file.display());
    }
}

#[test]
fn imports_are_found_in_every_form() {
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

/// Returns the Rust files under a folder: those in git's index, or all if there is no git.
fn sources(folder: &str) -> Vec<PathBuf> {
    let listed = Command::new("git").args(["ls-files", "-z", folder]).current_dir(root()).output();
    let tracked = listed.ok().filter(|output| output.status.success()).map(|output| {
        let names = String::from_utf8(output.stdout).unwrap();
        names.split_terminator('\0').map(PathBuf::from).collect::<Vec<_>>()
    });
    let mut files = tracked.filter(|files| !files.is_empty()).unwrap_or_else(|| walk(Path::new(folder)));
    // The index still contains a file whose deletion is not staged.
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

/// Returns the root files of all crates: library, program, integration tests (`tests/x.rs` and `tests/x/main.rs`), and
/// the workspace's other members with their build scripts.
fn roots() -> impl Iterator<Item = PathBuf> {
    let manifest = read(Path::new("Cargo.toml"));
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")?.strip_suffix(']')).unwrap();
    let members: Vec<PathBuf> = members.split(", ").map(|member| member.trim_matches('"').into()).collect();
    let tests = sources("tests").into_iter().filter(|file| {
        let depth = file.components().count();
        depth == 2 || (depth == 3 && file.ends_with("main.rs"))
    });
    let members = members.into_iter().flat_map(|member| ["src/lib.rs", "build.rs"].map(|file| member.join(file)));
    ["src/lib.rs", "src/main.rs"].map(PathBuf::from).into_iter().chain(tests).chain(members)
}

/// Returns the module of a file: `a::b` for `src/a/b.rs`, none for lib.rs.
fn module_path(file: &Path) -> Vec<&str> {
    let inside = file.strip_prefix("src").unwrap().with_extension("");
    let modules: Vec<&str> = file.iter().skip(1).map(|part| part.to_str().unwrap().trim_end_matches(".rs")).collect();
    if inside == Path::new("lib") { Vec::new() } else { modules }
}

/// Returns the files that the `mod x;` of a file name, also through `#[path = "…"]`.
fn declared(file: &Path, is_root: bool) -> Vec<PathBuf> {
    let folder = file.parent().unwrap();
    let below = if is_root || file.ends_with("mod.rs") { folder.to_owned() } else { file.with_extension("") };
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

/// Resolves `a/..`.
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

/// Returns the top-level modules that a source names through `crate::` or enough `super::`. `depth` is the number of
/// modules down to this file.
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

/// Adds the next name of a path, or the first names of a group of paths.
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

/// Returns names, `::` and other single characters, without comments and literals.
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
