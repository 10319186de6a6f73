//! The report: reads what the other benchmarks print with `--json`, prints one table, and writes one JSON file.
//! `benches/run` runs all of them.
//!
//! ```sh
//! cargo bench --bench report -- [--output FILE] LINES.jsonl...
//! ```

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use serde::Deserialize;
use serde_json::Value;
use test_support::bench::{Budget, Row, table};

/// Makes the report.
#[derive(Parser)]
struct Options {
    /// Files with lines of JSON
    lines: Vec<PathBuf>,
    /// The file that receives the rows as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Cargo passes this flag to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The percentiles of `benches/latency.rs`, in milliseconds.
#[derive(Deserialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
}

/// The report of `benches/latency.rs`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Latency {
    runs: u64,
    namespaces: u64,
    spec_bytes: u64,
    server_milliseconds: Percentiles,
    bare_milliseconds: Percentiles,
}

impl Latency {
    fn rows(&self) -> [Row; 3] {
        let (server, bare) = (&self.server_milliseconds, &self.bare_milliseconds);
        let row = |name, value, baseline| {
            let Self { runs, namespaces, spec_bytes, .. } = self;
            let places = if *namespaces > 1 { format!(" in {namespaces} namespaces") } else { String::new() };
            let spec = if *spec_bytes > 0 { format!(" with {} KB of spec", spec_bytes / 1000) } else { String::new() };
            Row::new(format!("success accepted → event, {name} of {runs} runs{places}{spec}"), value, "ms")
                .over(baseline)
        };
        [
            row("p50", server.p50, bare.p50).within(Budget::Ratio(1.0)),
            row("p90", server.p90, bare.p90),
            row("p99", server.p99, bare.p99).within(Budget::Ratio(1.1)),
        ]
    }
}

fn rows_of(line: &str) -> anyhow::Result<Vec<Row>> {
    let value: Value = serde_json::from_str(line)?;
    Ok(match value.get("serverMilliseconds") {
        Some(_) => serde_json::from_value::<Latency>(value)?.rows().into(),
        None => vec![serde_json::from_value(value)?],
    })
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut rows = Vec::new();
    for path in &options.lines {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines().filter(|line| line.starts_with('{')) {
            rows.extend(rows_of(line).with_context(|| format!("a line of {} is no row: {line}", path.display()))?);
        }
    }
    if let Some(path) = &options.output {
        let text = serde_json::to_string_pretty(&rows)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table(&rows));
    Ok(())
}
