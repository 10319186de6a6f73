//! The maximum age of streams. Streams stay on the replica to which they are connected: one that was added or restarted has
//! none, and after a roll-out those that were ready first have more than the others. With a maximum age, each stream ends
//! once in a while, and its client reconnects to a replica that the Service selects.
//!
//! A stream ends only while nothing is open for it: no run is pending, no event is unconfirmed, and the mark of every
//! delivery was seen. So the next replica repeats nothing. Streams with `remember: false` never end by age, since they
//! would miss what ends until they are back. A stream for which something is always open stays.
//!
//! An event whose run succeeds while the client is away is late by at most [`ABSENCE`]. Ages differ by [`JITTER`], and
//! streams take turns, so that few of them are away at a time.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt as _};

use super::{
    Ledger,
    timers::Timer,
    types::{Action, Report},
};
use crate::delivery::{CloseReason, StreamId};

/// The age of a stream relative to the maximum, as in gRPC's servers.
const JITTER: RangeInclusive<f64> = 0.9..=1.1;
/// The time after which Argo Events has reconnected.
const ABSENCE: Duration = Duration::from_secs(5);
/// One of this number of streams may be away at a time, and always a single one.
const PART: usize = 100;
/// The pause after which a stream is checked again for which something was open: longer than a delivery takes, from the
/// lookup to the mark.
const RECHECK: Duration = Duration::from_secs(10);

/// The rule by which streams end because of their age: when each has reached its age, and when it has its turn.
#[derive(Clone, Debug, Default)]
pub struct ConnectionAges {
    maximum: Option<Duration>,
    /// The earliest turn that is free.
    next_turn: Option<Instant>,
}

impl ConnectionAges {
    /// Without a maximum, no stream ends.
    pub fn new(maximum: Option<Duration>) -> Self {
        Self { maximum, next_turn: None }
    }

    /// Returns the age that a new stream may reach.
    pub fn draw(&self, random: &mut impl Rng) -> Option<Duration> {
        self.maximum.map(|maximum| maximum.mul_f64(random.random_range(JITTER)))
    }

    /// Returns the turn of a stream that has reached its age. `streams` is the number of all streams.
    pub fn take_turn(&mut self, now: Instant, streams: usize) -> Instant {
        let turn = self.next_turn.map_or(now, |next| next.max(now));
        let away = u32::try_from(streams / PART).unwrap_or(u32::MAX).max(1);
        self.next_turn = Some(turn + ABSENCE / away);
        turn
    }
}

impl Ledger {
    /// Sets the age that a new stream may reach.
    pub(super) fn limit_age(&mut self, id: StreamId, now: Instant) {
        if self.registry.stream(id).subscription.remember
            && let Some(age) = self.ages.draw(&mut self.jitter)
        {
            self.timers.set(now + age, Timer::MaxAge(id));
        }
    }

    /// Gives a stream a turn that has reached its age, once nothing is open for it.
    pub(super) fn reached_age(&mut self, id: StreamId, now: Instant) {
        if self.is_open(id) {
            self.timers.set(now + RECHECK, Timer::MaxAge(id));
        } else {
            let turn = self.ages.take_turn(now, self.registry.streams.len());
            self.timers.set(turn, Timer::EndOfAge(id));
        }
    }

    /// Ends a stream that has its turn, unless something is open for it.
    pub(super) fn end_of_age(&mut self, id: StreamId, now: super::Now) {
        if self.is_open(id) {
            self.timers.set(now.instant + RECHECK, Timer::MaxAge(id));
            return;
        }
        let stream = self.registry.stream(id);
        let (subscription, attached) = (stream.subscription.clone(), stream.attached_at);
        let age = now.instant.saturating_duration_since(attached);
        self.report(Report::MaxConnectionAge { subscription, age });
        self.end(id, now);
        self.actions.push(Action::Close(id, CloseReason::MaxConnectionAge));
    }

    /// Returns whether a replica to which the client moves now would repeat or delay an event: something is pending,
    /// unconfirmed, or not known to be marked. Runs that the source of models does not know are looked up rarely, and
    /// the next replica begins anew, unless only this process remembers them, because their Workflows were deleted.
    fn is_open(&self, id: StreamId) -> bool {
        let stream = &self.registry.streams[&id];
        let state = self.registry.state(&stream.subscription);
        self.draining
            || self.dirty.contains(&id)
            || stream.attaching.is_some()
            || stream.readers > 0
            || stream.pending_runs() > 0
            || stream.has_unconfirmed()
            || state.is_some_and(|state| !state.confirmed.is_empty())
            || self.marks.is_busy_for(&stream.subscription)
            || self.deleted.has_claims(&stream.subscription)
    }
}
