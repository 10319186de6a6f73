//! One line on a terminal that says what a command waits for. Without a terminal there is none.

use std::{
    io::{self, IsTerminal as _, Write as _},
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::time::timeout;

use super::output::one_line;

/// The width that a line may have: a longer one would wrap, and could not be erased.
const WIDTH: usize = 100;

/// The time after which the line is renewed.
const INTERVAL: Duration = Duration::from_secs(1);

/// Awaits a result. From a second on, a terminal shows what for and since when.
pub(super) async fn waiting<T>(what: &str, awaited: impl Future<Output = T>) -> T {
    let (mut progress, begin) = (Progress::start(), Instant::now());
    let mut awaited = pin!(awaited);
    loop {
        match timeout(INTERVAL, &mut awaited).await {
            Ok(result) => return result,
            // A closed standard error shows nothing anyway.
            Err(_elapsed) => progress.show(&format!("waiting for {what} ({} s)", begin.elapsed().as_secs())).ok(),
        };
    }
}

/// A line of progress on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    is_shown: bool,
}

impl Progress {
    /// Progress on a terminal.
    pub(super) fn start() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), is_shown: false }
    }

    /// Returns whether lines are shown.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Shows a line in place of the last one.
    pub(super) fn show(&mut self, text: &str) -> anyhow::Result<()> {
        if !self.is_terminal {
            return Ok(());
        }
        self.is_shown = true;
        let text: String = one_line(text).chars().take(WIDTH).collect();
        write(&format!("\r\x1b[2K{text}"))
    }

    /// Erases the line.
    pub(super) fn clear(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.is_shown) { write("\r\x1b[2K") } else { Ok(()) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // A closed standard error shows nothing anyway.
        self.clear().ok();
    }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stderr().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard error")
}
