//! The record of a Workflow, and the rules that read it.

use std::sync::Arc;

use super::{Mark, Marks, RunId, SubscriptionName, TraceId, Uid, mark::stale_marks};

/// Label in which Argo's workflow controller copies `status.phase`.
pub const PHASE_LABEL: &str = "workflows.argoproj.io/phase";
/// Label that Argo's workflow controller sets to `true` together with a final phase, and removes at a retry.
pub const COMPLETED_LABEL: &str = "workflows.argoproj.io/completed";
/// Label that `argo resubmit` sets on the copy; its value is the original's name.
pub const RESUBMITTED_LABEL: &str = "workflows.argoproj.io/resubmitted-from-workflow";
/// Label that Kubeflow's API server sets on each Workflow that it submits, one-off and recurring, KFP v1 and v2.
pub const RUN_ID_LABEL: &str = "pipeline/runid";
/// Label that kfp-operator's own provider sets after its own delivery. Read (`--skip-labelled`), never written.
pub const EVENTS_PUBLISHED_LABEL: &str = "pipelines.kubeflow.org/events-published";
/// Annotation of KFP v1 whose JSON value contains the pipeline's name under `name`.
pub const PIPELINE_SPEC_ANNOTATION: &str = "pipelines.kubeflow.org/pipeline_spec";
/// Annotation that Argo Workflows 4.1 and later writes when tracing is on: 32 hexadecimal digits.
pub const TRACE_ID_ANNOTATION: &str = "workflows.argoproj.io/trace-id";
/// Prefix of the annotations, or labels, that record deliveries; the subscription's name follows.
pub const MARK_PREFIX: &str = "published.pipelines.kubeflow.org/";
/// Suffix of a mark's value that records the delivery of a failed run.
pub const FAILED_SUFFIX: &str = ".failed";
/// Maximum number of marks on a Workflow.
pub const MAX_MARKS: usize = 32;
/// Maximum length of a pipeline's name in bytes. A tenant chooses it, and it is kept for every record; Kubeflow's own
/// limit is 128 characters.
pub const MAX_PIPELINE_NAME: usize = 512;

/// The phase of a Workflow, as its labels show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The run succeeded.
    Succeeded,
    /// The run failed, or Argo could not carry it out.
    Failed,
    /// The run is pending or running. After a final phase, this is a restart.
    Active,
    /// Nothing is known: the phase label is absent or new, or a final phase lacks [`COMPLETED_LABEL`]. Argo sets both
    /// in one update, so this is the state of a recreated Workflow, or of one whose labels were edited. Decisions that
    /// were made before stay.
    Unknown,
}

impl Phase {
    /// The phase for the values of [`PHASE_LABEL`] and [`COMPLETED_LABEL`].
    pub fn from_labels(phase: Option<&str>, completed: Option<&str>) -> Self {
        match (phase, completed) {
            (Some("Succeeded"), Some("true")) => Self::Succeeded,
            (Some("Failed" | "Error"), Some("true")) => Self::Failed,
            (Some("Running" | "Pending"), _) => Self::Active,
            _ => Self::Unknown,
        }
    }
}

/// The way in which a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RunOutcome {
    /// Phase `Succeeded`.
    Succeeded,
    /// Phase `Failed` or `Error`.
    Failed,
}

impl RunOutcome {
    /// The word for it in payloads and configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// The pipeline's name as the Workflow contains it; never empty.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PipelineName {
    /// KFP v1: the name in the annotation [`PIPELINE_SPEC_ANNOTATION`]. Certain.
    Spec(Arc<str>),
    /// `generateName` without its trailing `-`. Used if ML Metadata has no name.
    Generated(Arc<str>),
    /// Neither, as in recurring runs: only ML Metadata has the name.
    Unknown,
    /// The Workflow's own name for it exceeds [`MAX_PIPELINE_NAME`]. The run is never sent.
    TooLong,
}

impl PipelineName {
    /// The name, if the Workflow contains one.
    pub fn known(&self) -> Option<&str> {
        match self {
            Self::Spec(name) | Self::Generated(name) => Some(name),
            Self::Unknown | Self::TooLong => None,
        }
    }
}

/// The record of a Workflow: about a hundred bytes, out of tens of kilobytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workflow {
    /// The namespace, shared by all records of the namespace.
    pub namespace: Arc<str>,
    /// The object's name, unique in its namespace at any one time.
    pub name: Box<str>,
    /// The object's UID, never reused.
    pub uid: Uid,
    /// `creationTimestamp`, in seconds since the Unix epoch.
    pub created: i64,
    /// Time of the end of the run in seconds since the Unix epoch, 0 if unknown: the last update by the owner of the
    /// phase label, Argo's controller.
    pub finished: i64,
    /// The run's phase.
    pub phase: Phase,
    /// True if the Workflow is a copy made by `argo resubmit`, which copies the run id as well.
    pub resubmitted: bool,
    /// True if the label [`EVENTS_PUBLISHED_LABEL`] is `true`.
    pub events_published: bool,
    /// The pipeline's name, as far as the Workflow contains it, shared by all records of the pipeline.
    pub pipeline: Arc<PipelineName>,
    /// Kubeflow's run id, from the label [`RUN_ID_LABEL`].
    pub run_id: Option<RunId>,
    /// Argo's trace id, if Argo traces. A pointer, since most records have none.
    pub trace_id: Option<Box<TraceId>>,
    /// Deliveries.
    pub marks: Marks,
}

impl Workflow {
    /// The way in which the run ended, if it ended.
    pub fn outcome(&self) -> Option<RunOutcome> {
        match self.phase {
            Phase::Succeeded => Some(RunOutcome::Succeeded),
            Phase::Failed => Some(RunOutcome::Failed),
            Phase::Active | Phase::Unknown => None,
        }
    }

    /// The time of the run's end, in seconds since the Unix epoch; of its creation where that is not known.
    pub fn end(&self) -> i64 {
        if self.finished == 0 { self.created } else { self.finished }
    }

    /// Returns whether the run succeeded.
    pub fn succeeded(&self) -> bool {
        self.phase == Phase::Succeeded
    }

    /// Returns whether a mark records the delivery of the run's present outcome to this subscription.
    pub fn is_marked_for(&self, subscription: &SubscriptionName) -> bool {
        self.outcome().is_some_and(|outcome| {
            self.marks.iter().any(|mark| mark.outcome == outcome && mark.subscription == *subscription)
        })
    }

    /// Returns whether the run was restarted (`argo retry`) after a delivery: some mark records an outcome that it has
    /// left. Such marks have to be removed, or the next event of the run would not be sent.
    pub fn is_restarted(&self) -> bool {
        stale_marks(self.phase, &self.marks).next().is_some()
    }

    /// The marks that [`Workflow::is_restarted`] is about.
    pub fn stale_marks(&self) -> impl Iterator<Item = &Mark> {
        stale_marks(self.phase, &self.marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_completed_run_has_an_outcome() {
        for (phase, completed, expected) in [
            (Some("Succeeded"), Some("true"), Phase::Succeeded),
            (Some("Failed"), Some("true"), Phase::Failed),
            (Some("Error"), Some("true"), Phase::Failed),
            (Some("Running"), None, Phase::Active),
            (Some("Running"), Some("true"), Phase::Active),
            (Some("Pending"), Some("false"), Phase::Active),
            (Some("Succeeded"), None, Phase::Unknown),
            (Some("Succeeded"), Some("false"), Phase::Unknown),
            (Some("Failed"), None, Phase::Unknown),
            (None, Some("true"), Phase::Unknown),
            (None, None, Phase::Unknown),
            (Some(""), Some("true"), Phase::Unknown),
            (Some("succeeded"), Some("true"), Phase::Unknown),
            (Some("Skipped"), Some("true"), Phase::Unknown),
        ] {
            assert_eq!(Phase::from_labels(phase, completed), expected, "{phase:?}, {completed:?}");
        }
    }

    #[test]
    fn a_record_fits_its_budget() {
        assert!(size_of::<Workflow>() <= 120, "{} bytes", size_of::<Workflow>());
    }
}
