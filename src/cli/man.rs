//! `man`: the manual pages of this command line.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use super::output;

/// Prints the manual page of a command, or writes those of all commands to a folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  model-update-eventsource man | man -l -
  model-update-eventsource man serve | man -l -
  model-update-eventsource man --dir ~/.local/share/man/man1")]
pub(super) struct Man {
    /// Command whose page is printed [default: the page of the program]
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Option<String>,

    /// Folder to which the pages of all commands are written; it is created if it does not exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut program = super::Cli::command();
        // Also builds the commands: their full names and global arguments.
        program.build();
        if let Some(dir) = &self.dir {
            fs::create_dir_all(dir).with_context(|| format!("cannot create the folder {}", dir.display()))?;
            for (name, page) in pages(&program)? {
                let file = dir.join(format!("{name}.1"));
                fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
            }
            return output::say(&format!("wrote the manual pages to {}", dir.display()));
        }
        let command = match &self.command {
            None => &program,
            Some(name) => program.find_subcommand(name).ok_or_else(|| {
                let name = output::one_line(name);
                output::usage(format!("there is no command {name:?}; `model-update-eventsource --help` lists all"))
            })?,
        };
        output::print(&String::from_utf8(page(command)?).context("the page is not UTF-8")?)
    }
}

/// The pages of the program and of its commands, by name.
fn pages(program: &clap::Command) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    std::iter::once(program).chain(commands).map(|command| Ok((full_name(command), page(command)?))).collect()
}

fn full_name(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

fn page(command: &clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(full_name(command))
        .render(&mut page)
        .context("cannot write the page")?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page() {
        let mut program = crate::cli::Cli::command();
        program.build();
        let pages = pages(&program).unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["model-update-eventsource", "model-update-eventsource-serve", "model-update-eventsource-health"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for (name, page) in &pages {
            let page = String::from_utf8(page.clone()).unwrap();
            assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
        }
    }
}
