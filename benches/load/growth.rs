//! Growth of cost with Workflows, subscribers and the rate of runs: one at a time around a center.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use test_support::bench::{
    Row, ServerBuild,
    plot::{Axis, Chart, Line, svg},
};

use super::point::{Figures, Load, measure};

/// The center of the grid.
const CENTER: Load = Load { workflows: 10_000, subscribers: 100, rate: 10.0, duration: Duration::ZERO };
/// The size of a chart.
const SIZE: (f64, f64) = (300.0, 240.0);

/// A dimension of the grid.
struct Dimension {
    name: &'static str,
    values: [usize; 3],
    set: fn(&mut Load, usize),
    value: fn(&Load) -> f64,
}

const DIMENSIONS: [Dimension; 3] = [
    Dimension {
        name: "Workflows",
        values: [1_000, 10_000, 100_000],
        set: |load, value| load.workflows = value,
        value: |load| load.workflows as f64,
    },
    Dimension {
        name: "subscribers",
        values: [10, 100, 1_000],
        set: |load, value| load.subscribers = value,
        value: |load| load.subscribers as f64,
    },
    Dimension {
        name: "runs a second",
        values: [1, 10, 100],
        set: |load, value| load.rate = value as f64,
        value: |load| load.rate,
    },
];

/// The measured points.
pub(crate) struct Growth(Vec<(Load, Figures)>);

impl Growth {
    /// Measures each point for this time.
    pub(crate) async fn measure(build: &ServerBuild, duration: Duration) -> anyhow::Result<Self> {
        let mut points: Vec<(Load, Figures)> = Vec::new();
        for Dimension { values, set, .. } in DIMENSIONS {
            for value in values {
                let mut load = Load { duration, ..CENTER };
                set(&mut load, value);
                if points.iter().all(|(other, _)| *other != load) {
                    let figures = measure(build, &load).await.with_context(|| format!("{load:?}"))?;
                    points.push((load, figures));
                }
            }
        }
        Ok(Self(points))
    }

    /// Returns the rows of all points.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let rows = |(load, figures): &(Load, Figures)| {
            let Load { workflows, subscribers, rate, .. } = load;
            let name = format!("{workflows} Workflows, {subscribers} subscribers, {rate} runs/s");
            let row = |what: &str, value, unit| Row::new(format!("{name}: {what}"), value, unit);
            [
                row("success → event, p50", figures.latency.percentile(50), "ms").over(figures.bare.percentile(50)),
                row("success → event, p99", figures.latency.percentile(99), "ms").over(figures.bare.percentile(99)),
                row("CPU, of one core", figures.cores * 100.0, "%"),
                row("CPU of an event", figures.cpu_milliseconds(load), "ms"),
                row("memory", figures.memory, "MiB"),
            ]
        };
        self.0.iter().flat_map(rows).collect()
    }

    /// Draws latency, CPU and memory.
    pub(crate) fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        let plots: [(&str, &str, &[Series]); 3] = [
            (
                "growth-latency.svg",
                "latency, ms",
                &[
                    ("p99", "#c33", |figures| figures.latency.percentile(99)),
                    ("p50", "#36c", |figures| figures.latency.percentile(50)),
                    ("p50 of a bare watch", "#999", |figures| figures.bare.percentile(50)),
                ],
            ),
            ("growth-cpu.svg", "CPU, % of a core", &[("", "#36c", |figures| figures.cores * 100.0)]),
            ("growth-memory.svg", "memory, MiB", &[("", "#36c", |figures| figures.memory)]),
        ];
        for (file, what, series) in plots {
            let values = || self.0.iter().flat_map(|(_, figures)| series.iter().map(move |(.., of)| of(figures)));
            let y = Axis::from_zero(values().fold(0.0, f64::max));
            let charts: Vec<_> = DIMENSIONS.iter().map(|dimension| self.chart(dimension, what, series, &y)).collect();
            let path = folder.join(file);
            fs::write(&path, svg(&charts, SIZE.0, SIZE.1))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The points along one dimension, the others at the center.
    fn chart(&self, dimension: &Dimension, what: &str, series: &[Series], y: &Axis) -> Chart {
        let on_line: Vec<_> = dimension
            .values
            .iter()
            .filter_map(|value| {
                let mut load = CENTER;
                (dimension.set)(&mut load, *value);
                self.0.iter().find(|(measured, _)| Load { duration: Duration::ZERO, ..*measured } == load)
            })
            .collect();
        let line = |(name, color, of): &Series| Line {
            name: (*name).to_owned(),
            color,
            points: on_line.iter().map(|(load, figures)| ((dimension.value)(load), of(figures))).collect(),
        };
        Chart {
            title: format!("{what}, by {}", dimension.name),
            x: Axis::logarithmic(dimension.values.map(|value| value as f64)),
            y: y.clone(),
            lines: series.iter().map(line).collect(),
        }
    }
}

/// The name, the color and the values of a line.
type Series = (&'static str, &'static str, fn(&Figures) -> f64);
