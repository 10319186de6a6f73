//! `completions`: what a shell has to know to complete this command line.

use std::io::{self, Write};

use anyhow::Context as _;
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Prints a script that completes this command line in a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(model-update-eventsource completions bash)
  model-update-eventsource completions zsh > \"${fpath[1]}/_model-update-eventsource\"
  model-update-eventsource completions fish > ~/.config/fish/completions/model-update-eventsource.fish")]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut command = super::Cli::command();
        let name = command.get_name().to_owned();
        // Into memory first: the generator panics where it cannot write.
        let mut script = Vec::new();
        generate(self.shell, &mut command, name, &mut script);
        io::stdout().lock().write_all(&script).context("cannot write to standard output")
    }
}
