//! Measurements of an observation, and their bounds.

use std::{fmt, time::Duration};

use test_support::{Tally, report};
use tokio_util::task::AbortOnDropHandle;

/// A debug build is several times slower, and shares two cores with the peers and with the hostile tenant. Half of the
/// events arrive within a second nevertheless.
const SLOWNESS: u32 = if cfg!(debug_assertions) { 3 } else { 1 };
/// Longest time from the creation of a succeeded Workflow to its event: a second (guarantee G4).
pub(crate) const MAX_LATENCY: Duration = Duration::from_secs(SLOWNESS as u64);
/// Longest median of these times.
const MAX_MEDIAN: Duration = Duration::from_secs(1);
/// Time limit of a probe: a second, that of a kubelet.
pub(super) const PROBE_TIMEOUT: Duration = MAX_LATENCY;
/// The memory limit of the chart.
const MAX_RESIDENT_KIB: u64 = 128 * 1024;

/// The measurements.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(super) what: &'static str,
    pub(super) tally: Tally,
    /// Latencies of the other tenant's events, sorted.
    pub(crate) latencies: Vec<Duration>,
    /// The duration of each probe of `/livez`, or why it failed.
    pub(crate) probes: Vec<Result<Duration, String>>,
    /// Resident memory before.
    pub(crate) before_kib: u64,
    /// Peak of the resident memory during the observation.
    pub(crate) peak_kib: u64,
    /// The stream is open until then, so that the last events are confirmed.
    pub(super) _stream: AbortOnDropHandle<()>,
}

impl Figures {
    /// Prints the figures and checks the guarantee.
    ///
    /// # Panics
    /// If the hostile tenant has harmed the other tenant, the probes, or the process.
    #[track_caller]
    pub(crate) fn assert_unharmed(self) {
        self.assert_unharmed_within(MAX_LATENCY);
    }

    /// As [`Figures::assert_unharmed`], with another bound of the latency.
    ///
    /// # Panics
    /// As [`Figures::assert_unharmed`].
    #[track_caller]
    pub(crate) fn assert_unharmed_within(self, max_latency: Duration) {
        report(&self);
        let failed: Vec<_> = self.probes.iter().filter_map(|probe| probe.as_ref().err()).collect();
        assert!(failed.is_empty(), "{}: /livez: {failed:?}", self.what);
        let slowest = self.latencies.last().copied().unwrap_or_default();
        assert!(slowest <= max_latency, "{}: an event took {slowest:?}", self.what);
        assert!(self.percentile(0.5) <= MAX_MEDIAN, "{}: half of the events took longer", self.what);
        assert!(self.peak_kib < MAX_RESIDENT_KIB, "{}: {} KiB of memory", self.what, self.peak_kib);
        self.tally.conclude(0);
    }

    fn percentile(&self, fraction: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * fraction) as usize).copied().unwrap_or_default()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest_probe = self.probes.iter().flatten().max().copied().unwrap_or_default();
        let failed = self.probes.iter().filter(|probe| probe.is_err()).count();
        write!(
            f,
            "limits: {}: {} events, latency p50 {:.0?}, p99 {:.0?}, maximum {:.0?}; {} probes, {failed} failed, maximum \
             {slowest_probe:.0?}; resident memory {} MiB before, peak {} MiB",
            self.what,
            self.latencies.len(),
            self.percentile(0.5),
            self.percentile(0.99),
            self.percentile(1.0),
            self.probes.len(),
            self.before_kib / 1024,
            self.peak_kib / 1024,
        )
    }
}
