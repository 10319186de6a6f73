//! Runs whose Workflow was deleted, or has left the selector, while they were pending for a subscription or before their
//! mark was seen.
//!
//! For an hour, each is kept for the subscriptions that have a *claim* to it, because they have not received it. The
//! *deliveries* of the others are remembered for as long: a Workflow that has only left the selector may return with the
//! same UID and without a mark, and must not be sent again.
//!
//! All of it is limited, and namespaces decide how much they put here. So where the limit is reached, the namespace that
//! holds most gives way: first remembered deliveries, then the oldest pending runs.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    shares::Shares,
    timers::{Timer, Timers},
    types::Claimant,
};
use crate::model::{Mark, Subscription, SubscriptionName, Uid, Workflow};

/// The time for which such a run is kept.
const RETENTION: Duration = Duration::from_secs(3600);
/// The number of such runs that are kept: about 5 MiB.
pub(super) const MAX_RUNS: usize = 10_000;
/// Claims and deliveries of all those runs: a run may be pending for hundreds of subscriptions. About 4 MiB.
pub(super) const MAX_PARTIES: usize = 40_000;

#[derive(Debug, Default)]
pub(super) struct DeletedRuns {
    runs: HashMap<Uid, DeletedRun>,
    /// The runs by claimant: streams attach often, and there may be many runs.
    claims: HashMap<Claimant, HashSet<Uid>>,
    by_age: HashMap<Arc<str>, ByAge>,
    /// The numbers of runs.
    run_shares: Shares,
    /// The numbers of claims and deliveries.
    party_shares: Shares,
}

#[derive(Debug)]
struct DeletedRun {
    workflow: Arc<Workflow>,
    since: Instant,
    claimed_by: HashSet<SubscriptionName>,
    /// The marks that the run would have.
    delivered: Vec<Mark>,
}

/// The runs of a namespace, the oldest first.
#[derive(Debug, Default)]
struct ByAge {
    pending: BTreeSet<(Instant, Uid)>,
    /// Runs without a claim.
    delivered: BTreeSet<(Instant, Uid)>,
}

/// A run that is no longer kept.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) workflow: Arc<Workflow>,
    /// It was pending for a subscription.
    pub(super) was_pending: bool,
    /// The marks that it would have.
    pub(super) delivered: Vec<Mark>,
}

impl DeletedRun {
    fn is_pending(&self) -> bool {
        !self.claimed_by.is_empty()
    }

    fn parties(&self) -> usize {
        self.claimed_by.len() + self.delivered.len()
    }
}

impl DeletedRuns {
    /// Keeps a run for the subscriptions that have not received it, and the deliveries to the others. Returns the runs
    /// that had to make room.
    pub(super) fn insert(
        &mut self,
        workflow: Arc<Workflow>,
        claimed_by: HashSet<SubscriptionName>,
        delivered: Vec<Mark>,
        now: Instant,
        timers: &mut Timers,
    ) -> Vec<Dropped> {
        let (uid, namespace) = (workflow.uid, workflow.namespace.clone());
        self.remove(uid, timers);
        for name in &claimed_by {
            self.claims.entry((namespace.clone(), name.clone())).or_default().insert(uid);
        }
        timers.set(now + RETENTION, Timer::DropDeleted(uid));
        let run = DeletedRun { workflow, since: now, claimed_by, delivered };
        self.index(&run);
        self.runs.insert(uid, run);
        let mut dropped = Vec::new();
        while let Some(shares) = self.exceeded() {
            let largest = shares.largest(&namespace).clone();
            let oldest = self.oldest(&largest).expect("the namespace with the largest share has a run");
            dropped.extend(self.remove(oldest, timers));
        }
        dropped
    }

    /// The runs that a new stream of this subscription has a claim to.
    pub(super) fn claimed_by(&self, subscription: &Subscription) -> Vec<Arc<Workflow>> {
        let claims = self.claims.get(&(subscription.namespace.clone(), subscription.name.clone()));
        let runs = claims.into_iter().flatten().filter_map(|uid| self.runs.get(uid));
        runs.map(|run| run.workflow.clone()).collect()
    }

    /// Returns whether a new stream of this subscription has a claim to any run.
    pub(super) fn has_claims(&self, subscription: &Subscription) -> bool {
        self.claims.contains_key(&(subscription.namespace.clone(), subscription.name.clone()))
    }

    pub(super) fn contains(&self, run: Uid) -> bool {
        self.runs.contains_key(&run)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Drops the claim of a subscription that does not want the run. Returns whether the run is one of these.
    pub(super) fn release(&mut self, run: Uid, subscription: &SubscriptionName, timers: &mut Timers) -> bool {
        self.settle(run, subscription, None, timers)
    }

    /// Remembers that a subscription has received the run, and drops its claim. Returns whether the run is one of these.
    pub(super) fn deliver(&mut self, run: Uid, mark: &Mark, timers: &mut Timers) -> bool {
        self.settle(run, &mark.subscription, Some(mark), timers)
    }

    /// Notes that a run's Workflow exists again, which ends every claim: the run is pending like any other. The caller
    /// records the deliveries that were remembered as confirmed and has their marks written.
    pub(super) fn returned(&mut self, run: Uid, timers: &mut Timers) -> Option<Dropped> {
        self.remove(run, timers)
    }

    /// Drops a run.
    pub(super) fn remove(&mut self, run: Uid, timers: &mut Timers) -> Option<Dropped> {
        let deleted = self.runs.remove(&run)?;
        self.deindex(&deleted);
        timers.cancel(&Timer::DropDeleted(run));
        for name in &deleted.claimed_by {
            self.drop_claim(deleted.workflow.namespace.clone(), name.clone(), run);
        }
        let was_pending = deleted.is_pending();
        Some(Dropped { workflow: deleted.workflow, was_pending, delivered: deleted.delivered })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Asserts that the indexes are empty, as they have to be without a run.
    #[cfg(test)]
    pub(super) fn assert_empty(&self) {
        assert!(self.runs.is_empty() && self.claims.is_empty() && self.by_age.is_empty(), "{self:#?}");
        assert_eq!((self.run_shares.total(), self.party_shares.total()), (0, 0));
    }

    /// Ends the claim of a subscription. Drops the run where no party is left. Returns whether there is such a run.
    fn settle(
        &mut self,
        run: Uid,
        subscription: &SubscriptionName,
        delivered: Option<&Mark>,
        timers: &mut Timers,
    ) -> bool {
        let Some(mut deleted) = self.runs.remove(&run) else { return false };
        self.deindex(&deleted);
        if deleted.claimed_by.remove(subscription) {
            self.drop_claim(deleted.workflow.namespace.clone(), subscription.clone(), run);
        }
        deleted.delivered.extend(delivered.filter(|mark| !deleted.delivered.contains(mark)).cloned());
        if deleted.parties() == 0 {
            timers.cancel(&Timer::DropDeleted(run));
        } else {
            self.index(&deleted);
            self.runs.insert(run, deleted);
        }
        true
    }

    fn exceeded(&self) -> Option<&Shares> {
        let shares = [(&self.run_shares, MAX_RUNS), (&self.party_shares, MAX_PARTIES)];
        shares.into_iter().find(|(shares, max)| shares.total() > *max).map(|(shares, _)| shares)
    }

    /// The run of a namespace that gives way first.
    fn oldest(&self, namespace: &str) -> Option<Uid> {
        let by_age = self.by_age.get(namespace)?;
        by_age.delivered.first().or_else(|| by_age.pending.first()).map(|(_, run)| *run)
    }

    fn index(&mut self, run: &DeletedRun) {
        let namespace = &run.workflow.namespace;
        let by_age = self.by_age.entry(namespace.clone()).or_default();
        let runs = if run.is_pending() { &mut by_age.pending } else { &mut by_age.delivered };
        runs.insert((run.since, run.workflow.uid));
        self.run_shares.add(namespace, 1);
        self.party_shares.add(namespace, run.parties());
    }

    fn deindex(&mut self, run: &DeletedRun) {
        let namespace = &run.workflow.namespace;
        let by_age = self.by_age.get_mut(namespace).expect("the namespace of a run is indexed");
        let runs = if run.is_pending() { &mut by_age.pending } else { &mut by_age.delivered };
        runs.remove(&(run.since, run.workflow.uid));
        if by_age.pending.is_empty() && by_age.delivered.is_empty() {
            self.by_age.remove(namespace);
        }
        self.run_shares.remove(namespace, 1);
        self.party_shares.remove(namespace, run.parties());
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
