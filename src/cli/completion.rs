//! `completion`: shell completions for this command line.
//!
//! The scripts contain no words: they call this program at each Tab, with [`VARIABLE`] and the words of the line.
//! kubectl calls it under the name [`KUBECTL_FILE`]. The rules of the command line are those of `clap_complete`'s
//! engine; [`values`] adds the names of the cluster.

mod line;
mod shells;
mod values;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::Path,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, env::Shells};

use self::line::Line;
use super::plugin;

/// The variable with which a script asks for completions. It names the shell.
const VARIABLE: &str = "MODEL_UPDATE_COMPLETE";
/// The name of the file that kubectl calls for the completions of its plugin.
const KUBECTL_FILE: &str = "kubectl_complete-modelupdate";

/// Prints a shell's completion script for this command line
///
/// It completes commands and flags, and names: of namespaces, Workflows, subscriptions, contexts and runbooks. Those of
/// the cluster are read with your own rights, for two seconds at most; on a failure there are none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(model-update-eventsource completion bash)
  source <(model-update-eventsource completion zsh)
  model-update-eventsource completion fish > ~/.config/fish/completions/model-update-eventsource.fish

As the plugin `kubectl modelupdate`, completion is part of kubectl's own. It calls this program by another name:
  ln -s \"$(command -v kubectl-modelupdate)\" /usr/local/bin/kubectl_complete-modelupdate")]
#[command(alias = "completions")]
pub(super) struct Completion {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let program = env::args_os().next().unwrap_or_default();
        let folder = env::current_dir().ok();
        let script = script(self.shell, Path::new(&program), folder.as_deref())?;
        io::stdout().lock().write_all(&script).context("cannot write to standard output")
    }
}

/// The script of a shell, for the name under which the program was called.
fn script(shell: Shell, program: &Path, folder: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let own_name = super::Cli::command().get_name().to_owned();
    let name = program.file_name().map_or(own_name, |name| name.to_string_lossy().into_owned());
    // A name without a folder is found in PATH again, wherever the program is then.
    let is_path = program.components().count() > 1;
    let path = folder.filter(|_| is_path).map_or_else(|| program.to_owned(), |folder| folder.join(program));
    let path = if program.as_os_str().is_empty() { name.clone() } else { path.to_string_lossy().into_owned() };
    if shell == Shell::Bash {
        return Ok(shells::bash(VARIABLE, &name, &path).into_bytes());
    }
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string()).context("no script for this shell")?;
    // Into memory first, because a script that is cut off is none.
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, &name, &name, &path, &mut script).context("cannot write the script")?;
    if shell.name() == "zsh" {
        script.extend(shells::zsh_autoload(&name).into_bytes());
    }
    Ok(script)
}

/// Answers a shell that asks for completions. Returns whether one has asked.
pub(super) fn answer() -> bool {
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_default();
    let Some(line) = requested(&program, env::var_os(VARIABLE), arguments) else { return false };
    let folder = env::current_dir().ok();
    let text = line.complete(plugin::named(super::Cli::command(), Some(&program)), folder.as_deref());
    // A shell that has gone waits for nothing.
    io::stdout().lock().write_all(text.as_bytes()).ok();
    true
}

/// Returns the line that a shell has sent.
fn requested(
    program: &OsStr,
    variable: Option<OsString>,
    mut arguments: impl Iterator<Item = OsString>,
) -> Option<Line> {
    if Path::new(program).file_name().is_some_and(|name| name == KUBECTL_FILE) {
        let words = std::iter::once(OsString::from(KUBECTL_FILE)).chain(arguments).collect();
        return Some(Line::of_kubectl(words));
    }
    let shell = variable.filter(|shell| !shell.is_empty())?;
    let words = arguments.by_ref().skip_while(|argument| argument != "--").skip(1).collect();
    let index = env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
    Some(Line::of_shell(&shell.to_string_lossy(), words, index))
}

#[cfg(test)]
mod tests;
