//! The consequences of answers: what lookups have found, and what subscribers have confirmed.

use std::sync::Arc;

use super::{
    Ledger,
    flow::FoundModels,
    latest::{Lane, Rank, Recency},
    lookups::{Lookup, Outcome},
    stream::State,
    timers::Timer,
    types::{LookupId, Now, Report},
};
use crate::{
    delivery::{LookupError, StreamId},
    model::{FilterReason, Mark, RunModels, RunOutcome, SkipReason, Subscription, Workflow, event},
};

impl Ledger {
    /// Handles the answer to [`Action::Lookup`](super::Action::Lookup).
    pub(in crate::delivery) fn handle_answer(
        &mut self,
        id: LookupId,
        answer: Result<Arc<RunModels>, LookupError>,
        now: Now,
    ) {
        let Self { registry, lookups, timers, jitter, .. } = self;
        match lookups.handle_answer(id, answer, |lookup| registry.is_awaited(lookup), now.instant, timers, jitter) {
            Outcome::Found { lookup, models } => self.models_found(&lookup, &models, now),
            Outcome::Failed { report } => {
                self.report(report);
                self.lookup_failed(id);
            }
            Outcome::Ignored => {}
        }
    }

    /// Handles a failed attempt: the streams that await the lookup no longer wait for it with other runs.
    fn lookup_failed(&mut self, id: LookupId) {
        let lookup = self.lookups.get(id).expect("a failed lookup is kept for its retry");
        let (uid, is_given_up) = (lookup.workflow.uid, lookup.is_given_up());
        if is_given_up && let Some(namespace) = self.registry.namespaces.get_mut(&lookup.workflow.namespace) {
            namespace.without_context.insert(uid);
        }
        for id in self.registry.awaiting(lookup) {
            self.registry.stream(id).lookup_failed(uid, is_given_up);
            self.dirty.insert(id);
        }
    }

    /// Gives the models of a run to the streams that await them.
    fn models_found(&mut self, lookup: &Lookup, models: &Arc<RunModels>, now: Now) {
        let workflow = &lookup.workflow;
        let uid = workflow.uid;
        let succeeded = workflow.succeeded();
        if models.foreign_executions > 0 && succeeded {
            self.report(Report::ForeignExecutions { workflow: workflow.clone(), count: models.foreign_executions });
        }
        let has_event = !succeeded || !models.models.is_empty();
        if let Some(namespace) = self.registry.namespaces.get_mut(&*workflow.namespace) {
            namespace.without_context.remove(&uid);
            if !lookup.deleted {
                if !has_event {
                    namespace.types.record_no_model(&lookup.types, uid);
                }
                let is_uncertain = Subscription::certain_pipeline(workflow).is_none();
                let name = event::shared_pipeline_name(workflow, models).filter(|_| is_uncertain);
                namespace.pipelines.extend(name.map(|name| (uid, name.clone())));
            }
        }
        let mut found = FoundModels::new(models.clone());
        for id in self.registry.awaiting(lookup) {
            self.dirty.insert(id);
            let stream = self.registry.stream(id);
            let subscription = stream.subscription.clone();
            if stream.runs[&uid].is_name_only {
                stream.remove(uid);
                self.delivery_seen(workflow, &subscription.name, now);
            } else if has_event {
                self.run_ready(id, workflow, &mut found, now);
            } else {
                self.drop_run(id, uid);
                let (workflow, reason) = (workflow.clone(), SkipReason::NoModel);
                self.report(Report::Skipped { subscription, workflow, reason });
            }
        }
    }

    /// Gives models to a stream that awaits them: its event can be handed off, unless a filter or a newer run excludes it.
    pub(super) fn run_ready(&mut self, id: StreamId, workflow: &Arc<Workflow>, found: &mut FoundModels, now: Now) {
        let uid = workflow.uid;
        if self.pipeline_matches(id, workflow, found.models()) == Some(false) {
            self.drop_run(id, uid);
            return self.filtered(id, workflow, FilterReason::Pipelines);
        }
        if let Some(lane) = Lane::of(workflow, found.models()) {
            match self.rank(id, &lane, Recency::of(workflow)) {
                Rank::Current => {}
                Rank::Held => return self.registry.stream(id).set_state(uid, State::Held { lane }),
                Rank::Superseded => return self.supersede(id, uid, now),
            }
        }
        let subscription = self.registry.stream(id).subscription.clone();
        let probe_at = self.registry.state(&subscription).and_then(|state| state.failed.next_probe(uid));
        self.models_ready(id, uid, found, probe_at, now.instant);
    }

    /// Returns whether the filter of a stream matches the name of a run's pipeline, or `None` if that is not known before
    /// a later turn. A run without a name is not filtered: it is reported, because it has no event.
    pub(super) fn pipeline_matches(&mut self, id: StreamId, workflow: &Workflow, models: &RunModels) -> Option<bool> {
        let stream = self.registry.stream(id);
        let (Some(filter), Some(name)) = (stream.filter, event::shared_pipeline_name(workflow, models)) else {
            return Some(true);
        };
        let subscription = stream.subscription.clone();
        self.registry.namespace_of(&subscription).filters.matches(filter, name, &mut self.steps)
    }

    /// Confirms events of a stream that were acknowledged long enough ago. Returns their number.
    pub(super) fn confirm_due(&mut self, id: StreamId, now: Now) -> usize {
        let stream = self.registry.stream(id);
        let (confirmed, next) = stream.take_confirmed(now.instant);
        let subscription = stream.subscription.clone();
        if let Some(due) = next {
            self.timers.set(due, Timer::Confirm(id));
        }
        self.dirty.insert(id);
        let count = confirmed.len();
        for delivery in confirmed {
            let run = delivery.run;
            if !subscription.remember {
                self.settle_own(id, run.workflow.uid);
            } else if !run.already_delivered {
                self.confirm(&subscription, &run.workflow, now);
            }
            self.report(Report::Confirmed {
                subscription: subscription.clone(),
                since_handoff: now.instant.saturating_duration_since(delivery.handed_off),
                pending_for: now.instant.saturating_duration_since(run.pending_since),
                workflow: run.workflow,
            });
        }
        count
    }

    /// Records a delivery of a subscription with a stream, and has it marked.
    pub(super) fn confirm(&mut self, subscription: &Subscription, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        let state = self.registry.state_mut(subscription).expect("a subscription with a stream has a state");
        state.failed.remove(uid);
        for sibling in state.streams.clone() {
            if let Some(run) = self.registry.stream(sibling).runs.get_mut(&uid) {
                run.already_delivered = true;
            }
        }
        self.settle(&subscription.namespace, &subscription.name, uid);
        self.delivery_seen(workflow, &subscription.name, now);
        let outcome = workflow.outcome().unwrap_or(RunOutcome::Succeeded);
        let mark = Mark { subscription: subscription.name.clone(), outcome };
        if !self.deleted.deliver(uid, &mark, &mut self.timers)
            && self.registry.state_mut(subscription).is_some_and(|state| state.confirmed.insert(uid))
        {
            self.mark(workflow, mark);
        }
    }
}
