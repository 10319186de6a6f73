//! The program as a plugin of kubectl: under the name `kubectl-modelupdate` it is called as `kubectl modelupdate`.

use std::{ffi::OsStr, path::Path};

use clap::Command;

/// The name of the file that kubectl looks for.
const FILE: &str = "kubectl-modelupdate";
/// The name under which the user calls it.
const NAME: &str = "kubectl modelupdate";

/// Returns the command line with the name under which the user has called the program, in usage and examples.
pub(super) fn named(command: Command, program: Option<&OsStr>) -> Command {
    let is_plugin = program.and_then(|path| Path::new(path).file_stem()).is_some_and(|name| name == FILE);
    if !is_plugin {
        return command;
    }
    let own_name = command.get_name().to_owned();
    let renamed = |text: String| text.replace(&format!("{own_name} "), &format!("{NAME} "));
    command.bin_name(NAME).mut_subcommands(|subcommand| {
        let examples = subcommand.get_after_long_help().map(|text| renamed(text.to_string()));
        let short_examples = subcommand.get_after_help().map(|text| renamed(text.to_string()));
        let subcommand = match examples {
            Some(text) => subcommand.after_long_help(text),
            None => subcommand,
        };
        match short_examples {
            Some(text) => subcommand.after_help(text),
            None => subcommand,
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn help(program: &str) -> String {
        let command = named(Cli::command(), Some(OsStr::new(program)));
        command.try_get_matches_from([program, "health", "--help"]).unwrap_err().to_string()
    }

    #[test]
    fn kubectl_calls_it_by_the_name_of_the_plugin() {
        let help = help("/usr/local/bin/kubectl-modelupdate");
        assert!(help.contains("Usage: kubectl modelupdate health"), "{help}");
        assert!(help.contains("\n  kubectl modelupdate health --server"), "{help}");
        assert!(!help.contains("model-update-eventsource health"), "{help}");
    }

    #[test]
    fn under_its_own_name_nothing_changes() {
        let help = help("/model-update-eventsource");
        assert!(help.contains("Usage: model-update-eventsource health"), "{help}");
    }
}
