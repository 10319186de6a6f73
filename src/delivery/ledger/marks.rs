//! Marks to be written on Workflows and removed from them: one patch of a Workflow at a time, with everything that is
//! pending for it. [`turns`] has the order of the patches.

pub(super) mod turns;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::rngs::SmallRng;

use self::turns::{Entry, Next, Ticket, Turns};
use super::{
    timers::{Timer, Timers},
    types::{Action, Claimant, Report},
};
use crate::{
    backoff::Backoff,
    delivery::{MarkChange, MarkError, MarkPatch, MarkPlace, PatchLimits},
    model::{Mark, RunOutcome, Subscription, SubscriptionName, Uid, Workflow, workflow::MAX_MARKS},
};

/// Pauses after a failure that may pass by itself.
const RETRY: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(60) };
/// Pauses after a refusal, which does not pass by itself. But rights that were withdrawn by mistake are soon restored,
/// and until the mark is written no other replica knows of the delivery.
const PARKED: Backoff = Backoff { first: Duration::from_secs(10), max: Duration::from_secs(600) };

/// The pending changes of one Workflow.
#[derive(Debug)]
struct Pending {
    namespace: Arc<str>,
    name: Box<str>,
    set: BTreeMap<SubscriptionName, RunOutcome>,
    /// A [`MarkChange::Remove`].
    remove: Option<MarkChange>,
    /// The place in which marks are written next.
    place: MarkPlace,
    state: State,
    /// Attempts in a row that failed, and the one in flight.
    attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued(Ticket),
    /// Its patch is in flight and holds a place.
    InFlight,
    /// Its patch is in flight without a place.
    Slow,
    /// It waits for its retry after a failure.
    AwaitingRetry,
    /// It waits for its retry after a refusal.
    Parked,
}

/// Each Workflow's changes are in `pending`. Everything else is an index of them, which [`Marks::change`] maintains.
#[derive(Debug)]
pub(super) struct Marks {
    pending: HashMap<Uid, Pending>,
    turns: Turns,
    /// Workflows that are parked.
    parked: usize,
    /// The numbers of Workflows on which a mark of a subscription is likely to be written soon.
    unwritten: HashMap<Claimant, usize>,
    /// In a drain, the subscriptions that were removed from `unwritten`.
    written: BTreeSet<Claimant>,
    draining: bool,
}

impl Marks {
    pub(super) fn new(limits: PatchLimits, rate: Option<NonZeroU32>) -> Self {
        Self {
            pending: HashMap::new(),
            turns: Turns::new(limits, rate),
            parked: 0,
            unwritten: HashMap::new(),
            written: BTreeSet::new(),
            draining: false,
        }
    }

    /// Adds the mark of a delivery. Returns `false` where the Workflow has no room for another mark.
    pub(super) fn add(&mut self, workflow: &Workflow, mark: &Mark, timers: &mut Timers) -> bool {
        let added = self.pending.get(&workflow.uid).map_or(0, |pending| pending.set.len());
        let is_there = workflow.marks.iter().any(|other| other.subscription == mark.subscription);
        if !is_there && workflow.marks.len() + added >= MAX_MARKS {
            return false;
        }
        self.change_of(workflow, timers, |pending| {
            pending.set.insert(mark.subscription.clone(), mark.outcome);
        });
        true
    }

    /// Removes the marks of outcomes that a restarted run has left, and adds none of those.
    pub(super) fn remove_stale(&mut self, workflow: &Workflow, timers: &mut Timers) {
        let Some(resource_version) = workflow.marks.resource_version() else { return };
        let subscriptions: BTreeSet<_> = workflow.stale_marks().map(|mark| mark.subscription.clone()).collect();
        let subscriptions = subscriptions.into_iter().collect();
        self.change_of(workflow, timers, |pending| {
            pending.set.retain(|_, outcome| Some(*outcome) == workflow.outcome());
            pending.remove = Some(MarkChange::Remove { subscriptions, resource_version: resource_version.into() });
        });
    }

    /// Cancels the addition of a mark.
    pub(super) fn cancel_mark(&mut self, run: Uid, mark: &Mark, timers: &mut Timers) {
        self.change(run, timers, |pending| pending.cancel(mark));
    }

    /// Cancels all additions.
    pub(super) fn cancel_marks(&mut self, run: Uid, timers: &mut Timers) {
        self.change(run, timers, |pending| pending.set.clear());
    }

    /// Cancels a removal: the run has no stale mark. The patch would only fail, because the Workflow has changed since.
    pub(super) fn cancel_removal(&mut self, run: Uid, timers: &mut Timers) {
        self.change(run, timers, |pending| pending.remove = None);
    }

    /// Cancels everything about a Workflow that was deleted.
    pub(super) fn forget(&mut self, run: Uid, timers: &mut Timers) {
        self.change(run, timers, Pending::clear);
    }

    /// Queues a retry that is due.
    pub(super) fn queue_retry(&mut self, run: Uid, timers: &mut Timers) {
        let ticket = self.turns.ticket();
        self.change(run, timers, |pending| {
            debug_assert!(pending.awaits_retry(), "{pending:?}");
            pending.state = State::Queued(ticket);
        });
    }

    /// Takes the place from a patch that is slow.
    pub(super) fn slow(&mut self, run: Uid, timers: &mut Timers) {
        self.change(run, timers, |pending| {
            debug_assert_eq!(pending.state, State::InFlight);
            pending.state = State::Slow;
        });
    }

    /// Begins a drain: the rate no longer applies, and every retry is queued at once, with its pauses reset, because a
    /// drain leaves no time for later ones.
    pub(super) fn drain(&mut self, timers: &mut Timers) {
        self.draining = true;
        self.turns.drain();
        let awaiting = self.pending.iter().filter(|(_, pending)| pending.awaits_retry());
        for run in awaiting.map(|(run, _)| *run).collect::<Vec<_>>() {
            timers.cancel(&Timer::RetryMark(run));
            let ticket = self.turns.ticket();
            self.change(run, timers, |pending| {
                pending.state = State::Queued(ticket);
                pending.attempt = 0;
            });
        }
    }

    /// Begins the next patch. Returns what the driver has to do.
    pub(super) fn next_patch(&mut self, now: Instant, timers: &mut Timers) -> Option<Action> {
        let run = match self.turns.next(now) {
            Next::Patch(run) => run,
            Next::NotBefore(at) => {
                timers.set(at, Timer::MarkRate);
                return None;
            }
            Next::Nothing => {
                timers.cancel(&Timer::MarkRate);
                return None;
            }
        };
        timers.set(now + turns::SLOW, Timer::SlowPatch(run));
        let mut action = None;
        self.change(run, timers, |pending| action = Some(pending.begin(run)));
        action
    }

    /// Handles the result of a patch.
    pub(super) fn handle_patch(
        &mut self,
        patch: MarkPatch,
        result: Result<(), MarkError>,
        now: Instant,
        timers: &mut Timers,
        jitter: &mut SmallRng,
    ) -> Report {
        let run = patch.uid;
        timers.cancel(&Timer::SlowPatch(run));
        let ticket = self.turns.ticket();
        let (mut attempt, mut retry_in) = (0, None);
        self.change(run, timers, |pending| {
            attempt = pending.attempt;
            retry_in = pending.handle_result(&patch, &result, ticket, jitter);
        });
        if let Some(pause) = retry_in.filter(|pause| !pause.is_zero()) {
            timers.set(now + pause, Timer::RetryMark(run));
        }
        match result {
            Ok(()) => Report::Marked { patch, attempt },
            Err(error) => Report::MarkFailed { patch, error, attempt, retry_in },
        }
    }

    /// Returns whether nothing is pending that is likely to succeed soon.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.len() == self.parked
    }

    /// Returns whether a mark of this subscription is likely to be written soon.
    pub(super) fn is_busy_for(&self, subscription: &Subscription) -> bool {
        self.unwritten.contains_key(&(subscription.namespace.clone(), subscription.name.clone()))
    }

    /// Takes the subscriptions for which [`Marks::is_busy_for`] has become false since the last call, in a drain.
    pub(super) fn take_written(&mut self) -> BTreeSet<Claimant> {
        std::mem::take(&mut self.written)
    }

    /// Returns whether a mark of this subscription is pending for a run.
    pub(super) fn is_pending(&self, run: Uid, subscription: &SubscriptionName) -> bool {
        self.pending.get(&run).is_some_and(|pending| pending.set.contains_key(subscription))
    }

    #[cfg(test)]
    pub(super) fn contains(&self, run: Uid) -> bool {
        self.pending.contains_key(&run)
    }

    /// The number of Workflows that wait for their turn.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.turns.queued()
    }

    /// The same in one namespace.
    #[cfg(test)]
    pub(super) fn queued_in(&self, namespace: &str) -> usize {
        self.turns.queued_in(namespace)
    }

    /// Asserts that the indexes are empty, as they have to be where nothing is pending.
    #[cfg(test)]
    pub(super) fn assert_empty(&self) {
        assert!(self.pending.is_empty() && self.turns.is_empty() && self.unwritten.is_empty(), "{self:#?}");
        assert_eq!(self.parked, 0);
    }

    /// The number of Workflows with pending changes.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Changes what is pending for a Workflow for which nothing may have been pending before.
    fn change_of(&mut self, workflow: &Workflow, timers: &mut Timers, change: impl FnOnce(&mut Pending)) {
        if !self.pending.contains_key(&workflow.uid) {
            let pending = Pending {
                namespace: workflow.namespace.clone(),
                name: workflow.name.clone(),
                set: BTreeMap::new(),
                remove: None,
                place: MarkPlace::Annotation,
                state: State::Queued(self.turns.ticket()),
                attempt: 0,
            };
            self.index(workflow.uid, &pending);
            self.pending.insert(workflow.uid, pending);
        }
        self.change(workflow.uid, timers, change);
    }

    /// Changes what is pending for a Workflow, and drops it where nothing is left to patch.
    fn change(&mut self, run: Uid, timers: &mut Timers, change: impl FnOnce(&mut Pending)) {
        let Some(mut pending) = self.pending.remove(&run) else { return };
        self.deindex(run, &pending);
        let mut subscriptions = Vec::new();
        if self.draining {
            subscriptions.extend(pending.set.keys().map(|name| (pending.namespace.clone(), name.clone())));
        }
        change(&mut pending);
        let namespace = pending.namespace.clone();
        if pending.is_empty() && !pending.is_in_flight() {
            timers.cancel(&Timer::RetryMark(run));
        } else {
            self.index(run, &pending);
            self.pending.insert(run, pending);
        }
        self.turns.schedule(&namespace);
        self.written.extend(subscriptions.into_iter().filter(|claimant| !self.unwritten.contains_key(claimant)));
    }

    fn index(&mut self, run: Uid, pending: &Pending) {
        if let Some(entry) = pending.entry() {
            self.turns.add(&pending.namespace, run, entry);
        }
        if pending.state == State::Parked {
            self.parked += 1;
            return;
        }
        for name in pending.set.keys() {
            *self.unwritten.entry((pending.namespace.clone(), name.clone())).or_default() += 1;
        }
    }

    fn deindex(&mut self, run: Uid, pending: &Pending) {
        if let Some(entry) = pending.entry() {
            self.turns.remove(&pending.namespace, run, entry);
        }
        if pending.state == State::Parked {
            self.parked -= 1;
            return;
        }
        for name in pending.set.keys() {
            let claimant = (pending.namespace.clone(), name.clone());
            let count = self.unwritten.get_mut(&claimant).expect("a pending mark is counted");
            *count -= 1;
            if *count == 0 {
                self.unwritten.remove(&claimant);
            }
        }
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_none()
    }

    fn cancel(&mut self, mark: &Mark) {
        if self.set.get(&mark.subscription) == Some(&mark.outcome) {
            self.set.remove(&mark.subscription);
        }
    }

    fn clear(&mut self) {
        self.set.clear();
        self.remove = None;
    }

    fn awaits_retry(&self) -> bool {
        matches!(self.state, State::AwaitingRetry | State::Parked)
    }

    fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight | State::Slow)
    }

    fn entry(&self) -> Option<Entry> {
        match self.state {
            State::Queued(ticket) if self.set.is_empty() => Some(Entry::Removal(ticket)),
            State::Queued(ticket) => Some(Entry::Addition(ticket)),
            State::InFlight => Some(Entry::InFlight),
            State::Slow => Some(Entry::Slow),
            State::AwaitingRetry | State::Parked => None,
        }
    }

    /// Begins a patch. Where marks are to be added and removed, attempts alternate, so that neither waits for the other
    /// to succeed.
    fn begin(&mut self, uid: Uid) -> Action {
        let removal = self.remove.take_if(|_| self.set.is_empty() || self.attempt % 2 == 1);
        let change = removal.unwrap_or_else(|| {
            let mark =
                |(name, outcome): (&SubscriptionName, &_)| Mark { subscription: name.clone(), outcome: *outcome };
            MarkChange::Set(self.set.iter().map(mark).collect())
        });
        self.state = State::InFlight;
        self.attempt = self.attempt.saturating_add(1);
        let (namespace, name, place) = (self.namespace.clone(), self.name.clone(), self.place);
        Action::Patch { patch: MarkPatch { namespace, name, uid, change, place }, attempt: self.attempt }
    }

    /// Handles the result of a patch. Returns the pause before the next attempt, if the change is still wanted. Without
    /// a pause, the Workflow is queued again at once, with this ticket.
    fn handle_result(
        &mut self,
        patch: &MarkPatch,
        result: &Result<(), MarkError>,
        ticket: Ticket,
        jitter: &mut SmallRng,
    ) -> Option<Duration> {
        debug_assert!(self.is_in_flight(), "{self:?}");
        self.state = State::Queued(ticket);
        let failed = match (result, &patch.change) {
            (Ok(()), MarkChange::Set(written)) => {
                for mark in written {
                    self.cancel(mark);
                }
                false
            }
            (Ok(()), MarkChange::Remove { .. }) => false,
            (Err(MarkError::Gone), _) => {
                self.clear();
                false
            }
            // The Workflow has a newer state, and the decision about its marks follows from that.
            (Err(MarkError::Conflict), MarkChange::Remove { .. }) => false,
            (Err(_), MarkChange::Set(_)) => true,
            (Err(_), change @ MarkChange::Remove { .. }) => {
                self.remove.get_or_insert_with(|| change.clone());
                true
            }
        };
        // The change may have been cancelled while the patch was in flight.
        if !failed || self.is_empty() {
            self.attempt = 0;
            return None;
        }
        let is_set_as_annotation = matches!(patch.change, MarkChange::Set(_)) && patch.place == MarkPlace::Annotation;
        let (state, backoff) = match result {
            Err(MarkError::NoRoom) if is_set_as_annotation => {
                self.place = MarkPlace::Label;
                return Some(Duration::ZERO);
            }
            Err(MarkError::Refused { .. } | MarkError::NoRoom) => {
                self.place = MarkPlace::Annotation;
                (State::Parked, PARKED)
            }
            _ => (State::AwaitingRetry, RETRY),
        };
        self.state = state;
        Some(backoff.pause(self.attempt, jitter))
    }
}
