//! After each input: what can be handed off, asked and patched now.

use std::sync::Arc;

use super::{
    Action, Ledger, Now, Report, Timer,
    lookups::{Asked, Lookup, Turn},
    stream::{Next, Place},
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

    /// Its peer redials another replica at once, which knows of a delivery from its mark only.
    fn close_if_done(&mut self, id: StreamId) {
        let marks = &self.marks;
        if self.streams.get(&id).is_some_and(|stream| !stream.has_open() && !marks.is_busy_for(&stream.subscription)) {
            self.actions.push(Action::Close(id));
        }
    }

    fn start_lookups(&mut self, now: Now) {
        while let Some(turn) = self.lookups.next_turn() {
            let id = match turn {
                Turn::Again(id) => Some(id),
                Turn::Stream(stream_id) => {
                    let Some(stream) = self.streams.get_mut(&stream_id) else { continue };
                    let Some(workflow) = stream.next_to_ask(now.instant) else { continue };
                    let types = &stream.subscription.artifact_types;
                    let gone = self.departed.contains(workflow.uid);
                    let asked = self.lookups.ask(workflow.clone(), types, stream_id, gone);
                    if matches!(asked, Asked::Later) {
                        stream.question_failed(&workflow);
                    }
                    if stream.is_hungry() {
                        self.lookups.hungry(&workflow.namespace, stream_id);
                    }
                    if let Asked::New(id) = asked { Some(id) } else { None }
                }
            };
            let Some(id) = id else { continue };
            if let Some((workflow, types, attempt)) = self.lookups.start(id, now.instant, &mut self.timers) {
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
        let uid = workflow.uid;
        if models.models.is_empty()
            && !lookup.gone
            && let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace)
        {
            namespace.without_model.entry(lookup.types.clone()).or_default().insert(uid);
        }
        for id in &lookup.waiters {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            self.dirty.insert(*id);
            if stream.runs.get(&uid).is_none_or(|entry| entry.place != Place::Asked) {
                continue;
            }
            let wanted = stream.subscription.clone();
            if models.models.is_empty() {
                self.report(Report::Unannounced {
                    subscription: wanted,
                    workflow: workflow.clone(),
                    why: Unannounced::NoModel,
                });
                self.nothing_for(*id, uid);
            } else if event::pipeline_name(workflow, models).is_some_and(|name| !wanted.pipelines.matches(name)) {
                self.decline(*id, uid);
            } else {
                let consumer = self.namespaces.get(&wanted.namespace).and_then(|ns| ns.subscriptions.get(&wanted.name));
                let strikes = consumer.and_then(|consumer| consumer.strikes.get(&uid)).copied();
                stream.found(uid, models, strikes);
            }
        }
    }

    /// The run is nothing for a stream, for a reason that need not be remembered there.
    fn nothing_for(&mut self, id: StreamId, uid: Uid) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.remove(uid);
        self.departed.settle(uid, &stream.subscription.name, &mut self.timers);
    }

    /// The run is nothing for a stream, for a reason that would be found again and again.
    fn decline(&mut self, id: StreamId, uid: Uid) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if self.departed.settle(uid, &stream.subscription.name, &mut self.timers) {
            stream.remove(uid);
        } else {
            stream.decline(uid);
        }
    }

    fn hand_off_all(&mut self, id: StreamId, now: Now) {
        while let Some(stream) = self.streams.get(&id).filter(|stream| stream.has_room()) {
            match stream.next_ready(now.instant) {
                Next::Run(workflow, models) => self.hand_off(id, &workflow, &models, now),
                Next::NotBefore(at) => return self.timers.set(at, Timer::HandOff(id)),
                Next::Nothing => return,
            }
        }
    }

    fn hand_off(&mut self, id: StreamId, workflow: &Arc<Workflow>, models: &RunModels, now: Now) {
        let uid = workflow.uid;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let wanted = &stream.subscription;
        if wanted.is_too_old(workflow, now.unix) {
            self.declined_for_its_age(now);
            return self.nothing_for(id, uid);
        }
        let propagated = trace::trace_id(workflow).and_then(|id| self.options.traces.propagated(*id.as_bytes()));
        let traceparent = propagated.and_then(|sampled| trace::traceparent(workflow, &wanted.name, sampled));
        match event::payload(workflow, models, wanted.include, traceparent.as_deref()) {
            Ok(payload) => {
                let subscription = wanted.clone();
                let consumer = self.namespaces.get(&wanted.namespace).and_then(|ns| ns.subscriptions.get(&wanted.name));
                let again = consumer.is_some_and(|consumer| consumer.strikes.contains_key(&uid));
                let Some((handoff, waited)) = stream.hand_off(uid, payload, now.instant) else { return };
                let workflow = workflow.clone();
                self.actions.push(Action::HandOff { stream: id, subscription, handoff, workflow, waited, again });
            }
            Err(why) => {
                let subscription = wanted.clone();
                self.decline(id, uid);
                self.report(Report::Unannounced { subscription, workflow: workflow.clone(), why });
            }
        }
    }
}
