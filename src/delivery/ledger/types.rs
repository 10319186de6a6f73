//! The inputs and outputs of the ledger, as plain values.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    delivery::{CloseReason, Handoff, LookupError, MarkError, MarkPatch, StreamId},
    model::{ArtifactTypes, FilterReason, RunModels, SkipReason, Subscription, SubscriptionName, Uid, Workflow},
    telemetry::Limit,
};

/// A point in time on both clocks: pauses follow the monotonic clock, the ages of runs the wall clock.
#[derive(Clone, Copy, Debug)]
pub(in crate::delivery) struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock, in seconds since the Unix epoch. It may jump.
    pub unix: i64,
}

/// The position of a run in the order of delivery: oldest first. The UID distinguishes two runs of the same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    created: i64,
    pub(super) uid: Uid,
}

impl Age {
    pub(super) fn of(workflow: &Workflow) -> Self {
        Self { created: workflow.created, uid: workflow.uid }
    }
}

/// A subscription of a namespace.
pub(super) type Claimant = (Arc<str>, SubscriptionName);

/// One lookup, through all its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::delivery) struct LookupId(pub(super) u64);

/// Builds the payload of a run's event for a subscription. An error is final.
pub(in crate::delivery) type Encode<'a> =
    dyn Fn(&Workflow, &RunModels, &Subscription) -> Result<Bytes, SkipReason> + 'a;

/// A task for the driver.
#[derive(Debug)]
pub(in crate::delivery) enum Action {
    /// Look up the models of a run, then call [`super::Ledger::handle_answer`].
    Lookup { id: LookupId, workflow: Arc<Workflow>, types: Arc<ArtifactTypes>, attempt: u32 },
    /// Look up what can be known about a run that has not ended, then call [`super::Ledger::handle_answer_ahead`].
    LookAhead(Arc<Workflow>),
    /// Drop the remembered answers about a run: it was restarted, or is looked up by other fields now.
    Forget(Uid),
    /// Give an event to a stream.
    HandOff {
        stream: StreamId,
        subscription: Arc<Subscription>,
        handoff: Handoff,
        workflow: Arc<Workflow>,
        /// The time for which the run was pending.
        pending_for: Duration,
        /// An earlier stream of the subscription ended before it confirmed the event.
        redelivery: bool,
    },
    /// Patch a Workflow, then call [`super::Ledger::handle_patch`].
    Patch { patch: MarkPatch, attempt: u32 },
    /// End a stream from this side.
    Close(StreamId, CloseReason),
    /// Read the records of a namespace in pages, and call [`super::Ledger::offer_records`] with each.
    Read { stream: StreamId, namespace: Arc<str> },
    /// Stop following a namespace.
    Unfollow(Arc<str>),
    /// Log, count and trace an occurrence.
    Report(Report),
}

/// An occurrence for logs, metrics and traces.
#[derive(Debug)]
pub(in crate::delivery) enum Report {
    /// A stream attached and was offered all records. Contains the numbers of runs that are pending, and that its filters
    /// exclude.
    Attached {
        stream: StreamId,
        subscription: Arc<Subscription>,
        peer: Option<SocketAddr>,
        pending: usize,
        filtered: FilterCounts,
    },
    /// A stream ended. The events of these runs were not confirmed and will be redelivered.
    Ended { subscription: Arc<Subscription>, unconfirmed: Vec<Arc<Workflow>> },
    /// An event was confirmed.
    Confirmed {
        subscription: Arc<Subscription>,
        workflow: Arc<Workflow>,
        since_handoff: Duration,
        pending_for: Duration,
    },
    /// A lookup failed and will be retried. `given_up` is set once, when retries become rare.
    LookupFailed { workflow: Arc<Workflow>, error: LookupError, attempt: u32, retry_in: Duration, given_up: bool },
    /// An answer ignored executions that are older than the run.
    ForeignExecutions { workflow: Arc<Workflow>, count: usize },
    /// A filter of a subscription excludes a run. Reported once for each run. With notices, `by_all` is the number of
    /// attached subscriptions if each of them excludes the run, except while the stream is offered old runs.
    Filtered { subscription: Arc<Subscription>, workflow: Arc<Workflow>, reason: FilterReason, by_all: Option<usize> },
    /// A subscription receives no event for a run.
    Skipped { subscription: Arc<Subscription>, workflow: Arc<Workflow>, reason: SkipReason },
    /// Marks were written or removed.
    Marked { patch: MarkPatch, attempt: u32 },
    /// Marks could not be written or removed. Without `retry_in` they need not be.
    MarkFailed { patch: MarkPatch, error: MarkError, attempt: u32, retry_in: Option<Duration> },
    /// A Workflow has no room for another mark: the delivery is remembered only in memory.
    MarksFull { workflow: Arc<Workflow>, subscription: SubscriptionName },
    /// Several peers have shared a subscription for a while.
    Shared { namespace: Arc<str>, subscription: SubscriptionName, peers: usize },
    /// A run whose Workflow was deleted was not delivered in time. With `without_context` it was reported before that no
    /// lookup finds it.
    Expired { workflow: Arc<Workflow>, without_context: bool },
    /// A stream was closed that has held this many bytes without an acknowledgement, while others waited for room.
    NotReading { subscription: Arc<Subscription>, bytes: usize },
    /// A stream was closed that had this many runs, because all streams together had too many.
    TooManyRuns { subscription: Arc<Subscription>, runs: usize },
    /// A stream was closed that has reached its maximum age.
    MaxConnectionAge { subscription: Arc<Subscription>, age: Duration },
    /// A limit was reached.
    LimitHit(Limit),
}

/// The numbers of runs that the filters of a stream exclude.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterCounts {
    /// By `pipelines`.
    pub pipelines: usize,
    /// By `maxAge`.
    pub max_age: usize,
    /// By `statuses`.
    pub statuses: usize,
}

impl FilterCounts {
    /// Returns the number of runs by reason.
    pub fn by_reason(self) -> [(FilterReason, usize); 3] {
        [
            (FilterReason::Pipelines, self.pipelines),
            (FilterReason::MaxAge, self.max_age),
            (FilterReason::Statuses, self.statuses),
        ]
    }

    pub(super) fn add(&mut self, reason: FilterReason) {
        match reason {
            FilterReason::Pipelines => self.pipelines += 1,
            FilterReason::MaxAge => self.max_age += 1,
            FilterReason::Statuses => self.statuses += 1,
        }
    }
}

/// Gauges of what is pending.
#[derive(Clone, Debug, Default)]
pub(in crate::delivery) struct Stats {
    /// Attached streams.
    pub(in crate::delivery) streams: usize,
    /// Subscriptions with more than one stream.
    pub(in crate::delivery) shared_subscriptions: usize,
    /// Namespaces with streams.
    pub(in crate::delivery) namespaces: HashMap<Arc<str>, NamespaceStats>,
    /// Runs that would be pending, but that no lookup finds, counted once for each stream.
    pub(in crate::delivery) runs_without_context: usize,
    /// Workflows with marks to be written or removed.
    pub(in crate::delivery) pending_marks: usize,
}

#[cfg(test)]
impl Stats {
    /// The pending runs of all namespaces.
    pub(in crate::delivery) fn pending_runs(&self) -> usize {
        self.namespaces.values().map(|namespace| namespace.pending_runs).sum()
    }

    /// The time since which the oldest of those is pending.
    pub(in crate::delivery) fn oldest_pending(&self) -> Option<Instant> {
        self.namespaces.values().filter_map(|namespace| namespace.oldest_pending).min()
    }
}

/// Gauges of a namespace.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::delivery) struct NamespaceStats {
    /// Attached streams.
    pub(in crate::delivery) streams: usize,
    /// Pending runs, counted once for each stream.
    pub(in crate::delivery) pending_runs: usize,
    /// The time since which the oldest of those is pending.
    pub(in crate::delivery) oldest_pending: Option<Instant>,
}

impl NamespaceStats {
    /// Adds those of other streams.
    pub(in crate::delivery) fn add(&mut self, other: Self) {
        self.streams += other.streams;
        self.pending_runs += other.pending_runs;
        self.oldest_pending = self.oldest_pending.into_iter().chain(other.oldest_pending).min();
    }
}
