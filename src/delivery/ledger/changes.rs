//! What the store tells: which runs are put before whom, and which are no longer.

use std::{collections::HashSet, sync::Arc};

use super::{Action, Ledger, Now, stream::Place};
use crate::{
    delivery::StreamId,
    model::{Uid, Workflow},
};

impl Ledger {
    /// A Workflow is new or has changed.
    pub(in crate::delivery) fn applied(&mut self, workflow: &Arc<Workflow>, now: Now) {
        self.drain_goes_on(&workflow.namespace);
        if workflow.is_restarted() {
            self.marks.restarted(workflow);
        } else {
            self.marks.not_restarted(workflow.uid, &mut self.timers);
        }
        if !self.namespaces.contains_key(&*workflow.namespace) {
            return;
        }
        if workflow.succeeded() {
            self.marks_seen(workflow);
            if self.options.skip_labelled && workflow.events_published {
                self.label_seen(workflow);
            }
            for id in self.streams_of(&workflow.namespace) {
                self.offer(id, workflow, now);
            }
        } else {
            self.left_success(workflow);
        }
    }

    /// A Workflow was deleted. What streams have been promised of it is kept for a while.
    pub(in crate::delivery) fn gone(&mut self, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        self.drain_goes_on(&workflow.namespace);
        self.marks.forget(uid, &mut self.timers);
        let mut wanted_by = HashSet::new();
        for id in self.streams_of(&workflow.namespace) {
            let Some(stream) = self.streams.get(&id) else { continue };
            match stream.runs.get(&uid).map(|entry| (entry.place, entry.elsewhere)) {
                None | Some((Place::Open, true)) => {}
                Some((Place::Declined, _) | (_, true)) => self.withdraw(id, uid),
                Some(_) => {
                    wanted_by.insert(stream.subscription.name.clone());
                }
            }
        }
        let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace) else { return };
        namespace.without_model.values_mut().for_each(|runs| {
            runs.remove(&uid);
        });
        namespace.subscriptions.retain(|name, consumer| {
            consumer.confirmed.remove(&uid);
            // Its stream broke while the run was open, and the next one may be here in a few seconds.
            if consumer.strikes.contains_key(&uid) {
                wanted_by.insert(name.clone());
            }
            !consumer.is_empty()
        });
        self.lookups.gone(uid, &mut self.timers);
        if !wanted_by.is_empty()
            && let Some(expired) = self.departed.insert(workflow.clone(), wanted_by, now.instant, &mut self.timers)
        {
            self.expire(&expired);
        }
    }

    /// The phase of a run left `Succeeded`: whatever was decided about it is void.
    fn left_success(&mut self, workflow: &Workflow) {
        let uid = workflow.uid;
        let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace) else { return };
        let mut known = false;
        for runs in namespace.without_model.values_mut() {
            known |= runs.remove(&uid);
        }
        namespace.subscriptions.retain(|_, consumer| {
            known |= consumer.confirmed.remove(&uid);
            known |= consumer.strikes.remove(&uid).is_some();
            !consumer.is_empty()
        });
        for id in self.streams_of(&workflow.namespace) {
            known |= self.streams.get(&id).is_some_and(|stream| stream.runs.contains_key(&uid));
            self.withdraw(id, uid);
        }
        self.marks.unwanted(uid, None, &mut self.timers);
        known |= self.lookups.forget(uid, &mut self.timers);
        if known {
            self.actions.push(Action::Forget(uid));
        }
    }

    /// The marks on a succeeded run say who has got it: through us, or through another replica.
    fn marks_seen(&mut self, workflow: &Workflow) {
        let uid = workflow.uid;
        for mark in workflow.marks.iter().filter(|mark| mark.current) {
            let name = &mark.subscription;
            let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace) else { return };
            let Some(consumer) = namespace.subscriptions.get_mut(name) else { continue };
            consumer.confirmed.remove(&uid);
            consumer.strikes.remove(&uid);
            let streams = consumer.streams.clone();
            if consumer.is_empty() {
                namespace.subscriptions.remove(name);
            }
            self.marks.unwanted(uid, Some(name), &mut self.timers);
            for id in streams {
                let Some(entry) = self.streams.get_mut(&id).and_then(|stream| stream.runs.get_mut(&uid)) else {
                    continue;
                };
                // Each stream attached here gets every event, also one that a sibling has confirmed already: that was
                // noted with the confirmation. What another replica has delivered does not go out again, unless it is
                // on its way.
                let through_sibling = std::mem::replace(&mut entry.elsewhere, true);
                if !through_sibling && entry.place != Place::Open {
                    self.withdraw(id, uid);
                }
            }
        }
    }

    /// A label that counts as a mark does so for every subscription. It may go again, so what is confirmed in spite of
    /// it is still marked.
    fn label_seen(&mut self, workflow: &Arc<Workflow>) {
        let uid = workflow.uid;
        let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace) else { return };
        namespace.subscriptions.retain(|_, consumer| {
            consumer.strikes.remove(&uid);
            !consumer.is_empty()
        });
        for id in self.streams_of(&workflow.namespace) {
            match self.streams.get_mut(&id).and_then(|stream| stream.runs.get_mut(&uid)) {
                Some(entry) if entry.place == Place::Open => entry.workflow = workflow.clone(),
                Some(_) => self.withdraw(id, uid),
                None => {}
            }
        }
    }

    /// Puts a run before a stream, which may have it already, or not want it.
    pub(super) fn offer(&mut self, id: StreamId, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(namespace) = self.namespaces.get(&*workflow.namespace) else { return };
        let wanted = &stream.subscription;
        if !workflow.succeeded() || wanted.is_delivered(workflow, self.options.skip_labelled) {
            return;
        }
        let consumer = namespace.subscriptions.get(&wanted.name);
        if consumer.is_some_and(|consumer| consumer.confirmed.contains(&uid)) {
            return;
        }
        if let Some(entry) = stream.runs.get_mut(&uid) {
            entry.elsewhere = false;
            entry.workflow = workflow.clone();
            return;
        }
        let without = namespace.without_model.get(&wanted.artifact_types).is_some_and(|runs| runs.contains(&uid));
        if without || !wanted.may_match(workflow) {
            return;
        }
        if wanted.is_too_old(workflow, now.unix) {
            return self.declined_for_its_age(now);
        }
        let since = consumer.and_then(|consumer| consumer.strikes.get(&uid)).map(|strikes| strikes.since);
        stream.insert(workflow.clone(), since.unwrap_or(now.instant));
        self.dirty.insert(id);
    }

    /// Takes a run from a stream, and the stream from those who wait for the run's models.
    pub(super) fn withdraw(&mut self, id: StreamId, uid: Uid) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.remove(uid) == Some(Place::Asked) {
            self.lookups.abandon(uid, id, &mut self.timers);
        }
        // There may be room now for the models of another run.
        self.dirty.insert(id);
    }
}
