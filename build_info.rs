//! The git revision that `--version`, the log and the metrics show.

use std::{env, path::Path, process::Command};

/// The name of the environment variable for builds without a git folder, such as those of an image or a source archive.
/// The build script sets the variable of the same name for the compiler.
pub(crate) const VARIABLE: &str = "GIT_REVISION";

/// Returns the revision of this build, and prints to cargo when to determine it again.
pub(crate) fn revision() -> String {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    // HEAD contains the branch, and its log changes with every commit. In a worktree neither is below `.git`.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    choose(env::var(VARIABLE).ok(), || git(&["rev-parse", "--short=12", "HEAD"]))
}

/// Returns the environment's revision, else git's. An omitted build argument of an image is an empty variable.
pub(crate) fn choose(environment: Option<String>, git: impl FnOnce() -> Option<String>) -> String {
    environment.filter(|revision| !revision.is_empty()).or_else(git).unwrap_or_else(|| "unknown".to_owned())
}

/// Returns the output of a git command, if git is installed and this is a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().to_owned())
}
