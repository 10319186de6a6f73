//! What is remembered of a namespace and of its subscriptions.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::stream::Stream;
use crate::{
    delivery::StreamId,
    model::{ArtifactTypes, SubscriptionName, Uid},
};

/// For how many different `artifactTypes` a namespace remembers which runs have no model, beyond those in use.
const KEPT_TYPES: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub(super) streams: Vec<StreamId>,
    pub(super) subscriptions: HashMap<SubscriptionName, Consumer>,
    /// Succeeded runs without a model, by what counts as one.
    pub(super) without_model: HashMap<Arc<ArtifactTypes>, HashSet<Uid>>,
}

/// What outlives a subscription's streams.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    pub(super) streams: Vec<StreamId>,
    /// Delivered, and the mark that says so has not been seen yet.
    pub(super) confirmed: HashSet<Uid>,
    /// Runs that were open when a stream ended.
    pub(super) strikes: HashMap<Uid, Strikes>,
    /// Whether it was reported that several peers use it. Once is enough for as long as one of them is there.
    pub(super) reported_shared: bool,
}

impl Namespace {
    /// Keeps the answers for what streams ask for now, and a few others: a stream that broke is soon back.
    pub(super) fn forget_types(&mut self, streams: &HashMap<StreamId, Stream>) {
        if self.without_model.len() > KEPT_TYPES {
            let used: HashSet<_> = self
                .streams
                .iter()
                .filter_map(|id| streams.get(id))
                .map(|stream| &stream.subscription.artifact_types)
                .collect();
            self.without_model.retain(|types, _| used.contains(types));
        }
    }
}

impl Consumer {
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.confirmed.is_empty() && self.strikes.is_empty()
    }
}

/// What is known of a run that was open when a stream ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strikes {
    /// How often that was so.
    pub(super) count: u32,
    /// Since when the subscription has waited for the run: its streams come and go.
    pub(super) since: Instant,
    /// It is not to be tried again before.
    pub(super) not_before: Instant,
}
