//! Decisions after each input: the hand-offs, lookups and patches that can be made now.
//!
//! The decisions of one turn are limited, so that the driver handles the next inputs soon, however much has become
//! possible. Streams take turns.

use std::{ops::Bound, sync::Arc, time::Instant};

use super::{
    Ledger,
    flow::FoundModels,
    latest::{Lane, Rank, Recency},
    lookups::{Requested, Turn},
    next::Next,
    offers::Verdict,
    stream::State,
    timers::Timer,
    types::{Action, Encode, LookupId, Now, Report},
};
use crate::{
    delivery::{CloseReason, StreamId},
    model::{FilterReason, PipelineName, RunModels, RunOutcome, Uid, Workflow},
};

/// Hand-offs of a turn. Each encodes a payload, is logged and traced.
pub(super) const HAND_OFFS: usize = 256;
/// Bytes of the payloads of a turn.
const BYTES: usize = 1024 * 1024;
/// Hand-offs of one stream in a turn, as long as others wait.
const HAND_OFFS_OF_STREAM: usize = 16;
/// Streams of a turn.
const STREAMS: usize = 1024;
/// Runs of a turn whose lookup begins, or that need none.
const LOOKUPS: usize = 256;
/// Runs of streams that have ended, which are dropped in a turn.
const DISPOSED: usize = 1000;
/// Lookups of a turn that are checked for whether a stream awaits them.
const TRIMMED: usize = 100;

/// The hand-offs that are left in a turn.
#[derive(Debug)]
struct Quota {
    hand_offs: usize,
    bytes: usize,
    streams: usize,
}

impl Quota {
    fn is_used_up(&self) -> bool {
        self.hand_offs == 0 || self.bytes == 0 || self.streams == 0
    }

    fn spend(&mut self, hand_offs: usize, bytes: usize) {
        self.hand_offs = self.hand_offs.saturating_sub(hand_offs);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Ledger {
    /// Makes the decisions of a turn.
    pub(super) fn decide(&mut self, now: Now, encode: &Encode<'_>) {
        self.steps.begin_turn();
        self.recheck_drain();
        self.limit_held_runs(now);
        self.clear_ended();
        let mut quota = Quota { hand_offs: HAND_OFFS, bytes: BYTES, streams: STREAMS };
        let mut unfinished = Vec::new();
        while !quota.is_used_up()
            && let Some(id) = self.next_dirty()
        {
            quota.streams -= 1;
            if self.draining {
                self.close_if_drained(id);
                continue;
            }
            self.recheck_waits(id);
            if self.hand_off_ready(id, &mut quota, now, encode) {
                self.flow.unacknowledged.pass_turn(id);
            } else {
                unfinished.push(id);
            }
            self.queue_if_demanding(id);
        }
        self.dirty.extend(unfinished);
        self.has_lookups = !self.draining && !self.begin_lookups(now);
        if !self.draining {
            self.begin_lookups_ahead(now);
        }
        self.actions.extend(std::iter::from_fn(|| self.marks.next_patch(now.instant, &mut self.timers)));
        // For the offers before the next turn.
        self.steps.begin_turn();
    }

    /// Returns whether there is more to decide than one turn allowed: [`Ledger::poll_actions`] is to be called again
    /// soon.
    pub(in crate::delivery) fn has_more(&self) -> bool {
        !self.dirty.is_empty()
            || self.has_lookups
            || self.may_wake_waiting()
            || !self.ended.is_empty()
            || !self.unawaited.is_empty()
    }

    /// Takes a stream about which there may be something to decide. Last come those that have waited for room.
    fn next_dirty(&mut self) -> Option<StreamId> {
        if self.dirty.is_empty() && !self.draining {
            self.wake_waiting();
        }
        let behind = self.dirty.range((Bound::Excluded(self.last_dirty), Bound::Unbounded)).next();
        let id = *behind.or_else(|| self.dirty.first())?;
        self.dirty.remove(&id);
        self.last_dirty = id;
        Some(id)
    }

    /// In a drain, checks the streams again whose last marks were written.
    fn recheck_drain(&mut self) {
        for (namespace, name) in self.marks.take_written() {
            self.dirty.extend(self.registry.streams_of_subscription(&namespace, &name));
        }
    }

    /// Closes a stream without unconfirmed events or pending marks: its client connects to another replica at once,
    /// which knows of a delivery only from its mark.
    fn close_if_drained(&mut self, id: StreamId) {
        let stream = self.registry.stream(id);
        let awaits_marks = stream.subscription.remember && self.marks.is_busy_for(&stream.subscription);
        if !stream.has_unconfirmed() && !awaits_marks {
            self.actions.push(Action::Close(id, CloseReason::ShuttingDown));
        }
    }

    /// Frees what streams have left that have ended.
    fn clear_ended(&mut self) {
        if self.ended.last_mut().is_some_and(|stream| stream.dispose(DISPOSED)) {
            self.ended.pop();
        }
        let rest = self.unawaited.len().saturating_sub(TRIMMED);
        for run in self.unawaited.split_off(rest) {
            self.trim_lookups(run);
        }
    }

    // === lookups ===

    /// Begins lookups. Returns whether no more can begin now.
    fn begin_lookups(&mut self, now: Now) -> bool {
        let mut undecided = Vec::new();
        for _ in 0..LOOKUPS {
            let Some(turn) = self.lookups.next_turn() else { break };
            let id = match turn {
                Turn::Retry(id) => self.retry_lookup(id),
                Turn::Stream(id) => self.request_next(id, &mut undecided, now),
            };
            if let Some(id) = id {
                let action = self.lookups.begin(id, now.instant, &mut self.timers);
                self.actions.push(action);
            }
        }
        for id in &undecided {
            let namespace = self.registry.stream(*id).subscription.namespace.clone();
            self.lookups.queue_stream(&namespace, *id);
        }
        undecided.is_empty() && !self.lookups.has_turn()
    }

    /// Returns a lookup whose retry is due, unless it was dropped since. Drops one that no stream awaits.
    fn retry_lookup(&mut self, id: LookupId) -> Option<LookupId> {
        if self.registry.is_awaited(self.lookups.get(id)?) {
            return Some(id);
        }
        self.lookups.remove(id);
        None
    }

    /// Requests the models of a stream's next run. Returns the lookup to begin, if there is a new one. A stream whose
    /// filter has no verdict yet is `undecided`.
    fn request_next(&mut self, id: StreamId, undecided: &mut Vec<StreamId>, now: Now) -> Option<LookupId> {
        // The stream may have ended while it was queued.
        let workflow = self.registry.streams.get(&id)?.next_queued()?;
        let uid = workflow.uid;
        match self.queued_verdict(id, &workflow, now) {
            Some(Verdict::Open) => {
                undecided.push(id);
                return None;
            }
            Some(Verdict::Excluded(reason)) => {
                self.drop_run(id, uid);
                self.filtered(id, &workflow, reason);
            }
            Some(Verdict::Passes) => return self.request(id, &workflow, now),
            None => {}
        }
        self.queue_if_demanding(id);
        None
    }

    /// Returns the verdict about a queued run, or `None` if a newer one has superseded it.
    fn queued_verdict(&mut self, id: StreamId, workflow: &Arc<Workflow>, now: Now) -> Option<Verdict> {
        if self.registry.stream(id).runs[&workflow.uid].is_name_only {
            return Some(Verdict::Passes);
        }
        let verdict = self.verdict(id, workflow, now);
        let subscription = self.registry.stream(id).subscription.clone();
        if verdict != Verdict::Passes || !subscription.latest_only {
            return Some(verdict);
        }
        let pipeline = self.registry.namespace_of(&subscription).known_pipeline(workflow);
        let lane = pipeline.and_then(|pipeline| Lane::named(workflow, &pipeline));
        let rank = lane.as_ref().map(|lane| self.rank(id, lane, Recency::of(workflow)));
        match (rank, lane) {
            (Some(Rank::Superseded), _) => self.supersede(id, workflow.uid, now),
            (Some(Rank::Held), Some(lane)) => {
                self.registry.stream(id).set_state(workflow.uid, State::Held { lane });
            }
            _ => return Some(verdict),
        }
        None
    }

    /// Requests the models of a run. A failed run needs none, only the name of its pipeline.
    fn request(&mut self, id: StreamId, workflow: &Arc<Workflow>, now: Now) -> Option<LookupId> {
        let uid = workflow.uid;
        let stream = self.registry.stream(id);
        if workflow.outcome() == Some(RunOutcome::Failed) && *workflow.pipeline != PipelineName::Unknown {
            self.run_ready(id, workflow, &mut FoundModels::new(Arc::default()), now);
            self.dirty.insert(id);
            self.queue_if_demanding(id);
            return None;
        }
        stream.lookup_begins(uid, now.instant);
        let deleted = self.deleted.contains(uid);
        let requested = self.lookups.request(workflow, &stream.subscription.artifact_types, deleted);
        if let Requested::AwaitingRetry { given_up } = requested {
            stream.lookup_failed(uid, given_up);
        }
        self.queue_if_demanding(id);
        match requested {
            Requested::New(lookup) => Some(lookup),
            Requested::InFlight | Requested::AwaitingRetry { .. } => None,
        }
    }

    /// Queues a stream that has demand. One that awaits no first lookup either leaves the room for models to others.
    fn queue_if_demanding(&mut self, id: StreamId) {
        let stream = self.registry.stream(id);
        if stream.has_demand() {
            self.lookups.queue_stream(&stream.subscription.namespace, id);
        } else if stream.queues.first_lookups.is_empty() {
            self.flow.ready.pass_turn(id);
        }
    }

    // === hand-offs ===

    /// Hands ready runs to a stream. Returns `false` if there may be more in the next turn.
    fn hand_off_ready(&mut self, id: StreamId, quota: &mut Quota, now: Now, encode: &Encode<'_>) -> bool {
        if self.registry.stream(id).attaching.is_some() {
            return true;
        }
        let superseded = self.supersede_held(id, quota.hand_offs.min(HAND_OFFS_OF_STREAM), now);
        quota.spend(superseded, 0);
        if superseded == HAND_OFFS_OF_STREAM {
            return false;
        }
        for _ in 0..HAND_OFFS_OF_STREAM {
            if quota.is_used_up() {
                return false;
            }
            let newest_unnamed = self.newest_unnamed(id);
            let stream = self.registry.stream(id);
            if !stream.has_room() {
                self.record_stream_limit(id);
                return true;
            }
            match stream.next_ready(now.instant, newest_unnamed) {
                Next::Run(workflow, _) if self.waits_for_room(id, workflow.uid) => {
                    self.wake_at(id, None, now);
                    return true;
                }
                Next::Run(workflow, models) => match self.hand_off(id, workflow, &models, now, encode) {
                    Some(bytes) => quota.spend(1, bytes),
                    None => return false,
                },
                Next::NotBefore(at) => {
                    self.wake_at(id, Some(at), now);
                    return true;
                }
                Next::Names(run) => {
                    self.read_newer(id, run);
                    return true;
                }
                Next::Nothing => {
                    self.wake_at(id, None, now);
                    return true;
                }
            }
        }
        false
    }

    /// Has the next hand-off of a stream decided at this time, or earlier if the next probe has to wait no longer.
    fn wake_at(&mut self, id: StreamId, at: Option<Instant>, now: Now) {
        let starves_at = self.registry.stream(id).starves_at().filter(|at| *at > now.instant);
        match at.into_iter().chain(starves_at).min() {
            Some(at) => self.timers.set(at, Timer::HandOff(id)),
            None => self.timers.cancel(&Timer::HandOff(id)),
        }
    }

    /// Hands a run to a stream, unless it may not be sent. Returns the bytes of its payload, or `None` if the verdict
    /// of the filter is not known before the next turn.
    fn hand_off(
        &mut self,
        id: StreamId,
        workflow: Arc<Workflow>,
        models: &RunModels,
        now: Now,
        encode: &Encode<'_>,
    ) -> Option<usize> {
        let subscription = self.registry.stream(id).subscription.clone();
        if !self.pipeline_matches(id, &workflow, models)? {
            self.drop_run(id, workflow.uid);
            self.filtered(id, &workflow, FilterReason::Pipelines);
            return Some(0);
        }
        if subscription.is_too_old(&workflow, now.unix) {
            self.record_age_exclusion(now);
            self.drop_run(id, workflow.uid);
            self.filtered(id, &workflow, FilterReason::MaxAge);
            return Some(0);
        }
        match encode(&workflow, models, &subscription) {
            Ok(payload) => {
                let bytes = payload.len();
                // Without room, the next attempt finds that the stream waits for it.
                let Some(space) = self.reserve_payload(id, workflow.uid, bytes, now) else { return Some(bytes) };
                let failed = self.registry.state(&subscription).map(|state| &state.failed);
                let redelivery = failed.is_some_and(|failed| failed.contains(workflow.uid));
                let stream = self.registry.stream(id);
                let (handoff, pending_for) = stream.hand_off(workflow.uid, payload, space, now.instant);
                self.sent(id, &workflow, models);
                let stream = id;
                self.actions.push(Action::HandOff { stream, subscription, handoff, workflow, pending_for, redelivery });
                Some(bytes)
            }
            Err(reason) => {
                self.exclude(id, workflow.uid);
                self.report(Report::Skipped { subscription, workflow, reason });
                Some(0)
            }
        }
    }

    /// Excludes a run from a stream that has no valid event: every lookup would find the same.
    fn exclude(&mut self, id: StreamId, run: Uid) {
        let stream = self.registry.stream(id);
        if stream.subscription.remember && self.deleted.release(run, &stream.subscription.name, &mut self.timers) {
            stream.remove(run);
        } else {
            stream.set_state(run, State::Excluded);
        }
    }
}
