//! Marks: the annotations and labels that record deliveries.

use std::{ops::Deref, sync::Arc};

use super::{Phase, RunOutcome, SubscriptionName, Uid, workflow::FAILED_SUFFIX};

/// An annotation or label that records a delivery: `published.pipelines.kubeflow.org/<subscription>: <UID>`, with the
/// suffix `.failed` if the event was that of a failed run. Values with another UID are not kept: `argo resubmit` copies
/// annotations, so a copy has marks that do not count.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mark {
    /// The subscription that received the event.
    pub subscription: SubscriptionName,
    /// The outcome that the event reported.
    pub outcome: RunOutcome,
}

impl Mark {
    /// Parses a mark's value: the UID of the Workflow whose delivery it records, and the outcome.
    pub fn parse(value: &str) -> Option<(Uid, RunOutcome)> {
        let (text, outcome) = match value.strip_suffix(FAILED_SUFFIX) {
            Some(text) => (text, RunOutcome::Failed),
            None => (value, RunOutcome::Succeeded),
        };
        Some((Uid::parse(text)?, outcome))
    }

    /// Parses a mark's value. Returns `None` if it does not record a delivery of the Workflow with this UID.
    pub fn parse_value(value: &str, uid: Uid) -> Option<RunOutcome> {
        Self::parse(value).filter(|(marked, _)| *marked == uid).map(|(_, outcome)| outcome)
    }

    /// The value of a mark on the Workflow with this UID.
    pub fn value(uid: Uid, outcome: RunOutcome) -> String {
        match outcome {
            RunOutcome::Succeeded => uid.to_string(),
            RunOutcome::Failed => format!("{uid}{FAILED_SUFFIX}"),
        }
    }
}

/// The marks of a Workflow, ordered by the subscriptions' names. Most Workflows of a namespace have the same ones, or
/// none. So a record has a pointer to a shared list, see [`Interner::marks`](super::Interner::marks).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks(Option<Arc<MarkList>>);

/// A list of at least one mark, and the version of its Workflow, see [`Marks::at_version`].
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct MarkList {
    marks: Box<[Mark]>,
    resource_version: Option<Box<str>>,
}

impl Marks {
    /// The same marks with the `resourceVersion` of their Workflow, an opaque text, as the precondition of their
    /// removal. It is kept only where marks must be removed, see
    /// [`Workflow::is_restarted`](super::Workflow::is_restarted).
    #[must_use]
    pub fn at_version(&self, resource_version: &str) -> Self {
        let list = |list: &Arc<MarkList>| MarkList {
            marks: list.marks.clone(),
            resource_version: Some(resource_version.into()),
        };
        Self(self.0.as_ref().map(|marks| list(marks).into()))
    }

    /// The `resourceVersion` of [`Marks::at_version`].
    pub fn resource_version(&self) -> Option<&str> {
        self.0.as_ref()?.resource_version.as_deref()
    }

    /// The same marks, with the list that `share` returns.
    pub(super) fn shared(self, share: impl FnOnce(Arc<MarkList>) -> Arc<MarkList>) -> Self {
        Self(self.0.map(share))
    }
}

impl Deref for Marks {
    type Target = [Mark];

    fn deref(&self) -> &[Mark] {
        self.0.as_ref().map_or(&[], |list| &list.marks)
    }
}

impl<'a> IntoIterator for &'a Marks {
    type Item = &'a Mark;
    type IntoIter = std::slice::Iter<'a, Mark>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Vec<Mark>> for Marks {
    fn from(marks: Vec<Mark>) -> Self {
        let list = Some(marks).filter(|marks| !marks.is_empty());
        Self(list.map(|marks| MarkList { marks: marks.into(), resource_version: None }.into()))
    }
}

impl<const N: usize> From<[Mark; N]> for Marks {
    fn from(marks: [Mark; N]) -> Self {
        Vec::from(marks).into()
    }
}

impl FromIterator<Mark> for Marks {
    fn from_iter<I: IntoIterator<Item = Mark>>(marks: I) -> Self {
        marks.into_iter().collect::<Vec<_>>().into()
    }
}

/// The marks that have to be removed in a phase. A running run has left every outcome, a failed one its success. After
/// a failure that was delivered, success needs no removal: its mark replaces the other.
pub fn stale_marks(phase: Phase, marks: &[Mark]) -> impl Iterator<Item = &Mark> {
    marks.iter().filter(move |mark| match phase {
        Phase::Active => true,
        Phase::Failed => mark.outcome == RunOutcome::Succeeded,
        Phase::Succeeded | Phase::Unknown => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PipelineName, Workflow, fixtures::succeeded};

    const UID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

    fn mark(name: &str, outcome: RunOutcome) -> Mark {
        Mark { subscription: SubscriptionName::new(name).unwrap(), outcome }
    }

    #[test]
    fn a_marks_value_names_the_workflow_and_the_outcome() {
        let uid = Uid::parse(UID).unwrap();
        for outcome in [RunOutcome::Succeeded, RunOutcome::Failed] {
            assert_eq!(Mark::parse_value(&Mark::value(uid, outcome), uid), Some(outcome));
        }
        assert_eq!(Mark::value(uid, RunOutcome::Failed), format!("{UID}.failed"));
        for value in ["", ".failed", "true", &format!("{UID}.succeeded"), "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4e"] {
            assert_eq!(Mark::parse_value(value, uid), None, "{value:?}");
        }
    }

    #[test]
    fn a_mark_is_stale_once_the_run_has_left_its_outcome() {
        use RunOutcome::{Failed, Succeeded};
        for (phase, outcome, expected) in [
            (Phase::Active, Succeeded, true),
            (Phase::Active, Failed, true),
            (Phase::Failed, Succeeded, true),
            (Phase::Failed, Failed, false),
            (Phase::Succeeded, Succeeded, false),
            (Phase::Succeeded, Failed, false),
            (Phase::Unknown, Succeeded, false),
            (Phase::Unknown, Failed, false),
        ] {
            let stale = stale_marks(phase, &[mark("a", outcome)]).count();
            assert_eq!(stale == 1, expected, "{phase:?} with {outcome:?}");
        }
    }

    #[test]
    fn a_mark_counts_for_its_own_outcome() {
        let mut run = succeeded(PipelineName::Unknown);
        run.marks = [mark("a", RunOutcome::Succeeded), mark("b", RunOutcome::Failed)].into();
        let is_marked = |run: &Workflow, name| run.is_marked_for(&SubscriptionName::new(name).unwrap());
        assert!(is_marked(&run, "a") && !is_marked(&run, "b"));
        run.phase = Phase::Failed;
        assert!(!is_marked(&run, "a") && is_marked(&run, "b"));
    }

    #[test]
    fn marks_may_have_the_version_of_their_workflow() {
        let marks: Marks = [mark("a", RunOutcome::Succeeded)].into();
        let versioned = marks.at_version("7");
        assert_eq!((marks.resource_version(), versioned.resource_version()), (None, Some("7")));
        assert_eq!(*versioned, *marks);
        assert!(versioned != marks && versioned == marks.at_version("7") && versioned != marks.at_version("8"));
        assert_eq!(Marks::default().at_version("7"), Marks::from([]), "nothing to remove");
    }
}
