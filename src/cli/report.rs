//! `report`: one archive for a bug report.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use tokio::runtime::Runtime;

use super::{
    cluster::ClusterArgs,
    endpoints::AdminArgs,
    output::{self, Table, Tone},
};
use crate::tools::report::{self, Entry};

/// Collects what a bug report needs in one archive
///
/// The version, the server's Pods with their flags, their recent logs, health, status and metrics, your rights, and the
/// versions of Kubernetes, Argo and Kubeflow. It contains no payload, no token and no location of a model, and names
/// namespaces, runs, subscriptions and accounts. What cannot be read is left out, and named in README.txt of the archive.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  model-update-eventsource report
  model-update-eventsource report -o report.tar.gz --context production

Exit status: 0 the archive was written, complete or not; 1 it was not.")]
pub(super) struct Report {
    /// File to write [default: model-update-report-TIME.tar.gz in the current folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    admin: AdminArgs,
}

impl Report {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let now = Timestamp::now();
        let folder = format!("model-update-report-{}", now.strftime("%Y%m%dT%H%M%SZ"));
        let file = self.output.clone().unwrap_or_else(|| format!("{folder}.tar.gz").into());
        output::say("collecting the report, which takes up to a minute")?;
        let entries = runtime.block_on(async {
            let cluster = self.cluster.connect().await;
            let cluster = cluster.as_ref().map_err(|error| format!("{error:#}"));
            report::collect(cluster, self.admin.given(), self.admin.server_namespaces(), &now.to_string()).await
        });
        // Tasks of port-forwards may still run.
        runtime.shutdown_background();
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        report::write(&file, &folder, &entries, seconds)
            .with_context(|| format!("cannot write {}; choose another file with -o", file.display()))?;
        output::print(&table(&entries).render(output::has_colors()))?;
        output::say(&format!("wrote {}; look through it before you share it", file.display()))
    }
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new(["FILE", "BYTES", "PROBLEM"]);
    for Entry { name, text, problem } in entries {
        let problem = problem.as_ref().map(|problem| (format!("not available: {problem}"), Tone::Attention));
        table.row([(name.clone(), Tone::Plain), (text.len().to_string(), Tone::Plain), problem.unwrap_or_default()]);
    }
    table
}
