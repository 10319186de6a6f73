//! `latestOnly`: no older run follows a newer one, and only a newer one supersedes a run. All runs are of one pipeline.

use super::*;

/// The newest runs of subscriptions with `latestOnly`, by the times of their ends.
#[derive(Default)]
pub(super) struct NewestRuns {
    attached: HashMap<StreamId, Claimant>,
    /// The newest run that was sent to a subscription, by this process or another one.
    newest: HashMap<Claimant, i64>,
}

impl NewestRuns {
    pub(super) fn attached(&mut self, id: StreamId, claimant: &Claimant) {
        self.attached.insert(id, claimant.clone());
    }

    pub(super) fn ended(&mut self, id: StreamId) {
        self.attached.remove(&id);
    }

    pub(super) fn forget(&mut self, forgotten: impl Fn(&Claimant) -> bool) {
        self.newest.retain(|claimant, _| !forgotten(claimant));
    }

    fn sent(&mut self, claimant: Claimant, workflow: &Workflow) {
        let newest = self.newest.entry(claimant).or_insert(workflow.finished);
        *newest = workflow.finished.max(*newest);
    }

    /// The store has shown a run with this mark.
    pub(super) fn marked(&mut self, claimant: &Claimant, workflow: &Workflow) {
        if self.attached.values().any(|attached| attached == claimant) {
            self.sent(claimant.clone(), workflow);
        }
    }

    pub(super) fn handed_off(&mut self, id: StreamId, workflow: &Workflow) {
        let Some(claimant) = self.attached.get(&id).cloned() else { return };
        let newest = self.newest.get(&claimant);
        assert!(newest.is_none_or(|newest| *newest <= workflow.finished), "{} follows a newer run", workflow.name);
        self.sent(claimant, workflow);
    }

    fn check_superseded(&self, claimant: &Claimant, workflow: &Workflow) {
        let newest = self.newest.get(claimant);
        assert!(newest.is_some_and(|newest| *newest > workflow.finished), "nothing supersedes {}", workflow.name);
    }
}

impl Oracle {
    /// A run is superseded by a newer one, and counts as delivered.
    pub(in super::super) fn superseded(&mut self, subscription: &Subscription, workflow: &Workflow) {
        let claimant = (subscription.namespace.clone(), subscription.name.clone());
        self.newest.check_superseded(&claimant, workflow);
        let step = self.step();
        self.confirm(claimant, workflow.uid, step);
    }
}
