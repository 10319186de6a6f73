//! Runs whose Workflow was deleted while a subscription still waited for them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Timer, Timers};
use crate::model::{Subscription, SubscriptionName, Uid, Workflow};

/// How long such a run is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// How many of them are kept; the oldest go first.
pub(super) const KEPT_AT_MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Departed {
    runs: HashMap<Uid, Run>,
    by_age: BTreeSet<(Instant, Uid)>,
    /// Who has a claim to which of them: streams attach often, and these are many.
    claims: HashMap<Claimant, HashSet<Uid>>,
}

/// A namespace, and a subscription to it.
type Claimant = (Arc<str>, SubscriptionName);

#[derive(Debug)]
struct Run {
    workflow: Arc<Workflow>,
    since: Instant,
    wanted_by: HashSet<SubscriptionName>,
}

impl Departed {
    /// Keeps a run for these subscriptions. Returns the one that had to make room, if any.
    pub(super) fn insert(
        &mut self,
        workflow: Arc<Workflow>,
        wanted_by: HashSet<SubscriptionName>,
        now: Instant,
        timers: &mut Timers,
    ) -> Option<Arc<Workflow>> {
        let uid = workflow.uid;
        self.expire(uid, timers);
        for name in &wanted_by {
            self.claims.entry((workflow.namespace.clone(), name.clone())).or_default().insert(uid);
        }
        self.by_age.insert((now, uid));
        timers.set(now + KEPT, Timer::Departed(uid));
        self.runs.insert(uid, Run { workflow, since: now, wanted_by });
        if self.runs.len() <= KEPT_AT_MOST {
            return None;
        }
        let (_, oldest) = *self.by_age.first()?;
        self.expire(oldest, timers)
    }

    /// The runs that a new stream of this subscription has a claim to.
    pub(super) fn wanted_by(&self, subscription: &Subscription) -> Vec<Arc<Workflow>> {
        let claims = self.claims.get(&(subscription.namespace.clone(), subscription.name.clone()));
        let runs = claims.into_iter().flatten().filter_map(|uid| self.runs.get(uid));
        runs.map(|run| run.workflow.clone()).collect()
    }

    /// Whether the run is one of these.
    pub(super) fn contains(&self, uid: Uid) -> bool {
        self.runs.contains_key(&uid)
    }

    /// A subscription has got the run, or does not want it. Returns whether the run is one of these at all.
    pub(super) fn settle(&mut self, uid: Uid, subscription: &SubscriptionName, timers: &mut Timers) -> bool {
        let Some(run) = self.runs.get_mut(&uid) else { return false };
        if run.wanted_by.remove(subscription) {
            let namespace = run.workflow.namespace.clone();
            let last = run.wanted_by.is_empty();
            self.drop_claim(namespace, subscription.clone(), uid);
            if last {
                self.expire(uid, timers);
            }
        }
        true
    }

    /// Gives a run up.
    pub(super) fn expire(&mut self, uid: Uid, timers: &mut Timers) -> Option<Arc<Workflow>> {
        let run = self.runs.remove(&uid)?;
        self.by_age.remove(&(run.since, uid));
        timers.stop(&Timer::Departed(uid));
        for name in run.wanted_by {
            self.drop_claim(run.workflow.namespace.clone(), name, uid);
        }
        Some(run.workflow)
    }

    /// How many runs are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    fn drop_claim(&mut self, namespace: Arc<str>, name: SubscriptionName, uid: Uid) {
        let claimant = (namespace, name);
        if let Some(claims) = self.claims.get_mut(&claimant) {
            claims.remove(&uid);
            if claims.is_empty() {
                self.claims.remove(&claimant);
            }
        }
    }
}
