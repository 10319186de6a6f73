//! The flags that benchmarks share.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Row, json_lines, table};
use crate::{ServerProcess, server_process::program};

/// The output of a benchmark.
#[derive(Clone, Debug, Args)]
pub struct Output {
    /// Print lines of JSON
    #[arg(long)]
    json: bool,
    /// Cargo passes this flag to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Output {
    /// Prints the rows, as a table or as lines of JSON.
    #[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
    pub fn print(&self, rows: &[Row]) {
        print!("{}", if self.json { json_lines(rows) } else { table(rows) });
    }
}

/// The build of the server that a benchmark measures.
#[derive(Clone, Debug, Args)]
pub struct ServerBuild {
    /// Measure this program instead of the current one
    #[arg(long = "server-binary", value_name = "PATH", default_value_os_t = program())]
    path: PathBuf,
}

impl ServerBuild {
    /// The path of the program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the program with these further flags.
    pub fn start(&self, kubeconfig: &Path, metadata_store: &str, flags: &[&str]) -> ServerProcess {
        ServerProcess::start_build(&self.path, kubeconfig, metadata_store, flags)
    }
}
