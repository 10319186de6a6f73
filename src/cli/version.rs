//! `version`: the version of this program.

use std::io::{self, Write};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::telemetry::{REVISION, VERSION};

/// Prints the version of this program and the git revision it was built from
#[derive(Debug, Args)]
pub(super) struct Version {
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// One line
    #[default]
    Text,
    /// A JSON object with the keys version and revision
    Json,
}

#[derive(Serialize)]
struct Versions {
    version: &'static str,
    revision: &'static str,
}

impl Version {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let line = match self.output {
            Output::Text => format!("model-update-eventsource {VERSION} ({REVISION})"),
            Output::Json => serde_json::to_string(&Versions { version: VERSION, revision: REVISION })?,
        };
        writeln!(io::stdout(), "{line}").context("cannot write to standard output")
    }
}
