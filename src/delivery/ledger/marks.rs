//! Marks to be written on Workflows and removed from them: one patch of a Workflow at a time.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::rngs::SmallRng;

use super::{
    timers::{Timer, Timers},
    types::{Action, Report},
};
use crate::{
    backoff::Backoff,
    delivery::{MarkChange, MarkError, MarkPatch, MarkPlace},
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
    set: BTreeSet<SubscriptionName>,
    /// A [`MarkChange::Remove`].
    remove: Option<MarkChange>,
    state: State,
    /// Attempts in a row that failed, and the one in flight.
    attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    InFlight,
    /// It waits for its retry after a failure.
    AwaitingRetry,
    /// It waits for its retry after a refusal.
    Parked,
}

#[derive(Debug)]
pub(super) struct Marks {
    max_in_flight: usize,
    in_flight: usize,
    pending: HashMap<Uid, Pending>,
    /// The Workflows in the order of their patches. Also holds some that are no longer queued.
    queue: VecDeque<Uid>,
}

impl Marks {
    pub(super) fn new(max_in_flight: usize) -> Self {
        Self { max_in_flight, in_flight: 0, pending: HashMap::new(), queue: VecDeque::new() }
    }

    /// Adds the mark of a delivery. Returns `false` where the Workflow has no room for another mark.
    pub(super) fn add(&mut self, workflow: &Workflow, subscription: &SubscriptionName) -> bool {
        let added = self.pending.get(&workflow.uid).map_or(0, |pending| pending.set.len());
        let is_there = workflow.marks.iter().any(|mark| mark.subscription == *subscription);
        if !is_there && workflow.marks.len() + added >= MAX_MARKS {
            return false;
        }
        self.entry(workflow).set.insert(subscription.clone());
        true
    }

    /// Removes the current marks of a run that was restarted, and adds none.
    pub(super) fn remove_all(&mut self, workflow: &Workflow) {
        let Some(resource_version) = workflow.resource_version.clone() else { return };
        let subscriptions = workflow.stale_marks().map(|mark| mark.subscription.clone()).collect();
        let pending = self.entry(workflow);
        pending.set.clear();
        pending.remove = Some(MarkChange::Remove { subscriptions, resource_version });
    }

    /// Cancels the addition of one subscription's mark.
    pub(super) fn cancel_mark(&mut self, run: Uid, subscription: &SubscriptionName, timers: &mut Timers) {
        self.change(run, timers, |pending| {
            pending.set.remove(subscription);
        });
    }

    /// Cancels all additions.
    pub(super) fn cancel_marks(&mut self, run: Uid, timers: &mut Timers) {
        self.change(run, timers, |pending| pending.set.clear());
    }

    /// Cancels a removal: the run has succeeded, or has no current mark. The patch would only fail, because the Workflow
    /// has changed since.
    pub(super) fn cancel_removal(&mut self, run: Uid, timers: &mut Timers) {
        self.change(run, timers, |pending| pending.remove = None);
    }

    /// Cancels everything about a Workflow that was deleted.
    pub(super) fn forget(&mut self, run: Uid, timers: &mut Timers) {
        self.change(run, timers, Pending::clear);
    }

    /// Queues a retry that is due.
    pub(super) fn queue_retry(&mut self, run: Uid) {
        let pending = self.pending.get_mut(&run).expect("what is retried is pending");
        debug_assert!(pending.awaits_retry(), "{pending:?}");
        pending.state = State::Queued;
        self.queue.push_back(run);
    }

    /// Queues every retry at once, with its pauses reset: a drain leaves no time for later ones.
    pub(super) fn queue_retries(&mut self, timers: &mut Timers) {
        for (run, pending) in &mut self.pending {
            if pending.awaits_retry() {
                timers.cancel(&Timer::RetryMark(*run));
                pending.state = State::Queued;
                pending.attempt = 0;
                self.queue.push_back(*run);
            }
        }
    }

    /// Begins the next patch. Returns what the driver has to do.
    pub(super) fn next_patch(&mut self) -> Option<Action> {
        while self.in_flight < self.max_in_flight {
            let uid = self.queue.pop_front()?;
            let Some(pending) = self.pending.get_mut(&uid).filter(|pending| pending.state == State::Queued) else {
                continue;
            };
            let change = match pending.remove.take() {
                Some(remove) => remove,
                None => MarkChange::Set(
                    pending
                        .set
                        .iter()
                        .map(|name| Mark { subscription: name.clone(), outcome: RunOutcome::Succeeded })
                        .collect(),
                ),
            };
            pending.state = State::InFlight;
            pending.attempt = pending.attempt.saturating_add(1);
            self.in_flight += 1;
            let (namespace, name) = (pending.namespace.clone(), pending.name.clone());
            let patch = MarkPatch { namespace, name, uid, change, place: MarkPlace::Annotation };
            return Some(Action::Patch { patch, attempt: pending.attempt });
        }
        None
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
        let uid = patch.uid;
        let pending = self.pending.get_mut(&uid).expect("a patch in flight is pending");
        debug_assert_eq!(pending.state, State::InFlight);
        self.in_flight -= 1;
        let attempt = pending.attempt;
        let failed = match (&result, &patch.change) {
            (Ok(()), MarkChange::Set(written)) => {
                pending.set.retain(|name| written.iter().all(|mark| mark.subscription != *name));
                false
            }
            (Ok(()), MarkChange::Remove { .. }) => false,
            (Err(MarkError::Gone), _) => {
                pending.clear();
                false
            }
            // The Workflow has a newer state, and the decision about its marks follows from that.
            (Err(MarkError::Conflict), MarkChange::Remove { .. }) => false,
            (Err(_), MarkChange::Set(_)) => true,
            (Err(_), change @ MarkChange::Remove { .. }) => {
                pending.remove.get_or_insert_with(|| change.clone());
                true
            }
        };
        // The change may have been cancelled while the patch was in flight.
        let retry_in = (failed && !pending.is_empty()).then(|| {
            let (state, backoff) = match &result {
                Err(MarkError::Refused { .. } | MarkError::NoRoom) => (State::Parked, PARKED),
                _ => (State::AwaitingRetry, RETRY),
            };
            pending.state = state;
            backoff.pause(attempt, jitter)
        });
        match retry_in {
            Some(pause) => timers.set(now + pause, Timer::RetryMark(uid)),
            None => {
                pending.attempt = 0;
                pending.state = State::Queued;
                self.queue.push_back(uid);
                self.change(uid, timers, |_| ());
            }
        }
        match result {
            Ok(()) => Report::Marked { patch, attempt },
            Err(error) => Report::MarkFailed { patch, error, attempt, retry_in },
        }
    }

    /// Returns whether nothing is pending that is likely to succeed soon.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.values().all(|pending| pending.state == State::Parked)
    }

    /// Returns whether a mark of this subscription is likely to be written soon.
    pub(super) fn is_busy_for(&self, subscription: &Subscription) -> bool {
        self.pending.values().any(|pending| {
            pending.state != State::Parked
                && pending.namespace == subscription.namespace
                && pending.set.contains(&subscription.name)
        })
    }

    #[cfg(test)]
    pub(super) fn contains(&self, run: Uid) -> bool {
        self.pending.contains_key(&run)
    }

    /// The number of Workflows with pending changes.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    fn entry(&mut self, workflow: &Workflow) -> &mut Pending {
        let queue = &mut self.queue;
        self.pending.entry(workflow.uid).or_insert_with(|| {
            queue.push_back(workflow.uid);
            Pending {
                namespace: workflow.namespace.clone(),
                name: workflow.name.clone(),
                set: BTreeSet::new(),
                remove: None,
                state: State::Queued,
                attempt: 0,
            }
        })
    }

    /// Changes what is pending for a Workflow, and drops it where nothing is left to patch.
    fn change(&mut self, run: Uid, timers: &mut Timers, change: impl FnOnce(&mut Pending)) {
        let Some(pending) = self.pending.get_mut(&run) else { return };
        change(pending);
        if pending.is_empty() && pending.state != State::InFlight {
            self.pending.remove(&run);
            timers.cancel(&Timer::RetryMark(run));
        }
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_none()
    }

    fn clear(&mut self) {
        self.set.clear();
        self.remove = None;
    }

    fn awaits_retry(&self) -> bool {
        matches!(self.state, State::AwaitingRetry | State::Parked)
    }
}
