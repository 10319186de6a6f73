//! Lookups of the models of runs: the order in which they begin, and their retries.
//!
//! Equal lookups (of one run and one set of types) are one lookup, however many streams await it. A limited number is in
//! flight in each namespace, and namespaces take turns, so that a namespace whose lookups hang delays no other. Within a
//! namespace first attempts and retries alternate. A lookup that waits for its retry holds no place, and neither does a
//! slow one, up to a limit for each namespace.
//!
//! The streams know which lookups they await; this module does not. A failed lookup is kept until its retry is due, with
//! or without such a stream: a stream that breaks and returns every few seconds neither shortens the pauses nor causes
//! more lookups.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::rngs::SmallRng;

use super::{
    timers::{Timer, Timers},
    types::{Action, LookupId, Report},
};
use crate::{
    backoff::Backoff,
    delivery::{LookupError, LookupLimits, StreamId},
    model::{ArtifactTypes, RunModels, Uid, Workflow},
};

/// The time for which an absent context may mean that it has not been written yet.
pub const CONTEXT_EXPECTED: Duration = Duration::from_secs(120);
/// Pauses between attempts.
const RETRY: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(30) };
/// Pauses between attempts for a run that ML Metadata does not seem to know.
const SLOW_RETRY: Backoff = Backoff { first: Duration::from_secs(3600), max: Duration::from_secs(3600) };
/// The time after which a lookup in flight is slow and no longer holds a place.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// Slow lookups of a namespace, for each place that it has.
pub(super) const SLOW_PER_PLACE: usize = 3;
/// Lookups above which a failed one is dropped that no stream awaits.
pub(super) const MAX_KEPT: usize = 10_000;

#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) workflow: Arc<Workflow>,
    pub(super) types: Arc<ArtifactTypes>,
    /// Attempts so far.
    attempt: u32,
    /// The time of the first answer without a context. Failures before it prove nothing about the run.
    missing_since: Option<Instant>,
    phase: Phase,
    /// Set once retries have become rare.
    given_up: bool,
    /// The answer is ignored: the run was restarted, or its Workflow was deleted.
    cancelled: bool,
    /// The Workflow was deleted: the answer serves the streams that await it, but is not remembered.
    pub(super) deleted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits for its turn or for its retry.
    Waiting,
    /// It is in flight and holds a place.
    InFlight,
    /// It is in flight without a place.
    Slow,
}

/// The consequence of an answer.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The models, or the certainty that there are none.
    Found { lookup: Lookup, models: Arc<RunModels> },
    /// The lookup will be retried.
    Failed { report: Report },
    /// The answer is ignored.
    Ignored,
}

/// The consequence of a stream's request.
#[derive(Debug)]
pub(super) enum Requested {
    /// There is a new lookup, which can begin.
    New(LookupId),
    /// An equal lookup is in flight.
    InFlight,
    /// An equal lookup has failed and waits for its retry, which is rare if the run is not known.
    AwaitingRetry { given_up: bool },
}

/// A permission to begin one lookup.
#[derive(Debug)]
pub(super) enum Turn {
    /// For this retry, unless it was dropped since.
    Retry(LookupId),
    /// For a run of this stream, unless the stream has ended since.
    Stream(StreamId),
}

/// The queues of one namespace.
#[derive(Debug, Default)]
struct Queues {
    retries: VecDeque<LookupId>,
    streams: VecDeque<StreamId>,
    /// The members of `streams`.
    queued: HashSet<StreamId>,
    /// Lookups that hold a place.
    in_flight: usize,
    /// Slow lookups in flight.
    slow: usize,
    retry_next: bool,
    in_rotation: bool,
}

impl Queues {
    fn next_retry(&mut self) -> Option<Turn> {
        self.retries.pop_front().map(Turn::Retry)
    }

    fn next_stream(&mut self) -> Option<Turn> {
        let stream = self.streams.pop_front()?;
        self.queued.remove(&stream);
        Some(Turn::Stream(stream))
    }
}

#[derive(Debug)]
pub(super) struct Lookups {
    limits: LookupLimits,
    in_flight: usize,
    lookups: HashMap<LookupId, Lookup>,
    /// The lookups of each run that are not cancelled.
    by_run: HashMap<Uid, Vec<LookupId>>,
    namespaces: HashMap<Arc<str>, Queues>,
    /// The namespaces in which a lookup can begin.
    rotation: VecDeque<Arc<str>>,
    last_id: u64,
}

impl Lookups {
    pub(super) fn new(limits: LookupLimits) -> Self {
        Self {
            limits,
            in_flight: 0,
            lookups: HashMap::new(),
            by_run: HashMap::new(),
            namespaces: HashMap::new(),
            rotation: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Queues a stream that has demand.
    pub(super) fn queue_stream(&mut self, namespace: &Arc<str>, stream: StreamId) {
        let queues = self.namespaces.entry(namespace.clone()).or_default();
        if queues.queued.insert(stream) {
            queues.streams.push_back(stream);
        }
        self.schedule(namespace);
    }

    /// Queues a retry that is due.
    pub(super) fn queue_retry(&mut self, id: LookupId) {
        let namespace = self.lookup(id).workflow.namespace.clone();
        self.namespaces.entry(namespace.clone()).or_default().retries.push_back(id);
        self.schedule(&namespace);
    }

    /// Returns whose turn it is. Namespaces take turns.
    pub(super) fn next_turn(&mut self) -> Option<Turn> {
        while self.in_flight < self.limits.total {
            let namespace = self.rotation.pop_front()?;
            let Some(queues) = self.namespaces.get_mut(&namespace) else { continue };
            queues.in_rotation = false;
            if queues.in_flight >= self.limits.per_namespace {
                continue;
            }
            queues.retry_next = !queues.retry_next;
            let turn = if queues.retry_next {
                queues.next_retry().or_else(|| queues.next_stream())
            } else {
                queues.next_stream().or_else(|| queues.next_retry())
            };
            self.schedule(&namespace);
            if turn.is_some() {
                return turn;
            }
        }
        None
    }

    /// Returns whether a lookup may begin.
    pub(super) fn has_turn(&self) -> bool {
        self.in_flight < self.limits.total && !self.rotation.is_empty()
    }

    /// Requests the models of a run, whose Workflow may have been deleted.
    pub(super) fn request(&mut self, workflow: &Arc<Workflow>, types: &Arc<ArtifactTypes>, deleted: bool) -> Requested {
        let same_run = self.by_run.entry(workflow.uid).or_default();
        let equal = same_run.iter().filter_map(|id| self.lookups.get(id)).find(|lookup| lookup.types == *types);
        match equal.map(|lookup| (lookup.phase, lookup.given_up)) {
            Some((Phase::Waiting, given_up)) => return Requested::AwaitingRetry { given_up },
            // A retry of a run that is not known, most likely in vain.
            Some((_, true)) => return Requested::AwaitingRetry { given_up: true },
            Some((Phase::InFlight | Phase::Slow, false)) => return Requested::InFlight,
            None => {}
        }
        self.last_id += 1;
        let id = LookupId(self.last_id);
        same_run.push(id);
        let lookup = Lookup {
            workflow: workflow.clone(),
            types: types.clone(),
            attempt: 0,
            missing_since: None,
            phase: Phase::Waiting,
            given_up: false,
            cancelled: false,
            deleted,
        };
        self.lookups.insert(id, lookup);
        Requested::New(id)
    }

    /// Begins an attempt. Returns what the driver has to do.
    pub(super) fn begin(&mut self, id: LookupId, now: Instant, timers: &mut Timers) -> Action {
        let lookup = self.lookups.get_mut(&id).expect("a lookup that can begin exists");
        debug_assert_eq!(lookup.phase, Phase::Waiting);
        lookup.phase = Phase::InFlight;
        lookup.attempt = lookup.attempt.saturating_add(1);
        timers.set(now + SLOW, Timer::SlowLookup(id));
        self.in_flight += 1;
        self.namespaces.entry(lookup.workflow.namespace.clone()).or_default().in_flight += 1;
        let (workflow, types) = (lookup.workflow.clone(), lookup.types.clone());
        Action::Lookup { id, workflow, types, attempt: lookup.attempt }
    }

    /// Takes the place from a lookup that is slow, or checks again later where too many are.
    pub(super) fn slow(&mut self, id: LookupId, now: Instant, timers: &mut Timers) {
        let lookup = self.lookups.get_mut(&id).expect("a lookup in flight exists");
        debug_assert_eq!(lookup.phase, Phase::InFlight);
        let namespace = lookup.workflow.namespace.clone();
        let queues = self.namespaces.get_mut(&namespace).expect("a namespace with a lookup in flight exists");
        if queues.slow >= SLOW_PER_PLACE * self.limits.per_namespace {
            timers.set(now + SLOW, Timer::SlowLookup(id));
            return;
        }
        lookup.phase = Phase::Slow;
        queues.slow += 1;
        queues.in_flight -= 1;
        self.schedule(&namespace);
    }

    /// Handles the answer of an attempt. `is_awaited` returns whether a stream awaits the lookup.
    pub(super) fn handle_answer(
        &mut self,
        id: LookupId,
        answer: Result<Arc<RunModels>, LookupError>,
        is_awaited: impl FnOnce(&Lookup) -> bool,
        now: Instant,
        timers: &mut Timers,
        jitter: &mut SmallRng,
    ) -> Outcome {
        self.end_attempt(id, timers);
        let lookup = self.lookup(id);
        match answer {
            _ if lookup.cancelled => {
                self.remove(id);
                Outcome::Ignored
            }
            Ok(models) => Outcome::Found { lookup: self.remove(id), models },
            Err(_) if self.is_full() && !is_awaited(lookup) => {
                self.remove(id);
                Outcome::Ignored
            }
            Err(error) => {
                let lookup = self.lookups.get_mut(&id).expect("a lookup in flight exists");
                let (retry_in, given_up) = lookup.fail(&error, now, jitter);
                timers.set(now + retry_in, Timer::RetryLookup(id));
                let (workflow, attempt) = (lookup.workflow.clone(), lookup.attempt);
                Outcome::Failed { report: Report::LookupFailed { workflow, error, attempt, retry_in, given_up } }
            }
        }
    }

    /// Drops the failed lookups of a run that no stream awaits, where too many are kept.
    pub(super) fn trim(&mut self, run: Uid, is_awaited: impl Fn(&Lookup) -> bool, timers: &mut Timers) {
        if self.is_full() {
            self.cancel_where(run, timers, |lookup| lookup.phase == Phase::Waiting && !is_awaited(lookup));
        }
    }

    /// Notes that a Workflow was deleted: its lookups serve only the streams that await them now.
    pub(super) fn workflow_deleted(&mut self, run: Uid, is_awaited: impl Fn(&Lookup) -> bool, timers: &mut Timers) {
        self.cancel_where(run, timers, |lookup| {
            lookup.deleted = true;
            !is_awaited(lookup)
        });
    }

    /// Notes that a Workflow that was deleted is there again.
    pub(super) fn workflow_returned(&mut self, run: Uid) {
        for id in self.by_run.get(&run).into_iter().flatten() {
            self.lookups.get_mut(id).into_iter().for_each(|lookup| lookup.deleted = false);
        }
    }

    /// Cancels the lookups of a run that was restarted, or is looked up by other fields now.
    pub(super) fn forget(&mut self, run: Uid, timers: &mut Timers) {
        self.cancel_where(run, timers, |_| true);
    }

    /// Cancels lookups of a run, so that later requests do not join them. One in flight stays until its answer, which is
    /// ignored.
    fn cancel_where(&mut self, run: Uid, timers: &mut Timers, mut condition: impl FnMut(&mut Lookup) -> bool) {
        for id in self.by_run.get(&run).cloned().unwrap_or_default() {
            let lookup = self.lookups.get_mut(&id).expect("an indexed lookup exists");
            if !condition(lookup) {
                continue;
            }
            if lookup.phase == Phase::Waiting {
                timers.cancel(&Timer::RetryLookup(id));
                self.remove(id);
            } else {
                lookup.cancelled = true;
                self.deindex(id, run);
            }
        }
    }

    pub(super) fn get(&self, id: LookupId) -> Option<&Lookup> {
        self.lookups.get(&id)
    }

    /// Drops a lookup that is not in flight.
    pub(super) fn remove(&mut self, id: LookupId) -> Lookup {
        let lookup = self.lookups.remove(&id).expect("the lookup exists");
        debug_assert_eq!(lookup.phase, Phase::Waiting);
        self.deindex(id, lookup.workflow.uid);
        lookup
    }

    /// Returns whether there is a lookup of a run that is not cancelled.
    #[cfg(test)]
    pub(super) fn has_lookup(&self, run: Uid, types: &Arc<ArtifactTypes>) -> bool {
        self.by_run.get(&run).is_some_and(|same_run| same_run.iter().any(|id| self.lookup(*id).types == *types))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lookups.len()
    }

    /// Returns whether nothing is left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lookups.is_empty() && self.by_run.is_empty() && self.namespaces.is_empty()
    }

    fn lookup(&self, id: LookupId) -> &Lookup {
        self.lookups.get(&id).expect("the lookup exists")
    }

    /// Returns whether too many lookups are kept to keep failed ones that no stream awaits.
    pub(super) fn is_full(&self) -> bool {
        self.lookups.len() > MAX_KEPT
    }

    fn end_attempt(&mut self, id: LookupId, timers: &mut Timers) {
        let lookup = self.lookups.get_mut(&id).expect("a lookup in flight exists");
        let namespace = lookup.workflow.namespace.clone();
        let queues = self.namespaces.get_mut(&namespace).expect("a namespace with a lookup in flight exists");
        match std::mem::replace(&mut lookup.phase, Phase::Waiting) {
            Phase::InFlight => queues.in_flight -= 1,
            Phase::Slow => queues.slow -= 1,
            Phase::Waiting => unreachable!("each attempt is answered once"),
        }
        self.in_flight -= 1;
        timers.cancel(&Timer::SlowLookup(id));
        self.schedule(&namespace);
    }

    /// Removes a lookup from the index by run.
    fn deindex(&mut self, id: LookupId, run: Uid) {
        if let Some(same_run) = self.by_run.get_mut(&run) {
            same_run.retain(|other| *other != id);
            if same_run.is_empty() {
                self.by_run.remove(&run);
            }
        }
    }

    /// Adds a namespace to the rotation, if a lookup can begin in it. Drops its queues, if nothing is left in them.
    fn schedule(&mut self, namespace: &Arc<str>) {
        let Some(queues) = self.namespaces.get_mut(namespace) else { return };
        let is_waiting = !queues.retries.is_empty() || !queues.streams.is_empty();
        if is_waiting && queues.in_flight < self.limits.per_namespace && !queues.in_rotation {
            queues.in_rotation = true;
            self.rotation.push_back(namespace.clone());
        } else if !is_waiting && queues.in_flight + queues.slow == 0 {
            self.namespaces.remove(namespace);
        }
    }
}

impl Lookup {
    /// Returns whether retries have become rare, because the source of models does not know the run.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Records a failed attempt. Returns the pause before the next one, and whether retries have just become rare.
    fn fail(&mut self, error: &LookupError, now: Instant, jitter: &mut SmallRng) -> (Duration, bool) {
        let is_unknown = match error {
            LookupError::NoContext => {
                let since = *self.missing_since.get_or_insert(now);
                now.saturating_duration_since(since) >= CONTEXT_EXPECTED
            }
            LookupError::ForeignContext { .. } | LookupError::TooLarge => true,
            LookupError::Failed { .. } => false,
        };
        let given_up = is_unknown && !self.given_up;
        self.given_up |= is_unknown;
        let backoff = if is_unknown { SLOW_RETRY } else { RETRY };
        (backoff.pause(self.attempt, jitter), given_up)
    }
}
