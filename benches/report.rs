//! The report: reads what the other benchmarks print with `--json`, prints one table, and writes one JSON file.
//! `benches/run` runs all of them.
//!
//! ```sh
//! cargo bench --bench report -- [--output FILE] [--json] LINES.jsonl...
//! ```

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use test_support::bench::{Output, Row};

/// Makes the report.
#[derive(Parser)]
struct Options {
    /// Files with lines of JSON
    lines: Vec<PathBuf>,
    /// The file that receives the rows as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    print: Output,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut rows: Vec<Row> = Vec::new();
    for path in &options.lines {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let row = serde_json::from_str(line);
            rows.push(row.with_context(|| format!("a line of {} is no row: {line}", path.display()))?);
        }
    }
    if let Some(path) = &options.output {
        let text = serde_json::to_string_pretty(&rows)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    options.print.print(&rows);
    Ok(())
}
