//! Runs whose Workflow was deleted while they were pending for a subscription.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::timers::{Timer, Timers};
use crate::model::{Subscription, SubscriptionName, Uid, Workflow};

/// The time for which such a run is kept.
const RETENTION: Duration = Duration::from_secs(3600);
/// The number of such runs that are kept. The oldest make room.
pub(super) const MAX_RUNS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct DeletedRuns {
    runs: HashMap<Uid, DeletedRun>,
    by_time: BTreeSet<(Instant, Uid)>,
    /// The runs by claimant: streams attach often, and there may be many runs.
    claims: HashMap<Claimant, HashSet<Uid>>,
}

/// A subscription of a namespace.
type Claimant = (Arc<str>, SubscriptionName);

#[derive(Debug)]
struct DeletedRun {
    workflow: Arc<Workflow>,
    since: Instant,
    claimed_by: HashSet<SubscriptionName>,
}

impl DeletedRuns {
    /// Keeps a run for these subscriptions. Returns the run that had to make room.
    pub(super) fn insert(
        &mut self,
        workflow: Arc<Workflow>,
        claimed_by: HashSet<SubscriptionName>,
        now: Instant,
        timers: &mut Timers,
    ) -> Option<Arc<Workflow>> {
        let uid = workflow.uid;
        self.remove(uid, timers);
        for name in &claimed_by {
            self.claims.entry((workflow.namespace.clone(), name.clone())).or_default().insert(uid);
        }
        self.by_time.insert((now, uid));
        timers.set(now + RETENTION, Timer::DropDeleted(uid));
        self.runs.insert(uid, DeletedRun { workflow, since: now, claimed_by });
        if self.runs.len() <= MAX_RUNS {
            return None;
        }
        let (_, oldest) = *self.by_time.first()?;
        self.remove(oldest, timers)
    }

    /// The runs that a new stream of this subscription has a claim to.
    pub(super) fn claimed_by(&self, subscription: &Subscription) -> Vec<Arc<Workflow>> {
        let claims = self.claims.get(&(subscription.namespace.clone(), subscription.name.clone()));
        let runs = claims.into_iter().flatten().filter_map(|uid| self.runs.get(uid));
        runs.map(|run| run.workflow.clone()).collect()
    }

    pub(super) fn contains(&self, run: Uid) -> bool {
        self.runs.contains_key(&run)
    }

    /// Drops the claim of a subscription that has received the run or does not want it. Returns whether the run is one of
    /// these.
    pub(super) fn release(&mut self, run: Uid, subscription: &SubscriptionName, timers: &mut Timers) -> bool {
        let Some(deleted) = self.runs.get_mut(&run) else { return false };
        if deleted.claimed_by.remove(subscription) {
            let namespace = deleted.workflow.namespace.clone();
            let last = deleted.claimed_by.is_empty();
            self.drop_claim(namespace, subscription.clone(), run);
            if last {
                self.remove(run, timers);
            }
        }
        true
    }

    /// Drops a run.
    pub(super) fn remove(&mut self, run: Uid, timers: &mut Timers) -> Option<Arc<Workflow>> {
        let deleted = self.runs.remove(&run)?;
        self.by_time.remove(&(deleted.since, run));
        timers.cancel(&Timer::DropDeleted(run));
        for name in deleted.claimed_by {
            self.drop_claim(deleted.workflow.namespace.clone(), name, run);
        }
        Some(deleted.workflow)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    fn drop_claim(&mut self, namespace: Arc<str>, name: SubscriptionName, run: Uid) {
        let claimant = (namespace, name);
        if let Some(claims) = self.claims.get_mut(&claimant) {
            claims.remove(&run);
            if claims.is_empty() {
                self.claims.remove(&claimant);
            }
        }
    }
}
