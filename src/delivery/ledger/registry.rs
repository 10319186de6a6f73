//! The attached streams, by namespace and subscription, and what outlives them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{lookups::Lookup, quarantine::FailedDeliveries, retention::RETENTION, stream::Stream};
use crate::{
    delivery::StreamId,
    model::{ArtifactTypes, Subscription, SubscriptionName, Uid},
};

/// Sets of `artifactTypes` for which a namespace remembers its runs without a model. Those in use come on top.
const MAX_UNUSED_TYPES: usize = 4;

/// Each attached stream is listed in its namespace and in its subscription, which exist for as long as it is attached.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) streams: HashMap<StreamId, Stream>,
    pub(super) namespaces: HashMap<Arc<str>, Namespace>,
    /// The namespaces without a stream, by the time of the end of their last one.
    pub(super) idle: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub(super) streams: Vec<StreamId>,
    pub(super) subscriptions: HashMap<SubscriptionName, SubscriptionState>,
    /// Succeeded runs without a model of these types.
    pub(super) without_model: HashMap<Arc<ArtifactTypes>, HashSet<Uid>>,
    /// The time of the end of its last stream, if it has none.
    pub(super) idle: Option<Instant>,
}

/// The part of a subscription that outlives its streams.
#[derive(Debug, Default)]
pub(super) struct SubscriptionState {
    pub(super) streams: Vec<StreamId>,
    /// Confirmed runs whose mark has not been seen yet.
    pub(super) confirmed: HashSet<Uid>,
    pub(super) failed: FailedDeliveries,
    /// The time of the end of its last stream, if it has none.
    pub(super) detached: Option<Instant>,
    /// Set once it was reported that several peers share it, until none of them is left.
    pub(super) reported_shared: bool,
}

impl Registry {
    /// Adds a stream. Returns the number of its subscription's streams.
    pub(super) fn attach(&mut self, id: StreamId, stream: Stream) -> usize {
        let namespace = self.namespaces.entry(stream.subscription.namespace.clone()).or_default();
        namespace.streams.push(id);
        if let Some(since) = namespace.idle.take() {
            self.idle.remove(&(since, stream.subscription.namespace.clone()));
        }
        let subscription = namespace.subscriptions.entry(stream.subscription.name.clone()).or_default();
        subscription.streams.push(id);
        subscription.detached = None;
        self.streams.insert(id, stream);
        subscription.streams.len()
    }

    /// Removes a stream. Its namespace and the state of its subscription stay.
    pub(super) fn detach(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        self.namespace_of(&stream.subscription).streams.retain(|other| *other != id);
        self.state_mut(&stream.subscription).streams.retain(|other| *other != id);
        Some(stream)
    }

    /// An attached stream.
    pub(super) fn stream(&mut self, id: StreamId) -> &mut Stream {
        self.streams.get_mut(&id).expect("the stream is attached")
    }

    /// The namespace of a subscription that has a stream, or had one until now.
    pub(super) fn namespace_of(&mut self, subscription: &Subscription) -> &mut Namespace {
        self.namespaces.get_mut(&subscription.namespace).expect("the namespace of a stream exists")
    }

    /// The state of a subscription with a stream.
    pub(super) fn state(&self, subscription: &Subscription) -> &SubscriptionState {
        &self.namespaces[&subscription.namespace].subscriptions[&subscription.name]
    }

    /// The state of a subscription with a stream.
    pub(super) fn state_mut(&mut self, subscription: &Subscription) -> &mut SubscriptionState {
        let state = self.namespace_of(subscription).subscriptions.get_mut(&subscription.name);
        state.expect("the state of a stream's subscription exists")
    }

    /// Changes the state of every subscription of a namespace, and drops what is empty then.
    pub(super) fn change_states(
        &mut self,
        namespace: &str,
        mut change: impl FnMut(&SubscriptionName, &mut SubscriptionState),
    ) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.subscriptions.retain(|name, state| {
                change(name, state);
                !state.is_empty()
            });
        }
    }

    /// Changes the state of one subscription, if there is any, and drops it if it is empty then.
    pub(super) fn change_state(
        &mut self,
        namespace: &str,
        name: &SubscriptionName,
        change: impl FnOnce(&mut SubscriptionState),
    ) {
        let Some(namespace) = self.namespaces.get_mut(namespace) else { return };
        let Some(state) = namespace.subscriptions.get_mut(name) else { return };
        change(state);
        if state.is_empty() {
            namespace.subscriptions.remove(name);
        }
    }

    /// The streams of a namespace.
    pub(super) fn streams_of(&self, namespace: &str) -> Vec<StreamId> {
        self.namespaces.get(namespace).map(|namespace| namespace.streams.clone()).unwrap_or_default()
    }

    /// The streams of a subscription.
    pub(super) fn streams_of_subscription(&self, namespace: &str, name: &SubscriptionName) -> Vec<StreamId> {
        let state = self.namespaces.get(namespace).and_then(|namespace| namespace.subscriptions.get(name));
        state.map(|state| state.streams.clone()).unwrap_or_default()
    }

    /// Records a delivery of a subscription that may have no stream.
    pub(super) fn record_confirmed(&mut self, namespace: &str, name: &SubscriptionName, run: Uid, now: Instant) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            let state = namespace.subscriptions.entry(name.clone()).or_default();
            state.confirmed.insert(run);
            if state.streams.is_empty() {
                state.detached.get_or_insert(now);
            }
        }
    }

    /// The streams that await a lookup.
    pub(super) fn awaiting(&self, lookup: &Lookup) -> Vec<StreamId> {
        let mut streams = self.streams_of(&lookup.workflow.namespace);
        streams.retain(|id| self.streams.get(id).is_some_and(|stream| stream.awaits(lookup)));
        streams
    }

    pub(super) fn is_awaited(&self, lookup: &Lookup) -> bool {
        let namespace = self.namespaces.get(&lookup.workflow.namespace);
        let mut streams = namespace.into_iter().flat_map(|namespace| &namespace.streams);
        streams.any(|id| self.streams.get(id).is_some_and(|stream| stream.awaits(lookup)))
    }

    /// Forgets which runs have no model of types that no stream asks for, except for a few: a stream that broke may soon
    /// be back.
    pub(super) fn trim_types(&mut self, subscription: &Subscription) {
        let Some(namespace) = self.namespaces.get_mut(&subscription.namespace) else { return };
        if namespace.without_model.len() > MAX_UNUSED_TYPES {
            let streams = namespace.streams.iter().filter_map(|id| self.streams.get(id));
            let used: HashSet<_> = streams.map(|stream| &stream.subscription.artifact_types).collect();
            namespace.without_model.retain(|types, _| used.contains(types));
        }
    }
}

impl Namespace {
    /// Returns whether a confirmed delivery is remembered whose mark has not been seen.
    pub(super) fn has_confirmed(&self) -> bool {
        self.subscriptions.values().any(|state| !state.confirmed.is_empty())
    }
}

impl SubscriptionState {
    /// The number of remembered deliveries.
    pub(super) fn deliveries(&self) -> usize {
        self.confirmed.len() + self.failed.len()
    }

    /// The time at which something of it is to be forgotten, or checked again.
    pub(super) fn forget_at(&self, now: Instant) -> Option<Instant> {
        let failed = self.failed.oldest().map(|oldest| oldest + RETENTION);
        let confirmed = self.detached.filter(|_| !self.confirmed.is_empty()).map(|since| since + RETENTION);
        // Later than that, the mark is pending.
        let confirmed = confirmed.map(|at| if at > now { at } else { now + RETENTION });
        failed.into_iter().chain(confirmed).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.confirmed.is_empty() && self.failed.is_empty()
    }
}
