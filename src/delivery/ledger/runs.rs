//! Runs: the consequences of changes of their Workflows.

use std::{collections::HashSet, sync::Arc};

use super::{
    Ledger,
    deleted::Dropped,
    offers::News,
    types::{Action, Now, Report},
};
use crate::{
    delivery::StreamId,
    model::{Mark, Phase, RunOutcome, Uid, Workflow},
    store::Before,
    telemetry::Limit,
};

// === changes of Workflows ===

impl Ledger {
    /// Handles a Workflow that is new or has changed. An unknown phase says nothing.
    pub(super) fn workflow_applied(&mut self, workflow: &Arc<Workflow>, before: Option<Before>, now: Now) {
        if workflow.phase == Phase::Unknown {
            return;
        }
        if workflow.is_restarted() {
            self.marks.remove_stale(workflow, &mut self.timers);
        } else {
            self.marks.cancel_removal(workflow.uid, &mut self.timers);
        }
        if !self.registry.namespaces.contains_key(&*workflow.namespace) {
            return;
        }
        self.workflow_returned(workflow, now);
        let left = before.and_then(|before| before.outcome).filter(|outcome| Some(*outcome) != workflow.outcome());
        if left.is_some() || workflow.phase == Phase::Active {
            self.outcome_left(workflow);
        }
        if left.is_some() || before.is_some_and(|before| before.identity_changed) {
            self.forget_lookups(workflow);
        }
        if workflow.outcome().is_none() {
            self.look_ahead(workflow, true, now);
            return;
        }
        self.stop_looking_ahead(workflow);
        self.marks_seen(workflow, now);
        if self.skip_labelled && workflow.events_published {
            self.label_seen(workflow, now);
        }
        let news = News::of(workflow, before);
        for id in self.registry.streams_of(&workflow.namespace) {
            self.offer(id, workflow, news, now);
        }
    }

    /// Handles the deletion of a Workflow: a run that is pending for a subscription is kept for a while.
    pub(super) fn workflow_deleted(&mut self, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        self.marks.forget(uid, &mut self.timers);
        self.stop_looking_ahead(workflow);
        let mut pending_for = HashSet::new();
        let mut kept = workflow.clone();
        for id in self.registry.streams_of(&workflow.namespace) {
            if self.registry.stream(id).attaching.is_some() {
                // It may not have been offered this record yet.
                self.offer(id, workflow, News::Change, now);
            }
            let stream = self.registry.stream(id);
            let Some(run) = stream.runs.get(&uid) else { continue };
            let is_owed = stream.subscription.remember && !run.is_excluded() && !run.already_delivered;
            if is_owed {
                // Unlike the last record it has an outcome.
                kept = run.workflow.clone();
                pending_for.insert(stream.subscription.name.clone());
            } else if !run.is_handed_off() {
                self.withdraw(id, uid);
            }
        }
        if let Some(namespace) = self.registry.namespaces.get_mut(&*workflow.namespace) {
            let without_context = namespace.without_context.contains(&uid);
            namespace.forget_run(uid);
            if without_context && !pending_for.is_empty() {
                namespace.without_context.insert(uid);
            }
        }
        let mut delivered = Vec::new();
        // The phase may have become unknown after the delivery.
        let outcome = workflow.outcome().unwrap_or(RunOutcome::Succeeded);
        self.registry.change_states(&workflow.namespace, |name, state| {
            if state.confirmed.remove(&uid) {
                delivered.push(Mark { subscription: name.clone(), outcome });
            }
            // Its stream broke before it confirmed the run, and the next stream may attach in a few seconds.
            if state.failed.contains(uid) {
                pending_for.insert(name.clone());
            }
        });
        let registry = &self.registry;
        self.lookups.workflow_deleted(uid, |lookup| registry.is_awaited(lookup), &mut self.timers);
        if pending_for.is_empty() {
            self.settle_all(&workflow.namespace, uid);
        }
        if !pending_for.is_empty() || !delivered.is_empty() {
            let timers = &mut self.timers;
            for dropped in self.deleted.insert(kept, pending_for, delivered, now.instant, timers) {
                self.report(Report::LimitHit(Limit::DeletedRuns));
                self.expire(dropped);
            }
        }
    }

    /// Handles a run that was deleted, or had left the selector, and is there again: the deliveries that were made
    /// in between are recorded and marked.
    pub(super) fn workflow_returned(&mut self, workflow: &Arc<Workflow>, now: Now) {
        if self.deleted.is_empty() || workflow.phase == Phase::Unknown {
            return;
        }
        let Some(returned) = self.deleted.returned(workflow.uid, &mut self.timers) else { return };
        let before = Before::of(&returned.workflow, workflow);
        if before.outcome != workflow.outcome() || before.identity_changed {
            self.forget_lookups(workflow);
        } else {
            self.lookups.workflow_returned(workflow.uid);
        }
        for mark in returned.delivered {
            if Some(mark.outcome) == workflow.outcome() && !workflow.is_marked_for(&mark.subscription) {
                let name = &mark.subscription;
                self.registry.record_confirmed(&workflow.namespace, name, workflow.uid, now.instant);
                self.schedule_forgetting(&workflow.namespace, now.instant);
                self.mark(workflow, mark);
            }
        }
    }

    /// Has a delivery marked.
    pub(super) fn mark(&mut self, workflow: &Arc<Workflow>, mark: Mark) {
        if !self.marks.add(workflow, &mark, &mut self.timers) {
            self.report(Report::MarksFull { workflow: workflow.clone(), subscription: mark.subscription });
        }
    }

    /// Withdraws a run that has no outcome or another one than before, and cancels every decision about it.
    fn outcome_left(&mut self, workflow: &Workflow) {
        let uid = workflow.uid;
        self.registry.change_states(&workflow.namespace, |_, state| {
            state.confirmed.remove(&uid);
            state.failed.remove(uid);
        });
        for id in self.registry.streams_of(&workflow.namespace) {
            self.withdraw(id, uid);
        }
        self.settle_all(&workflow.namespace, uid);
        self.marks.cancel_marks(uid, &mut self.timers);
    }

    /// Forgets what lookups have revealed about a run, because the next one may reveal something else.
    fn forget_lookups(&mut self, workflow: &Workflow) {
        let uid = workflow.uid;
        self.registry.namespaces.get_mut(&*workflow.namespace).into_iter().for_each(|namespace| {
            namespace.forget_run(uid);
        });
        self.lookups.forget(uid, &mut self.timers);
        self.actions.push(Action::Forget(uid));
    }

    /// Reads the marks of a run: deliveries by this process or another replica.
    fn marks_seen(&mut self, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        for mark in workflow.marks.iter().filter(|mark| Some(mark.outcome) == workflow.outcome()) {
            let mut streams = Vec::new();
            self.registry.change_state(&workflow.namespace, &mark.subscription, |state| {
                state.confirmed.remove(&uid);
                state.failed.remove(uid);
                streams.clone_from(&state.streams);
            });
            self.marks.cancel_mark(uid, mark, &mut self.timers);
            for id in streams {
                let Some(run) = self.registry.stream(id).runs.get_mut(&uid) else { continue };
                // Each stream here gets every event, including those that another stream of its subscription has
                // confirmed, which set `already_delivered`. A delivery by another replica is not repeated, unless the
                // event is on its way.
                let by_other_replica = !std::mem::replace(&mut run.already_delivered, true);
                if by_other_replica && !run.is_handed_off() {
                    self.withdraw(id, uid);
                }
            }
            self.settle(&workflow.namespace, &mark.subscription, uid);
            self.delivery_seen(workflow, &mark.subscription, now);
        }
        self.unscoped_marks_seen(workflow);
    }

    /// Handles marks of subscriptions without a scope, which count for those with one: while tokens are being required,
    /// another replica may not require them yet.
    fn unscoped_marks_seen(&mut self, workflow: &Arc<Workflow>) {
        if workflow.marks.is_empty() {
            return;
        }
        for id in self.registry.streams_of(&workflow.namespace) {
            let stream = self.registry.stream(id);
            let unscoped = stream.subscription.unscoped.as_ref().filter(|_| stream.subscription.remember);
            let is_waiting = stream.runs.get(&workflow.uid).is_some_and(|run| !run.is_handed_off());
            if is_waiting && unscoped.is_some_and(|name| workflow.is_marked_for(name)) {
                self.withdraw(id, workflow.uid);
            }
        }
    }

    /// Handles a label that counts as a mark of every subscription. It may be removed, so a delivery that is confirmed
    /// later is still marked.
    fn label_seen(&mut self, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        let mut names = Vec::new();
        self.registry.change_states(&workflow.namespace, |name, state| {
            state.failed.remove(uid);
            names.extend((state.latest_streams > 0).then(|| name.clone()));
        });
        for id in self.registry.streams_of(&workflow.namespace) {
            match self.registry.stream(id).runs.get_mut(&uid) {
                Some(run) if run.is_handed_off() => run.workflow = workflow.clone(),
                Some(_) => {
                    self.withdraw(id, uid);
                }
                None => {}
            }
        }
        for name in names {
            self.delivery_seen(workflow, &name, now);
        }
    }
}

// === the end of a run in a stream ===

impl Ledger {
    /// Removes a run from a stream. Returns whether the stream had it.
    pub(super) fn withdraw(&mut self, id: StreamId, run: Uid) -> bool {
        let stream = self.registry.stream(id);
        if stream.remove(run).is_none() {
            return false;
        }
        self.trim_lookups(run);
        // There may be room for the lookup of another run.
        self.dirty.insert(id);
        true
    }

    /// Drops the failed lookups of a run that no stream awaits, where too many are kept.
    pub(super) fn trim_lookups(&mut self, run: Uid) {
        let registry = &self.registry;
        self.lookups.trim(run, |lookup| registry.is_awaited(lookup), &mut self.timers);
    }

    /// Removes a run from a stream that does not want it.
    pub(super) fn drop_run(&mut self, id: StreamId, run: Uid) {
        let stream = self.registry.stream(id);
        stream.remove(run);
        if stream.subscription.remember {
            self.deleted.release(run, &stream.subscription.name, &mut self.timers);
        }
    }

    /// Gives up a run whose Workflow was deleted, if it is pending for a subscription.
    pub(super) fn expire(&mut self, dropped: Dropped) {
        let Dropped { workflow, was_pending: true, .. } = dropped else { return };
        let uid = workflow.uid;
        for id in self.registry.streams_of(&workflow.namespace) {
            self.withdraw(id, uid);
        }
        self.registry.change_states(&workflow.namespace, |_, state| {
            state.failed.remove(uid);
        });
        self.settle_all(&workflow.namespace, uid);
        let namespace = self.registry.namespaces.get_mut(&*workflow.namespace);
        let without_context = namespace.is_some_and(|namespace| namespace.without_context.remove(&uid));
        self.report(Report::Expired { workflow, without_context });
    }
}
