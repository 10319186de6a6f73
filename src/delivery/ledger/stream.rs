//! One stream: its runs, and the state of each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{budget::Reservation, lookups::Lookup, quarantine::Quarantine, types::Age};
use crate::{
    delivery::{Handoff, MAX_UNACKNOWLEDGED},
    model::{RunModels, Subscription, Uid, Workflow},
};

/// Bytes of unacknowledged payloads above which nothing more is handed off. A single event is always allowed.
const MAX_UNACKNOWLEDGED_BYTES: usize = 4 * 1024 * 1024;
/// Ready runs above which no further lookups begin: enough to keep a fast subscriber busy.
const MAX_READY: usize = MAX_UNACKNOWLEDGED;
/// Bytes of the models of ready runs above which no further lookups begin. A single run is always allowed, and runs in
/// quarantine do not count: they must not delay the others.
const MAX_READY_BYTES: usize = 1024 * 1024;
/// The time for which a ready run waits for the first lookup of an older one, so that runs are sent in order where
/// nothing fails.
const IN_ORDER: Duration = Duration::from_millis(500);

/// The state of a run in a stream.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Its models have not been looked up.
    Queued,
    /// A lookup of its models is in flight or will be retried.
    AwaitingLookup,
    /// Its event can be handed off: in quarantine as a probe, at this time.
    Ready { models: ReadyModels, probe_at: Option<Instant> },
    /// Its event was handed off and is not confirmed.
    HandedOff { sequence: u64, at: Instant },
    /// It is not sent: the subscription's filter excludes it, or it has no valid event.
    Excluded,
}

/// The models of a ready run, and the bytes that they take.
#[derive(Clone, Debug)]
pub(super) struct ReadyModels {
    pub(super) models: Arc<RunModels>,
    pub(super) bytes: usize,
    /// Shared by the streams that hold the same models. `None` for few bytes for which there was no room.
    pub(super) _space: Option<Arc<Reservation>>,
}

#[derive(Debug)]
pub(super) struct Run {
    age: Age,
    /// The latest record.
    pub(super) workflow: Arc<Workflow>,
    pub(super) state: State,
    /// The time since which the run is pending for the subscription, as far as known.
    pub(super) pending_since: Instant,
    /// Its delivery is already recorded, through another stream of the subscription or another replica.
    pub(super) already_delivered: bool,
}

impl Run {
    pub(super) fn is_handed_off(&self) -> bool {
        matches!(self.state, State::HandedOff { .. })
    }

    pub(super) fn is_excluded(&self) -> bool {
        matches!(self.state, State::Excluded)
    }

    fn awaits_lookup(&self) -> bool {
        matches!(self.state, State::AwaitingLookup)
    }
}

/// The runs that wait for something, in the order of their age.
#[derive(Debug, Default)]
struct Queues {
    queued: BTreeSet<Age>,
    /// Runs whose first lookup is in flight, and the time until which younger runs wait for it.
    awaiting_lookup: BTreeMap<Age, Instant>,
    ready: BTreeSet<Age>,
    ready_bytes: usize,
    /// The bytes of the models that were found last: what the next ones may take.
    last_bytes: usize,
    quarantine: Quarantine,
    /// Models were found that the stream may not hold: no lookups begin until it holds less.
    is_saturated: bool,
}

impl Queues {
    fn dequeue(&mut self, run: &Run) {
        match &run.state {
            State::Queued => {
                self.queued.remove(&run.age);
            }
            State::AwaitingLookup => {
                self.awaiting_lookup.remove(&run.age);
            }
            State::Ready { models, probe_at: None } => {
                self.ready.remove(&run.age);
                self.ready_bytes -= models.bytes;
                self.is_saturated = false;
            }
            State::Ready { probe_at: Some(at), .. } => {
                self.quarantine.remove(*at, run.age);
                self.is_saturated = false;
            }
            State::HandedOff { .. } | State::Excluded => {}
        }
    }
}

/// The run to be handed off next.
#[derive(Debug)]
pub(super) enum Next {
    Run(Arc<Workflow>, Arc<RunModels>),
    NotBefore(Instant),
    Nothing,
}

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

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) subscription: Arc<Subscription>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) runs: HashMap<Uid, Run>,
    queues: Queues,
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
    pub(super) fn new(subscription: Arc<Subscription>, peer: Option<SocketAddr>) -> Self {
        Self {
            subscription,
            peer,
            runs: HashMap::new(),
            queues: Queues::default(),
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            silent_since: None,
            is_full: false,
            acknowledged: VecDeque::new(),
            last_sequence: 0,
        }
    }

    // === runs ===

    pub(super) fn insert(&mut self, workflow: Arc<Workflow>, pending_since: Instant) {
        let age = Age::of(&workflow);
        self.queues.queued.insert(age);
        let run = Run { age, workflow, state: State::Queued, pending_since, already_delivered: false };
        let replaced = self.runs.insert(age.uid, run);
        debug_assert!(replaced.is_none(), "{} was there already", age.uid);
    }

    /// Removes a run. If its event was handed off, the acknowledgement has no effect.
    pub(super) fn remove(&mut self, run: Uid) -> Option<Run> {
        let run = self.runs.remove(&run)?;
        self.queues.dequeue(&run);
        Some(run)
    }

    /// Excludes a run for a reason that would be found again: so it is remembered.
    pub(super) fn exclude(&mut self, run: Uid) {
        let run = self.runs.get_mut(&run).expect("the run is one of the stream's");
        self.queues.dequeue(run);
        run.state = State::Excluded;
    }

    // === lookups ===

    /// Returns whether the models of another run should be looked up now.
    pub(super) fn has_demand(&self) -> bool {
        let Queues { queued, ready, awaiting_lookup, ready_bytes, last_bytes, is_saturated, .. } = &self.queues;
        let expected_bytes = ready_bytes + (1 + awaiting_lookup.len()) * last_bytes;
        let has_room = expected_bytes <= MAX_READY_BYTES || (ready.is_empty() && awaiting_lookup.is_empty());
        !queued.is_empty() && ready.len() < MAX_READY && has_room && !is_saturated
    }

    /// Takes the oldest run whose models have not been looked up.
    pub(super) fn next_to_look_up(&mut self, now: Instant) -> Option<Arc<Workflow>> {
        if !self.has_demand() {
            return None;
        }
        let age = self.queues.queued.pop_first()?;
        let run = self.runs.get_mut(&age.uid).expect("a queued run is one of the stream's");
        run.state = State::AwaitingLookup;
        self.queues.awaiting_lookup.insert(age, now + IN_ORDER);
        Some(run.workflow.clone())
    }

    /// Returns whether the stream awaits a lookup. There is no other record of that.
    pub(super) fn awaits(&self, lookup: &Lookup) -> bool {
        self.subscription.artifact_types == lookup.types
            && self.runs.get(&lookup.workflow.uid).is_some_and(Run::awaits_lookup)
    }

    /// The runs that await a lookup.
    pub(super) fn awaiting_lookup(&self) -> impl Iterator<Item = Uid> {
        self.runs.iter().filter(|(_, run)| run.awaits_lookup()).map(|(uid, _)| *uid)
    }

    /// Lets younger runs be sent before one whose lookup has failed. Returns whether they had to wait for it.
    pub(super) fn lookup_failed(&mut self, run: Uid) -> bool {
        let age = self.runs.get(&run).map(|run| run.age);
        age.is_some_and(|age| self.queues.awaiting_lookup.remove(&age).is_some())
    }

    /// Takes the models of a run that awaits them. A run in quarantine has the time of its next probe.
    pub(super) fn models_found(&mut self, run: Uid, models: ReadyModels, probe_at: Option<Instant>) {
        let run = self.runs.get_mut(&run).filter(|run| run.awaits_lookup()).expect("the run awaits its models");
        self.queues.dequeue(run);
        let bytes = models.bytes;
        self.queues.last_bytes = bytes;
        run.state = State::Ready { models, probe_at };
        match probe_at {
            None => {
                self.queues.ready.insert(run.age);
                self.queues.ready_bytes += bytes;
            }
            Some(at) => self.queues.quarantine.insert(at, run.age),
        }
    }

    /// Returns whether the stream may hold these bytes of models beside those of other ready runs.
    pub(super) fn may_hold_ready(&self, bytes: usize) -> bool {
        self.queues.ready.is_empty() || self.queues.ready_bytes + bytes <= MAX_READY_BYTES
    }

    /// Returns whether the stream holds neither models nor unacknowledged payloads.
    pub(super) fn holds_nothing(&self) -> bool {
        self.queues.ready.is_empty() && self.queues.quarantine.next().is_none() && self.unacknowledged.is_empty()
    }

    /// Drops the models of a run that awaits them, because the stream may not hold them. They are looked up again once it
    /// holds less, or after [`Stream::resume_lookups`].
    pub(super) fn postpone(&mut self, run: Uid, bytes: usize) {
        let run = self.runs.get_mut(&run).filter(|run| run.awaits_lookup()).expect("the run awaits its models");
        self.queues.dequeue(run);
        run.state = State::Queued;
        self.queues.queued.insert(run.age);
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

    /// Returns the oldest ready run, after a short wait for older ones that may be ready soon. Without one, or where the
    /// quarantine is starving, returns the next probe, provided that nothing else is unconfirmed.
    pub(super) fn next_ready(&self, now: Instant) -> Next {
        let Queues { awaiting_lookup, ready, quarantine, .. } = &self.queues;
        if let Some(age) = ready.first().filter(|_| !quarantine.is_starving(now)) {
            let older = awaiting_lookup.range(..age).map(|(_, until)| *until);
            return match older.filter(|until| *until > now).min() {
                Some(until) => Next::NotBefore(until),
                None => self.ready(age.uid),
            };
        }
        match quarantine.next().filter(|_| !self.has_unconfirmed()) {
            Some(probe) if probe.due > now => Next::NotBefore(probe.due),
            Some(probe) => self.ready(probe.run),
            None => Next::Nothing,
        }
    }

    fn ready(&self, run: Uid) -> Next {
        match self.runs.get(&run) {
            Some(Run { workflow, state: State::Ready { models, .. }, .. }) => {
                Next::Run(workflow.clone(), models.models.clone())
            }
            other => unreachable!("{run} is queued as ready: {other:?}"),
        }
    }

    /// Records a hand-off. Returns it, and the time for which the run was pending.
    pub(super) fn hand_off(
        &mut self,
        run: Uid,
        payload: Bytes,
        space: Reservation,
        now: Instant,
    ) -> (Handoff, Duration) {
        let entry = self.runs.get_mut(&run).expect("the run is one of the stream's");
        self.queues.dequeue(entry);
        if matches!(entry.state, State::Ready { probe_at: Some(_), .. }) {
            self.queues.quarantine.probed(now);
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        entry.state = State::HandedOff { sequence, at: now };
        self.unacknowledged_bytes += payload.len();
        self.silent_since.get_or_insert(now);
        self.unacknowledged.push_back(Unacknowledged { sequence, run, bytes: payload.len(), _space: space });
        (Handoff { sequence, payload }, now.saturating_duration_since(entry.pending_since))
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
        first && !self.acknowledged.is_empty()
    }

    /// Takes the deliveries that are confirmed by now. Also returns the time of the next confirmation.
    pub(super) fn take_confirmed(&mut self, now: Instant) -> (Vec<Confirmed>, Option<Instant>) {
        let mut confirmed = Vec::new();
        while self.acknowledged.front().is_some_and(|next| next.confirm_at <= now)
            && let Some(next) = self.acknowledged.pop_front()
        {
            // The run may have been restarted since, and even have been handed off again.
            if let Some(State::HandedOff { sequence, at }) = self.runs.get(&next.run).map(|run| &run.state)
                && *sequence == next.sequence
            {
                let handed_off = *at;
                confirmed.extend(self.runs.remove(&next.run).map(|run| Confirmed { run, handed_off }));
            }
        }
        self.shrink();
        (confirmed, self.acknowledged.front().map(|next| next.confirm_at))
    }

    /// The runs that were handed off and whose delivery is not recorded.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(|run| run.is_handed_off() && !run.already_delivered)
    }

    /// Frees the memory of a long catch-up.
    fn shrink(&mut self) {
        if self.runs.capacity() > 4 * self.runs.len().max(MAX_UNACKNOWLEDGED) {
            self.runs.shrink_to(2 * self.runs.len());
        }
        if self.acknowledged.capacity() > 4 * self.acknowledged.len().max(MAX_UNACKNOWLEDGED) {
            self.acknowledged.shrink_to(2 * self.acknowledged.len());
        }
    }
}
