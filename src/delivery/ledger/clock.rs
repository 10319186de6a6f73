//! What was declined for its age, by a clock that may have been wrong.
//!
//! Waits follow a clock that never jumps; the ages of runs follow the wall clock, which is set from time to time, and
//! before that may have been an hour ahead. What was declined then would be lost to streams that stay attached. So once
//! the wall clock has gone back behind the one by which something was declined, those streams are offered what there is
//! once more.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Action, Ledger, Now, Timer};
use crate::{delivery::StreamId, model::Workflow};

/// How often it is looked at whether the clock went back, while something is declined by it.
pub(super) const LOOK: Duration = Duration::from_secs(60);
/// The smallest jump: the wall clock is read in whole seconds.
const JUMP: i64 = 5;

#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The time that never jumps is counted from here.
    origin: Option<Instant>,
    /// How far the wall clock was ahead of that time, at most, when something was declined by it.
    declined: Option<i64>,
}

impl Clock {
    fn ahead(&mut self, now: Now) -> i64 {
        let passed = now.instant.saturating_duration_since(*self.origin.get_or_insert(now.instant));
        now.unix.saturating_sub(i64::try_from(passed.as_secs()).unwrap_or(i64::MAX))
    }

    /// Something was declined. Returns whether it is the first thing.
    fn decline(&mut self, now: Now) -> bool {
        let ahead = self.ahead(now);
        self.declined.replace(self.declined.map_or(ahead, |before| before.max(ahead))).is_none()
    }

    /// Whether the clock has gone back behind the one by which something was declined. Says so once.
    fn went_back(&mut self, now: Now) -> bool {
        let ahead = self.ahead(now);
        self.declined.take_if(|before| ahead < before.saturating_sub(JUMP)).is_some()
    }
}

impl Ledger {
    /// A run was declined for its age.
    pub(super) fn declined_for_its_age(&mut self, now: Now) {
        if self.clock.decline(now) {
            self.timers.set(now.instant + LOOK, Timer::Clock);
        }
    }

    /// Offers again what was declined by a clock that was ahead of this one.
    pub(super) fn look_at_clock(&mut self, now: Now) {
        if self.clock.went_back(now) {
            self.timers.stop(&Timer::Clock);
            let namespaces: BTreeSet<_> = self.streams_with_max_age().map(|(_, namespace)| namespace.clone()).collect();
            self.actions.extend(namespaces.into_iter().map(Action::Reread));
        }
    }

    /// It is time to look again, if there is still something that was declined and somebody who would want it.
    pub(super) fn look_again(&mut self, now: Now) {
        if self.streams_with_max_age().next().is_none() {
            self.clock.declined = None;
        } else if self.clock.declined.is_some() {
            self.timers.set(now.instant + LOOK, Timer::Clock);
        }
    }

    /// These are the records of a namespace, on [`Action::Reread`].
    pub(in crate::delivery) fn reread(&mut self, records: &[Arc<Workflow>], now: Now) {
        let streams: Vec<_> = self.streams_with_max_age().map(|(id, namespace)| (id, namespace.clone())).collect();
        for workflow in records {
            for (id, _) in streams.iter().filter(|(_, namespace)| *namespace == workflow.namespace) {
                self.offer(*id, workflow, now);
            }
        }
    }

    fn streams_with_max_age(&self) -> impl Iterator<Item = (StreamId, &Arc<str>)> {
        let streams = self.streams.iter().filter(|(_, stream)| stream.subscription.max_age.is_some());
        streams.map(|(id, stream)| (*id, &stream.subscription.namespace))
    }
}
