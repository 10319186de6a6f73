//! The git revision that `--version`, the log and the metrics show.

use std::{env, path::Path, process::Command};

/// The variable of the environment that says it where there is no git folder: in the build of an image, or of a source
/// archive. The program is compiled with a variable of the same name.
pub(crate) const VARIABLE: &str = "GIT_REVISION";

/// What this build is of, and cargo told when to ask again.
pub(crate) fn of_this_build() -> String {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    // HEAD names the branch; its log grows with whatever moves it. In a worktree neither is under .git.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    choose(env::var(VARIABLE).ok(), || git(&["rev-parse", "--short=12", "HEAD"]))
}

/// The environment's word counts, then that of git. An empty variable is what a build argument that was not given becomes.
pub(crate) fn choose(environment: Option<String>, git: impl FnOnce() -> Option<String>) -> String {
    environment.filter(|revision| !revision.is_empty()).or_else(git).unwrap_or_else(|| "unknown".to_owned())
}

/// The answer of a git command, where there is git and this is a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().to_owned())
}
