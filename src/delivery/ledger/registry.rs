//! The attached streams, by namespace and subscription, and what outlives them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use super::{
    filters::Filters,
    latest::SentRuns,
    lookups::Lookup,
    quarantine::FailedDeliveries,
    retention::{MAX_SUBSCRIPTIONS, RETENTION},
    run_sets::RunSets,
    stream::Stream,
    types::Now,
};
use crate::{
    delivery::StreamId,
    model::{ArtifactTypes, Subscription, SubscriptionName, SubscriptionsInUse, Uid, Workflow},
};

/// Sets of `artifactTypes` for which a namespace remembers its runs without a model. Those in use come on top.
const MAX_UNUSED_TYPES: usize = 4;

/// Each attached stream is listed in its namespace and in its subscription, which exist for as long as it is attached.
///
/// The values of these tables are boxed. A table has up to twice as many places as entries, and at least four, and most
/// namespaces have a single subscription.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) streams: HashMap<StreamId, Box<Stream>>,
    pub(super) namespaces: HashMap<Arc<str>, Box<Namespace>>,
    /// The namespaces without a stream, by the time of the end of their last one.
    pub(super) idle: BTreeSet<(Instant, Arc<str>)>,
    /// The number of subscriptions with several streams.
    pub(super) shared: usize,
    /// The subscriptions with streams, for others.
    in_use: SubscriptionsInUse,
}

#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub(super) streams: Vec<StreamId>,
    pub(super) subscriptions: HashMap<SubscriptionName, Box<SubscriptionState>>,
    pub(super) types: TypesTable,
    pub(super) filters: Filters,
    /// The runs that filters exclude and that were reported, by subscription.
    pub(super) filtered: RunSets<SubscriptionName>,
    /// The pipelines' names that only lookups have revealed.
    pub(super) pipelines: HashMap<Uid, Arc<str>>,
    /// Runs whose lookups have become rare, because the source of models does not know them.
    pub(super) without_context: HashSet<Uid>,
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
    /// The newest runs that it was sent, for `latestOnly`.
    pub(super) sent: SentRuns,
    /// The number of its streams with `latestOnly`.
    pub(super) latest_streams: usize,
    /// The time of the end of its last stream, if it has none.
    pub(super) detached: Option<Instant>,
    /// Set once it was reported that several peers share it, until none of them is left.
    pub(super) reported_shared: bool,
}

impl Registry {
    /// A registry that records the subscriptions with streams in `in_use`.
    pub(super) fn new(in_use: SubscriptionsInUse) -> Self {
        Self { in_use, ..Self::default() }
    }

    /// Adds a stream, and shares the parts of its subscription that equal those of other streams. Returns the number of
    /// its subscription's streams.
    pub(super) fn attach(
        &mut self,
        id: StreamId,
        mut subscription: Subscription,
        peer: Option<SocketAddr>,
        now: Now,
    ) -> usize {
        let name = subscription.namespace.clone();
        let namespace = self.namespaces.entry(name.clone()).or_default();
        let filter = namespace.filters.add(&mut subscription.pipelines);
        let types = namespace.types.add(&mut subscription.artifact_types);
        namespace.streams.push(id);
        if let Some(since) = namespace.idle.take() {
            self.idle.remove(&(since, name));
        }
        let mut streams = 0;
        if subscription.remember {
            let state = namespace.subscriptions.entry(subscription.name.clone()).or_default();
            state.streams.push(id);
            state.latest_streams += usize::from(subscription.latest_only);
            state.detached = None;
            streams = state.streams.len();
            self.shared += usize::from(streams == 2);
            self.in_use.insert(&subscription.namespace, &subscription.name);
        }
        self.streams.insert(id, Stream::new(subscription.into(), peer, filter, types, now).into());
        streams
    }

    /// Removes a stream. Its namespace and the state of its subscription stay.
    pub(super) fn detach(&mut self, id: StreamId) -> Option<Stream> {
        let stream = *self.streams.remove(&id)?;
        let namespace = self.namespace_of(&stream.subscription);
        namespace.streams.retain(|other| *other != id);
        namespace.types.remove(stream.types);
        stream.filter.into_iter().for_each(|filter| namespace.filters.remove(filter));
        let subscriptions = &namespace.subscriptions;
        let has_stream = |name: &_| subscriptions.get(name).is_some_and(|state| !state.streams.is_empty());
        namespace.filtered.trim(MAX_SUBSCRIPTIONS, has_stream);
        let mut streams = None;
        if let Some(state) = self.state_mut(&stream.subscription) {
            state.streams.retain(|other| *other != id);
            state.latest_streams -= usize::from(stream.subscription.latest_only);
            streams = Some(state.streams.len());
        }
        self.shared -= usize::from(streams == Some(1));
        if streams == Some(0) {
            self.in_use.remove(&stream.subscription.namespace, &stream.subscription.name);
        }
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

    /// The state of a subscription with a stream, unless the stream remembers nothing.
    pub(super) fn state(&self, subscription: &Subscription) -> Option<&SubscriptionState> {
        let subscriptions = &self.namespaces[&subscription.namespace].subscriptions;
        subscription.remember.then(|| &*subscriptions[&subscription.name])
    }

    /// The state of a subscription with a stream, unless the stream remembers nothing.
    pub(super) fn state_mut(&mut self, subscription: &Subscription) -> Option<&mut SubscriptionState> {
        let subscriptions = &mut self.namespaces.get_mut(&subscription.namespace)?.subscriptions;
        subscriptions.get_mut(&subscription.name).filter(|_| subscription.remember).map(Box::as_mut)
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
}

/// The sets of artifact types that streams of a namespace ask for, and the succeeded runs without a model of these.
/// Equal sets are shared: they may be large.
#[derive(Debug, Default)]
pub(super) struct TypesTable {
    ids: HashMap<Arc<ArtifactTypes>, TypesId>,
    sets: HashMap<TypesId, TypesSet>,
    without_model: RunSets<TypesId>,
    last_id: u64,
}

/// A set of artifact types of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TypesId(u64);

#[derive(Debug)]
struct TypesSet {
    types: Arc<ArtifactTypes>,
    streams: usize,
}

impl TypesTable {
    /// Adds the types of a stream, and replaces them by an equal set that is there.
    fn add(&mut self, types: &mut Arc<ArtifactTypes>) -> TypesId {
        let id = *self.ids.entry(types.clone()).or_insert_with(|| {
            self.last_id += 1;
            TypesId(self.last_id)
        });
        let new = || TypesSet { types: types.clone(), streams: 0 };
        let set = self.sets.entry(id).or_insert_with(new);
        set.streams += 1;
        types.clone_from(&set.types);
        id
    }

    /// Removes the types of a stream that has ended. Sets that no stream asks for are kept while they are few: a stream
    /// that broke may soon be back.
    fn remove(&mut self, id: TypesId) {
        self.sets.get_mut(&id).expect("the types of a stream were added").streams -= 1;
        if self.sets.len() > MAX_UNUSED_TYPES {
            self.sets.retain(|_, set| set.streams > 0);
            let sets = &self.sets;
            self.ids.retain(|_, id| sets.contains_key(id));
            self.without_model.trim(0, |id| sets.contains_key(id));
        }
    }

    /// Returns whether a run has no model of these types.
    pub(super) fn has_no_model(&self, types: TypesId, run: Uid) -> bool {
        self.without_model.contains(run, &types)
    }

    /// Records that a run has no model of these types, if they are known.
    pub(super) fn record_no_model(&mut self, types: &Arc<ArtifactTypes>, run: Uid) {
        if let Some(id) = self.ids.get(types) {
            self.without_model.insert(run, id);
        }
    }

    /// The number of runs about which something is remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.without_model.runs()
    }
}

impl Namespace {
    /// The name of a run's pipeline, if it is certain or a lookup has revealed it.
    pub(super) fn known_pipeline(&self, workflow: &Workflow) -> Option<Arc<str>> {
        Subscription::certain_pipeline(workflow).or_else(|| self.pipelines.get(&workflow.uid)).cloned()
    }

    /// The number of attached subscriptions, if the filters of each of them exclude a run.
    pub(super) fn excluded_by_all(&self, run: Uid) -> Option<usize> {
        let attached = self.subscriptions.iter().filter(|(_, state)| !state.streams.is_empty());
        attached
            .map(|(name, _)| self.filtered.contains(run, name))
            .try_fold(0, |count, is_in| is_in.then_some(count + 1))
    }

    /// Forgets what lookups and filters have revealed about a run.
    pub(super) fn forget_run(&mut self, run: Uid) {
        self.filtered.remove(run);
        self.types.without_model.remove(run);
        self.pipelines.remove(&run);
        self.without_context.remove(&run);
    }

    /// Returns whether a confirmed delivery is remembered whose mark has not been seen.
    pub(super) fn has_confirmed(&self) -> bool {
        self.subscriptions.values().any(|state| !state.confirmed.is_empty())
    }
}

impl SubscriptionState {
    /// The number of remembered deliveries.
    pub(super) fn deliveries(&self) -> usize {
        self.confirmed.len() + self.failed.len() + self.sent.len()
    }

    /// The time at which something of it is to be forgotten, or checked again.
    pub(super) fn forget_at(&self, now: Instant) -> Option<Instant> {
        let failed = self.failed.oldest().map(|oldest| oldest + RETENTION);
        let confirmed = self.detached.filter(|_| !self.confirmed.is_empty()).map(|since| since + RETENTION);
        // Later than that, the mark is pending.
        let confirmed = confirmed.map(|at| if at > now { at } else { now + RETENTION });
        let sent = self.detached.filter(|_| !self.sent.is_empty()).map(|since| since + RETENTION);
        failed.into_iter().chain(confirmed).chain(sent).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.confirmed.is_empty() && self.failed.is_empty() && self.sent.is_empty()
    }
}
