//! Quarantine: runs whose events were unconfirmed at several ends of a stream.
//!
//! An event may crash its client, which must not keep the client from receiving the others. So such a run is sent only
//! as a *probe*: after the other runs, alone, so that it shows which run ends the stream, and after a pause that grows. A
//! run that was merely in flight when its client crashed for another reason is delivered by its first probe.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::types::Age;
use crate::{backoff::Backoff, model::Uid};

/// Ends of a stream after which an unconfirmed run is quarantined.
const MAX_FAILURES: u32 = 3;
/// Pauses before the probes of a run.
const PROBES: Backoff = Backoff { first: Duration::from_secs(10), max: Duration::from_secs(320) };
/// The time for which a due probe gives way to other runs: these may keep coming forever.
const STARVATION_LIMIT: Duration = Duration::from_secs(60);

/// The failed deliveries of one subscription. They outlive its streams.
#[derive(Debug, Default)]
pub(super) struct FailedDeliveries {
    runs: HashMap<Uid, Failures>,
    /// The runs by the time of their last failure.
    by_time: BTreeSet<(Instant, Uid)>,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
    /// The time since which the run is pending, through all streams.
    pending_since: Instant,
    probe_at: Instant,
}

impl FailedDeliveries {
    /// Records that a stream ended while this run's event was unconfirmed.
    pub(super) fn record(&mut self, run: Uid, pending_since: Instant, now: Instant) {
        let failures = self.runs.entry(run).or_insert(Failures { count: 0, last: now, pending_since, probe_at: now });
        self.by_time.remove(&(failures.last, run));
        self.by_time.insert((now, run));
        failures.last = now;
        failures.count = failures.count.saturating_add(1);
        if let Some(probes) = failures.count.checked_sub(MAX_FAILURES) {
            failures.probe_at = now + PROBES.ceiling(probes + 1);
        }
    }

    /// Forgets the failures of a run. Returns whether there were any.
    pub(super) fn remove(&mut self, run: Uid) -> bool {
        let removed = self.runs.remove(&run);
        removed.is_some_and(|failures| self.by_time.remove(&(failures.last, run)))
    }

    /// Forgets the runs without a failure after `time`. Their events were not sent since.
    pub(super) fn forget_until(&mut self, time: Instant) {
        while let Some(&(last, run)) = self.by_time.first()
            && last <= time
        {
            self.remove(run);
        }
    }

    /// The time of the failure that is forgotten next.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.by_time.first().map(|(last, _)| *last)
    }

    pub(super) fn contains(&self, run: Uid) -> bool {
        self.runs.contains_key(&run)
    }

    /// The number of runs.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the time since which a run is pending, where streams have ended before they confirmed it.
    pub(super) fn pending_since(&self, run: Uid) -> Option<Instant> {
        self.runs.get(&run).map(|failures| failures.pending_since)
    }

    /// Returns the time of a run's next probe, where the run is quarantined.
    pub(super) fn next_probe(&self, run: Uid) -> Option<Instant> {
        self.runs.get(&run).filter(|failures| failures.count >= MAX_FAILURES).map(|failures| failures.probe_at)
    }
}

/// The quarantined runs of one stream whose events are ready, by the time of their probes.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    runs: BTreeSet<(Instant, Age)>,
    last_probe: Option<Instant>,
}

/// The next probe of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) due: Instant,
    pub(super) run: Uid,
}

impl Quarantine {
    pub(super) fn insert(&mut self, probe_at: Instant, run: Age) {
        self.runs.insert((probe_at, run));
    }

    pub(super) fn remove(&mut self, probe_at: Instant, run: Age) {
        self.runs.remove(&(probe_at, run));
    }

    pub(super) fn probed(&mut self, now: Instant) {
        self.last_probe = Some(now);
    }

    pub(super) fn next(&self) -> Option<Probe> {
        self.runs.first().map(|(due, age)| Probe { due: *due, run: age.uid })
    }

    /// The time at which the next probe ceases to give way to other runs.
    pub(super) fn starves_at(&self) -> Option<Instant> {
        let probe = self.next()?;
        Some(self.last_probe.map_or(probe.due, |last| last.max(probe.due)) + STARVATION_LIMIT)
    }

    /// Returns whether the next probe has given way to other runs for long enough.
    pub(super) fn is_starving(&self, now: Instant) -> bool {
        self.starves_at().is_some_and(|at| now >= at)
    }
}
