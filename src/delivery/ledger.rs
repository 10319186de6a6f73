//! The ledger: the pending, handed-off, confirmed and marked runs of every subscription. A synchronous state machine.
//!
//! Its inputs are changes of Workflows, answers of lookups, acknowledgements and ends of streams, results of patches, and
//! the passing of time. Each is a method that takes the input and its time. Its outputs are [`Action`]s, which the driver
//! performs, and whose results it feeds back. The ledger does not wait, does no I/O and reads no clock, so that tests can
//! run every interleaving.
//!
//! # The states of a run in a stream
//!
//! ```text
//!                           ┌── no model, filtered ──▶ (removed, or excluded)
//! Queued ─▶ AwaitingLookup ─┴▶ Ready ─▶ HandedOff ─▶ acknowledged ─▶ confirmed ─▶ (a mark is written)
//!               │    ▲                      │
//!               └────┘ failed, retried      └─ the stream ends (its successor finds the run unmarked in the store)
//! ```
//!
//! The part of a *subscription* that outlives its streams: runs that were confirmed and whose mark has not been seen yet,
//! and runs whose events were unconfirmed when streams ended. A new stream reads everything else from the store.
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | `ledger` | the entry points, in the order in which the driver calls them |
//! | `decisions` | the hand-offs, lookups and patches that follow from the inputs |
//! | `runs` | the consequences of changes and answers for each run |
//! | `registry`, `stream` | attached streams and their runs, by namespace and subscription |
//! | `quarantine` | runs whose events may have ended their streams |
//! | `lookups`, `marks` | lookups and patches: queues, limits and retries |
//! | `flow`, `budget` | bytes that are held for streams |
//! | `deleted` | pending runs whose Workflow was deleted |
//! | `retention` | subscriptions and namespaces without a stream |
//! | `shares` | namespaces that hold most of something |
//! | `wall_clock` | runs excluded by a wall clock that was wrong |
//! | `timers`, `types` | timers, and plain values |

mod budget;
mod decisions;
mod deleted;
mod flow;
mod lookups;
mod marks;
mod quarantine;
mod registry;
mod retention;
mod runs;
mod shares;
mod stream;
mod timers;
mod types;
mod wall_clock;

use std::{
    collections::{BTreeSet, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::SmallRng};

use self::{
    deleted::DeletedRuns,
    flow::Flow,
    lookups::{Lookups, Outcome},
    marks::Marks,
    registry::Registry,
    stream::Stream,
    timers::{Timer, Timers},
    types::Encode,
    wall_clock::ExcludedByAge,
};
use super::{CloseReason, LookupError, MarkError, MarkPatch, Options, StreamId};
use crate::{
    model::{RunModels, Subscription, Workflow},
    store::Change,
};

pub(super) use self::types::{Action, LookupId, Now, Report, Stats};

/// The time for which several peers may share a subscription without a report: longer than a roll-out of theirs.
const SHARED_TOO_LONG: Duration = Duration::from_secs(60);
/// The longest time to confirmation, which keeps sums with it from overflowing.
const MAX_CONFIRM_AFTER: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    confirm_after: Duration,
    skip_labelled: bool,
    registry: Registry,
    lookups: Lookups,
    marks: Marks,
    deleted: DeletedRuns,
    flow: Flow,
    excluded_by_age: ExcludedByAge,
    timers: Timers,
    /// Attached streams about which there may be something to decide.
    dirty: BTreeSet<StreamId>,
    actions: Vec<Action>,
    draining: bool,
    jitter: SmallRng,
}

impl Ledger {
    /// Returns an empty ledger. `seed` seeds the jitter of retries.
    pub(super) fn new(options: &Options, seed: u64) -> Self {
        Self {
            confirm_after: options.confirm_after.min(MAX_CONFIRM_AFTER),
            skip_labelled: options.skip_labelled,
            registry: Registry::default(),
            lookups: Lookups::new(options.lookups),
            marks: Marks::new(options.patches, options.mark_rate),
            deleted: DeletedRuns::default(),
            flow: Flow::default(),
            excluded_by_age: ExcludedByAge::default(),
            timers: Timers::default(),
            dirty: BTreeSet::new(),
            actions: Vec::new(),
            draining: false,
            jitter: SmallRng::seed_from_u64(seed),
        }
    }

    // === time and actions ===

    /// Handles the timers that are due. Returns whether any was.
    pub(super) fn handle_timeout(&mut self, now: Now) -> bool {
        let mut any = false;
        self.check_clock(now);
        while let Some(timer) = self.timers.pop(now.instant) {
            any = true;
            match timer {
                Timer::Confirm(stream) => self.confirm_due(stream, now),
                Timer::RetryLookup(lookup) => self.lookups.queue_retry(lookup),
                Timer::SlowLookup(lookup) => self.lookups.slow(lookup, now.instant, &mut self.timers),
                Timer::RetryMark(run) => self.marks.queue_retry(run, &mut self.timers),
                Timer::SlowPatch(run) => self.marks.slow(run, &mut self.timers),
                // The next patch begins with the decisions that follow.
                Timer::MarkRate => {}
                Timer::DropDeleted(run) => {
                    if let Some(dropped) = self.deleted.remove(run, &mut self.timers) {
                        self.expire(dropped);
                    }
                }
                Timer::HandOff(stream) => {
                    self.dirty.insert(stream);
                }
                Timer::CheckShared(stream) => self.check_shared(stream),
                Timer::DropNamespace(namespace) => self.drop_idle(namespace, now.instant),
                Timer::ForgetSubscriptions(namespace) => self.forget_subscriptions(&namespace, now.instant),
                Timer::CheckReaders => self.check_readers(now),
                Timer::CheckClock => self.schedule_clock_check(now),
            }
        }
        any
    }

    /// Returns the actions that follow from the inputs since the last call. To be called after inputs, before waiting.
    pub(super) fn poll_actions(&mut self, now: Now, encode: &Encode<'_>) -> Vec<Action> {
        self.decide(now, encode);
        std::mem::take(&mut self.actions)
    }

    /// Returns the next time at which [`Ledger::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    // === Workflows ===

    /// Handles a change of the store.
    pub(super) fn handle_change(&mut self, change: &Change, now: Now) {
        match change {
            Change::Applied(workflow) => self.workflow_applied(workflow, now),
            Change::Deleted(workflow) => self.workflow_deleted(workflow, now),
        }
    }

    /// Handles the records of a namespace after [`Action::Reread`].
    pub(super) fn reread(&mut self, records: &[Arc<Workflow>], now: Now) {
        self.offer_again(records, now);
    }

    // === streams ===

    /// Attaches a stream. `records` are those of its namespace.
    pub(super) fn attach(
        &mut self,
        id: StreamId,
        subscription: Subscription,
        peer: Option<SocketAddr>,
        records: &[Arc<Workflow>],
        now: Now,
    ) {
        if self.draining {
            self.actions.push(Action::Close(id, CloseReason::ShuttingDown));
            return;
        }
        let subscription = Arc::new(subscription);
        self.timers.cancel(&Timer::DropNamespace(subscription.namespace.clone()));
        let streams = self.registry.attach(id, Stream::new(subscription.clone(), peer));
        if streams > 1 {
            self.timers.set(now.instant + SHARED_TOO_LONG, Timer::CheckShared(id));
        }
        for workflow in records {
            self.workflow_returned(workflow, now);
        }
        for workflow in self.deleted.claimed_by(&subscription).iter().chain(records) {
            self.offer(id, workflow, now);
        }
        let pending = self.registry.stream(id).runs.len();
        self.report(Report::Attached { stream: id, subscription, peer, pending });
    }

    /// Handles an acknowledgement: the peer has read every event up to this one. The stream may have ended meanwhile.
    pub(super) fn handle_ack(&mut self, id: StreamId, sequence: u64, now: Now) {
        let Some(stream) = self.registry.streams.get_mut(&id) else { return };
        let confirm_at = now.instant + self.confirm_after;
        if stream.acknowledge(sequence, now.instant, confirm_at) {
            self.timers.set(confirm_at, Timer::Confirm(id));
        }
        self.dirty.insert(id);
    }

    /// Handles the end of a stream: its unconfirmed events are to be redelivered. A stream that was refused has no entry.
    pub(super) fn end(&mut self, id: StreamId, now: Now) {
        let Some(stream) = self.registry.detach(id) else { return };
        self.dirty.remove(&id);
        self.flow.unacknowledged.cancel(id);
        self.flow.ready.cancel(id);
        [Timer::Confirm(id), Timer::HandOff(id), Timer::CheckShared(id)].iter().for_each(|it| self.timers.cancel(it));
        stream.awaiting_lookup().for_each(|run| self.trim_lookups(run));
        let unconfirmed: Vec<_> =
            stream.unconfirmed().filter(|run| !(self.skip_labelled && run.workflow.events_published)).collect();
        let subscription = &stream.subscription;
        self.registry.change_state(&subscription.namespace, &subscription.name, |state| {
            for run in &unconfirmed {
                state.failed.record(run.workflow.uid, run.pending_since, now.instant);
            }
        });
        self.registry.trim_types(subscription);
        self.stream_detached(subscription, now.instant);
        let unconfirmed = unconfirmed.into_iter().map(|run| run.workflow.clone()).collect();
        self.report(Report::Ended { subscription: subscription.clone(), unconfirmed });
    }

    /// Reports a subscription whose streams of several peers have been attached for a while.
    fn check_shared(&mut self, id: StreamId) {
        let subscription = self.registry.stream(id).subscription.clone();
        let state = self.registry.state(&subscription);
        if state.reported_shared {
            return;
        }
        // The ids grow, so the streams with lower ones have been attached for longer.
        let long_attached = state.streams.iter().filter(|other| **other <= id);
        let peers: HashSet<_> = long_attached.map(|id| self.registry.streams[id].peer).collect();
        if peers.len() > 1 {
            self.registry.state_mut(&subscription).reported_shared = true;
            let (namespace, name) = (subscription.namespace.clone(), subscription.name.clone());
            self.report(Report::Shared { namespace, subscription: name, peers: peers.len() });
        }
    }

    // === lookups and patches ===

    /// Handles the answer to [`Action::Lookup`].
    pub(super) fn handle_answer(&mut self, id: LookupId, answer: Result<Arc<RunModels>, LookupError>, now: Now) {
        let Self { registry, lookups, timers, jitter, .. } = self;
        match lookups.handle_answer(id, answer, |lookup| registry.is_awaited(lookup), now.instant, timers, jitter) {
            Outcome::Found { lookup, models } => self.models_found(&lookup, &models),
            Outcome::Failed { report } => {
                self.report(report);
                if let Some(lookup) = self.lookups.get(id) {
                    for stream in self.registry.awaiting(lookup) {
                        if self.registry.stream(stream).lookup_failed(lookup.workflow.uid) {
                            self.dirty.insert(stream);
                        }
                    }
                }
            }
            Outcome::Ignored => {}
        }
    }

    /// Handles the result of [`Action::Patch`].
    pub(super) fn handle_patch(&mut self, patch: MarkPatch, result: Result<(), MarkError>, now: Now) {
        let report = self.marks.handle_patch(patch, result, now.instant, &mut self.timers, &mut self.jitter);
        self.report(report);
    }

    // === drains ===

    /// Begins a drain: nothing more is handed off, each stream is closed once its events are confirmed and marked, and
    /// marks that wait for a retry are retried now.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.dirty.extend(self.registry.streams.keys());
        self.marks.drain(&mut self.timers);
    }

    /// Returns whether nothing is left that a drain waits for.
    pub(super) fn is_drained(&self) -> bool {
        self.registry.streams.is_empty() && self.marks.is_idle()
    }

    // === queries ===

    /// Returns the gauges. Walks every pending run, so it is not for every input.
    pub(super) fn stats(&self) -> Stats {
        let mut stats =
            Stats { streams: self.registry.streams.len(), pending_marks: self.marks.len(), ..Stats::default() };
        let runs = self.registry.streams.values().flat_map(|stream| stream.runs.values());
        for run in runs.filter(|run| !run.is_excluded()) {
            stats.pending_runs += 1;
            stats.oldest_pending = stats.oldest_pending.into_iter().chain([run.pending_since]).min();
        }
        let states = self.registry.namespaces.values().flat_map(|namespace| namespace.subscriptions.values());
        stats.shared_subscriptions = states.filter(|state| state.streams.len() > 1).count();
        stats
    }

    fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}

#[cfg(test)]
mod tests;
