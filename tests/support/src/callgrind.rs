//! Instructions, counted by valgrind's callgrind.

use std::{fs, path::Path};

use anyhow::Context as _;

/// Returns valgrind's arguments, with which it writes the instructions of the program that follows into this file.
pub fn arguments(profile: &Path) -> [String; 5] {
    [
        "--tool=callgrind".to_owned(),
        "--quiet".to_owned(),
        "--error-exitcode=99".to_owned(),
        // No pipes for a debugger, which a killed process would leave behind.
        "--vgdb=no".to_owned(),
        format!("--callgrind-out-file={}", profile.display()),
    ]
}

/// Returns the instructions of a profile.
///
/// # Errors
/// There is no profile, or it is not one of callgrind.
pub fn total(profile: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(profile).with_context(|| format!("valgrind wrote no {}", profile.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    Ok(total.context("the profile has no total")?.trim().parse()?)
}
