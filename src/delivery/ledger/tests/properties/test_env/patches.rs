//! The API server: patches and their outcomes, and Workflows that leave the selector.

use super::*;
use crate::{
    delivery::{MarkPlace, ledger::marks::turns},
    model::Subscription,
};

pub(super) struct PatchInFlight {
    pub(super) patch: MarkPatch,
    pub(super) begun: Instant,
}

impl TestEnv {
    pub(in super::super) fn leave(&mut self, run: u8) {
        let run = run % RUNS;
        if let Some(object) = self.api.remove(&run) {
            self.unseen.push_back(Unseen::Deleted(object.workflow.clone()));
            self.away.insert(run, object);
        }
    }

    pub(in super::super) fn return_run(&mut self, run: u8) {
        let run = run % RUNS;
        if let Some(object) = self.away.remove(&run) {
            self.unseen.push_back(Unseen::Applied(object.workflow.clone()));
            self.api.insert(run, object);
        }
    }

    pub(in super::super) fn fill(&mut self, run: u8) {
        if let Some(object) = self.api.get_mut(&(run % RUNS)) {
            object.is_full = !object.is_full;
        }
    }

    pub(in super::super) fn hang(&mut self, namespace: u8) {
        let namespace = NAMESPACES[usize::from(namespace) % NAMESPACES.len()];
        if !self.hanging.remove(namespace) {
            self.hanging.insert(namespace);
        }
    }

    /// Applies a patch as the API server would.
    pub(super) fn execute(&mut self, patch: &MarkPatch) -> Result<(), MarkError> {
        let mut objects = self.api.iter().chain(&self.away);
        let found = objects.find(|(_, object)| object.workflow.uid == patch.uid);
        let (run, object) = found.ok_or(MarkError::Gone)?;
        match &patch.change {
            MarkChange::Remove { resource_version, .. }
                if **resource_version != *object.resource_version.to_string() =>
            {
                return Err(MarkError::Conflict);
            }
            MarkChange::Set(_) if object.is_full && patch.place == MarkPlace::Annotation => {
                return Err(MarkError::NoRoom);
            }
            _ => {}
        }
        self.change(*run, |workflow| *workflow = with_patch(workflow, &patch.change));
        Ok(())
    }

    /// Answers one of the patches that do not hang.
    pub(in super::super) fn patch(&mut self, patch: u8, outcome: PatchOutcome) {
        let answers = |patch: &PatchInFlight| !self.hanging.contains(&*patch.patch.namespace);
        let answering: Vec<_> = (0..self.patches.len()).filter(|at| answers(&self.patches[*at])).collect();
        let Some(at) = choose(answering.len(), patch) else { return };
        let PatchInFlight { patch, .. } = self.patches.remove(answering[at]);
        let result = match outcome {
            PatchOutcome::Applied => self.execute(&patch),
            PatchOutcome::AppliedUnanswered => {
                self.execute(&patch).ok();
                transient()
            }
            PatchOutcome::Lost => transient(),
            PatchOutcome::Refused => refused(),
            PatchOutcome::Conflict => Err(MarkError::Conflict),
        };
        self.ledger.handle_patch(patch, result, self.now);
        self.perform_actions();
    }

    /// The runs of a namespace that are in the API server without the subscription's mark.
    pub(super) fn unwritten(&self, subscription: &Subscription) -> HashSet<Uid> {
        let objects = self.api.values().map(|object| &object.workflow);
        let unmarked = objects.filter(|workflow| {
            workflow.namespace == subscription.namespace && !workflow.is_marked_for(&subscription.name)
        });
        unmarked.map(|workflow| workflow.uid).collect()
    }

    /// Each namespace has the places that are its own, unless others hold all of them for less than a second.
    pub(super) fn check_turns(&self) {
        let holds_place = |patch: &&PatchInFlight| patch.begun + turns::SLOW > self.now.instant;
        let holding = self.patches.iter().filter(holds_place).count();
        for namespace in NAMESPACES {
            let own = || self.patches.iter().filter(|patch| *patch.patch.namespace == *namespace);
            let is_limited = own().filter(holds_place).count() >= PATCHES.per_namespace
                || own().count() >= PATCHES.per_namespace * (1 + turns::SLOW_PER_PLACE);
            assert!(
                self.ledger.marks.queued_in(namespace) == 0 || is_limited || holding >= PATCHES.total,
                "{namespace} has marks to write and gets no place"
            );
        }
    }
}
