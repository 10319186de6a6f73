//! `completion`: shell completions for this command line.

use std::io::{self, Write};

use anyhow::Context as _;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Prints a shell's completion script for this command line
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(model-update-eventsource completion bash)
  model-update-eventsource completion zsh > \"${fpath[1]}/_model-update-eventsource\"
  model-update-eventsource completion fish > ~/.config/fish/completions/model-update-eventsource.fish")]
#[command(alias = "completions")]
pub(super) struct Completion {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut command = super::Cli::command();
        let name = command.get_name().to_owned();
        // Into memory first, because the generator panics on write errors.
        let mut script = Vec::new();
        generate(self.shell, &mut command, name, &mut script);
        io::stdout().lock().write_all(&script).context("cannot write to standard output")
    }
}
