//! The chart: a real API server accepts its objects, its permissions are exactly those that the server needs, and its
//! documentation lists its values.
//!
//! No controllers run, so no Pod starts. Tests start the program with the flags and the account of the chart.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod access;
mod addresses;
mod applied;
mod docs;
mod events;
mod installed;
mod rendered;
mod runbooks;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use test_support::{Peers, find_object, manifests};

const RELEASE: &str = "model-update-eventsource";
const NAMESPACE: &str = "kfp-operator-system";
/// Gives the Service the name in kfp-operator's documentation.
const FULLNAME: &str = "kfp-operator-model-update-eventsource";
/// Name of objects of the cluster.
const CLUSTER_NAME: &str = "kfp-operator-system-kfp-operator-model-update-eventsource";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the values files of the variants, and that for high availability.
fn variants() -> Vec<PathBuf> {
    let files = fs::read_dir(file("helm/ci")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with("-values.yaml")).collect();
    files.push(file("helm/values-ha.yaml"));
    files.sort();
    assert!(files.len() >= 9, "{files:?}");
    files
}

async fn peers() -> Peers {
    Peers::with(&["helm"]).await
}

/// Runs Helm with empty configuration folders, independent of the user's.
fn helm(peers: &Peers, args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(peers.program("helm"));
    command.args(args).current_dir(file("."));
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.path());
    }
    command.output().unwrap()
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns the objects that Helm renders with these further arguments (`--values`, `--set`).
fn rendered(peers: &Peers, more: &[&str]) -> Vec<Value> {
    let mut name = tempfile::NamedTempFile::new().unwrap();
    writeln!(name, "fullnameOverride: {FULLNAME}").unwrap();
    // Before other values, which may override it.
    let base = ["template", RELEASE, "helm", "--namespace", NAMESPACE, "--values", name.path().to_str().unwrap()];
    let args = [&base, more].concat();
    let output = helm(peers, &args);
    assert!(output.status.success(), "{more:?}: {}", printed(&output));
    manifests(&String::from_utf8(output.stdout).unwrap())
}
