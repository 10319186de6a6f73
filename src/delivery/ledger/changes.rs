//! What the store tells: which runs are put before whom, and which are no longer.

use std::{collections::HashSet, sync::Arc};

use super::{Action, Ledger, Now, stream::Place};
use crate::{delivery::StreamId, model::Workflow};

impl Ledger {
    /// A Workflow is new or has changed.
    pub(in crate::delivery) fn applied(&mut self, workflow: &Arc<Workflow>, now: Now) {
        if workflow.is_restarted() {
            self.marks.restarted(workflow);
        }
        if !self.namespaces.contains_key(&*workflow.namespace) {
            return;
        }
        if workflow.succeeded() {
            self.marks_seen(workflow);
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
        self.marks.forget(uid);
        let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace) else { return };
        namespace.without_model.values_mut().for_each(|runs| {
            runs.remove(&uid);
        });
        let mut wanted_by = HashSet::new();
        for id in &namespace.streams {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            match stream.runs.get(&uid).map(|entry| (entry.place, entry.elsewhere)) {
                Some((Place::Declined, _)) => stream.remove(uid),
                Some((_, false)) => {
                    wanted_by.insert(stream.subscription.name.clone());
                }
                _ => {}
            }
        }
        for (name, consumer) in &mut namespace.subscriptions {
            consumer.confirmed.remove(&uid);
            if !wanted_by.contains(name) {
                consumer.strikes.remove(&uid);
            }
        }
        if !wanted_by.is_empty() {
            let expired = self.departed.insert(workflow.clone(), wanted_by, now.instant, &mut self.timers);
            expired.into_iter().for_each(|workflow| self.expire(&workflow));
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
        for consumer in namespace.subscriptions.values_mut() {
            known |= consumer.confirmed.remove(&uid);
            known |= consumer.strikes.remove(&uid).is_some();
        }
        for id in &namespace.streams {
            if let Some(stream) = self.streams.get_mut(id) {
                known |= stream.runs.contains_key(&uid);
                stream.remove(uid);
            }
        }
        self.marks.unwanted(uid, None);
        if known {
            self.lookups.forget(uid);
            self.actions.push(Action::Forget(uid));
        }
    }

    /// The marks on a succeeded run say who has got it: through us, or through another replica.
    fn marks_seen(&mut self, workflow: &Workflow) {
        let uid = workflow.uid;
        let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace) else { return };
        for mark in workflow.marks.iter().filter(|mark| mark.own) {
            let Some(consumer) = namespace.subscriptions.get_mut(&mark.subscription) else { continue };
            let ours = consumer.confirmed.remove(&uid);
            consumer.strikes.remove(&uid);
            self.marks.unwanted(uid, Some(&mark.subscription));
            for id in &consumer.streams {
                let Some(stream) = self.streams.get_mut(id) else { continue };
                let Some(entry) = stream.runs.get_mut(&uid) else { continue };
                // Each stream attached here gets every event, also one that a sibling has confirmed already. What
                // another replica has delivered does not go out again, unless it is on its way.
                entry.elsewhere = true;
                if !ours && entry.place != Place::Open {
                    stream.remove(uid);
                }
            }
        }
    }

    /// Puts a run before a stream, which may have it already, or not want it.
    pub(super) fn offer(&mut self, id: StreamId, workflow: &Arc<Workflow>, now: Now) {
        let uid = workflow.uid;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(namespace) = self.namespaces.get(&*workflow.namespace) else { return };
        let wanted = &stream.subscription;
        if !workflow.succeeded() || wanted.has_got(workflow, self.options.skip_labelled) {
            return;
        }
        if namespace.subscriptions.get(&wanted.name).is_some_and(|consumer| consumer.confirmed.contains(&uid)) {
            return;
        }
        if let Some(entry) = stream.runs.get_mut(&uid) {
            entry.elsewhere = false;
            entry.workflow = workflow.clone();
            return;
        }
        let without = namespace.without_model.get(&wanted.artifact_types).is_some_and(|runs| runs.contains(&uid));
        if without || wanted.is_too_old(workflow, now.unix) || !wanted.may_want(workflow) {
            return;
        }
        stream.insert(workflow.clone(), now.instant);
        self.dirty.insert(id);
    }
}
