//! The program. The library contains everything else.

use std::process::ExitCode;

use clap::Parser;
use model_update_eventsource::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
