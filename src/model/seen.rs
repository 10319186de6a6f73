//! Artifacts that a lookup has seen, with the verdict of the rules about each: for people who ask why a run has no event.

use std::fmt;

use super::artifact::{ArtifactId, NotAModel};

/// The verdict about an artifact of a run: it counts as the run's model, or the first rule that excludes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ArtifactVerdict {
    /// It is a model of the run.
    Counts,
    /// Neither its type nor its content excludes it, but the lookup ended before the other rules applied.
    Undecided,
    /// It is no serving model, whatever produced it.
    NotAModel(NotAModel),
    /// It was deleted, or marked for deletion.
    Removed,
    /// Its execution failed before it was complete.
    Abandoned,
    /// An importer brought it into the run: it existed before.
    Importer,
    /// An execution of an older run of the same name produced it.
    ForeignExecution,
    /// The run only reads it: another run produced it.
    OnlyRead,
    /// The store attributes it to the run, but has no event of the run about it.
    NoEvent,
    /// Its task was executed again later, and the later output replaces it.
    EarlierAttempt,
    /// Another model of the run has the same location, and comes first.
    SameLocation,
    /// Its task failed, or was skipped.
    NotSucceeded,
    /// Its task is still running.
    Unfinished,
    /// It belongs to another namespace.
    ForeignNamespace,
}

impl ArtifactVerdict {
    /// Returns whether the artifact is a model of the run.
    pub fn counts(self) -> bool {
        self == Self::Counts
    }

    /// The word for it: one of a bounded set, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::Undecided => "undecided",
            Self::NotAModel(NotAModel::OtherType) => "other_type",
            Self::NotAModel(NotAModel::NotPushed) => "not_pushed",
            Self::NotAModel(NotAModel::Unblessed) => "unblessed",
            Self::NotAModel(NotAModel::NoUri) => "no_uri",
            Self::Removed => "removed",
            Self::Abandoned => "abandoned",
            Self::Importer => "importer",
            Self::ForeignExecution => "foreign_execution",
            Self::OnlyRead => "only_read",
            Self::NoEvent => "no_event",
            Self::EarlierAttempt => "earlier_attempt",
            Self::SameLocation => "same_location",
            Self::NotSucceeded => "not_succeeded",
            Self::Unfinished => "unfinished",
            Self::ForeignNamespace => "foreign_namespace",
        }
    }
}

impl fmt::Display for ArtifactVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counts => "a model that this run pushed",
            Self::Undecided => "not decided, because the lookup failed",
            Self::NotAModel(reason) => return reason.fmt(f),
            Self::Removed => "deleted from ML Metadata, or marked for deletion",
            Self::Abandoned => "abandoned: its execution failed before it was complete",
            Self::Importer => "an importer brought it into the run; it existed before",
            Self::ForeignExecution => {
                "produced by an execution that is older than this Workflow: another run of the name"
            }
            Self::OnlyRead => "only read by this run; another run produced it",
            Self::NoEvent => "no execution of this run produced or read it",
            Self::EarlierAttempt => "its task was executed again later, with another output",
            Self::SameLocation => "the same location as another model of this run",
            Self::NotSucceeded => "its task has not succeeded, and was not taken from the cache",
            Self::Unfinished => {
                "its task is still running: it is waited for until two minutes after the end of the run, and then left out"
            }
            Self::ForeignNamespace => "it belongs to another namespace",
        })
    }
}

/// An artifact that the source of models attributes to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenArtifact {
    /// Id in the source.
    pub id: ArtifactId,
    /// Name of its type; empty where the store does not tell it.
    pub type_name: String,
    /// Name given by its writer.
    pub name: Option<String>,
    /// Location; empty if it has none.
    pub uri: String,
    /// Node (component, task) that produced or read it, where known.
    pub node: Option<String>,
    /// Key of that node's output or input, where known.
    pub key: Option<String>,
    /// The verdict.
    pub verdict: ArtifactVerdict,
}
