//! What the ledger wants to be woken for. A timer whose reason is gone when it fires does nothing.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use super::LookupId;
use crate::{delivery::StreamId, model::Uid};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An acknowledgement of this stream is old enough to count.
    Confirm(StreamId),
    /// A failed lookup is to be asked again.
    Lookup(LookupId),
    /// A failed patch is to be tried again.
    Mark(Uid),
    /// A deleted Workflow has been kept long enough.
    Departed(Uid),
    /// A run that was open at several ends of its stream may be tried again.
    Struck(StreamId),
    /// A second stream has been attached for a while.
    Shared(StreamId),
    /// A namespace has had no stream for a while.
    Idle(Arc<str>),
}

#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The first timer that is due, if any.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
