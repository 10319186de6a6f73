//! One stream: its runs, and the events that were handed to it.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    budget::Reservation,
    filters::FilterId,
    latest::{Candidates, Lane, Recency},
    lookups::Lookup,
    next::IN_ORDER,
    queues::Queues,
    registry::TypesId,
    types::{Age, FilterCounts, Now},
};
use crate::{
    delivery::{Handoff, MAX_UNACKNOWLEDGED, status::StreamStatus},
    model::{Subscription, Uid, Workflow},
};

pub(super) use super::queues::{ReadyModels, Run, State};

/// Bytes of unacknowledged payloads above which nothing more is handed off. A single event is always allowed.
const MAX_UNACKNOWLEDGED_BYTES: usize = 4 * 1024 * 1024;
/// Ready runs above which no further lookups begin: enough to keep a fast subscriber busy.
const MAX_READY: usize = MAX_UNACKNOWLEDGED;
/// Bytes of the models of ready runs above which no further lookups begin. A single run is always allowed, and runs in
/// quarantine do not count: they must not delay the others.
const MAX_READY_BYTES: usize = 1024 * 1024;
/// Deliveries that are confirmed at once: each is logged, traced and marked.
pub(super) const MAX_CONFIRMED_AT_ONCE: usize = 64;

#[derive(Debug)]
struct Unacknowledged {
    sequence: u64,
    run: Uid,
    bytes: usize,
    _space: Reservation,
}

#[derive(Debug)]
struct Acknowledged {
    confirm_at: Instant,
    sequence: u64,
    run: Uid,
}

/// A delivery that a stream has confirmed.
#[derive(Debug)]
pub(super) struct Confirmed {
    pub(super) run: Run,
    pub(super) handed_off: Instant,
}

/// The state of a stream that is offered all records of its namespace for the first time. Until that is done, nothing is
/// looked up or handed off, so that the oldest runs come first.
#[derive(Debug, Default)]
pub(super) struct Attaching {
    /// Deleted runs that the subscription has a claim to and that were not offered yet.
    pub(super) claimed: Vec<Arc<Workflow>>,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) subscription: Arc<Subscription>,
    pub(super) peer: Option<SocketAddr>,
    /// The wall clock at the attachment.
    pub(super) attached: i64,
    /// The same on the monotonic clock.
    pub(super) attached_at: Instant,
    /// The filter for pipelines, unless every name matches.
    pub(super) filter: Option<FilterId>,
    pub(super) types: TypesId,
    pub(super) attaching: Option<Attaching>,
    /// The runs that its filters have excluded.
    pub(super) filtered: FilterCounts,
    /// The readers of its namespace's records.
    pub(super) readers: usize,
    pub(super) runs: HashMap<Uid, Run>,
    pub(super) queues: Queues,
    unacknowledged: VecDeque<Unacknowledged>,
    unacknowledged_bytes: usize,
    /// The time since which something is unacknowledged without any acknowledgement.
    silent_since: Option<Instant>,
    /// It was recorded that the unacknowledged bytes have reached their limit.
    is_full: bool,
    acknowledged: VecDeque<Acknowledged>,
    last_sequence: u64,
}

impl Stream {
    pub(super) fn new(
        subscription: Arc<Subscription>,
        peer: Option<SocketAddr>,
        filter: Option<FilterId>,
        types: TypesId,
        now: Now,
    ) -> Self {
        let candidates = subscription.latest_only.then(Box::<Candidates>::default);
        Self {
            subscription,
            peer,
            attached: now.unix,
            attached_at: now.instant,
            filter,
            types,
            attaching: Some(Attaching::default()),
            filtered: FilterCounts::default(),
            readers: 0,
            runs: HashMap::new(),
            queues: Queues { candidates, ..Queues::default() },
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            silent_since: None,
            is_full: false,
            acknowledged: VecDeque::new(),
            last_sequence: 0,
        }
    }

    // === runs ===

    /// Adds a run that is pending.
    pub(super) fn insert(&mut self, workflow: Arc<Workflow>, pending_since: Instant) {
        self.add(workflow, pending_since, false);
    }

    /// Adds a run that was delivered before, to have the name of its pipeline looked up.
    pub(super) fn insert_name_only(&mut self, workflow: Arc<Workflow>, now: Instant) {
        self.add(workflow, now, true);
    }

    fn add(&mut self, workflow: Arc<Workflow>, pending_since: Instant, is_name_only: bool) {
        let (age, state) = (Age::of(&workflow), State::Queued);
        let run = Run { age, workflow, state, pending_since, already_delivered: is_name_only, is_name_only };
        self.queues.enter(&run);
        let replaced = self.runs.insert(age.uid, run);
        debug_assert!(replaced.is_none(), "{} was there already", age.uid);
    }

    /// Replaces the record of a run that is pending according to it.
    pub(super) fn update(&mut self, workflow: &Arc<Workflow>) {
        let run = self.runs.get_mut(&workflow.uid).expect("the run is one of the stream's");
        self.queues.leave(run);
        run.workflow = workflow.clone();
        run.already_delivered = false;
        run.is_name_only = false;
        self.queues.enter(run);
    }

    /// Removes a run. If its event was handed off, the acknowledgement has no effect.
    pub(super) fn remove(&mut self, run: Uid) -> Option<Run> {
        let run = self.runs.remove(&run)?;
        self.queues.leave(&run);
        if self.runs.is_empty() {
            self.runs = HashMap::new();
        }
        Some(run)
    }

    /// Changes the state of a run.
    pub(super) fn set_state(&mut self, run: Uid, state: State) {
        let run = self.runs.get_mut(&run).expect("the run is one of the stream's");
        self.queues.leave(run);
        run.state = state;
        self.queues.enter(run);
    }

    /// Drops runs of a stream that has ended, `limit` at most. Returns whether none is left.
    pub(super) fn dispose(&mut self, limit: usize) -> bool {
        let disposed: Vec<_> = self.runs.keys().take(limit).copied().collect();
        for run in disposed {
            self.remove(run);
        }
        self.runs.is_empty()
    }

    /// The number of pending runs.
    pub(super) fn pending_runs(&self) -> usize {
        self.queues.pending_runs
    }

    /// The time since which the oldest pending run is.
    pub(super) fn oldest_pending(&self) -> Option<Instant> {
        self.queues.pending.first_key_value().map(|(since, _)| *since)
    }

    /// The number of runs that no lookup finds.
    pub(super) fn runs_without_context(&self) -> usize {
        self.queues.without_context
    }

    /// Its status, for the admin port.
    pub(super) fn status(&self, now: Instant) -> StreamStatus {
        StreamStatus {
            subscription: self.subscription.clone(),
            peer: self.peer,
            pending_runs: self.pending_runs(),
            oldest_pending: self.oldest_pending().map(|since| now.saturating_duration_since(since)),
            runs_without_context: self.runs_without_context(),
            filtered: self.filtered,
        }
    }

    /// With `latestOnly`, the runs that compete.
    pub(super) fn candidates_mut(&mut self) -> Option<&mut Candidates> {
        self.queues.candidates.as_deref_mut()
    }

    /// Holds the ready runs of a lane that are older than this one, which was sent.
    pub(super) fn hold_older(&mut self, lane: &Lane, newest: Recency) {
        let older = self.queues.candidates.as_ref().map(|candidates| candidates.ready_before(lane, newest));
        for run in older.into_iter().flatten() {
            self.set_state(run, State::Held { lane: lane.clone() });
        }
    }

    // === lookups ===

    /// Returns whether the models of another run should be looked up now.
    pub(super) fn has_demand(&self) -> bool {
        let Queues { queued, ready, first_lookups, ready_bytes, last_bytes, is_saturated, .. } = &self.queues;
        let expected_bytes = ready_bytes + (1 + first_lookups.len()) * last_bytes;
        let has_room = expected_bytes <= MAX_READY_BYTES || (ready.is_empty() && first_lookups.is_empty());
        self.attaching.is_none() && !queued.is_empty() && ready.len() < MAX_READY && has_room && !is_saturated
    }

    /// The next run whose models have not been looked up: the oldest, or with `latestOnly` the youngest.
    pub(super) fn next_queued(&self) -> Option<Arc<Workflow>> {
        let queued = &self.queues.queued;
        let next = if self.subscription.latest_only { queued.last() } else { queued.first() };
        next.filter(|_| self.has_demand()).map(|age| self.runs[&age.uid].workflow.clone())
    }

    /// Records that the first lookup of a run has begun.
    pub(super) fn lookup_begins(&mut self, run: Uid, now: Instant) {
        self.set_state(run, State::FirstLookup { until: now + IN_ORDER });
    }

    /// Records that the lookup of a run has failed: younger runs are sent before it.
    pub(super) fn lookup_failed(&mut self, run: Uid, is_given_up: bool) {
        let is_name_only = self.runs.get(&run).is_some_and(|run| run.is_name_only);
        match is_given_up {
            true if is_name_only => drop(self.remove(run)),
            true => self.set_state(run, State::WithoutContext),
            false => self.set_state(run, State::RetriedLookup),
        }
    }

    /// Returns whether the stream awaits a lookup. There is no other record of that.
    pub(super) fn awaits(&self, lookup: &Lookup) -> bool {
        self.runs.get(&lookup.workflow.uid).is_some_and(Run::awaits_lookup)
            && self.subscription.artifact_types == lookup.types
    }

    /// The runs that await a lookup.
    pub(super) fn awaiting_lookup(&self) -> impl Iterator<Item = Uid> {
        self.runs.iter().filter(|(_, run)| run.awaits_lookup()).map(|(uid, _)| *uid)
    }

    /// Takes the models of a run. One in quarantine has the time of its next probe.
    pub(super) fn models_found(&mut self, run: Uid, models: ReadyModels, probe_at: Option<Instant>, now: Instant) {
        self.queues.last_bytes = models.bytes;
        self.set_state(run, State::Ready { models, since: now, probe_at });
    }

    /// Returns whether the stream may hold these bytes of models beside those of other ready runs.
    pub(super) fn may_hold_ready(&self, bytes: usize) -> bool {
        self.queues.ready.is_empty() || self.queues.ready_bytes + bytes <= MAX_READY_BYTES
    }

    /// Returns whether the stream holds neither models nor unacknowledged payloads.
    pub(super) fn holds_nothing(&self) -> bool {
        self.queues.ready.is_empty() && self.queues.quarantine.next().is_none() && self.unacknowledged.is_empty()
    }

    /// Drops the models of a run, because the stream may not hold them. They are looked up again once it holds less, or
    /// after [`Stream::resume_lookups`].
    pub(super) fn postpone(&mut self, run: Uid, bytes: usize) {
        self.set_state(run, State::Queued);
        self.queues.last_bytes = bytes;
        self.queues.is_saturated = true;
    }

    pub(super) fn resume_lookups(&mut self) {
        self.queues.is_saturated = false;
    }

    // === hand-offs ===

    /// Returns whether another event may be handed off before the last ones are acknowledged.
    pub(super) fn has_room(&self) -> bool {
        self.unacknowledged.len() < MAX_UNACKNOWLEDGED
            && (self.unacknowledged_bytes < MAX_UNACKNOWLEDGED_BYTES || self.unacknowledged.is_empty())
    }

    /// Returns whether the unacknowledged bytes have reached their limit, once.
    pub(super) fn reaches_byte_limit(&mut self) -> bool {
        self.unacknowledged_bytes >= MAX_UNACKNOWLEDGED_BYTES && !std::mem::replace(&mut self.is_full, true)
    }

    pub(super) fn has_unacknowledged(&self) -> bool {
        !self.unacknowledged.is_empty()
    }

    pub(super) fn unacknowledged_bytes(&self) -> usize {
        self.unacknowledged_bytes
    }

    /// The time since which something is unacknowledged without any acknowledgement.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.silent_since
    }

    /// Returns whether an event was handed off and is not confirmed.
    pub(super) fn has_unconfirmed(&self) -> bool {
        !self.unacknowledged.is_empty() || !self.acknowledged.is_empty()
    }

    /// Records a hand-off. Returns it, and the time for which the run was pending.
    pub(super) fn hand_off(
        &mut self,
        run: Uid,
        payload: Bytes,
        space: Reservation,
        now: Instant,
    ) -> (Handoff, Duration) {
        let entry = &self.runs[&run];
        let pending_for = now.saturating_duration_since(entry.pending_since);
        if matches!(entry.state, State::Ready { probe_at: Some(_), .. }) {
            self.queues.quarantine.probed(now);
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.set_state(run, State::HandedOff { sequence, at: now });
        self.unacknowledged_bytes += payload.len();
        self.silent_since.get_or_insert(now);
        self.unacknowledged.push_back(Unacknowledged { sequence, run, bytes: payload.len(), _space: space });
        (Handoff { sequence, payload }, pending_for)
    }

    /// Records that every event up to this one was acknowledged, and is confirmed at `confirm_at`. Returns whether no
    /// earlier confirmation is due.
    pub(super) fn acknowledge(&mut self, sequence: u64, now: Instant, confirm_at: Instant) -> bool {
        let first = self.acknowledged.is_empty();
        let before = self.unacknowledged.len();
        while self.unacknowledged.front().is_some_and(|open| open.sequence <= sequence)
            && let Some(open) = self.unacknowledged.pop_front()
        {
            self.unacknowledged_bytes -= open.bytes;
            self.acknowledged.push_back(Acknowledged { confirm_at, sequence: open.sequence, run: open.run });
        }
        if self.unacknowledged.len() < before {
            self.silent_since = self.has_unacknowledged().then_some(now);
            self.is_full = false;
        }
        if self.unacknowledged.is_empty() {
            self.unacknowledged = VecDeque::new();
        }
        first && !self.acknowledged.is_empty()
    }

    /// Takes deliveries that are confirmed by now, a limited number. Also returns the time of the next confirmation.
    pub(super) fn take_confirmed(&mut self, now: Instant) -> (Vec<Confirmed>, Option<Instant>) {
        let mut confirmed = Vec::new();
        while confirmed.len() < MAX_CONFIRMED_AT_ONCE
            && self.acknowledged.front().is_some_and(|next| next.confirm_at <= now)
            && let Some(next) = self.acknowledged.pop_front()
        {
            // The run may have been restarted since, and even have been handed off again.
            if let Some(State::HandedOff { sequence, at }) = self.runs.get(&next.run).map(|run| &run.state)
                && *sequence == next.sequence
            {
                let handed_off = *at;
                confirmed.extend(self.remove(next.run).map(|run| Confirmed { run, handed_off }));
            }
        }
        self.shrink();
        (confirmed, self.acknowledged.front().map(|next| next.confirm_at))
    }

    /// The runs that were handed off and whose delivery is not recorded.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &Run> {
        let acknowledged = self.acknowledged.iter().map(|next| (next.run, next.sequence));
        let open = acknowledged.chain(self.unacknowledged.iter().map(|next| (next.run, next.sequence)));
        open.filter_map(|(run, number)| {
            let run = self.runs.get(&run)?;
            let is_handed_off = matches!(run.state, State::HandedOff { sequence, .. } if sequence == number);
            (is_handed_off && !run.already_delivered).then_some(run)
        })
    }

    /// Frees the memory of a long catch-up, and of an idle stream.
    fn shrink(&mut self) {
        if self.acknowledged.is_empty() {
            self.acknowledged = VecDeque::new();
        }
        if self.runs.capacity() > 4 * self.runs.len().max(MAX_UNACKNOWLEDGED) {
            self.runs.shrink_to(2 * self.runs.len());
        }
        if self.acknowledged.capacity() > 4 * self.acknowledged.len().max(MAX_UNACKNOWLEDGED) {
            self.acknowledged.shrink_to(2 * self.acknowledged.len());
        }
    }
}
