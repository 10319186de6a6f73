//! The ledger: the pending, handed-off, confirmed and marked runs of every subscription. A synchronous state machine.
//!
//! Its inputs are changes of Workflows, answers of lookups, acknowledgements and ends of streams, results of patches,
//! and the passing of time. Each is a method that takes the input and its time. Its outputs are [`Action`]s, which the
//! driver performs, and whose results it feeds back. The ledger does not wait, does no I/O and reads no clock, so that
//! tests can run every interleaving.
//!
//! # The states of a run in a stream
//!
//! ```text
//!                        ┌── no model, filtered, superseded ──▶ (removed)
//! Queued ─▶ FirstLookup ─┴▶ Ready ─▶ HandedOff ─▶ acknowledged ─▶ confirmed ─▶ (a mark is written)
//!               │            ▲            │
//!               ▼            │            └─ the stream ends (its successor finds the run unmarked in the store)
//!         RetriedLookup ─────┤
//!               ▼            │
//!         WithoutContext ────┘
//! ```
//!
//! With `latestOnly`, a run that is queued or ready becomes `Held` when a newer one is handed off. A run without a
//! valid event is `Excluded`.
//!
//! The part of a *subscription* that outlives its streams: runs that were confirmed and whose mark has not been seen
//! yet, runs whose events were unconfirmed when streams ended, and with `latestOnly` the newest runs that were sent. A
//! new stream reads everything else from the store.
//!
//! # Limits of a turn
//!
//! No input and no decision takes more than a few milliseconds. Records are offered in pages, and the decisions that
//! follow from inputs are spread over several turns ([`Ledger::has_more`]).
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | `ledger` | the entry points, in the order in which the driver calls them |
//! | `decisions`, `next` | the hand-offs, lookups and patches that follow from the inputs |
//! | `ahead` | lookups of runs that have not ended |
//! | `runs`, `answers` | the consequences of changes of Workflows, and of answers and confirmations |
//! | `offers` | the offers of runs to streams |
//! | `registry` | attached streams by namespace and subscription, and what is known of their runs |
//! | `stream`, `queues` | one stream, and the states of its runs |
//! | `filters`, `run_sets` | verdicts of filters, and sets of runs |
//! | `latest` | `latestOnly` |
//! | `quarantine` | runs whose events may have ended their streams |
//! | `lookups`, `marks` | lookups and patches: queues, limits and retries |
//! | `flow`, `budget` | bytes that are held for streams |
//! | `held_runs` | runs that are held for streams |
//! | `deleted` | pending runs whose Workflow was deleted |
//! | `connection_age` | streams that have reached their maximum age |
//! | `retention` | subscriptions and namespaces without a stream |
//! | `shares` | namespaces that hold most of something |
//! | `wall_clock` | runs excluded by a wall clock that was wrong |
//! | `timers`, `types` | timers, and plain values |

mod ahead;
mod answers;
mod budget;
mod connection_age;
mod decisions;
mod deleted;
mod filters;
mod flow;
mod held_runs;
mod latest;
mod lookups;
mod marks;
mod next;
mod offers;
mod quarantine;
mod queues;
mod registry;
mod retention;
mod run_sets;
mod runs;
mod shares;
mod stream;
mod timers;
mod types;
mod wall_clock;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::SmallRng};

use self::{
    ahead::LookupsAhead,
    deleted::DeletedRuns,
    filters::Steps,
    flow::Flow,
    lookups::Lookups,
    marks::Marks,
    registry::Registry,
    stream::Stream,
    timers::{Timer, Timers},
    types::Encode,
    wall_clock::ExcludedByAge,
};
use super::{MarkError, MarkPatch, Options, StreamId, status::StreamStatus};
use crate::{model::Uid, store::Change};

pub use self::{connection_age::ConnectionAges, lookups::CONTEXT_EXPECTED, types::FilterCounts};
pub(super) use self::{
    shares::Shares,
    types::{Action, LookupId, NamespaceStats, Now, Report, Stats},
};

/// The time for which several peers may share a subscription without a report: longer than a roll-out of theirs.
const SHARED_TOO_LONG: Duration = Duration::from_secs(60);
/// Timers and confirmations that are handled in a turn.
const TIMERS: usize = 512;
/// The longest time to confirmation, which keeps sums with it from overflowing.
const MAX_CONFIRM_AFTER: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    confirm_after: Duration,
    skip_labelled: bool,
    /// There is a destination of notices.
    has_notices: bool,
    registry: Registry,
    lookups: Lookups,
    ahead: LookupsAhead,
    marks: Marks,
    deleted: DeletedRuns,
    flow: Flow,
    ages: ConnectionAges,
    excluded_by_age: ExcludedByAge,
    timers: Timers,
    /// Attached streams about which there may be something to decide.
    dirty: BTreeSet<StreamId>,
    /// The stream that was decided about last: the next ones are those behind it.
    last_dirty: StreamId,
    /// There are lookups that may begin.
    has_lookups: bool,
    /// Runs that streams were given since the last check of how many they hold.
    given_runs: usize,
    /// Comparisons of filters that are left in this turn.
    steps: Steps,
    /// Streams that have ended and whose runs are to be dropped.
    ended: Vec<Stream>,
    /// Runs whose lookups may be awaited by no stream.
    unawaited: Vec<Uid>,
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
            has_notices: options.notices.is_some(),
            registry: Registry::new(options.in_use.clone()),
            lookups: Lookups::new(options.lookups),
            ahead: LookupsAhead::default(),
            marks: Marks::new(options.patches, options.mark_rate),
            deleted: DeletedRuns::default(),
            flow: Flow::default(),
            ages: ConnectionAges::new(options.max_connection_age),
            excluded_by_age: ExcludedByAge::default(),
            timers: Timers::default(),
            dirty: BTreeSet::new(),
            last_dirty: StreamId(0),
            has_lookups: false,
            given_runs: 0,
            steps: Steps::default(),
            ended: Vec::new(),
            unawaited: Vec::new(),
            actions: Vec::new(),
            draining: false,
            jitter: SmallRng::seed_from_u64(seed),
        }
    }

    // === time and actions ===

    /// Handles timers that are due, a limited number. Returns whether any was.
    pub(super) fn handle_timeout(&mut self, now: Now) -> bool {
        let mut left = TIMERS;
        self.check_clock(now);
        while left > 0
            && let Some(timer) = self.timers.pop(now.instant)
        {
            left -= 1;
            match timer {
                Timer::Confirm(stream) => left = left.saturating_sub(self.confirm_due(stream, now)),
                Timer::RetryLookup(lookup) => self.lookups.queue_retry(lookup),
                Timer::SlowLookup(lookup) => self.lookups.slow(lookup, now.instant, &mut self.timers),
                Timer::RetryMark(run) => self.marks.queue_retry(run, &mut self.timers),
                Timer::SlowPatch(run) => self.marks.slow(run, &mut self.timers),
                Timer::LookAhead(namespace, run) => self.ahead.queue(&namespace, run),
                // The next patch or lookup begins with the decisions that follow.
                Timer::MarkRate | Timer::LookAheadRate => {}
                Timer::DropDeleted(run) => {
                    if let Some(dropped) = self.deleted.remove(run, &mut self.timers) {
                        self.expire(dropped);
                    }
                }
                Timer::HandOff(stream) => {
                    self.dirty.insert(stream);
                }
                Timer::CheckShared(stream) => self.check_shared(stream),
                Timer::MaxAge(stream) => self.reached_age(stream, now.instant),
                Timer::EndOfAge(stream) => self.end_of_age(stream, now),
                Timer::DropNamespace(namespace) => self.drop_idle(namespace, now.instant),
                Timer::ForgetSubscriptions(namespace) => self.forget_subscriptions(&namespace, now.instant),
                Timer::CheckReaders => self.check_readers(now),
                Timer::CheckClock => self.schedule_clock_check(now),
            }
        }
        left < TIMERS
    }

    /// Returns the actions that follow from the inputs since the last call. To be called after inputs, before waiting,
    /// and again without waiting while [`Ledger::has_more`].
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
            Change::Applied { workflow, before } => self.workflow_applied(workflow, *before, now),
            Change::Deleted(workflow) => self.workflow_deleted(workflow, now),
        }
    }

    /// Returns the streams that a change of a Workflow of this namespace is offered to.
    pub(super) fn streams_in(&self, namespace: &str) -> usize {
        self.registry.namespaces.get(namespace).map_or(0, |namespace| namespace.streams.len())
    }

    // === streams ===

    /// Handles an acknowledgement: the peer has read every event up to this one. The stream may have ended meanwhile.
    pub(super) fn handle_ack(&mut self, id: StreamId, sequence: u64, now: Now) {
        let Some(stream) = self.registry.streams.get_mut(&id) else { return };
        let confirm_at = now.instant + self.confirm_after;
        if stream.acknowledge(sequence, now.instant, confirm_at) {
            self.timers.set(confirm_at, Timer::Confirm(id));
        }
        self.dirty.insert(id);
    }

    /// Handles the end of a stream: its unconfirmed events are to be redelivered. A stream that was refused has no
    /// entry.
    pub(super) fn end(&mut self, id: StreamId, now: Now) {
        let Some(stream) = self.registry.detach(id) else { return };
        self.dirty.remove(&id);
        self.flow.unacknowledged.cancel(id);
        self.flow.ready.cancel(id);
        let timers =
            [Timer::Confirm(id), Timer::HandOff(id), Timer::CheckShared(id), Timer::MaxAge(id), Timer::EndOfAge(id)];
        timers.iter().for_each(|timer| self.timers.cancel(timer));
        if self.lookups.is_full() {
            self.unawaited.extend(stream.awaiting_lookup());
        }
        let subscription = stream.subscription.clone();
        let unconfirmed: Vec<_> =
            stream.unconfirmed().filter(|run| !(self.skip_labelled && run.workflow.events_published)).collect();
        if subscription.remember {
            self.registry.change_state(&subscription.namespace, &subscription.name, |state| {
                for run in &unconfirmed {
                    state.failed.record(run.workflow.uid, run.pending_since, now.instant);
                }
            });
        }
        let unconfirmed = unconfirmed.into_iter().map(|run| run.workflow.clone()).collect();
        self.stream_detached(&subscription, now.instant);
        self.ended.push(stream);
        self.report(Report::Ended { subscription, unconfirmed });
    }

    /// Reports a subscription whose streams of several peers have been attached for a while.
    fn check_shared(&mut self, id: StreamId) {
        let subscription = self.registry.stream(id).subscription.clone();
        let Some(state) = self.registry.state(&subscription).filter(|state| !state.reported_shared) else { return };
        // The ids grow, so the streams with lower ones have been attached for longer.
        let long_attached = state.streams.iter().filter(|other| **other <= id);
        let peers: HashSet<_> = long_attached.map(|id| self.registry.streams[id].peer).collect();
        if peers.len() > 1 {
            self.registry.state_mut(&subscription).into_iter().for_each(|state| state.reported_shared = true);
            let (namespace, name) = (subscription.namespace.clone(), subscription.name.clone());
            self.report(Report::Shared { namespace, subscription: name, peers: peers.len() });
        }
    }

    // === patches ===

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

    /// Returns the gauges.
    pub(super) fn stats(&self) -> Stats {
        let mut namespaces: HashMap<_, NamespaceStats> = HashMap::new();
        for stream in self.registry.streams.values() {
            namespaces.entry(stream.subscription.namespace.clone()).or_default().add(NamespaceStats {
                streams: 1,
                pending_runs: stream.pending_runs(),
                oldest_pending: stream.oldest_pending(),
            });
        }
        Stats {
            streams: self.registry.streams.len(),
            shared_subscriptions: self.registry.shared,
            namespaces,
            runs_without_context: self.registry.streams.values().map(|stream| stream.runs_without_context()).sum(),
            pending_marks: self.marks.len(),
        }
    }

    /// Returns the status of each stream, in the order of their attachment.
    pub(super) fn streams(&self, now: Instant) -> Vec<StreamStatus> {
        let mut streams: Vec<_> = self.registry.streams.iter().collect();
        streams.sort_unstable_by_key(|(id, _)| **id);
        streams.into_iter().map(|(_, stream)| stream.status(now)).collect()
    }

    fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}

#[cfg(test)]
mod tests;
