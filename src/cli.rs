//! The command line.

mod completions;
mod demo;
mod health;
mod serve;
mod signals;
mod values;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;
use tracing::{debug, error, info, warn};

use crate::telemetry::{Traces, log};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GIT_REVISION"), ")");

/// Announces succeeded Kubeflow pipeline runs that pushed a serving model to Argo Events
#[derive(Debug, Parser)]
#[command(name = "model-update-eventsource", version = VERSION, arg_required_else_help = true, args_override_self = true)]
#[command(after_help = "Exit status: 0 done, or stopped as asked; 1 failed, see standard error; 2 wrong usage.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Demo(Box<demo::Demo>),
    Health(health::Health),
    Completions(completions::Completions),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log (on standard error)")]
struct LogArgs {
    /// The form of a line: for people, or a JSON object
    #[arg(long, env = "MODEL_UPDATE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    log_format: log::Format,

    /// What is logged: off, error, warn, info, debug, trace, or directives such as info,kube=debug
    #[arg(long, env = "MODEL_UPDATE_LOG_LEVEL", value_name = "LEVEL", default_value_t)]
    log_level: log::Level,
}

impl Cli {
    /// Does what the command line asks for. Returns the exit status; the reason of a failure is on standard error.
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Demo(demo) => demo.run(),
            Command::Health(health) => health.run(),
            Command::Completions(completions) => completions.run(),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                report(&error);
                ExitCode::FAILURE
            }
        }
    }
}

impl LogArgs {
    fn start_with_traces(&self, runtime: &Runtime) -> anyhow::Result<Traces> {
        start_log_and_traces(self.log_format, &self.log_level, runtime)
    }
}

/// Starts the log, and traces as `OTEL_*` in the environment says. Traces that cannot be had are a warning: the events
/// matter more.
fn start_log_and_traces(format: log::Format, level: &log::Level, runtime: &Runtime) -> anyhow::Result<Traces> {
    let traces = {
        let _within = runtime.enter();
        Traces::from_env()
    };
    let (traces, trouble) = match traces {
        Ok(traces) => (traces, None),
        Err(error) => (Traces::default(), Some(error)),
    };
    log::init(format, level, &traces).context("cannot start the log")?;
    match trouble {
        Some(error) => warn!("no traces: {error}"),
        None if traces.are_on() => info!("traces are sent by OTLP"),
        None => debug!("traces are off: no OTLP endpoint is set"),
    }
    Ok(traces)
}

/// A failure is a line of the log, where there is one: a collector of JSON gets JSON.
fn report(error: &anyhow::Error) {
    let reason = log::chain(error.as_ref());
    if tracing::enabled!(tracing::Level::ERROR) {
        error!("{reason}");
    } else {
        // Standard error may be closed; there is nowhere else to say so.
        writeln!(io::stderr(), "error: {reason}").ok();
    }
}

#[cfg(test)]
mod tests;
