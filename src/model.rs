//! Plain data and pure rules: no I/O, no clock, no async.
//!
//! - [`Workflow`]: the record that is kept of each Workflow
//! - [`Subscription`]: what one logical consumer of a namespace wants
//! - [`Artifact`], [`ArtifactTypes`]: which outputs of a run count as serving models
//! - [`event`]: the form in which a run is announced
//! - [`trace`]: the ids of its trace

pub mod artifact;
pub mod event;
pub mod subscription;
pub mod trace;
pub mod workflow;

pub use artifact::{Artifact, ArtifactTypes, RunModels};
pub use event::{Include, IncludeField};
pub use subscription::{PipelineFilter, Subscription, SubscriptionName};
pub use workflow::{Mark, Names, Phase, PipelineName, RunId, TraceId, Uid, Workflow};
