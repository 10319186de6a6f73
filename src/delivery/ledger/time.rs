//! What is due: confirmations, repeated tries, and the end of what was kept.

use std::{collections::HashSet, sync::Arc, time::Instant};

use super::{Action, IDLE, Ledger, Now, Report, Timer};
use crate::{
    delivery::StreamId,
    model::{Subscription, Workflow},
};

impl Ledger {
    /// The next point in time at which [`Ledger::tick`] has something to do.
    pub(in crate::delivery) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Time has passed. Returns whether anything was due.
    pub(in crate::delivery) fn tick(&mut self, now: Now) -> bool {
        let mut any = false;
        self.look_at_clock(now);
        while let Some(timer) = self.timers.pop(now.instant) {
            any = true;
            match timer {
                Timer::Confirm(id) => self.confirm_due(id, now),
                Timer::Lookup(lookup) => self.lookups.retry(lookup),
                Timer::Slow(lookup) => self.lookups.slow(lookup, now.instant, &mut self.timers),
                Timer::Mark(uid) => self.marks.retry(uid),
                Timer::Departed(uid) => {
                    if let Some(workflow) = self.departed.expire(uid, &mut self.timers) {
                        self.expire(&workflow);
                    }
                }
                Timer::HandOff(id) => {
                    self.dirty.insert(id);
                }
                Timer::Shared(id) => self.check_shared(id),
                Timer::Idle(namespace) => self.check_idle(&namespace, now),
                Timer::Clock => self.look_again(now),
            }
        }
        any
    }

    fn confirm_due(&mut self, id: StreamId, now: Now) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (confirmed, next) = stream.take_confirmed(now.instant);
        if let Some(due) = next {
            self.timers.set(due, Timer::Confirm(id));
        }
        let subscription = stream.subscription.clone();
        self.dirty.insert(id);
        for entry in confirmed {
            let workflow = entry.workflow;
            if !entry.elsewhere {
                self.confirm(&subscription, &workflow);
            }
            self.report(Report::Confirmed {
                subscription: subscription.clone(),
                since_handoff: now.instant.saturating_duration_since(entry.handed_off.unwrap_or(now.instant)),
                waited: now.instant.saturating_duration_since(entry.offered),
                workflow,
            });
        }
    }

    fn confirm(&mut self, subscription: &Subscription, workflow: &Arc<Workflow>) {
        let uid = workflow.uid;
        let Some(namespace) = self.namespaces.get_mut(&subscription.namespace) else { return };
        let Some(consumer) = namespace.subscriptions.get_mut(&subscription.name) else { return };
        consumer.strikes.remove(&uid);
        for sibling in &consumer.streams {
            if let Some(entry) = self.streams.get_mut(sibling).and_then(|stream| stream.runs.get_mut(&uid)) {
                entry.elsewhere = true;
            }
        }
        if self.departed.settle(uid, &subscription.name, &mut self.timers) || !consumer.confirmed.insert(uid) {
            return;
        }
        if !self.marks.want(workflow, &subscription.name) {
            self.report(Report::MarksFull { workflow: workflow.clone(), subscription: subscription.name.clone() });
        }
    }

    /// A deleted Workflow's time is over, or there are too many of them.
    pub(super) fn expire(&mut self, workflow: &Arc<Workflow>) {
        for id in self.streams_of(&workflow.namespace) {
            self.withdraw(id, workflow.uid);
        }
        if let Some(namespace) = self.namespaces.get_mut(&*workflow.namespace) {
            namespace.subscriptions.retain(|_, consumer| {
                consumer.strikes.remove(&workflow.uid);
                !consumer.is_empty()
            });
        }
        self.report(Report::Expired { workflow: workflow.clone() });
    }

    /// A stream has been attached for a while: so have those of its subscription that are older.
    fn check_shared(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (namespace, name) = (&stream.subscription.namespace, &stream.subscription.name);
        let consumer = self.namespaces.get_mut(namespace).and_then(|namespace| namespace.subscriptions.get_mut(name));
        let Some(consumer) = consumer.filter(|consumer| !consumer.reported_shared) else { return };
        let as_long = consumer.streams.iter().filter(|other| **other <= id).filter_map(|other| self.streams.get(other));
        let peers: HashSet<_> = as_long.map(|stream| stream.peer).collect();
        if peers.len() > 1 {
            consumer.reported_shared = true;
            let (namespace, subscription) = (namespace.clone(), name.clone());
            self.report(Report::Shared { namespace, subscription, peers: peers.len() });
        }
    }

    fn check_idle(&mut self, name: &Arc<str>, now: Now) {
        let Some(namespace) = self.namespaces.get(name).filter(|namespace| namespace.streams.is_empty()) else {
            return;
        };
        if namespace.subscriptions.values().any(|consumer| !consumer.confirmed.is_empty()) {
            self.timers.set(now.instant + IDLE, Timer::Idle(name.clone()));
        } else {
            self.namespaces.remove(name);
            self.actions.push(Action::Unfollow(name.clone()));
        }
    }
}
