//! The time and the number up to which subscriptions and namespaces without a stream are remembered. Every client that
//! reaches the port can make up names of both.
//!
//! Of a subscription without a stream two things are remembered: failed deliveries, which are a matter of order and of
//! logs, and confirmed ones whose mark has not been seen, which would be sent again. So the former give way first. A
//! confirmed delivery whose mark is still pending is remembered for as long as that, unless there are too many.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Ledger,
    latest::SentRuns,
    timers::Timer,
    types::{Action, Report},
};
use crate::{model::Subscription, telemetry::Limit};

/// The time for which they are remembered: much longer than a client takes to redial (Argo Events: 5 s), or a roll-out.
pub(super) const RETENTION: Duration = Duration::from_secs(3600);
/// Subscriptions of a namespace without a stream. As many as it may have streams.
pub(super) const MAX_SUBSCRIPTIONS: usize = 256;
/// Deliveries that are remembered of all those of a namespace: about 1 MiB.
pub(super) const MAX_DELIVERIES: usize = 16_384;
/// Namespaces without a stream that are followed. Each takes less than 1 KiB.
pub(super) const MAX_NAMESPACES: usize = 1024;
/// The shortest interval between two passes over a namespace.
const INTERVAL: Duration = Duration::from_secs(60);

impl Ledger {
    /// Handles the end of a stream, after which its subscription and its namespace may have none.
    pub(super) fn stream_detached(&mut self, subscription: &Subscription, now: Instant) {
        let namespace = self.registry.namespace_of(subscription);
        if let Some(state) = namespace
            .subscriptions
            .get_mut(&subscription.name)
            .filter(|state| state.streams.is_empty() && subscription.remember)
        {
            state.detached = Some(now);
        }
        let is_idle = namespace.streams.is_empty();
        self.limit_subscriptions(&subscription.namespace);
        self.schedule_forgetting(&subscription.namespace, now);
        if is_idle {
            self.ahead.stop(&subscription.namespace, &mut self.timers);
            self.timers.set(now + RETENTION, Timer::DropNamespace(subscription.namespace.clone()));
            self.registry.idle.insert((now, subscription.namespace.clone()));
            self.registry.namespace_of(subscription).idle = Some(now);
            self.limit_namespaces();
        }
    }

    /// Forgets the subscriptions without a stream that are too many.
    fn limit_subscriptions(&mut self, namespace: &Arc<str>) {
        let Some(namespace) = self.registry.namespaces.get_mut(namespace) else { return };
        let subscriptions = &mut namespace.subscriptions;
        let detached = || subscriptions.values().filter(|state| state.detached.is_some());
        let (mut count, mut deliveries) =
            (detached().count(), detached().map(|state| state.deliveries()).sum::<usize>());
        if count <= MAX_SUBSCRIPTIONS && deliveries <= MAX_DELIVERIES {
            return;
        }
        let mut removable: Vec<_> = subscriptions
            .iter()
            .filter_map(|(name, state)| Some((!state.confirmed.is_empty(), state.detached?, name.clone())))
            .collect();
        removable.sort_unstable();
        for (_, _, name) in removable {
            if count <= MAX_SUBSCRIPTIONS && deliveries <= MAX_DELIVERIES {
                return;
            }
            count -= 1;
            deliveries -= subscriptions.remove(&name).map_or(0, |state| state.deliveries());
            self.actions.push(Action::Report(Report::LimitHit(Limit::Subscriptions)));
        }
    }

    /// Drops the namespaces without a stream that are too many: first those without a confirmed delivery.
    fn limit_namespaces(&mut self) {
        while self.registry.idle.len() > MAX_NAMESPACES {
            let idle = || self.registry.idle.iter().map(|(_, name)| name);
            let has_confirmed = |name: &&Arc<str>| self.registry.namespaces[*name].has_confirmed();
            let name = idle().find(|name| !has_confirmed(name)).or_else(|| idle().next()).cloned();
            let name = name.expect("there are too many");
            self.drop_namespace(&name);
            self.report(Report::LimitHit(Limit::Subscriptions));
        }
    }

    /// Drops a namespace that has had no stream for a while, unless marks of it have not been seen yet.
    pub(super) fn drop_idle(&mut self, name: Arc<str>, now: Instant) {
        let namespace = &self.registry.namespaces[&name];
        debug_assert!(namespace.streams.is_empty(), "an attached stream cancels the timer");
        if namespace.has_confirmed() {
            self.timers.set(now + RETENTION, Timer::DropNamespace(name));
        } else {
            self.drop_namespace(&name);
        }
    }

    fn drop_namespace(&mut self, name: &Arc<str>) {
        if let Some(since) = self.registry.namespaces.remove(name).and_then(|namespace| namespace.idle) {
            self.registry.idle.remove(&(since, name.clone()));
        }
        self.ahead.forget(name, &mut self.timers);
        self.timers.cancel(&Timer::DropNamespace(name.clone()));
        self.timers.cancel(&Timer::ForgetSubscriptions(name.clone()));
        self.actions.push(Action::Unfollow(name.clone()));
    }

    /// Forgets old failures of a namespace, and subscriptions that have had no stream for long.
    pub(super) fn forget_subscriptions(&mut self, name: &Arc<str>, now: Instant) {
        let marks = &self.marks;
        let is_old = |time: Instant| time + RETENTION <= now;
        self.registry.change_states(name, |name, state| {
            if let Some(oldest) = now.checked_sub(RETENTION) {
                state.failed.forget_until(oldest);
            }
            if state.detached.is_some_and(is_old) {
                state.confirmed.retain(|run| marks.is_pending(*run, name));
                state.sent = SentRuns::default();
            }
        });
        self.schedule_forgetting(name, now);
    }

    /// Schedules the next pass, if there is something to forget.
    pub(super) fn schedule_forgetting(&mut self, name: &Arc<str>, now: Instant) {
        let timer = Timer::ForgetSubscriptions(name.clone());
        let Some(namespace) = self.registry.namespaces.get(name).filter(|_| !self.timers.is_set(&timer)) else {
            return;
        };
        let next = namespace.subscriptions.values().filter_map(|state| state.forget_at(now)).min();
        if let Some(at) = next {
            self.timers.set(at.max(now + INTERVAL), timer);
        }
    }
}
