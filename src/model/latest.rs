//! The order of runs for `latestOnly`: which run of a pipeline supersedes which.

use std::sync::Arc;

use super::{RunModels, RunOutcome, Uid, Workflow, event};

/// The position of a run in the order in which runs ended. The UID gives runs that ended in the same second a fixed
/// order, but makes none of them older: see [`Recency::is_before`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recency {
    /// End of the run.
    pub finished: i64,
    /// Creation of the Workflow.
    pub created: i64,
    /// The Workflow.
    pub uid: Uid,
}

impl Recency {
    /// The position of this run.
    pub fn of(workflow: &Workflow) -> Self {
        Self { finished: workflow.finished, created: workflow.created, uid: workflow.uid }
    }

    /// Returns whether the other run supersedes this one. Times have a resolution of a second: which of two runs with
    /// equal times has the newer model is not known, so both are sent.
    pub fn is_before(self, other: Self) -> bool {
        (self.finished, self.created) < (other.finished, other.created)
    }
}

/// The runs of a pipeline that supersede each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The name of the pipeline.
    pub pipeline: Arc<str>,
    /// The outcome of the runs.
    pub outcome: RunOutcome,
}

impl Lane {
    /// Returns the lane of a run with these models, if it has a valid pipeline name.
    pub fn of(workflow: &Workflow, models: &RunModels) -> Option<Self> {
        Self::named(workflow, event::shared_pipeline_name(workflow, models)?)
    }

    /// Returns the lane of a run of this pipeline, if the run has ended.
    pub fn named(workflow: &Workflow, pipeline: &Arc<str>) -> Option<Self> {
        Some(Self { pipeline: pipeline.clone(), outcome: workflow.outcome()? })
    }

    /// The lanes whose newer runs supersede those of this one. Failed runs have no model, so they supersede only failed
    /// runs.
    pub fn superseding(&self) -> impl Iterator<Item = Self> {
        let successes = Self { outcome: RunOutcome::Succeeded, ..self.clone() };
        [self.clone()].into_iter().chain((self.outcome == RunOutcome::Failed).then_some(successes))
    }

    /// The lanes whose older runs are superseded by those of this one.
    pub fn superseded(&self) -> impl Iterator<Item = Self> {
        let failures = Self { outcome: RunOutcome::Failed, ..self.clone() };
        [self.clone()].into_iter().chain((self.outcome == RunOutcome::Succeeded).then_some(failures))
    }
}
