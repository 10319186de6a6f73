//! Delivers every succeeded run to every subscription of its namespace, at least once.
//!
//! - [`Driver`] is the delivery task: it reads the store's changes, looks up models, hands events to streams, and has
//!   marks written on the Workflows.
//! - The ledger (`delivery/ledger.rs`), a synchronous state machine, decides what the driver does.
//! - A stream attaches through [`Deliveries`], receives [`Handoff`]s, and sends acknowledgements through [`AckSender`].
//! - The outside systems are behind three traits: [`ArtifactLookup`], [`Marker`] and [`NoticeSink`].
//!
//! An event is *confirmed* once its peer has acknowledged it and the stream has stayed open for a while after that
//! ([`Options::confirm_after`]). If the stream ends earlier, the event is redelivered. A confirmed delivery is
//! remembered in memory until its mark has been seen on the Workflow; from then on every replica knows of it.

mod backlog;
mod driver;
mod explained;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod fixtures;
mod gauges;
mod handle;
mod ledger;
mod mailbox;
mod metrics;
mod notices;
mod observer;
mod options;
mod payload;
mod recent;
mod spans;
mod status;

pub use driver::Driver;
pub use explained::{Explained, ModelSource, RunRecord};
pub use handle::{AckSender, Attached, CloseReason, Deliveries, Handoff, MAX_UNACKNOWLEDGED, StreamId};
pub use ledger::{CONTEXT_EXPECTED, ConnectionAges, FilterCounts};
pub use mailbox::EventReceiver;
pub use metrics::DeliveryMetrics;
pub use notices::{Notice, NoticeSink};
pub use options::{LookupLimits, Options, PatchLimits};
pub use recent::{RecentDelivery, RecentProblem};
pub use status::{DeliveryStatus, StatusReader, StreamStatus};

use std::{fmt, future::ready, sync::Arc};

use futures::future::BoxFuture;

use crate::model::{ArtifactTypes, Mark, RunModels, SubscriptionName, Uid, Workflow};

/// A source of the models of runs.
pub trait ArtifactLookup: Send + Sync + 'static {
    /// Returns the models of these types that a run produced. An answer without models is final; the caller retries
    /// after an error.
    ///
    /// The caller has at most one call in flight for each run and set of types, so implementations need not share equal
    /// calls. They may remember answers by the run's UID until [`ArtifactLookup::forget`]; a call for the same run and
    /// types may follow that while the former one is still in flight.
    fn find<'a>(
        &'a self,
        run: &'a Workflow,
        types: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>>;

    /// Asks for what can be known about a run that has not ended, so that [`ArtifactLookup::find`] takes less time once
    /// it has. Such an answer must not change what `find` returns: until the run ends, all that is recorded about it
    /// may still change. The caller asks again later after [`LookupError::NoContext`] or [`LookupError::Failed`], and
    /// after [`KnownAhead::SoFar`] once the Workflow has changed.
    ///
    /// A source in which a lookup is one call has nothing to ask ahead, which is the default.
    fn look_ahead<'a>(&'a self, run: &'a Workflow) -> BoxFuture<'a, Result<KnownAhead, LookupError>> {
        let _ = run;
        Box::pin(ready(Ok(KnownAhead::All)))
    }

    /// Forgets every remembered answer about a run, including answers to calls in flight: the run was restarted.
    fn forget(&self, run: Uid);
}

/// The state of knowledge about a run that has not ended, see [`ArtifactLookup::look_ahead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownAhead {
    /// All that can be known before its end.
    All,
    /// The records of its tasks so far. Further tasks will record more.
    SoFar,
}

/// A failure of a lookup. None of these means "no model".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The source of models has no record of the run, or one without executions. It may appear later.
    #[error("the source of models does not know this run (yet)")]
    NoContext,
    /// The record under this run's name or id belongs to another namespace.
    #[error("the run's record belongs to the namespace {namespace:?}")]
    ForeignContext {
        /// The record's namespace.
        namespace: String,
    },
    /// There is more about the run than a lookup reads or keeps. Final: a retry would fail again.
    #[error("the run's record is too large to be read")]
    TooLarge,
    /// There is no valid answer.
    #[error("{code}: {message}")]
    Failed {
        /// The gRPC status code's label (`unavailable`), `timeout`, `malformed`, `overloaded`, or
        /// `unfinished` while a task is still running: one of a bounded set.
        code: &'static str,
        /// A description for logs.
        message: String,
    },
}

impl LookupError {
    /// The error's name in metrics and traces: one of a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoContext => "no_context",
            Self::ForeignContext { .. } => "foreign_context",
            Self::TooLarge => "too_large",
            Self::Failed { code, .. } => code,
        }
    }
}

/// Writes and removes marks on Workflows.
pub trait Marker: Send + Sync + 'static {
    /// Applies a change of marks to one Workflow. The caller limits the rate and the number of calls in flight. Each
    /// call has to end within seconds, with [`MarkError::Transient`] if the API server does not answer: a call that
    /// takes long does not hold a place, so only its deadline bounds the number of those.
    fn patch<'a>(&'a self, patch: &'a MarkPatch) -> BoxFuture<'a, Result<(), MarkError>>;
}

/// A change of the marks of one Workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkPatch {
    /// The Workflow's namespace.
    pub namespace: Arc<str>,
    /// The Workflow's name.
    pub name: Box<str>,
    /// The Workflow's UID: the patch must not change another Workflow of the same name.
    pub uid: Uid,
    /// The change.
    pub change: MarkChange,
    /// The place of the marks that are set. A removal removes marks from both places.
    pub place: MarkPlace,
}

/// The place of a mark on a Workflow. Key and value are the same in both places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MarkPlace {
    /// An annotation.
    #[default]
    Annotation,
    /// A label, after [`MarkError::NoRoom`]: the limit for annotations does not apply to labels.
    Label,
}

/// A change of marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkChange {
    /// Write these marks, see [`Mark::value`]: the run was delivered to their subscriptions.
    Set(Vec<Mark>),
    /// Remove marks of a run that was restarted, annotations and labels, provided that the Workflow is still at this
    /// `resourceVersion`.
    Remove {
        /// The subscriptions whose marks are removed.
        subscriptions: Vec<SubscriptionName>,
        /// The state of the Workflow on which the decision is based.
        resource_version: Box<str>,
    },
}

/// A failure of a patch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// The Workflow no longer exists (404, or another Workflow has its name): there is nothing to mark.
    #[error("the Workflow no longer exists")]
    Gone,
    /// 409: the Workflow has changed since.
    #[error("the Workflow has changed since")]
    Conflict,
    /// 422: the annotations would exceed the API server's limit of 262,144 bytes. The mark may still fit as a label.
    #[error("the Workflow's annotations have no room for a mark (limit: 262,144 bytes in all)")]
    NoRoom,
    /// 429, 5xx or no answer: worth a retry.
    #[error("{message}")]
    Transient {
        /// A description for logs.
        message: String,
    },
    /// Any other 4xx: refused. An early retry would be refused again.
    #[error("{status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The API server's message, for logs.
        message: String,
    },
}

impl MarkError {
    /// The error's name in metrics and traces: one of a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Conflict => "conflict",
            Self::NoRoom => "no_room",
            Self::Transient { .. } => "transient",
            Self::Refused { .. } => "refused",
        }
    }
}

impl fmt::Display for MarkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(_) => f.write_str("set"),
            Self::Remove { .. } => f.write_str("remove"),
        }
    }
}
