//! What the ledger wants to be woken for. Each reason has one timer at most: whoever drops the reason stops it, so that
//! none is left behind.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use super::LookupId;
use crate::{delivery::StreamId, model::Uid};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An acknowledgement of this stream is old enough to count.
    Confirm(StreamId),
    /// A failed lookup is to be asked again.
    Lookup(LookupId),
    /// The answer to a lookup takes long.
    Slow(LookupId),
    /// A failed patch is to be tried again.
    Mark(Uid),
    /// A deleted Workflow has been kept long enough.
    Departed(Uid),
    /// A hand-off of this stream that was put off may be made.
    HandOff(StreamId),
    /// A second stream has been attached for a while.
    Shared(StreamId),
    /// A namespace has had no stream for a while.
    Idle(Arc<str>),
    /// The wall clock may have been set.
    Clock,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    set: HashMap<Timer, Instant>,
}

impl Timers {
    /// Sets a timer, in place of the one that there is for the same reason.
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.stop(&timer);
        self.set.insert(timer.clone(), at);
        self.by_time.insert((at, timer));
    }

    /// The reason is gone.
    pub(super) fn stop(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.set.remove_entry(timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The first timer that is due, if any.
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
