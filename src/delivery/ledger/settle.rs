//! After each input: what can be handed off, asked and patched now.

use std::sync::Arc;

use super::{
    Action, Ledger, Now, Report, Timer,
    lookups::{Lookup, Turn},
    stream::Place,
};
use crate::{
    delivery::StreamId,
    model::{
        RunModels, Uid, Workflow,
        event::{self, Unannounced},
        trace,
    },
};

impl Ledger {
    /// Decides what follows from the inputs since the last call. To be called after them, before waiting.
    pub(in crate::delivery) fn settle(&mut self, now: Now) -> Vec<Action> {
        while let Some(id) = self.dirty.pop_first() {
            if self.draining {
                self.close_if_done(id);
                continue;
            }
            self.hand_off_all(id, now);
            if let Some(stream) = self.streams.get(&id).filter(|stream| stream.is_hungry()) {
                self.lookups.hungry(&stream.subscription.namespace, id);
            }
        }
        if !self.draining {
            self.start_lookups(now);
        }
        while let Some((patch, attempt)) = self.marks.next_patch() {
            self.actions.push(Action::Patch { patch, attempt });
        }
        std::mem::take(&mut self.actions)
    }

    fn close_if_done(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|stream| !stream.has_open()) {
            self.actions.push(Action::Close(id));
        }
    }

    fn start_lookups(&mut self, now: Now) {
        while let Some(turn) = self.lookups.next_turn() {
            let id = match turn {
                Turn::Again(id) => Some(id),
                Turn::Stream(stream_id) => {
                    let Some(stream) = self.streams.get_mut(&stream_id) else { continue };
                    let Some(workflow) = stream.next_to_ask() else { continue };
                    let types = stream.subscription.artifact_types.clone();
                    if stream.is_hungry() {
                        self.lookups.hungry(&workflow.namespace, stream_id);
                    }
                    self.lookups.ask(workflow, &types, stream_id)
                }
            };
            if let Some((id, (workflow, types, attempt))) =
                id.and_then(|id| Some((id, self.lookups.start(id, now.instant)?)))
            {
                self.actions.push(Action::Lookup { id, workflow, types, attempt });
            }
        }
    }

    /// An answer goes to every stream that waits for it.
    pub(super) fn found(&mut self, lookup: &Lookup, models: &Arc<RunModels>) {
        let workflow = &lookup.workflow;
        if models.foreign_executions > 0 {
            self.report(Report::ForeignExecutions { workflow: workflow.clone(), count: models.foreign_executions });
        }
        if models.models.is_empty()
            && let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace)
        {
            namespace.without_model.entry(lookup.types.clone()).or_default().insert(workflow.uid);
        }
        for id in &lookup.waiters {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            self.dirty.insert(*id);
            if stream.runs.get(&workflow.uid).is_none_or(|entry| entry.place != Place::Asked) {
                continue;
            }
            let wanted = &stream.subscription;
            if models.models.is_empty() {
                let subscription = wanted.clone();
                stream.remove(workflow.uid);
                self.report(Report::Unannounced {
                    subscription,
                    workflow: workflow.clone(),
                    why: Unannounced::NoModel,
                });
            } else if event::pipeline_name(workflow, models).is_some_and(|name| !wanted.pipelines.wants(name)) {
                stream.decline(workflow.uid);
            } else {
                let strikes = self
                    .namespaces
                    .get(&wanted.namespace)
                    .and_then(|namespace| namespace.subscriptions.get(&wanted.name)?.strikes.get(&workflow.uid))
                    .map_or(0, |strikes| strikes.count);
                stream.found(workflow.uid, models, strikes);
            }
        }
    }

    fn hand_off_all(&mut self, id: StreamId, now: Now) {
        while let Some(stream) = self.streams.get(&id).filter(|stream| stream.has_room()) {
            match stream.next_ready().or_else(|| self.next_struck(id, now)) {
                Some((workflow, models)) => self.hand_off(id, &workflow, &models, now),
                None => return,
            }
        }
    }

    /// A run on which streams have ended, if its time has come and nothing else is open.
    fn next_struck(&mut self, id: StreamId, now: Now) -> Option<(Arc<Workflow>, Arc<RunModels>)> {
        let stream = self.streams.get(&id).filter(|stream| !stream.has_open())?;
        let wanted = &stream.subscription;
        let strikes = &self.consumer(&wanted.namespace, &wanted.name)?.strikes;
        let not_before = |uid: Uid| strikes.get(&uid).map_or(now.instant, |strikes| strikes.not_before);
        let (at, uid) = stream.struck().map(|uid| (not_before(uid), uid)).min()?;
        if at <= now.instant {
            return stream.ready_run(uid);
        }
        self.timers.set(at, Timer::Struck(id));
        None
    }

    fn hand_off(&mut self, id: StreamId, workflow: &Arc<Workflow>, models: &RunModels, now: Now) {
        let uid = workflow.uid;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let wanted = &stream.subscription;
        if wanted.is_too_old(workflow, now.unix) {
            stream.remove(uid);
            return;
        }
        let traceparent = trace::traceparent(workflow, &wanted.name, false);
        match event::payload(workflow, models, wanted.include, traceparent.as_deref()) {
            Ok(payload) => {
                let again = self
                    .namespaces
                    .get(&wanted.namespace)
                    .and_then(|namespace| namespace.subscriptions.get(&wanted.name))
                    .is_some_and(|consumer| consumer.strikes.contains_key(&uid));
                let subscription = wanted.clone();
                let Some((handoff, waited)) = stream.hand_off(uid, payload, now.instant) else { return };
                let workflow = workflow.clone();
                self.actions.push(Action::HandOff { stream: id, subscription, handoff, workflow, waited, again });
            }
            Err(why) => {
                let subscription = wanted.clone();
                stream.decline(uid);
                self.report(Report::Unannounced { subscription, workflow: workflow.clone(), why });
            }
        }
    }
}
