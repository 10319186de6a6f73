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
const KEPT_AT_MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Departed {
    runs: HashMap<Uid, Run>,
    by_age: BTreeSet<(Instant, Uid)>,
}

#[derive(Debug)]
struct Run {
    workflow: Arc<Workflow>,
    since: Instant,
    wanted_by: HashSet<SubscriptionName>,
}

impl Departed {
    /// Keeps a run. Returns the one that had to make room, if any.
    pub(super) fn insert(
        &mut self,
        workflow: Arc<Workflow>,
        wanted_by: HashSet<SubscriptionName>,
        now: Instant,
        timers: &mut Timers,
    ) -> Option<Arc<Workflow>> {
        let uid = workflow.uid;
        self.by_age.insert((now, uid));
        timers.set(now + KEPT, Timer::Departed(uid));
        self.runs.insert(uid, Run { workflow, since: now, wanted_by });
        if self.runs.len() <= KEPT_AT_MOST {
            return None;
        }
        let (_, oldest) = *self.by_age.first()?;
        self.expire(oldest)
    }

    /// The runs that a new stream of this subscription has a claim to.
    pub(super) fn wanted_by(&self, subscription: &Subscription) -> Vec<Arc<Workflow>> {
        self.runs
            .values()
            .filter(|run| {
                run.workflow.namespace == subscription.namespace && run.wanted_by.contains(&subscription.name)
            })
            .map(|run| run.workflow.clone())
            .collect()
    }

    /// A subscription has got the run. Returns whether the run is one of these at all.
    pub(super) fn delivered(&mut self, uid: Uid, subscription: &SubscriptionName) -> bool {
        let Some(run) = self.runs.get_mut(&uid) else { return false };
        run.wanted_by.remove(subscription);
        if run.wanted_by.is_empty() {
            self.expire(uid);
        }
        true
    }

    /// Gives a run up.
    pub(super) fn expire(&mut self, uid: Uid) -> Option<Arc<Workflow>> {
        let run = self.runs.remove(&uid)?;
        self.by_age.remove(&(run.since, uid));
        Some(run.workflow)
    }
}
