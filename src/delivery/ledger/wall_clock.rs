//! Runs that were excluded for their age, by a wall clock that may have been wrong.
//!
//! Pauses follow a clock that never jumps, ages of runs the wall clock. That is set from time to time, and may have
//! been an hour ahead before. Runs that it excluded would be lost to the streams that stay attached. So once the wall
//! clock is behind the one that excluded a run, those streams are offered all records again.

use std::time::{Duration, Instant};

use super::{Ledger, timers::Timer, types::Now};
use crate::delivery::StreamId;

/// The interval of checks while runs are excluded for their age.
pub(super) const CHECK: Duration = Duration::from_secs(60);
/// The smallest jump, in seconds: the wall clock is read in whole seconds.
const MIN_JUMP: i64 = 5;

/// The wall clock at the exclusions, relative to the clock that never jumps.
#[derive(Debug, Default)]
pub(super) struct ExcludedByAge {
    origin: Option<Instant>,
    /// The highest offset of the wall clock at an exclusion.
    max_offset: Option<i64>,
}

impl ExcludedByAge {
    fn offset(&mut self, now: Now) -> i64 {
        let passed = now.instant.saturating_duration_since(*self.origin.get_or_insert(now.instant));
        now.unix.saturating_sub(i64::try_from(passed.as_secs()).unwrap_or(i64::MAX))
    }

    /// Records an exclusion. Returns whether it is the first.
    fn record(&mut self, now: Now) -> bool {
        let offset = self.offset(now);
        self.max_offset.replace(self.max_offset.map_or(offset, |max| max.max(offset))).is_none()
    }

    /// Forgets the exclusions if the wall clock was set back since. Returns whether it was.
    fn take_if_set_back(&mut self, now: Now) -> bool {
        let offset = self.offset(now);
        self.max_offset.take_if(|max| offset < max.saturating_sub(MIN_JUMP)).is_some()
    }
}

impl Ledger {
    /// Records that a run was excluded for its age.
    pub(super) fn record_age_exclusion(&mut self, now: Now) {
        if self.excluded_by_age.record(now) {
            self.timers.set(now.instant + CHECK, Timer::CheckClock);
        }
    }

    /// Has the records read again, if the wall clock was set back after it excluded runs. Streams that remember nothing
    /// read them only once.
    pub(super) fn check_clock(&mut self, now: Now) {
        if self.excluded_by_age.take_if_set_back(now) {
            self.timers.cancel(&Timer::CheckClock);
            for id in self.streams_with_max_age().collect::<Vec<_>>() {
                self.read_records(id);
            }
        }
    }

    /// Schedules the next check, for as long as runs are excluded and a stream limits their age.
    pub(super) fn schedule_clock_check(&mut self, now: Now) {
        if self.streams_with_max_age().next().is_none() {
            self.excluded_by_age.max_offset = None;
        } else if self.excluded_by_age.max_offset.is_some() {
            self.timers.set(now.instant + CHECK, Timer::CheckClock);
        }
    }

    fn streams_with_max_age(&self) -> impl Iterator<Item = StreamId> {
        let streams = self.registry.streams.iter();
        streams
            .filter(|(_, stream)| stream.subscription.max_age.is_some() && stream.subscription.remember)
            .map(|(id, _)| *id)
    }
}
