//! The output of commands: data on standard output, words on standard error.

use std::{
    borrow::Cow,
    env,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

pub use crate::text::one_line;
use crate::text::{escaped_json, escaped_yaml, is_unsafe};

/// The cell of an absent value, as kubectl's.
pub const ABSENT: &str = "<none>";

/// The gap between columns, as kubectl's.
const GAP: usize = 3;

/// The format of the data on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// Aligned columns, more of them
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only, one a line
    Name,
}

/// The flag for the format.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Output format
    #[arg(short, long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
}

/// The meaning of a cell, which a terminal shows as a color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Neither good nor bad.
    #[default]
    Plain,
    /// As wanted.
    Good,
    /// Something to look at.
    Attention,
    /// An error.
    Bad,
}

impl Tone {
    /// The text in this tone, where colors are shown.
    pub fn paint(self, text: &str, colors: bool) -> Cow<'_, str> {
        let code = match self {
            Self::Good => "32",
            Self::Attention => "33",
            Self::Bad => "31",
            Self::Plain => return text.into(),
        };
        if colors { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }
}

/// Returns whether standard output shows colors: it is a terminal, and `NO_COLOR` is not set.
pub fn has_colors() -> bool {
    io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Rows in aligned columns.
#[derive(Clone, Debug, Default)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// A table with these columns, named in upper case.
    pub fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self { header: header.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        self.rows.push(cells.into_iter().map(|(text, tone)| (one_line(&text), tone)).collect());
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, with a line for the header and one for each row.
    pub fn render(&self, colors: bool) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, (text, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(text.chars().count());
            }
        }
        let mut lines = String::new();
        let header = self.header.iter().map(|name| ((*name).to_owned(), Tone::Plain)).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((text, tone), width) in row.iter().zip(&widths) {
                line.push_str(&tone.paint(text, colors));
                line.push_str(&" ".repeat(width - text.chars().count() + GAP));
            }
            lines.push_str(line.trim_end());
            lines.push('\n');
        }
        lines
    }
}

/// A number with its noun.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The line of a Workflow in `-o name`, as kubectl writes it.
pub fn workflow_line(name: &str) -> String {
    format!("workflow.argoproj.io/{}\n", one_line(name))
}

/// A wrong use of the command line that its definition does not find: the exit status is 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// Returns the error of a wrong use of the command line.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

/// Writes text to standard output.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Writes a line of words to standard error. They may contain the words of others.
pub fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stderr(), "{}", one_line(text)).context("cannot write to standard error")
}

/// Writes a value to standard output as indented JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&json(value)?)
}

/// Writes a value to standard output as YAML.
pub fn print_yaml(value: &impl Serialize) -> anyhow::Result<()> {
    print(&yaml(value)?)
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    Ok(escaped_json(&text) + "\n")
}

/// YAML. Where its text would act on a terminal, it is JSON with escapes, which is YAML, too.
fn yaml(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
    if !text.chars().any(|c| is_unsafe(c) && c != '\n') {
        return Ok(format!("{}\n", text.trim_end()));
    }
    Ok(escaped_yaml(&serde_json::to_string_pretty(value).context("cannot write YAML")?) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "STATE"]);
        for (name, state, tone) in [("a", "delivered", Tone::Good), ("long\nname", "", Tone::Bad)] {
            table.row([(name.to_owned(), Tone::Plain), (state.to_owned(), tone)]);
        }
        table
    }

    #[test]
    fn columns_are_aligned_and_lines_stay_lines() {
        assert_eq!(table().render(false), "NAME        STATE\na           delivered\nlong name\n");
    }

    #[test]
    fn colors_do_not_move_columns() {
        let text = table().render(true);
        assert!(text.contains("a           \x1b[32mdelivered\x1b[0m"), "{text:?}");
    }

    #[test]
    fn yaml_reads_back_as_the_same_value() {
        let value = serde_json::json!({"a": ["yes", "1", 1, null, true], "b": {"c": "x: y\n#z"}});
        let text = yaml(&value).unwrap();
        let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, value, "{text}");
        assert!(text.starts_with("a:"), "{text}");
    }

    /// Above U+FFFF, JSON has two escapes for one character, which YAML does not know.
    #[test]
    fn yaml_has_no_surrogates() {
        let plain = yaml(&serde_json::json!({"a": "🎉 模型", "b": ["🎉"]})).unwrap();
        assert!(plain.contains("🎉 模型") && !plain.contains('\\'), "{plain}");
        let value = serde_json::json!({"a": "🎉", "b": "\u{e0041}\u{202e}"});
        let text = yaml(&value).unwrap();
        assert!(text.contains("🎉") && text.contains("\\U000e0041\\u202e"), "{text}");
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value, "{text}");
    }

    #[test]
    fn data_cannot_act_on_a_terminal() {
        let value = serde_json::json!({"x": "\x1b[2J \u{202e}\u{9b}\r\n", "y": "\x07", "z": "\u{2028}"});
        for text in [json(&value).unwrap(), yaml(&value).unwrap()] {
            assert!(!text.chars().any(|c| is_unsafe(c) && c != '\n'), "{text:?}");
            assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value, "{text:?}");
        }
    }
}
