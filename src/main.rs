//! The program. The library contains everything else.

use std::process::ExitCode;

use model_update_eventsource::cli::Cli;

fn main() -> ExitCode {
    Cli::from_process().run()
}
