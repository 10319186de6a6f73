//! Runs: the streams that each is offered to, and the changes and answers that take it from them.

use std::{collections::HashSet, sync::Arc};

use super::{
    Ledger,
    deleted::Dropped,
    flow::FoundModels,
    lookups::Lookup,
    timers::Timer,
    types::{Action, Now, Report},
};
use crate::{
    delivery::StreamId,
    model::{
        Mark, Phase, RunModels, RunOutcome, Subscription, Uid, Workflow,
        event::{self, SkipReason},
    },
    telemetry::Limit,
};

// === changes of Workflows ===

impl Ledger {
    /// Handles a Workflow that is new or has changed.
    pub(super) fn workflow_applied(&mut self, workflow: &Arc<Workflow>, now: Now) {
        if workflow.is_restarted() {
            self.marks.remove_stale(workflow, &mut self.timers);
        } else {
            self.marks.cancel_removal(workflow.uid, &mut self.timers);
        }
        if !self.registry.namespaces.contains_key(&*workflow.namespace) {
            return;
        }
        self.workflow_returned(workflow, now);
        if !workflow.succeeded() {
            return self.no_longer_succeeded(workflow);
        }
        self.marks_seen(workflow);
        if self.skip_labelled && workflow.events_published {
            self.label_seen(workflow);
        }
        for id in self.registry.streams_of(&workflow.namespace) {
            self.offer(id, workflow, now);
        }
    }

    /// Handles the deletion of a Workflow: a run that is pending for a subscription is kept for a while.
    pub(super) fn workflow_deleted(&mut self, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        self.marks.forget(uid, &mut self.timers);
        let mut pending_for = HashSet::new();
        for id in self.registry.streams_of(&workflow.namespace) {
            let stream = self.registry.stream(id);
            let Some(run) = stream.runs.get(&uid) else { continue };
            if run.is_excluded() || run.already_delivered {
                if !run.is_handed_off() {
                    self.withdraw(id, uid);
                }
            } else {
                pending_for.insert(stream.subscription.name.clone());
            }
        }
        if let Some(namespace) = self.registry.namespaces.get_mut(&*workflow.namespace) {
            namespace.without_model.values_mut().for_each(|runs| {
                runs.remove(&uid);
            });
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
        if !pending_for.is_empty() || !delivered.is_empty() {
            let timers = &mut self.timers;
            for dropped in self.deleted.insert(workflow.clone(), pending_for, delivered, now.instant, timers) {
                self.report(Report::LimitHit(Limit::DeletedRuns));
                self.expire(dropped);
            }
        }
    }

    /// Handles a run that was deleted, or had left the selector, and is there again: the deliveries that were made
    /// meanwhile are recorded and marked.
    pub(super) fn workflow_returned(&mut self, workflow: &Workflow, now: Now) {
        if self.deleted.is_empty() || workflow.phase == Phase::Unknown {
            return;
        }
        for mark in self.deleted.returned(workflow.uid, &mut self.timers) {
            if Some(mark.outcome) == workflow.outcome() && !workflow.is_marked_for(&mark.subscription) {
                let name = &mark.subscription;
                self.registry.record_confirmed(&workflow.namespace, name, workflow.uid, now.instant);
                self.mark(workflow, mark);
            }
        }
    }

    /// Has a delivery marked.
    fn mark(&mut self, workflow: &Workflow, mark: Mark) {
        if !self.marks.add(workflow, &mark, &mut self.timers) {
            let workflow = Arc::new(workflow.clone());
            self.report(Report::MarksFull { workflow, subscription: mark.subscription });
        }
    }

    /// Withdraws a run whose phase left `Succeeded`, and cancels every decision about it.
    fn no_longer_succeeded(&mut self, workflow: &Workflow) {
        let uid = workflow.uid;
        let mut is_known = false;
        if let Some(namespace) = self.registry.namespaces.get_mut(&*workflow.namespace) {
            for runs in namespace.without_model.values_mut() {
                is_known |= runs.remove(&uid);
            }
        }
        self.registry.change_states(&workflow.namespace, |_, state| {
            is_known |= state.confirmed.remove(&uid);
            is_known |= state.failed.remove(uid);
        });
        for id in self.registry.streams_of(&workflow.namespace) {
            is_known |= self.withdraw(id, uid);
        }
        self.marks.cancel_marks(uid, &mut self.timers);
        is_known |= self.lookups.forget(uid, &mut self.timers);
        if is_known {
            self.actions.push(Action::Forget(uid));
        }
    }

    /// Reads the marks of a succeeded run: deliveries by this process or another replica.
    fn marks_seen(&mut self, workflow: &Workflow) {
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
        }
    }

    /// Handles a label that counts as a mark of every subscription. It may be removed, so a delivery that is confirmed
    /// all the same is still marked.
    fn label_seen(&mut self, workflow: &Arc<Workflow>) {
        let uid = workflow.uid;
        self.registry.change_states(&workflow.namespace, |_, state| {
            state.failed.remove(uid);
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
    }
}

// === streams ===

impl Ledger {
    /// Offers a run to a stream, which may have it already, or not want it.
    pub(super) fn offer(&mut self, id: StreamId, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        let stream = self.registry.streams.get_mut(&id).expect("the stream is attached");
        let namespace = &self.registry.namespaces[&stream.subscription.namespace];
        let subscription = &stream.subscription;
        let state = &namespace.subscriptions[&subscription.name];
        if !workflow.succeeded()
            || subscription.is_delivered(workflow, self.skip_labelled)
            || state.confirmed.contains(&uid)
        {
            return;
        }
        if let Some(run) = stream.runs.get_mut(&uid) {
            run.already_delivered = false;
            run.workflow = workflow.clone();
            return;
        }
        let without_model = namespace.without_model.get(&subscription.artifact_types);
        if without_model.is_some_and(|runs| runs.contains(&uid))
            || Subscription::certain_pipeline(workflow).is_some_and(|name| !subscription.pipelines.matches(name))
        {
            return;
        }
        if subscription.is_too_old(workflow, now.unix) {
            return self.record_age_exclusion(now);
        }
        stream.insert(workflow.clone(), state.failed.pending_since(uid).unwrap_or(now.instant));
        self.dirty.insert(id);
    }

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

    /// Removes a run from a stream that does not want it, for a reason that is found without a lookup.
    pub(super) fn drop_run(&mut self, id: StreamId, run: Uid) {
        let stream = self.registry.stream(id);
        stream.remove(run);
        self.deleted.release(run, &stream.subscription.name, &mut self.timers);
    }

    /// Excludes a run from a stream, for a reason that would be found again by every lookup.
    pub(super) fn exclude(&mut self, id: StreamId, run: Uid) {
        let stream = self.registry.stream(id);
        if self.deleted.release(run, &stream.subscription.name, &mut self.timers) {
            stream.remove(run);
        } else {
            stream.exclude(run);
        }
    }
}

// === answers and confirmations ===

impl Ledger {
    /// Gives the models of a run to the streams that await them.
    pub(super) fn models_found(&mut self, lookup: &Lookup, models: &Arc<RunModels>) {
        let workflow = &lookup.workflow;
        let uid = workflow.uid;
        if models.foreign_executions > 0 {
            self.report(Report::ForeignExecutions { workflow: workflow.clone(), count: models.foreign_executions });
        }
        let has_model = !models.models.is_empty();
        if !has_model
            && !lookup.deleted
            && let Some(namespace) = self.registry.namespaces.get_mut(&*workflow.namespace)
        {
            namespace.without_model.entry(lookup.types.clone()).or_default().insert(uid);
        }
        let mut found = FoundModels::new(models.clone());
        for id in self.registry.awaiting(lookup) {
            self.dirty.insert(id);
            let subscription = self.registry.stream(id).subscription.clone();
            if !has_model {
                self.drop_run(id, uid);
                let (workflow, reason) = (workflow.clone(), SkipReason::NoModel);
                self.report(Report::Skipped { subscription, workflow, reason });
            } else if event::pipeline_name(workflow, models).is_some_and(|name| !subscription.pipelines.matches(name)) {
                self.exclude(id, uid);
            } else {
                let probe_at = self.registry.state(&subscription).failed.next_probe(uid);
                self.models_ready(id, uid, &mut found, probe_at);
            }
        }
    }

    /// Confirms the events of a stream that were acknowledged long enough ago.
    pub(super) fn confirm_due(&mut self, id: StreamId, now: Now) {
        let stream = self.registry.stream(id);
        let (confirmed, next) = stream.take_confirmed(now.instant);
        let subscription = stream.subscription.clone();
        if let Some(due) = next {
            self.timers.set(due, Timer::Confirm(id));
        }
        self.dirty.insert(id);
        for delivery in confirmed {
            let run = delivery.run;
            if !run.already_delivered {
                self.confirm(&subscription, &run.workflow);
            }
            self.report(Report::Confirmed {
                subscription: subscription.clone(),
                since_handoff: now.instant.saturating_duration_since(delivery.handed_off),
                pending_for: now.instant.saturating_duration_since(run.pending_since),
                workflow: run.workflow,
            });
        }
    }

    /// Records a delivery, and has it marked.
    fn confirm(&mut self, subscription: &Subscription, workflow: &Arc<Workflow>) {
        let uid = workflow.uid;
        let state = self.registry.state_mut(subscription);
        state.failed.remove(uid);
        for sibling in state.streams.clone() {
            if let Some(run) = self.registry.stream(sibling).runs.get_mut(&uid) {
                run.already_delivered = true;
            }
        }
        let outcome = workflow.outcome().unwrap_or(RunOutcome::Succeeded);
        let mark = Mark { subscription: subscription.name.clone(), outcome };
        if self.deleted.deliver(uid, &mark, &mut self.timers)
            || !self.registry.state_mut(subscription).confirmed.insert(uid)
        {
            return;
        }
        self.mark(workflow, mark);
    }

    /// Gives up a run whose Workflow was deleted, if it is pending for a subscription.
    pub(super) fn expire(&mut self, dropped: Dropped) {
        let Dropped { workflow, was_pending: true, .. } = dropped else { return };
        for id in self.registry.streams_of(&workflow.namespace) {
            self.withdraw(id, workflow.uid);
        }
        self.registry.change_states(&workflow.namespace, |_, state| {
            state.failed.remove(workflow.uid);
        });
        self.report(Report::Expired { workflow });
    }
}
