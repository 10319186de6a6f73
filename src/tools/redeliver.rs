//! Redelivery: which marks have to be removed, so that the server sends the events of runs again, or which have to be set,
//! so that it never sends them.
//!
//! The server sends a run without a mark to each subscription that is attached, and at its next attachment to one that is
//! not. So the removal of a mark is all that a redelivery needs. [`change`] sends the patches.

pub mod change;

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use super::names::{self, NamedSubscription};
use crate::{
    k8s::VersionedWorkflow,
    model::{Mark, Phase, RunOutcome, SubscriptionName, Workflow, glob, workflow::MAX_MARKS},
};

/// The wish of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Wish {
    /// Events are sent again.
    Redeliver,
    /// Events are never sent.
    Skip,
}

/// The runs among which the wish applies. Without a limit, all succeeded ones.
#[derive(Clone, Debug, Default)]
pub struct Window<'a> {
    /// The earliest end, in seconds since the Unix epoch.
    pub since: Option<i64>,
    /// Patterns, or names, of pipelines. Empty: all.
    pub pipelines: &'a [String],
}

/// The change of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The run and its version.
    pub found: VersionedWorkflow,
    /// The marks to remove or to set.
    pub marks: Vec<SubscriptionName>,
    /// The number of events that the server sends.
    pub events: usize,
}

/// The reason why a run is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum LeftOut {
    /// It has no mark of the subscription.
    #[error("has no mark of the subscription: its event is pending or filtered, or it has no model")]
    NotDelivered,
    /// It has the mark already.
    #[error("is marked already")]
    Marked,
    /// It has not ended.
    #[error("has not ended: its event is sent when it succeeds")]
    NotEnded,
    /// It ended, but did not succeed, and the subscription has received no event about it.
    #[error("did not succeed")]
    NotSucceeded,
    /// It has the most marks that a Workflow may have.
    #[error("has {MAX_MARKS} marks, the most that the server reads")]
    Full,
    /// Only ML Metadata may have the name of its pipeline.
    #[error("does not contain the name of its pipeline; name the Workflow instead")]
    UnknownPipeline,
}

/// Returns the change that fulfills the wish for one run, or why there is none.
///
/// # Errors
/// The run needs no change, or allows none.
pub fn step(found: VersionedWorkflow, subscription: &NamedSubscription, wish: Wish) -> Result<Step, LeftOut> {
    let workflow = &found.workflow;
    let Some(outcome) = workflow.outcome() else { return Err(LeftOut::NotEnded) };
    let marks = marks_of(workflow, subscription);
    match wish {
        Wish::Redeliver if marks.is_empty() && outcome == RunOutcome::Failed => Err(LeftOut::NotSucceeded),
        Wish::Redeliver if marks.is_empty() => Err(LeftOut::NotDelivered),
        Wish::Redeliver => {
            // The plain mark counts for the scoped subscriptions, too: it is no further event.
            let scoped = marks.iter().filter(|name| names::is_scoped(name.as_str())).count();
            Ok(Step { events: scoped.max(1), marks, found })
        }
        Wish::Skip if outcome == RunOutcome::Failed => Err(LeftOut::NotSucceeded),
        Wish::Skip if is_skipped(workflow, subscription) => Err(LeftOut::Marked),
        Wish::Skip if workflow.marks.len() >= MAX_MARKS => Err(LeftOut::Full),
        Wish::Skip => Ok(Step { marks: vec![subscription.to_mark()], events: 0, found }),
    }
}

/// Returns whether the server never sends the run to the subscription.
fn is_skipped(workflow: &Workflow, subscription: &NamedSubscription) -> bool {
    // A scope's mark counts for that scope only.
    let counts = |name: &SubscriptionName| *name == subscription.to_mark() || !names::is_scoped(name.as_str());
    marks_of(workflow, subscription).iter().any(counts)
}

/// Returns the marks that stand for the delivery of the run's present outcome to the subscription.
pub fn marks_of(workflow: &Workflow, subscription: &NamedSubscription) -> Vec<SubscriptionName> {
    let counts = |mark: &&Mark| Some(mark.outcome) == workflow.outcome() && subscription.includes(&mark.subscription);
    workflow.marks.iter().filter(counts).map(|mark| mark.subscription.clone()).collect()
}

/// Returns the changes for the succeeded runs of a window, the oldest first, and the runs of it that are left out.
pub fn steps(
    found: Vec<VersionedWorkflow>,
    window: &Window<'_>,
    subscription: &NamedSubscription,
    wish: Wish,
) -> (Vec<Step>, Vec<(String, LeftOut)>) {
    let mut left_out = Vec::new();
    let mut steps = Vec::new();
    for found in found {
        let workflow = &found.workflow;
        if workflow.phase != Phase::Succeeded || window.since.is_some_and(|since| workflow.end() < since) {
            continue;
        }
        let name = workflow.name.to_string();
        match (window.pipelines, workflow.pipeline.known()) {
            ([], _) => {}
            (_, None) => {
                left_out.push((name, LeftOut::UnknownPipeline));
                continue;
            }
            (patterns, Some(pipeline)) => {
                if !patterns.iter().any(|pattern| pattern == pipeline || glob::matches(pattern, pipeline)) {
                    continue;
                }
            }
        }
        match step(found, subscription, wish) {
            Ok(step) => steps.push(step),
            Err(reason) => left_out.push((name, reason)),
        }
    }
    steps.sort_by_cached_key(|step| (step.found.workflow.end(), step.found.workflow.uid));
    (steps, left_out)
}

/// Returns the subscriptions that the marks of these changes name, the plain name of each scope included.
pub fn subscriptions(steps: &[Step]) -> BTreeSet<&str> {
    steps.iter().flat_map(|step| &step.marks).map(SubscriptionName::as_str).collect()
}

/// Returns the time before `now` at which a window of this length begins.
pub fn begin(now: i64, length: Duration) -> i64 {
    now.saturating_sub(i64::try_from(length.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
