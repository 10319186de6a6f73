//! The line that is completed, and the answer in the form of its shell.

use std::{ffi::OsString, fmt::Write as _, io, path::Path};

use clap::Command;
use clap_complete::{CompletionCandidate, engine};

use super::values;
use crate::tools::known_names::is_plain;

/// The receiver of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Values, one a line. The shell replaces only what follows the last `=` or `:`.
    Bash,
    /// Values and descriptions behind a colon.
    Zsh,
    /// Values and descriptions behind a tab: fish, PowerShell and others.
    Tabs,
    /// As [`Form::Tabs`], with cobra's directive in the last line.
    Kubectl,
}

/// Directives of cobra (`ShellCompDirective`).
const ERROR: u8 = 1;
const NO_SPACE: u8 = 2;
const NO_FILES: u8 = 4;

/// A line up to the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    form: Form,
    /// The words; the first is the program, the last is the one that is completed.
    words: Vec<OsString>,
    /// The part of the last word that the shell does not replace, in bytes.
    kept: usize,
}

impl Line {
    /// The line of a script. With an index, words may follow the one that is completed.
    pub(super) fn of_shell(shell: &str, mut words: Vec<OsString>, index: Option<usize>) -> Self {
        if let Some(index) = index {
            words.truncate(index + 1);
            words.resize_with(index + 1, OsString::new);
        }
        let shell = Path::new(shell).file_stem().unwrap_or_default();
        match shell.to_str() {
            Some("bash") => {
                let (words, kept) = joined(words);
                Self { form: Form::Bash, words, kept }
            }
            Some("zsh") => Self { form: Form::Zsh, words, kept: 0 },
            _ => Self { form: Form::Tabs, words, kept: 0 },
        }
    }

    /// The line of kubectl's convention for plugins.
    pub(super) fn of_kubectl(words: Vec<OsString>) -> Self {
        Self { form: Form::Kubectl, words, kept: 0 }
    }

    /// Returns the answer. After a failure, it has no words: they would appear amid the line that the person types.
    pub(super) fn complete(&self, command: Command, folder: Option<&Path>) -> String {
        match self.candidates(command, folder) {
            Ok(found) => self.text(&found),
            Err(_) if self.form == Form::Kubectl => format!(":{ERROR}\n"),
            Err(_) => String::new(),
        }
    }

    fn candidates(&self, command: Command, folder: Option<&Path>) -> io::Result<Vec<CompletionCandidate>> {
        let index = self.words.len().saturating_sub(1);
        if index == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no word is completed"));
        }
        let mut command = values::with_names(command, &self.words[..index]);
        let mut found = engine::complete(&mut command, self.words.clone(), index, folder)?;
        // Flags only where they are meant, as kubectl does: they would hide the names.
        let is_flag = |candidate: &CompletionCandidate| candidate.get_value().to_string_lossy().starts_with('-');
        if !self.words[index].to_string_lossy().starts_with('-') && !found.iter().all(is_flag) {
            found.retain(|candidate| !is_flag(candidate));
        }
        Ok(found)
    }

    fn text(&self, found: &[CompletionCandidate]) -> String {
        let mut text = String::new();
        let mut has_open_end = false;
        for candidate in found {
            let value = candidate.get_value().to_string_lossy();
            let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
            let help = crate::text::one_line(help.lines().next().unwrap_or_default());
            // Another text would need quotes. Shells complete files with such names themselves.
            if !value.chars().all(|c| c == '=' || is_plain(c.encode_utf8(&mut [0; 4]))) {
                continue;
            }
            has_open_end |= value.ends_with(['/', '=']);
            let line = match self.form {
                Form::Bash => writeln!(text, "{}", value.get(self.kept..).unwrap_or_default()),
                Form::Zsh => {
                    let value = value.replace(':', "\\:");
                    let help = help.replace('\\', "\\\\");
                    if help.is_empty() { writeln!(text, "{value}") } else { writeln!(text, "{value}:{help}") }
                }
                Form::Tabs | Form::Kubectl if help.is_empty() => writeln!(text, "{value}"),
                Form::Tabs | Form::Kubectl => writeln!(text, "{value}\t{help}"),
            };
            // Writing to a string never fails.
            line.ok();
        }
        if self.form == Form::Kubectl {
            let files = if text.is_empty() { 0 } else { NO_FILES };
            let space = if has_open_end { NO_SPACE } else { 0 };
            text.push_str(&format!(":{}\n", files | space));
        }
        text
    }
}

/// Joins what bash splits at `=` and `:` (COMP_WORDBREAKS): `--namespace=team-a`, `127.0.0.1:8080` and names of contexts.
/// Returns also the length of the last word before the piece that bash replaces.
fn joined(pieces: Vec<OsString>) -> (Vec<OsString>, usize) {
    let is_break = |piece: &OsString| {
        piece.to_str().is_some_and(|piece| !piece.is_empty() && piece.chars().all(|c| c == '=' || c == ':'))
    };
    let mut words: Vec<OsString> = Vec::new();
    let (mut kept, mut follows_break) = (0, false);
    for piece in pieces {
        let begins_break = is_break(&piece);
        match words.last_mut() {
            Some(word) if begins_break || follows_break => {
                kept = word.len();
                word.push(&piece);
            }
            _ => {
                kept = 0;
                words.push(piece);
            }
        }
        follows_break = begins_break;
    }
    (words, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    #[test]
    fn words_that_bash_splits_are_joined() {
        for (pieces, expected, kept) in [
            (&["x", "-n", "te"][..], &["x", "-n", "te"][..], 0),
            (&["x", "--namespace", "=", "te"], &["x", "--namespace=te"], 12),
            (&["x", "--namespace", "=", ""], &["x", "--namespace="], 12),
            (&["x", "--admin", "1.2.3.4", ":", "80", "te"], &["x", "--admin", "1.2.3.4:80", "te"], 0),
            (&["x", "arn", ":", "aws", ":", "e"], &["x", "arn:aws:e"], 8),
        ] {
            assert_eq!(joined(words(pieces)), (words(expected), kept), "{pieces:?}");
        }
    }

    #[test]
    fn each_shell_has_its_form() {
        let found = [
            CompletionCandidate::new("arn:aws:eks"),
            CompletionCandidate::new("docs/").help(Some("a folder\nof files".into())),
            CompletionCandidate::new("a b"),
        ];
        let text = |line: Line| line.text(&found);
        let shell = |name: &str| Line::of_shell(name, words(&["x", "arn", ":", "a"]), None);
        assert_eq!(text(shell("/bin/bash")).lines().next(), Some("aws:eks"));
        assert_eq!(text(shell("zsh")), "arn\\:aws\\:eks\ndocs/:a folder\n");
        assert_eq!(text(shell("fish")), "arn:aws:eks\ndocs/\ta folder\n");
        assert_eq!(text(Line::of_kubectl(words(&["x", ""]))), "arn:aws:eks\ndocs/\ta folder\n:6\n");
    }

    #[test]
    fn words_behind_the_cursor_are_left_out() {
        let line = Line::of_shell("zsh", words(&["x", "explain", "-n", "te", "later"]), Some(3));
        assert_eq!(line.words, words(&["x", "explain", "-n", "te"]));
        assert_eq!(Line::of_shell("zsh", words(&["x", "explain"]), Some(2)).words, words(&["x", "explain", ""]));
    }
}
