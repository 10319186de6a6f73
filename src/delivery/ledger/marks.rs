//! Marks to be written on Workflows, and removed from them: one patch a Workflow at a time.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::SmallRng};

use super::{Report, Timer, Timers, lookups::backoff};
use crate::{
    delivery::{MarkChange, MarkError, MarkPatch},
    model::{Subscription, SubscriptionName, Uid, Workflow, workflow::MAX_MARKS},
};

/// The pauses between two attempts: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The same after a refusal, whose reason does not pass by itself: but rights that were withdrawn by mistake are soon
/// back, and until the mark is written no other replica knows of the delivery.
const PARKED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

#[derive(Debug)]
struct Pending {
    namespace: Arc<str>,
    name: Box<str>,
    set: BTreeSet<SubscriptionName>,
    remove: Option<MarkChange>,
    state: State,
    attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    InFlight,
    Waiting,
    Parked,
}

#[derive(Debug)]
pub(super) struct Marks {
    at_once: usize,
    in_flight: usize,
    pending: HashMap<Uid, Pending>,
    queue: VecDeque<Uid>,
}

impl Marks {
    pub(super) fn new(at_once: usize) -> Self {
        Self { at_once, in_flight: 0, pending: HashMap::new(), queue: VecDeque::new() }
    }

    /// The run is to be marked as delivered. `false` where the Workflow has no room for another mark.
    pub(super) fn want(&mut self, workflow: &Workflow, subscription: &SubscriptionName) -> bool {
        let taken = self.pending.get(&workflow.uid).map_or(0, |pending| pending.set.len());
        let has_place = workflow.marks.iter().any(|mark| mark.subscription == *subscription);
        if !has_place && workflow.marks.len() + taken >= MAX_MARKS {
            return false;
        }
        self.entry(workflow).set.insert(subscription.clone());
        true
    }

    /// The run was restarted: its own marks have to go, and none is to be written.
    pub(super) fn restarted(&mut self, workflow: &Workflow) {
        let Some(resource_version) = workflow.resource_version.clone() else { return };
        let subscriptions =
            workflow.marks.iter().filter(|mark| mark.current).map(|mark| mark.subscription.clone()).collect();
        let pending = self.entry(workflow);
        pending.set.clear();
        pending.remove = Some(MarkChange::Remove { subscriptions, resource_version });
    }

    /// The mark of this subscription (`None`: of all) is no longer to be written.
    pub(super) fn unwanted(&mut self, uid: Uid, subscription: Option<&SubscriptionName>, timers: &mut Timers) {
        let Some(pending) = self.pending.get_mut(&uid) else { return };
        match subscription {
            Some(name) => {
                pending.set.remove(name);
            }
            None => pending.set.clear(),
        }
        self.drop_if_done(uid, timers);
    }

    /// The run has succeeded (again), or carries no mark of its own any more: no mark is to be removed. A removal that
    /// was decided on before would only fail, because the Workflow has changed since.
    pub(super) fn not_restarted(&mut self, uid: Uid, timers: &mut Timers) {
        if let Some(pending) = self.pending.get_mut(&uid) {
            pending.remove = None;
            self.drop_if_done(uid, timers);
        }
    }

    /// The Workflow is gone.
    pub(super) fn forget(&mut self, uid: Uid, timers: &mut Timers) {
        if let Some(pending) = self.pending.get_mut(&uid) {
            pending.set.clear();
            pending.remove = None;
            self.drop_if_done(uid, timers);
        }
    }

    /// It is time to try again.
    pub(super) fn retry(&mut self, uid: Uid) {
        if let Some(pending) = self.pending.get_mut(&uid)
            && matches!(pending.state, State::Waiting | State::Parked)
        {
            pending.state = State::Queued;
            self.queue.push_back(uid);
        }
    }

    /// There will be no later: whatever waits is tried at once, and its pauses begin anew.
    pub(super) fn hurry(&mut self) {
        for (uid, pending) in &mut self.pending {
            if matches!(pending.state, State::Waiting | State::Parked) {
                pending.state = State::Queued;
                pending.attempt = 0;
                self.queue.push_back(*uid);
            }
        }
    }

    /// The next patch to be sent, and which attempt it is (from 1).
    pub(super) fn next_patch(&mut self) -> Option<(MarkPatch, u32)> {
        while self.in_flight < self.at_once {
            let uid = self.queue.pop_front()?;
            let Some(pending) = self.pending.get_mut(&uid).filter(|pending| pending.state == State::Queued) else {
                continue;
            };
            let change = match pending.remove.take() {
                Some(remove) => remove,
                None => MarkChange::Set(pending.set.iter().cloned().collect()),
            };
            pending.state = State::InFlight;
            pending.attempt = pending.attempt.saturating_add(1);
            self.in_flight += 1;
            let (namespace, name) = (pending.namespace.clone(), pending.name.clone());
            return Some((MarkPatch { namespace, name, uid, change }, pending.attempt));
        }
        None
    }

    /// A patch has been answered.
    pub(super) fn patched(
        &mut self,
        patch: MarkPatch,
        result: Result<(), MarkError>,
        now: Instant,
        timers: &mut Timers,
        jitter: &mut SmallRng,
    ) -> Option<Report> {
        let uid = patch.uid;
        let pending = self.pending.get_mut(&uid).filter(|pending| pending.state == State::InFlight)?;
        self.in_flight -= 1;
        let attempt = pending.attempt;
        let again = match (&result, &patch.change) {
            (Ok(()), MarkChange::Set(written)) => {
                pending.set.retain(|name| !written.contains(name));
                false
            }
            (Ok(()), MarkChange::Remove { .. }) => false,
            (Err(MarkError::Gone), _) => {
                pending.set.clear();
                pending.remove = None;
                false
            }
            // Whoever changed it has made a newer state of the Workflow known, on which it is decided anew.
            (Err(MarkError::Conflict), MarkChange::Remove { .. }) => false,
            (Err(_), MarkChange::Set(_)) => true,
            (Err(_), change @ MarkChange::Remove { .. }) => {
                pending.remove.get_or_insert_with(|| change.clone());
                true
            }
        };
        // While it was under way, what it was for may have come to nothing.
        let retry_in = (again && pending.is_of_use()).then(|| {
            let (state, pause) = match &result {
                Err(MarkError::Refused { .. }) => (State::Parked, backoff(PARKED, attempt)),
                _ => (State::Waiting, backoff(BACKOFF, attempt)),
            };
            pending.state = state;
            jitter.random_range(pause / 2..=pause)
        });
        match retry_in {
            Some(pause) => timers.set(now + pause, Timer::Mark(uid)),
            None => {
                pending.attempt = 0;
                pending.state = State::Queued;
                self.queue.push_back(uid);
            }
        }
        self.drop_if_done(uid, timers);
        Some(match result {
            Ok(()) => Report::Marked { patch, attempt },
            Err(error) => Report::MarkFailed { patch, error, attempt, retry_in },
        })
    }

    /// Whether nothing is under way, and nothing waits that is likely to succeed soon.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.values().all(|pending| pending.state == State::Parked)
    }

    /// Whether a mark of this subscription is likely to be written soon.
    pub(super) fn is_busy_for(&self, subscription: &Subscription) -> bool {
        self.pending.values().any(|pending| {
            pending.state != State::Parked
                && pending.namespace == subscription.namespace
                && pending.set.contains(&subscription.name)
        })
    }

    #[cfg(test)]
    pub(super) fn contains(&self, uid: Uid) -> bool {
        self.pending.contains_key(&uid)
    }

    /// How many Workflows wait for a patch.
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

    fn drop_if_done(&mut self, uid: Uid, timers: &mut Timers) {
        if self.pending.get(&uid).is_some_and(|pending| pending.state != State::InFlight && !pending.is_of_use()) {
            self.pending.remove(&uid);
            timers.stop(&Timer::Mark(uid));
        }
    }
}

impl Pending {
    fn is_of_use(&self) -> bool {
        !self.set.is_empty() || self.remove.is_some()
    }
}
