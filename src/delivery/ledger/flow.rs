//! Flow control: the bytes that are held for streams until their subscribers have read them.
//!
//! Payloads are held until they are acknowledged, and models until their event is handed off. Both are limited for each
//! stream and in all, see [`Budget`]. Where there is no room in all, a stream that has held bytes for a while without an
//! acknowledgement is closed: its subscriber does not read. Its runs are pending again for the next stream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Ledger,
    budget::{Budget, Reservation, SMALL},
    stream::ReadyModels,
    timers::Timer,
    types::{Action, Now, Report},
};
use crate::{
    delivery::{CloseReason, StreamId},
    model::{RunModels, Uid},
    telemetry::Limit,
};

/// Unacknowledged bytes of all streams: an eighth of the memory that the chart allows.
pub(super) const UNACKNOWLEDGED_LIMIT: usize = 16 * 1024 * 1024;
/// Bytes of the models of all ready runs. These wait only for a moment, unless their stream has no room.
pub(super) const READY_LIMIT: usize = 8 * 1024 * 1024;
/// The time without an acknowledgement after which a subscriber does not read, if others need the room. Longer than
/// keepalive takes to notice a peer that has vanished.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(60);
/// The shortest interval between checks for such streams.
const CHECK: Duration = Duration::from_secs(1);

/// The bytes that are held for all streams.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) unacknowledged: Budget,
    pub(super) ready: Budget,
}

impl Default for Flow {
    fn default() -> Self {
        Self::with_limits(UNACKNOWLEDGED_LIMIT, READY_LIMIT)
    }
}

impl Flow {
    pub(super) fn with_limits(unacknowledged: usize, ready: usize) -> Self {
        Self { unacknowledged: Budget::new(unacknowledged), ready: Budget::new(ready) }
    }
}

/// The models of a run that a lookup has found, for the streams that await them. They are held once for all of these.
#[derive(Debug)]
pub(super) struct FoundModels {
    models: Arc<RunModels>,
    bytes: usize,
    space: Option<Arc<Reservation>>,
}

impl FoundModels {
    pub(super) fn new(models: Arc<RunModels>) -> Self {
        let bytes = models.bytes();
        Self { models, bytes, space: None }
    }

    pub(super) fn models(&self) -> &Arc<RunModels> {
        &self.models
    }
}

impl Ledger {
    /// Gives models to a stream that awaits them, if it may hold them. Otherwise the run is looked up again later.
    pub(super) fn models_ready(
        &mut self,
        id: StreamId,
        run: Uid,
        found: &mut FoundModels,
        probe_at: Option<Instant>,
        now: Instant,
    ) {
        let Self { registry, flow, .. } = self;
        let stream = registry.stream(id);
        let namespace = stream.subscription.namespace.clone();
        let bytes = found.bytes;
        if probe_at.is_none() && !stream.may_hold_ready(bytes) {
            flow.ready.pass_turn(id);
            return stream.postpone(run, bytes);
        }
        found.space = found.space.take().or_else(|| flow.ready.reserve(&namespace, 0, bytes).map(Arc::new));
        if found.space.is_some() || (bytes <= SMALL && stream.holds_nothing()) {
            match found.space {
                Some(_) => flow.ready.use_turn(id),
                None => flow.ready.pass_turn(id),
            }
            let ready = ReadyModels { models: found.models.clone(), bytes, _space: found.space.clone() };
            return stream.models_found(run, ready, probe_at, now);
        }
        stream.postpone(run, bytes);
        if flow.ready.wait(id, &namespace, run, bytes) {
            self.report(Report::LimitHit(Limit::UnacknowledgedBytes));
        }
    }

    /// Reserves the bytes of a payload for a stream, or lets it wait for them.
    pub(super) fn reserve_payload(&mut self, id: StreamId, run: Uid, bytes: usize, now: Now) -> Option<Reservation> {
        let stream = self.registry.stream(id);
        let namespace = stream.subscription.namespace.clone();
        let own = stream.unacknowledged_bytes();
        let budget = &mut self.flow.unacknowledged;
        let reserved = if bytes <= SMALL && !stream.has_unacknowledged() {
            Some(budget.reserve_always(&namespace, bytes))
        } else {
            budget.reserve(&namespace, own, bytes)
        };
        if reserved.is_some() {
            budget.use_turn(id);
            budget.cancel(id);
        } else if budget.wait(id, &namespace, run, bytes) {
            self.report(Report::LimitHit(Limit::UnacknowledgedBytes));
            self.schedule_reader_check(now.instant);
        }
        reserved
    }

    /// Returns whether a stream waits for room for this run, and there is none: then there is no need to encode its
    /// payload again.
    pub(super) fn waits_for_room(&mut self, id: StreamId, run: Uid) -> bool {
        let budget = &self.flow.unacknowledged;
        let Some((_, bytes)) = budget.waits_for(id).filter(|(waiting, _)| *waiting == run) else { return false };
        let stream = self.registry.stream(id);
        let may_exceed = bytes <= SMALL && !stream.has_unacknowledged();
        !may_exceed && !budget.has_room(&stream.subscription.namespace, stream.unacknowledged_bytes(), bytes)
    }

    /// Lets the streams proceed for which there is room again.
    pub(super) fn wake_waiting(&mut self) {
        for id in self.flow.ready.wake(|_| 0) {
            self.registry.stream(id).resume_lookups();
            self.dirty.insert(id);
        }
        let streams = &self.registry.streams;
        self.dirty.extend(self.flow.unacknowledged.wake(|id| streams[&id].unacknowledged_bytes()));
        if !self.flow.unacknowledged.is_exhausted() {
            self.timers.cancel(&Timer::CheckReaders);
        }
    }

    /// Lets a stream no longer wait for room for a run that it no longer has, or for models which it may hold by now.
    pub(super) fn recheck_waits(&mut self, id: StreamId) {
        let Flow { unacknowledged, ready } = &mut self.flow;
        let stream = self.registry.stream(id);
        if unacknowledged.waits_for(id).is_some_and(|(run, _)| !stream.runs.contains_key(&run)) {
            unacknowledged.cancel(id);
        }
        if let Some((run, bytes)) = ready.waits_for(id)
            && (!stream.runs.contains_key(&run) || (bytes <= SMALL && stream.holds_nothing()))
        {
            ready.cancel(id);
            stream.resume_lookups();
        }
    }

    /// Returns whether streams that wait may proceed.
    pub(super) fn may_wake_waiting(&self) -> bool {
        !self.draining && (self.flow.unacknowledged.may_wake() || self.flow.ready.may_wake())
    }

    /// Counts that a stream has reached its own limit.
    pub(super) fn record_stream_limit(&mut self, id: StreamId) {
        if self.registry.stream(id).reaches_byte_limit() {
            self.report(Report::LimitHit(Limit::UnacknowledgedBytes));
        }
    }

    /// Closes the streams whose subscribers do not read, while others wait for room.
    pub(super) fn check_readers(&mut self, now: Now) {
        if !self.flow.unacknowledged.is_exhausted() || self.draining {
            return;
        }
        let streams = self.registry.streams.iter();
        let is_due = |since: Instant| since + MAX_SILENCE <= now.instant;
        let silent: Vec<_> =
            streams.filter(|(_, stream)| stream.silent_since().is_some_and(is_due)).map(|(id, _)| *id).collect();
        for id in silent {
            let stream = self.registry.stream(id);
            let (subscription, bytes) = (stream.subscription.clone(), stream.unacknowledged_bytes());
            self.report(Report::LimitHit(Limit::UnacknowledgedBytes));
            self.report(Report::NotReading { subscription, bytes });
            self.end(id, now);
            self.actions.push(Action::Close(id, CloseReason::NotReading));
        }
        self.schedule_reader_check(now.instant);
    }

    fn schedule_reader_check(&mut self, now: Instant) {
        let next = self.registry.streams.values().filter_map(|stream| stream.silent_since()).min();
        if let Some(since) = next {
            self.timers.set((since + MAX_SILENCE).max(now + CHECK), Timer::CheckReaders);
        }
    }
}
