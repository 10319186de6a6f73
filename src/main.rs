//! The program; see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use model_update_eventsource::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
