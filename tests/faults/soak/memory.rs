//! The resident memory of a server process, which must stay flat once the server has warmed up.

use std::{fmt, fs, sync::Mutex, time::Duration};

use rustix::process::Pid;
use tokio::time::{MissedTickBehavior, interval};

/// Interval between two samples.
const INTERVAL: Duration = Duration::from_millis(500);
/// Minimum number of samples for a conclusion.
const MIN_SAMPLES: usize = 20;
/// Maximum [`Growth`] in KiB. The largest observed value is 1,400, in 40 s as in ten minutes.
pub(crate) const MAX_GROWTH_KIB: i64 = 6 * 1024;

/// Samples the resident memory of one process at a time.
#[derive(Debug, Default)]
pub(crate) struct MemoryMonitor(Mutex<MonitorState>);

#[derive(Debug, Default)]
struct MonitorState {
    process: Option<Pid>,
    samples: Samples,
}

/// The resident memory of one process in KiB, at equal intervals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<i64>);

/// The change of the resident memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Maximum of the first third.
    pub(crate) early: i64,
    /// Median of the last tenth.
    pub(crate) late: i64,
}

impl MemoryMonitor {
    /// Samples this process from now on and drops the samples of the previous one. `None` keeps them and pauses.
    pub(crate) fn set_process(&self, process: Option<Pid>) {
        let mut state = self.0.lock().expect("nothing panics while it is held");
        state.process = process;
        if process.is_some() {
            state.samples = Samples::default();
        }
    }

    /// Takes samples until it is dropped.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut state = self.0.lock().expect("nothing panics while it is held");
            if let Some(resident) = state.process.and_then(resident_kib) {
                state.samples.0.push(resident);
            }
        }
    }

    pub(crate) fn samples(&self) -> Samples {
        self.0.lock().expect("nothing panics while it is held").samples.clone()
    }
}

/// Returns the resident memory of a process, or `None` if it has ended or the system has no `/proc`.
fn resident_kib(process: Pid) -> Option<i64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Samples {
    /// Compares the last tenth with the first third, or returns `None` if there are too few samples.
    ///
    /// The maximum of the first third includes peaks, and the median of the last tenth does not. So the difference is
    /// memory that was not released: caches, which are bounded and below [`MAX_GROWTH_KIB`], or a leak.
    pub(crate) fn growth(&self) -> Option<Growth> {
        let samples = &self.0;
        if samples.len() < MIN_SAMPLES {
            return None;
        }
        let early = samples[..samples.len() / 3].iter().copied().max()?;
        let mut end = samples[samples.len() - samples.len() / 10..].to_vec();
        end.sort_unstable();
        Some(Growth { early, late: end[end.len() / 2] })
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "maximum {} KiB in the first third, median {} KiB in the last tenth", self.early, self.late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(samples: impl IntoIterator<Item = i64>) -> Option<Growth> {
        Samples(samples.into_iter().collect()).growth()
    }

    #[test]
    fn the_end_is_compared_with_the_maximum_of_the_first_third() {
        assert_eq!(growth([5; 19]), None, "too few");
        let steady = (0..100).map(|n| if n == 20 || n == 98 { 90 } else { 50 });
        assert_eq!(growth(steady), Some(Growth { early: 90, late: 50 }), "a single peak at the end does not count");
        assert_eq!(growth(0..100), Some(Growth { early: 32, late: 95 }), "a leak");
    }

    #[test]
    fn this_process_has_resident_memory() {
        assert!(resident_kib(rustix::process::getpid()).is_some_and(|kib| kib > 1024));
    }
}
