//! The resident memory of one server over its life: flat, once it has warmed up.

use std::{fmt, fs, sync::Mutex, time::Duration};

use rustix::process::Pid;
use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// So few samples prove nothing.
const ENOUGH: usize = 20;
/// By how much the end may exceed the first third, in KiB; 1,400 is the most that was seen, in 40 s as in ten minutes. See
/// [`Samples::growth`].
pub(crate) const MARGIN: i64 = 6 * 1024;

/// Follows the resident memory of one process at a time.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Mutex<(Option<Pid>, Samples)>);

/// The resident memory of one process, in KiB, at equal distances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<i64>);

/// What became of the memory, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    /// The most in the first third.
    pub(crate) early: i64,
    /// The median of the last tenth.
    pub(crate) late: i64,
}

impl Gauge {
    /// This process is followed from now on; what was seen of its predecessor is forgotten. Without one, what was seen
    /// of the last one stays.
    pub(crate) fn follow(&self, process: Option<Pid>) {
        let mut state = self.0.lock().expect("nothing panics while it is held");
        state.0 = process;
        if process.is_some() {
            state.1 = Samples::default();
        }
    }

    /// Looks, until it is dropped.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut state = self.0.lock().expect("nothing panics while it is held");
            if let Some(resident) = state.0.and_then(resident) {
                state.1.0.push(resident);
            }
        }
    }

    pub(crate) fn samples(&self) -> Samples {
        self.0.lock().expect("nothing panics while it is held").1.clone()
    }
}

/// `None` where the system does not tell, or the process is gone.
fn resident(process: Pid) -> Option<i64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Samples {
    /// The last tenth against the first third. The most of the first third is what the server needed in bad moments of
    /// the same kind; the median of the end is no bad moment's. So what is left above it is what was not given back:
    /// caches that fill up, which are bounded, and a leak, which is not. [`MARGIN`] lets the caches pass. `None` where
    /// there are too few samples.
    pub(crate) fn growth(&self) -> Option<Growth> {
        let samples = &self.0;
        if samples.len() < ENOUGH {
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
        write!(f, "at most {} KiB in the first third of its life, {} KiB at its end", self.early, self.late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(samples: impl IntoIterator<Item = i64>) -> Option<Growth> {
        Samples(samples.into_iter().collect()).growth()
    }

    #[test]
    fn the_end_is_held_against_the_most_of_the_first_third() {
        assert_eq!(growth([5; 19]), None, "too few");
        let steady = (0..100).map(|n| if n == 20 || n == 98 { 90 } else { 50 });
        assert_eq!(growth(steady), Some(Growth { early: 90, late: 50 }), "one peak at the end is none");
        assert_eq!(growth(0..100), Some(Growth { early: 32, late: 95 }), "a leak");
    }

    #[test]
    fn this_process_has_some() {
        assert!(resident(rustix::process::getpid()).is_some_and(|kib| kib > 1024));
    }
}
