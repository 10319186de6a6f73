//! Decisions after each input: the hand-offs, lookups and patches that can be made now.

use std::sync::Arc;

use super::{
    Ledger,
    lookups::{Requested, Turn},
    stream::Next,
    timers::Timer,
    types::{Action, Encode, LookupId, Now, Report},
};
use crate::{
    delivery::{CloseReason, StreamId},
    model::{RunModels, Workflow},
};

impl Ledger {
    pub(super) fn decide(&mut self, now: Now, encode: &Encode<'_>) {
        self.recheck_drain();
        while let Some(id) = self.next_dirty() {
            if self.draining {
                self.close_if_drained(id);
                continue;
            }
            self.recheck_ready(id);
            self.hand_off_ready(id, now, encode);
            let stream = self.registry.stream(id);
            if stream.has_demand() {
                self.lookups.queue_stream(&stream.subscription.namespace, id);
            }
        }
        if !self.draining {
            self.begin_lookups(now);
        }
        self.actions.extend(std::iter::from_fn(|| self.marks.next_patch(now.instant, &mut self.timers)));
    }

    /// Takes a stream about which there may be something to decide. Last come those that have waited for room.
    fn next_dirty(&mut self) -> Option<StreamId> {
        if self.dirty.is_empty() && !self.draining {
            self.wake_waiting();
        }
        self.dirty.pop_first()
    }

    /// In a drain, checks the streams again whose last marks were written.
    fn recheck_drain(&mut self) {
        for (namespace, name) in self.marks.take_written() {
            self.dirty.extend(self.registry.streams_of_subscription(&namespace, &name));
        }
    }

    /// Closes a stream without unconfirmed events or pending marks: its client connects to another replica at once, which
    /// knows of a delivery only from its mark.
    fn close_if_drained(&mut self, id: StreamId) {
        let stream = self.registry.stream(id);
        if !stream.has_unconfirmed() && !self.marks.is_busy_for(&stream.subscription) {
            self.actions.push(Action::Close(id, CloseReason::ShuttingDown));
        }
    }

    // === lookups ===

    fn begin_lookups(&mut self, now: Now) {
        while let Some(turn) = self.lookups.next_turn() {
            let id = match turn {
                Turn::Retry(id) => self.retry_lookup(id),
                Turn::Stream(id) => self.request_next(id, now),
            };
            if let Some(id) = id {
                let action = self.lookups.begin(id, now.instant, &mut self.timers);
                self.actions.push(action);
            }
        }
    }

    /// Returns a lookup whose retry is due, unless it was dropped since. Drops one that no stream awaits.
    fn retry_lookup(&mut self, id: LookupId) -> Option<LookupId> {
        if self.registry.is_awaited(self.lookups.get(id)?) {
            return Some(id);
        }
        self.lookups.remove(id);
        None
    }

    /// Requests the models of a stream's next run. Returns the lookup to begin, if no equal one exists.
    fn request_next(&mut self, id: StreamId, now: Now) -> Option<LookupId> {
        // The stream may have ended while it was queued.
        let stream = self.registry.streams.get_mut(&id)?;
        let workflow = stream.next_to_look_up(now.instant)?;
        let deleted = self.deleted.contains(workflow.uid);
        let requested = self.lookups.request(&workflow, &stream.subscription.artifact_types, deleted);
        if matches!(requested, Requested::AwaitingRetry) {
            stream.lookup_failed(workflow.uid);
        }
        if stream.has_demand() {
            self.lookups.queue_stream(&workflow.namespace, id);
        }
        match requested {
            Requested::New(lookup) => Some(lookup),
            Requested::InFlight | Requested::AwaitingRetry => None,
        }
    }

    // === hand-offs ===

    fn hand_off_ready(&mut self, id: StreamId, now: Now, encode: &Encode<'_>) {
        loop {
            let stream = self.registry.stream(id);
            if !stream.has_room() {
                return self.record_stream_limit(id);
            }
            match stream.next_ready(now.instant) {
                Next::Run(workflow, _) if self.waits_for_room(id, workflow.uid) => return,
                Next::Run(workflow, models) => self.hand_off(id, workflow, &models, now, encode),
                Next::NotBefore(at) => return self.timers.set(at, Timer::HandOff(id)),
                Next::Nothing => return,
            }
        }
    }

    fn hand_off(&mut self, id: StreamId, workflow: Arc<Workflow>, models: &RunModels, now: Now, encode: &Encode<'_>) {
        let subscription = self.registry.stream(id).subscription.clone();
        if subscription.is_too_old(&workflow, now.unix) {
            self.record_age_exclusion(now);
            return self.drop_run(id, workflow.uid);
        }
        match encode(&workflow, models, &subscription) {
            Ok(payload) => {
                // Without room, the next attempt finds that the stream waits for it.
                let Some(space) = self.reserve_payload(id, workflow.uid, payload.len(), now) else { return };
                let redelivery = self.registry.state(&subscription).failed.contains(workflow.uid);
                let stream = self.registry.stream(id);
                let (handoff, pending_for) = stream.hand_off(workflow.uid, payload, space, now.instant);
                let stream = id;
                self.actions.push(Action::HandOff { stream, subscription, handoff, workflow, pending_for, redelivery });
            }
            Err(reason) => {
                self.exclude(id, workflow.uid);
                self.report(Report::Skipped { subscription, workflow, reason });
            }
        }
    }
}
