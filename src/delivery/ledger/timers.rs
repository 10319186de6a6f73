//! The timers of the ledger: at most one for each reason. The code that drops a reason cancels its timer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use super::types::LookupId;
use crate::{delivery::StreamId, model::Uid};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Confirms the acknowledged events of a stream.
    Confirm(StreamId),
    /// Retries a failed lookup.
    RetryLookup(LookupId),
    /// Finds a lookup slow.
    SlowLookup(LookupId),
    /// Looks a run up that has not ended.
    LookAhead(Arc<str>, Uid),
    /// Begins the next lookup of such a run, which the rate did not allow earlier.
    LookAheadRate,
    /// Retries a failed patch.
    RetryMark(Uid),
    /// Finds a patch slow.
    SlowPatch(Uid),
    /// Begins the next patch, which the rate did not allow earlier.
    MarkRate,
    /// Drops a run whose Workflow was deleted.
    DropDeleted(Uid),
    /// Makes a postponed hand-off of a stream.
    HandOff(StreamId),
    /// Checks whether a stream still shares its subscription.
    CheckShared(StreamId),
    /// Finds that a stream has reached its maximum age.
    MaxAge(StreamId),
    /// Ends a stream that has reached its maximum age and has its turn.
    EndOfAge(StreamId),
    /// Drops a namespace without a stream.
    DropNamespace(Arc<str>),
    /// Forgets what is remembered of the subscriptions of a namespace.
    ForgetSubscriptions(Arc<str>),
    /// Closes streams whose subscribers do not read.
    CheckReaders,
    /// Checks whether the wall clock was set back.
    CheckClock,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    set: HashMap<Timer, Instant>,
}

impl Timers {
    /// Sets a timer, and replaces the one of the same reason.
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.cancel(&timer);
        self.set.insert(timer.clone(), at);
        self.by_time.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.set.remove_entry(timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    pub(super) fn is_set(&self, timer: &Timer) -> bool {
        self.set.contains_key(timer)
    }

    /// Returns the time of the next timer.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the first timer that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.set.remove(&timer);
        Some(timer)
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> impl Iterator<Item = &Timer> {
        self.set.keys()
    }
}
