//! Shared parts of the benchmarks: the rows of the report, percentiles, the arrivals of runs, plots, and flags.

pub mod arrivals;
mod latencies;
mod options;
pub mod plot;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

pub use self::{
    latencies::Latencies,
    options::{Output, ServerBuild},
};

/// A row of the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The subject of the measurement.
    pub what: String,
    /// The measured value.
    pub value: f64,
    /// The unit of the value, of the baseline, and of a budget that is no ratio.
    pub unit: String,
    /// The value that a program reaches which does the least, from the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// The budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// A budget of a [`Row`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Budget {
    /// The value is at most this.
    AtMost(f64),
    /// The value is at least this.
    AtLeast(f64),
    /// The value is at most this multiple of the baseline.
    Ratio(f64),
}

impl Row {
    /// A value without baseline and budget.
    pub fn new(what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { what: what.into(), value, unit: unit.to_owned(), baseline: None, budget: None }
    }

    /// Adds a baseline.
    #[must_use]
    pub fn over(mut self, baseline: f64) -> Self {
        self.baseline = Some(baseline);
        self
    }

    /// Adds a budget.
    #[must_use]
    pub fn within(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The value relative to the baseline.
    pub fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.value / baseline)
    }

    /// Returns whether the value keeps the budget. `None` without a budget, or without the baseline that it refers to.
    pub fn is_kept(&self) -> Option<bool> {
        match self.budget? {
            Budget::AtMost(most) => Some(self.value <= most),
            Budget::AtLeast(least) => Some(self.value >= least),
            Budget::Ratio(most) => self.ratio().map(|ratio| ratio <= most),
        }
    }
}

/// Returns the rows as a table of Markdown.
fn table(rows: &[Row]) -> String {
    let mut table = "| what | value | baseline | ratio | budget | |\n|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let number = |value: f64| match value.abs() {
            100.0.. => format!("{value:.0}"),
            10.0.. => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        };
        let optional = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
        let budget = row.budget.map(|budget| match budget {
            Budget::AtMost(most) => format!("≤ {}", number(most)),
            Budget::AtLeast(least) => format!("≥ {}", number(least)),
            Budget::Ratio(most) => format!("≤ {most:.1} ×"),
        });
        let verdict = row.is_kept().map(|kept| if kept { "ok" } else { "**missed**" }.to_owned());
        let ratio = row.ratio().map(|ratio| format!("{ratio:.2}"));
        let (value, baseline) = (number(row.value), row.baseline.map(number));
        writeln!(
            table,
            "| {} | {value} {} | {} | {} | {} | {} |",
            row.what,
            row.unit,
            optional(baseline),
            optional(ratio),
            optional(budget),
            optional(verdict)
        )
        .expect("a String takes everything");
    }
    table
}

/// Returns the rows as lines of JSON.
///
/// # Panics
/// If a value is not finite.
fn json_lines(rows: &[Row]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("plain values") + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_may_refer_to_the_baseline() {
        let row = Row::new("a", 3.0, "ms").over(2.0);
        assert_eq!(row.is_kept(), None);
        assert_eq!(row.clone().within(Budget::Ratio(1.5)).is_kept(), Some(true));
        assert_eq!(row.clone().within(Budget::Ratio(1.4)).is_kept(), Some(false));
        assert_eq!(row.clone().within(Budget::AtMost(3.0)).is_kept(), Some(true));
        assert_eq!(row.within(Budget::AtLeast(3.1)).is_kept(), Some(false));
    }

    #[test]
    fn a_row_survives_json() {
        let rows = [Row::new("a", 3.5, "ms").over(2.0).within(Budget::Ratio(1.1)), Row::new("b", 1.0, "MiB")];
        let lines = json_lines(&rows);
        let read: Vec<Row> = lines.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
        assert_eq!(read, rows);
        let table = table(&rows);
        assert!(
            table.ends_with("| a | 3.50 ms | 2.00 | 1.75 | ≤ 1.1 × | **missed** |\n| b | 1.00 MiB | – | – | – | – |\n")
        );
    }
}
