//! What goes into the ledger and comes out of it, as plain values.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::lookups::LookupId;
use crate::{
    delivery::{Handoff, LookupError, MarkError, MarkPatch, StreamId},
    model::{ArtifactTypes, Subscription, SubscriptionName, Uid, Workflow, event::SkipReason},
    telemetry::Traces,
};

/// A point in time, on both clocks: waits follow the first, the age of a run the second.
#[derive(Clone, Copy, Debug)]
pub(in crate::delivery) struct Now {
    /// A clock that never jumps.
    pub instant: Instant,
    /// Seconds since the Unix epoch, which may jump.
    pub unix: i64,
}

/// How deliveries are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a stream has to stay open after an acknowledgement for it to count.
    pub confirm_after: Duration,
    /// Whether runs with the label `pipelines.kubeflow.org/events-published: "true"` count as delivered.
    pub skip_labelled: bool,
    /// How many lookups may be under way at once, in one namespace and in all. Those that take long count in all only, up
    /// to three times as many as a namespace may have.
    pub lookups: (usize, usize),
    /// How many patches may be under way at once.
    pub patches: usize,
    /// How long a drain waits for the last confirmations.
    pub drain_confirmations: Duration,
    /// How long a drain waits for the last marks, after the confirmations.
    pub drain_marks: Duration,
    /// Where the traces of runs go.
    pub traces: Traces,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            confirm_after: Duration::from_secs(1),
            skip_labelled: false,
            lookups: (8, 1024),
            patches: 64,
            drain_confirmations: Duration::from_millis(4500),
            drain_marks: Duration::from_millis(2500),
            traces: Traces::default(),
        }
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub(in crate::delivery) enum Action {
    /// Ask for the models of a run, and call [`super::Ledger::answered`].
    Lookup { id: LookupId, workflow: Arc<Workflow>, types: Arc<ArtifactTypes>, attempt: u32 },
    /// The run was restarted: answers about it are no longer true.
    Forget(Uid),
    /// Give an event to a stream.
    HandOff {
        stream: StreamId,
        subscription: Arc<Subscription>,
        handoff: Handoff,
        workflow: Arc<Workflow>,
        waited: Duration,
        again: bool,
    },
    /// Patch a Workflow, and call [`super::Ledger::patched`].
    Patch { patch: MarkPatch, attempt: u32 },
    /// End a stream from our side.
    Close(StreamId),
    /// Read the records of this namespace, and call [`super::Ledger::reread`].
    Reread(Arc<str>),
    /// Nothing of this namespace is of interest any more.
    Unfollow(Arc<str>),
    /// Tell those who watch.
    Report(Report),
}

/// What is worth a log line, a metric and a span's event.
#[derive(Debug)]
pub(in crate::delivery) enum Report {
    /// A stream attached; so many runs wait for it.
    Attached { stream: StreamId, subscription: Arc<Subscription>, peer: Option<SocketAddr>, pending: usize },
    /// A stream ended; so many hand-offs were not confirmed and will come again.
    Ended { subscription: Arc<Subscription>, unconfirmed: Vec<Arc<Workflow>> },
    /// A stream proved that it has read a run's event.
    Confirmed { subscription: Arc<Subscription>, workflow: Arc<Workflow>, since_handoff: Duration, waited: Duration },
    /// A lookup failed and is repeated after a while; `reported` says that nobody should wait for it any more.
    LookupFailed { workflow: Arc<Workflow>, error: LookupError, attempt: u32, retry_in: Duration, given_up: bool },
    /// The answer left out executions that are older than the run.
    ForeignExecutions { workflow: Arc<Workflow>, count: usize },
    /// A run is not announced to a subscription.
    Unannounced { subscription: Arc<Subscription>, workflow: Arc<Workflow>, why: SkipReason },
    /// A mark was written or removed.
    Marked { patch: MarkPatch, attempt: u32 },
    /// A mark could not be written or removed. Without `retry_in` it is not tried again, and need not be.
    MarkFailed { patch: MarkPatch, error: MarkError, attempt: u32, retry_in: Option<Duration> },
    /// A Workflow carries so many marks that this one is only remembered here.
    MarksFull { workflow: Arc<Workflow>, subscription: SubscriptionName },
    /// Two peers have used one subscription for a while.
    Shared { namespace: Arc<str>, subscription: SubscriptionName, peers: usize },
    /// A run whose Workflow was deleted was not delivered in time.
    Expired { workflow: Arc<Workflow> },
}

/// How much is pending.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::delivery) struct Census {
    /// Attached streams.
    pub(in crate::delivery) streams: usize,
    /// Subscriptions with more than one stream.
    pub(in crate::delivery) shared: usize,
    /// Runs that wait for a stream's confirmation, one a stream.
    pub(in crate::delivery) pending: usize,
    /// When the oldest of those was put before its stream.
    pub(in crate::delivery) oldest: Option<Instant>,
    /// Workflows that wait for a patch.
    pub(in crate::delivery) marks: usize,
}
