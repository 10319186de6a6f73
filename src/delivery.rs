//! The product's sentence: **every subscription to a namespace gets each run of it that succeeded and put out a serving
//! model, at least once, and once only in calm weather.**
//!
//! - [`Driver`] is the task that delivers: it reads the store's changes, asks for models, hands events to streams, and
//!   has marks written on the Workflows.
//! - What it does when is decided by the ledger (`delivery/ledger.rs`), a synchronous state machine.
//! - A stream attaches through [`Deliveries`], gets [`Handoff`]s, and returns proofs of receipt.
//! - The outside world is behind two traits: [`ArtifactLookup`] and [`Marker`].
//!
//! A hand-off counts as delivered once the peer has proved that it read it *and* the stream stayed open for a while
//! ([`Options::confirm_after`]). Until then the end of the stream gives it back. What counts is remembered here until
//! its mark has been seen on the Workflow, and on the Workflow from then on, for every replica.

mod driver;
#[cfg(test)]
mod fixtures;
mod handle;
mod ledger;
mod observer;
mod spans;

pub use driver::{Driver, WallClock};
pub use handle::{AckSender, Attached, Deliveries, Handoff, MAX_UNACKNOWLEDGED, StreamId};
pub use ledger::Options;

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;

use crate::model::{ArtifactTypes, RunModels, SubscriptionName, Uid, Workflow};

/// Where the models of a run are asked for. Implemented over ML Metadata; Kubeflow is moving artifacts elsewhere.
pub trait ArtifactLookup: Send + Sync + 'static {
    /// The models of these types that this run put out. Asked again by the caller after an error; an answer without
    /// models is final. Answers may be remembered by the run's UID; concurrent questions for the same run share one.
    fn find<'a>(
        &'a self,
        run: &'a Workflow,
        types: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>>;

    /// The run has been restarted: what was remembered of it is no longer true.
    fn forget(&self, run: Uid);
}

/// Why there is no answer. None of these means "no model".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// ML Metadata knows nothing of the run (yet): no context, or one in which nothing was executed.
    #[error("ML Metadata knows nothing of this run (yet)")]
    NoContext,
    /// The context of this run's name says that it belongs to another namespace.
    #[error("ML Metadata's context of this run belongs to the namespace {namespace:?}")]
    ForeignContext {
        /// The namespace that it names.
        namespace: String,
    },
    /// The question failed. `code` is one of a bounded set and fit for a metric's label.
    #[error("{code}: {message}")]
    Failed {
        /// The gRPC status code's name in lower case (`unavailable`), `timeout` or `malformed`.
        code: &'static str,
        /// What went wrong, for a log.
        message: String,
    },
}

impl LookupError {
    /// What it is called in metrics and traces: one of a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoContext => "no_context",
            Self::ForeignContext { .. } => "foreign_context",
            Self::Failed { code, .. } => code,
        }
    }
}

/// Who writes on a Workflow what has been delivered.
pub trait Marker: Send + Sync + 'static {
    /// Applies a change of marks to one Workflow.
    fn patch<'a>(&'a self, patch: &'a MarkPatch) -> BoxFuture<'a, Result<(), MarkError>>;
}

/// A change of the marks of one Workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkPatch {
    /// The Workflow's namespace.
    pub namespace: Arc<str>,
    /// The Workflow's name.
    pub name: Box<str>,
    /// Its UID: the patch must not touch another Workflow of the same name.
    pub uid: Uid,
    /// What to do.
    pub change: MarkChange,
}

/// What a patch does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkChange {
    /// Remember that these subscriptions have got the run.
    Set(Vec<SubscriptionName>),
    /// The run was restarted: remove these marks, provided that the Workflow is still at this `resourceVersion`.
    Remove {
        /// The subscriptions whose marks go.
        subscriptions: Vec<SubscriptionName>,
        /// The state of the Workflow on which this was decided.
        resource_version: Box<str>,
    },
}

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// The Workflow is gone (404, or its name belongs to another one now). There is nothing left to mark.
    #[error("the Workflow is gone")]
    Gone,
    /// 409: the Workflow has changed meanwhile.
    #[error("the Workflow has changed meanwhile")]
    Conflict,
    /// 429, 5xx, no answer: worth another try.
    #[error("{message}")]
    Transient {
        /// What went wrong, for a log.
        message: String,
    },
    /// Any other 4xx: refused, and soon tried again in vain.
    #[error("{status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The API server's words, for a log.
        message: String,
    },
}

impl MarkError {
    /// What it is called in metrics and traces: one of a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Conflict => "conflict",
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
