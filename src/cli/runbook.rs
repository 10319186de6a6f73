//! `runbook`: the runbooks of the alerts.

use clap::Args;

use super::output::{self, Table, Tone};
use crate::tools::runbooks;

/// Prints the runbook of an alert, or the list of all
///
/// The runbooks are those of this version of the program, in Markdown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  model-update-eventsource runbook
  model-update-eventsource runbook ModelUpdateRunsPending

Exit status: 0 success; 2 no alert has this name.")]
pub(super) struct Runbook {
    /// Name of the alert; ModelUpdate may be left out
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Runbook {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let Some(name) = &self.name else {
            let mut table = Table::new(["ALERT", "MEANING"]);
            for runbook in runbooks::all() {
                table.row([(runbook.name.to_owned(), Tone::Plain), (runbook.summary(), Tone::Plain)]);
            }
            return output::print(&table.render(output::has_colors()));
        };
        match runbooks::find(name) {
            Ok(runbook) => output::print(runbook.text),
            Err(nearest) => {
                let name = output::one_line(name);
                Err(output::usage(format!(
                    "no alert has the name {name:?}; did you mean {nearest}? `runbook` without a name lists all"
                )))
            }
        }
    }
}
