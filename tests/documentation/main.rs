//! The documentation: its commands, its tables of flags and variables, and its JSON Schemas. `docs/site/build` checks its links.
//! `UPDATE_DOCS=1 cargo test --test documentation` regenerates the tables.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod commands;
mod configuration;
mod schemas;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the paths of all files below a folder whose names end so, relative to the repository.
fn files(folder: &str, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(file(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, end));
        } else if path.ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}
