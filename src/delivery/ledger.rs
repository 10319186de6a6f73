//! The ledger: what is pending, handed off, confirmed and marked, for every subscription. A synchronous state machine.
//!
//! Inputs are the changes of the store, the answers of lookups, the receipts and ends of streams, the results of
//! patches, and the passing of time; each is a method that takes what happened and the time at which it did. Outputs
//! are [`Action`]s, which the driver carries out and whose results it feeds back. Nothing in here waits, does I/O or
//! looks at a clock, so that every interleaving can be played in a test.
//!
//! # The life of a run in a stream
//!
//! ```text
//!                  ┌── no model, not wanted ──▶ (not the stream's business)
//! Unasked ─▶ Asked ┴─▶ Ready ─▶ Open ─▶ acknowledged ─▶ confirmed ─▶ (a mark is asked for)
//!    ▲         │ error: asked again later   │ the stream ends
//!    └─────────┴────────────────────────────┘ (its successor finds the run unmarked in the store)
//! ```
//!
//! What outlives a stream belongs to its *subscription*: which runs were confirmed whose marks have not been seen yet,
//! and which were open when streams ended. Everything else a new stream reads again from the store's records.

mod action;
mod changes;
mod clock;
mod departed;
mod lookups;
mod marks;
mod settle;
mod stream;
mod tables;
mod time;
mod timers;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng, rngs::SmallRng};

use self::{
    clock::Clock,
    departed::Departed,
    lookups::{LookupId, Lookups},
    marks::Marks,
    stream::{Place, Stream},
    tables::{Namespace, Strikes},
    timers::{Timer, Timers},
};
use super::{LookupError, MarkError, MarkPatch, StreamId};
use crate::model::{RunModels, Subscription, Workflow};

pub use self::action::Options;
pub(super) use self::{
    action::{Action, Census, Now, Report},
    lookups::LookupId as Lookup,
};

/// How long two peers may share a subscription before it is reported: longer than any roll-out of theirs.
const SHARED_TOO_LONG: Duration = Duration::from_secs(60);
/// The longest time that a confirmation may take; whoever asks for more gets this, and no overflow.
const CONFIRM_AFTER_AT_MOST: Duration = Duration::from_secs(24 * 3600);
/// How long a namespace is followed after its last stream has ended; Argo redials every 5 s.
const IDLE: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    options: Options,
    namespaces: HashMap<Arc<str>, Namespace>,
    streams: HashMap<StreamId, Stream>,
    lookups: Lookups,
    marks: Marks,
    departed: Departed,
    clock: Clock,
    timers: Timers,
    dirty: BTreeSet<StreamId>,
    actions: Vec<Action>,
    draining: bool,
    jitter: SmallRng,
}

impl Ledger {
    /// An empty ledger. `seed` seeds the jitter of retries.
    pub(super) fn new(mut options: Options, seed: u64) -> Self {
        options.confirm_after = options.confirm_after.min(CONFIRM_AFTER_AT_MOST);
        Self {
            lookups: Lookups::new(options.lookups.0, options.lookups.1),
            marks: Marks::new(options.patches),
            options,
            namespaces: HashMap::new(),
            streams: HashMap::new(),
            departed: Departed::default(),
            clock: Clock::default(),
            timers: Timers::default(),
            dirty: BTreeSet::new(),
            actions: Vec::new(),
            draining: false,
            jitter: SmallRng::seed_from_u64(seed),
        }
    }

    // === streams ===

    /// A stream attached. `records` are those of its namespace.
    pub(super) fn attached(
        &mut self,
        id: StreamId,
        subscription: Subscription,
        peer: Option<SocketAddr>,
        records: &[Arc<Workflow>],
        now: Now,
    ) {
        if self.draining {
            self.actions.push(Action::Close(id));
            return;
        }
        let subscription = Arc::new(subscription);
        let namespace = self.namespaces.entry(subscription.namespace.clone()).or_default();
        self.timers.stop(&Timer::Idle(subscription.namespace.clone()));
        namespace.streams.push(id);
        let consumer = namespace.subscriptions.entry(subscription.name.clone()).or_default();
        consumer.streams.push(id);
        if consumer.streams.len() > 1 {
            self.timers.set(now.instant + SHARED_TOO_LONG, Timer::Shared(id));
        }
        self.streams.insert(id, Stream::new(subscription.clone(), peer));
        for workflow in self.departed.wanted_by(&subscription) {
            self.offer(id, &workflow, now);
        }
        for workflow in records {
            self.offer(id, workflow, now);
        }
        let pending = self.streams.get(&id).map_or(0, |stream| stream.runs.len());
        self.report(Report::Attached { stream: id, subscription, peer, pending });
    }

    /// A stream's peer has proved that it read everything up to this hand-off.
    pub(super) fn acknowledged(&mut self, id: StreamId, sequence: u64, now: Now) {
        let due = now.instant + self.options.confirm_after;
        if let Some(stream) = self.streams.get_mut(&id) {
            if stream.acknowledged(sequence, due) {
                self.timers.set(due, Timer::Confirm(id));
            }
            self.dirty.insert(id);
        }
    }

    /// A stream ended: what it has not confirmed is given back.
    pub(super) fn ended(&mut self, id: StreamId, now: Now) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.dirty.remove(&id);
        [Timer::Confirm(id), Timer::HandOff(id), Timer::Shared(id)].iter().for_each(|timer| self.timers.stop(timer));
        stream.asked().for_each(|uid| self.lookups.abandon(uid, id, &mut self.timers));
        let Some(namespace) = self.namespaces.get_mut(&stream.subscription.namespace) else { return };
        namespace.streams.retain(|other| *other != id);
        let mut open = stream.open_runs();
        open.retain(|(workflow, _)| !(self.options.skip_labelled && workflow.events_published));
        if let Some(consumer) = namespace.subscriptions.get_mut(&stream.subscription.name) {
            consumer.streams.retain(|other| *other != id);
            for (workflow, since) in &open {
                let new = Strikes { count: 0, since: *since, not_before: now.instant };
                let strikes = consumer.strikes.entry(workflow.uid).or_insert(new);
                strikes.count = strikes.count.saturating_add(1);
                strikes.not_before = now.instant + stream::pause_after(strikes.count);
            }
            if consumer.is_empty() {
                namespace.subscriptions.remove(&stream.subscription.name);
            }
        }
        namespace.forget_types(&self.streams);
        let unconfirmed = open.into_iter().map(|(workflow, _)| workflow).collect();
        if namespace.streams.is_empty() {
            self.timers.set(now.instant + IDLE, Timer::Idle(stream.subscription.namespace.clone()));
        }
        self.report(Report::Ended { subscription: stream.subscription, unconfirmed });
    }

    /// Hands nothing off any more; a stream is closed as soon as nothing of it is open, and marked what it has
    /// confirmed. Marks that wait for another attempt get one now.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.dirty.extend(self.streams.keys());
        self.marks.hurry();
    }

    /// Something has happened to marks of this namespace: a stream may have waited for that.
    fn drain_goes_on(&mut self, namespace: &str) {
        if self.draining {
            self.dirty.extend(self.streams_of(namespace));
        }
    }

    /// Whether nothing is left that a drain would wait for.
    pub(super) fn is_drained(&self) -> bool {
        self.streams.is_empty() && self.marks.is_idle()
    }

    // === lookups and patches ===

    /// A lookup has been answered.
    pub(super) fn answered(&mut self, id: LookupId, answer: Result<Arc<RunModels>, LookupError>, now: Now) {
        let outcome = self.lookups.answered(id, answer, now.instant, &mut self.timers, &mut self.jitter);
        match outcome {
            lookups::Outcome::Found { lookup, models } => self.found(&lookup, &models),
            lookups::Outcome::Failed { workflow, report } => {
                self.report(report);
                for id in self.streams_of(&workflow.namespace) {
                    if self.streams.get_mut(&id).is_some_and(|stream| stream.question_failed(&workflow)) {
                        self.dirty.insert(id);
                    }
                }
            }
            lookups::Outcome::Nobody => {}
        }
    }

    /// A patch has been answered.
    pub(super) fn patched(&mut self, patch: MarkPatch, result: Result<(), MarkError>, now: Now) {
        self.drain_goes_on(&patch.namespace);
        if let Some(report) = self.marks.patched(patch, result, now.instant, &mut self.timers, &mut self.jitter) {
            self.report(report);
        }
    }

    // === small things ===

    /// How much is pending, for the metrics. Looks at every pending run: not for every input.
    pub(super) fn census(&self) -> Census {
        let mut census = Census { streams: self.streams.len(), marks: self.marks.len(), ..Census::default() };
        for stream in self.streams.values() {
            for entry in stream.runs.values().filter(|entry| entry.place != Place::Declined) {
                census.pending += 1;
                census.oldest = census.oldest.into_iter().chain([entry.offered]).min();
            }
        }
        let consumers = self.namespaces.values().flat_map(|namespace| namespace.subscriptions.values());
        census.shared = consumers.filter(|consumer| consumer.streams.len() > 1).count();
        census
    }

    fn streams_of(&self, namespace: &str) -> Vec<StreamId> {
        self.namespaces.get(namespace).map(|namespace| namespace.streams.clone()).unwrap_or_default()
    }

    fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}

#[cfg(test)]
mod tests;
