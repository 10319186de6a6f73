//! Cost of the real program under load, on the simulation, whose API server and ML Metadata answer at once: latency,
//! CPU, memory, watches, patches and the lag of marks. By default 1,000 subscribers in as many namespaces, and 100 runs
//! a second for a minute. The baseline is a bare watch in this process, which sees the same successes.
//!
//! ```sh
//! cargo bench --bench load -- [--json] [--workflows N] [--subscribers N] [--rate N] [--seconds N]
//!     [--grid [--images FOLDER]] [--server-binary PATH]
//! ```
//!
//! `--grid` measures how cost grows instead: the program over Workflows, subscribers and rates, one at a time, and
//! draws `growth-latency.svg`, `growth-cpu.svg` and `growth-memory.svg`. Fails if an event is lost or sent twice. Linux
//! only.

mod growth;
mod point;

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use test_support::bench::{Budget, Output, Row, ServerBuild};

use self::point::{Figures, Load};

/// Measures the program under load.
#[derive(Parser)]
struct Options {
    /// Workflows that exist before the load
    #[arg(long, default_value_t = 10_000)]
    workflows: usize,
    /// Subscribers, each in a namespace of its own
    #[arg(long, default_value_t = 1_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    subscribers: usize,
    /// Runs that succeed in a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Seconds of load [default: 60, 12 for each point of a grid]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Measure how cost grows around 10,000 Workflows, 100 subscribers and 10 runs a second
    #[arg(long)]
    grid: bool,
    /// Draw the plots of the grid into this folder
    #[arg(long, value_name = "FOLDER", requires = "grid")]
    images: Option<PathBuf>,
    #[command(flatten)]
    server: ServerBuild,
    #[command(flatten)]
    output: Output,
}

fn rows(load: &Load, figures: &Figures) -> Vec<Row> {
    let name = format!("{} subscribers, {} runs/s", load.subscribers, load.rate);
    let row = |what: &str, value, unit| Row::new(format!("{name}: {what}"), value, unit);
    let mut rows: Vec<_> = [50, 90, 99]
        .map(|percent| {
            let row = row(&format!("success → event, p{percent}"), figures.latency.percentile(percent), "ms");
            row.over(figures.bare.percentile(percent))
        })
        .into();
    rows.extend([
        row("CPU, of one core", figures.cores * 100.0, "%"),
        row("CPU of an event", figures.cpu_milliseconds(load), "ms"),
        row("memory", figures.memory, "MiB").within(Budget::AtMost(128.0)),
        row("watches", figures.watches, "").within(Budget::AtMost(1.0)),
        row("patches of a run", figures.patches, "").within(Budget::AtMost(1.0)),
        row("event → mark, p50", figures.marks.percentile(50), "ms"),
        row("event → mark, p99", figures.marks.percentile(99), "ms"),
    ]);
    rows
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let duration = |default| Duration::from_secs(options.seconds.unwrap_or(default));
    let rows = if options.grid {
        let growth = runtime.block_on(growth::Growth::measure(&options.server, duration(12)))?;
        if let Some(folder) = &options.images {
            growth.draw(folder)?;
        }
        growth.rows()
    } else {
        let Options { workflows, subscribers, rate, .. } = options;
        let load = Load { workflows, subscribers, rate: f64::from(rate), duration: duration(60) };
        rows(&load, &runtime.block_on(point::measure(&options.server, &load))?)
    };
    options.output.print(&rows);
    Ok(())
}
