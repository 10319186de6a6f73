//! The command line.

mod check;
pub mod cluster;
mod completion;
mod demo;
pub mod endpoints;
mod explain;
mod health;
mod lint;
mod man;
pub mod output;
mod plugin;
mod progress;
mod redeliver;
mod report;
mod runbook;
mod serve;
mod signals;
mod subscribe;
mod values;
mod version;

use std::{
    env,
    io::{self, Write},
    process::{self, ExitCode},
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::runtime::Runtime;
use tracing::{debug, error, info, warn};

use crate::telemetry::{Traces, log};

/// The exit status of a usage error, as clap's.
const USAGE: u8 = 2;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GIT_REVISION"), ")");

/// Sends events about succeeded Kubeflow pipeline runs that pushed a serving model to Argo Events
#[derive(Debug, Parser)]
#[command(name = "model-update-eventsource", version = VERSION)]
#[command(arg_required_else_help = true, args_override_self = true)]
#[command(
    after_help = "Exit status: 0 success, or stopped by a signal; 1 failure, described on standard error; 2 usage error."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Demo(Box<demo::Demo>),
    Explain(Box<explain::Explain>),
    Redeliver(Box<redeliver::Redeliver>),
    Subscribe(Box<subscribe::Subscribe>),
    Health(health::Health),
    Check(Box<check::Check>),
    Lint(lint::Lint),
    Completion(completion::Completion),
    Report(report::Report),
    Runbook(runbook::Runbook),
    Man(man::Man),
    Version(version::Version),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log (on standard error)")]
struct LogArgs {
    /// Format of a log line
    #[arg(long, env = "MODEL_UPDATE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    log_format: log::Format,

    /// Log level: off, error, warn, info, debug, trace, or directives such as info,kube=debug
    #[arg(long, env = "MODEL_UPDATE_LOG_LEVEL", value_name = "LEVEL", default_value_t)]
    log_level: log::Level,
}

impl Cli {
    /// Parses the command line of this process. Usage errors, `--help`, `--version` and a shell that asks for completions end
    /// the process.
    pub fn from_process() -> Self {
        if completion::answer() {
            process::exit(0);
        }
        let command = plugin::named(Self::command(), env::args_os().next().as_deref());
        let matches = command.get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the command and returns the exit status. The reason of a failure is written to standard error.
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Serve(serve) => serve.run().map(success),
            Command::Demo(demo) => demo.run().map(success),
            Command::Explain(explain) => explain.run(),
            Command::Redeliver(redeliver) => redeliver.run(),
            Command::Subscribe(subscribe) => subscribe.run(),
            Command::Health(health) => health.run().map(success),
            Command::Check(check) => check.run(),
            Command::Lint(lint) => lint.run(),
            Command::Completion(completion) => completion.run().map(success),
            Command::Report(report) => report.run().map(success),
            Command::Runbook(runbook) => runbook.run().map(success),
            Command::Man(man) => man.run().map(success),
            Command::Version(version) => version.run().map(success),
        };
        match outcome {
            Ok(code) => code,
            Err(error) => {
                report(&error);
                if error.is::<output::UsageError>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
            }
        }
    }
}

/// The exit status of a command that has no other than success and failure.
fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

impl LogArgs {
    fn start_with_traces(&self, runtime: &Runtime) -> anyhow::Result<(Traces, log::Handle)> {
        start_log_and_traces(self.log_format, &self.log_level, runtime)
    }
}

/// Starts the log, and traces as configured by the variables `OTEL_*`. A wrong configuration of traces is only a
/// warning, because events matter more.
fn start_log_and_traces(
    format: log::Format,
    level: &log::Level,
    runtime: &Runtime,
) -> anyhow::Result<(Traces, log::Handle)> {
    let configured = {
        let _guard = runtime.enter();
        Traces::from_env()
    };
    let traces = configured.as_ref().cloned().unwrap_or_default();
    let handle = log::init(format, level, &traces).context("cannot start the log")?;
    match configured {
        Err(error) => warn!(%error, "traces are off because of their configuration"),
        Ok(traces) if traces.are_on() => info!("exporting traces over OTLP"),
        Ok(_) => debug!("traces are off because no OTLP endpoint is set"),
    }
    Ok((traces, handle))
}

/// Reports a failure as a log line if the log is on, so that standard error has one format.
fn report(error: &anyhow::Error) {
    let error = log::chain(error.as_ref());
    if tracing::enabled!(tracing::Level::ERROR) {
        error!(error, "exiting after a failure");
    } else {
        // A closed standard error cannot be reported anywhere.
        writeln!(io::stderr(), "error: {}", output::one_line(&error)).ok();
    }
}

#[cfg(test)]
mod tests;
