//! The latest deliveries and problems, for people who ask why an event did or did not arrive.
//!
//! Both lists are short, and every namespace has its share: the runs of one tenant cannot push out those of another.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{DeliveryStatus, MarkPatch, ledger::Shares};
use crate::{
    clock::WallClock,
    model::{Subscription, SubscriptionName, TraceId, Uid, Workflow},
};

/// Entries of a list: together about 1 MiB, with the longest names.
const MAX_ENTRIES: usize = 1024;
/// Entries of one namespace: more than a person reads.
const MAX_ENTRIES_OF_NAMESPACE: usize = 32;

/// A confirmed delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentDelivery {
    /// The time of the confirmation, in seconds since the Unix epoch.
    pub at: i64,
    /// The Workflow's namespace.
    pub namespace: Arc<str>,
    /// The Workflow's name.
    pub workflow: Box<str>,
    /// The Workflow's UID.
    pub uid: Uid,
    /// The subscription.
    pub subscription: SubscriptionName,
    /// The run's trace.
    pub trace_id: Option<TraceId>,
    /// The seconds from the end of the run to the confirmation, if that end is known.
    pub seconds_from_finish: Option<u64>,
}

/// A run without an event, or with a late one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentProblem {
    /// The time at which it was noticed, in seconds since the Unix epoch.
    pub at: i64,
    /// The Workflow's namespace.
    pub namespace: Arc<str>,
    /// The Workflow's name.
    pub workflow: Box<str>,
    /// The Workflow's UID.
    pub uid: Uid,
    /// The subscription; `None` if the problem is one of all of them.
    pub subscription: Option<SubscriptionName>,
    /// The reason, as in metrics, logs and Kubernetes Events.
    pub reason: &'static str,
    /// One sentence. It contains no payload and no place of a model.
    pub text: Box<str>,
    /// The run's trace, if it is known.
    pub trace_id: Option<TraceId>,
}

/// The latest deliveries and problems.
#[derive(Debug)]
pub(super) struct RecentRuns {
    clock: WallClock,
    deliveries: Recent<RecentDelivery>,
    problems: Recent<RecentProblem>,
}

impl RecentRuns {
    pub(super) fn new(clock: WallClock) -> Self {
        Self { clock, deliveries: Recent::default(), problems: Recent::default() }
    }

    /// Records a confirmed delivery.
    pub(super) fn delivered(&mut self, subscription: &Subscription, workflow: &Workflow, trace_id: Option<TraceId>) {
        let at = self.clock.now();
        let seconds_from_finish = u64::try_from(at.saturating_sub(workflow.finished)).unwrap_or(0);
        let delivery = RecentDelivery {
            at,
            namespace: workflow.namespace.clone(),
            workflow: workflow.name.clone(),
            uid: workflow.uid,
            subscription: subscription.name.clone(),
            trace_id,
            seconds_from_finish: (workflow.finished > 0).then_some(seconds_from_finish),
        };
        self.deliveries.push(&workflow.namespace, delivery);
    }

    /// Records a problem of a run.
    pub(super) fn problem(
        &mut self,
        workflow: &Workflow,
        subscription: Option<&SubscriptionName>,
        reason: &'static str,
        text: &str,
        trace_id: Option<TraceId>,
    ) {
        let problem = RecentProblem {
            at: self.clock.now(),
            namespace: workflow.namespace.clone(),
            workflow: workflow.name.clone(),
            uid: workflow.uid,
            subscription: subscription.cloned(),
            reason,
            text: text.into(),
            trace_id,
        };
        self.problems.push(&workflow.namespace, problem);
    }

    /// Records a patch of marks that is retried.
    pub(super) fn mark_failed(&mut self, patch: &MarkPatch, reason: &'static str) {
        let problem = RecentProblem {
            at: self.clock.now(),
            namespace: patch.namespace.clone(),
            workflow: patch.name.clone(),
            uid: patch.uid,
            subscription: None,
            reason,
            text: "the marks on the Workflow could not be changed; that is retried".into(),
            trace_id: None,
        };
        self.problems.push(&patch.namespace, problem);
    }

    /// Returns a status with these.
    pub(super) fn status(&self) -> DeliveryStatus {
        let (deliveries, problems) = (self.deliveries.newest_first(), self.problems.newest_first());
        DeliveryStatus { deliveries, problems, ..DeliveryStatus::default() }
    }
}

/// The latest entries of all namespaces.
#[derive(Debug)]
pub(super) struct Recent<T> {
    /// The entries of each namespace with their numbers, oldest first.
    namespaces: HashMap<Arc<str>, VecDeque<(u64, Arc<T>)>>,
    shares: Shares,
    last: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { namespaces: HashMap::new(), shares: Shares::default(), last: 0 }
    }
}

impl<T> Recent<T> {
    /// Adds an entry. The oldest of its namespace gives way, or the oldest of the namespace that has most.
    pub(super) fn push(&mut self, namespace: &Arc<str>, entry: T) {
        self.last += 1;
        let entries = self.namespaces.entry(namespace.clone()).or_default();
        entries.push_back((self.last, Arc::new(entry)));
        let is_full = entries.len() > MAX_ENTRIES_OF_NAMESPACE;
        self.shares.add(namespace, 1);
        if is_full {
            self.drop_oldest(&namespace.clone());
        } else if self.shares.total() > MAX_ENTRIES {
            let largest = self.shares.largest(namespace).clone();
            self.drop_oldest(&largest);
        }
    }

    fn drop_oldest(&mut self, namespace: &Arc<str>) {
        let Some(entries) = self.namespaces.get_mut(namespace) else { return };
        if entries.pop_front().is_some() {
            self.shares.remove(namespace, 1);
        }
        if entries.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    /// Returns all entries, newest first.
    pub(super) fn newest_first(&self) -> Vec<Arc<T>> {
        let mut entries: Vec<_> = self.namespaces.values().flatten().collect();
        entries.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        entries.into_iter().map(|(_, entry)| entry.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(recent: &mut Recent<(usize, usize)>, namespace: usize, entry: usize) {
        recent.push(&format!("team-{namespace}").into(), (namespace, entry));
    }

    fn of(recent: &Recent<(usize, usize)>, namespace: usize) -> Vec<usize> {
        recent.newest_first().into_iter().filter(|entry| entry.0 == namespace).map(|entry| entry.1).collect()
    }

    #[test]
    fn the_newest_come_first() {
        let mut recent = Recent::default();
        for (namespace, entry) in [(1, 1), (2, 2), (1, 3)] {
            push(&mut recent, namespace, entry);
        }
        let entries: Vec<_> = recent.newest_first().into_iter().map(|entry| *entry).collect();
        assert_eq!(entries, [(1, 3), (2, 2), (1, 1)]);
    }

    #[test]
    fn a_tenant_with_many_runs_pushes_out_its_own_only() {
        let mut recent = Recent::default();
        push(&mut recent, 1, 0);
        for entry in 0..10_000 {
            push(&mut recent, 2, entry);
        }
        assert_eq!(of(&recent, 1), [0]);
        assert_eq!(of(&recent, 2).len(), MAX_ENTRIES_OF_NAMESPACE);
        assert_eq!(of(&recent, 2)[0], 9999);
    }

    /// Those with most entries give way to namespaces with few.
    #[test]
    fn the_entries_of_many_namespaces_are_bounded() {
        let mut recent = Recent::default();
        for namespace in 0..MAX_ENTRIES {
            for entry in 0..4 {
                push(&mut recent, namespace, entry);
            }
        }
        assert_eq!(recent.newest_first().len(), MAX_ENTRIES);
        assert_eq!(recent.shares.total(), MAX_ENTRIES);
        assert_eq!(of(&recent, MAX_ENTRIES - 1)[0], 3, "the newest is there");
        let most = (0..MAX_ENTRIES).map(|namespace| of(&recent, namespace).len()).max();
        assert!(most <= Some(4), "{most:?}");
        for entry in 0..2 * MAX_ENTRIES {
            push(&mut recent, MAX_ENTRIES + entry, 0);
        }
        assert!(recent.namespaces.len() <= MAX_ENTRIES);
    }
}
