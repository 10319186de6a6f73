//! Plain data and pure rules: no I/O, no clock, no async.
//!
//! - [`Workflow`]: the record of a Workflow
//! - [`Mark`], [`Marks`]: the deliveries that are recorded on a Workflow
//! - [`Interner`]: the values that many records share
//! - [`Subscription`]: the filters and options of one logical consumer of a namespace
//! - [`Artifact`], [`ArtifactId`], [`ArtifactTypes`]: which outputs of a run are serving models
//! - [`SeenArtifact`], [`ArtifactVerdict`]: why an artifact does or does not count
//! - [`event`]: the payload of an event
//! - [`latest`]: which run of a pipeline supersedes which
//! - [`glob`]: patterns for names of pipelines
//! - [`SubscriptionsInUse`]: the names of the subscriptions that this process serves
//! - [`trace`]: the ids of a run's trace

pub mod artifact;
pub mod event;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod glob;
mod ids;
mod in_use;
mod interner;
pub mod latest;
pub mod mark;
mod seen;
pub mod subscription;
pub(crate) mod text;
pub mod trace;
pub mod workflow;

pub use artifact::{Artifact, ArtifactId, ArtifactTypes, NotAModel, RunModels};
pub use event::{Include, IncludeField, SkipReason};
pub use ids::{RunId, TraceId, Uid};
pub use in_use::SubscriptionsInUse;
pub use interner::Interner;
pub use mark::{Mark, Marks};
pub use seen::{ArtifactVerdict, SeenArtifact};
pub use subscription::{FilterReason, PipelineFilter, Statuses, Subscription, SubscriptionName};
pub use workflow::{Phase, PipelineName, RunOutcome, Workflow};
