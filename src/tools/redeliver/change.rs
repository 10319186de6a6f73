//! The changes of marks on the API server, and the wait for their consequences.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{LeftOut, Step, Wish, marks_of, step};
use crate::{
    backoff::Backoff,
    delivery::{MarkChange, MarkError, MarkPatch, MarkPlace},
    k8s::{Cluster, ClusterError, Right, WorkflowQuery},
    model::{Mark, Phase, RunOutcome, Uid, Workflow},
    tools::names::NamedSubscription,
};

/// Attempts of one change. A Workflow that has ended changes rarely, and an API server that does not answer by then is
/// reported.
const ATTEMPTS: u32 = 5;
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(2) };
/// The pause between two looks at the runs that are awaited.
const POLL: Duration = Duration::from_millis(500);
/// Awaited runs up to which each is read on its own. A list of a namespace contains all its runs.
const FEW: usize = 8;

/// The reason why a run was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The Workflow was deleted, or another one has its name.
    #[error("it no longer exists")]
    Gone,
    /// It has changed meanwhile, so that nothing is left to do.
    #[error("it {0}")]
    LeftOut(LeftOut),
    /// The API server has not accepted the change.
    #[error("{0}")]
    Failed(String),
    /// The user may not change Workflows. Every further change would fail, too.
    #[error("the right to {right} is missing: {message}")]
    Forbidden {
        /// The right.
        right: Right,
        /// The API server's message.
        message: String,
    },
}

/// Makes one change, if the Workflow is still as it was read; else decides again about what it is now.
///
/// # Errors
/// The Workflow was not changed.
pub async fn apply(
    cluster: &Cluster,
    planned: Step,
    subscription: &NamedSubscription,
    wish: Wish,
) -> Result<Step, ChangeError> {
    let mut current = planned;
    let mut place = MarkPlace::Annotation;
    for attempt in 1..=ATTEMPTS {
        let workflow = &current.found.workflow;
        let change = match wish {
            Wish::Redeliver => MarkChange::Remove {
                subscriptions: current.marks.clone(),
                resource_version: current.found.resource_version.as_str().into(),
            },
            Wish::Skip => {
                let outcome = RunOutcome::Succeeded;
                MarkChange::Set(current.marks.iter().map(|name| Mark { subscription: name.clone(), outcome }).collect())
            }
        };
        let patch = MarkPatch {
            namespace: workflow.namespace.clone(),
            name: workflow.name.clone(),
            uid: workflow.uid,
            change,
            place,
        };
        match cluster.patch_marks(&patch).await {
            Ok(()) => return Ok(current),
            Err(MarkError::Gone) => return Err(ChangeError::Gone),
            Err(MarkError::NoRoom) if place == MarkPlace::Annotation => place = MarkPlace::Label,
            Err(MarkError::Conflict) => {
                let (namespace, name, uid) = (patch.namespace, patch.name, patch.uid);
                let found = cluster.workflow(&namespace, &name).await.map_err(failed)?;
                let found = found.filter(|found| found.workflow.uid == uid).ok_or(ChangeError::Gone)?;
                current = step(found, subscription, wish).map_err(ChangeError::LeftOut)?;
            }
            Err(MarkError::Refused { status: 403, message }) => {
                let right = Right::workflows("patch", Some(&patch.namespace));
                return Err(ChangeError::Forbidden { right, message });
            }
            Err(MarkError::Transient { .. }) if attempt < ATTEMPTS => {
                sleep(RETRY.pause(attempt, &mut rand::rng())).await;
            }
            Err(error) => return Err(ChangeError::Failed(error.to_string())),
        }
    }
    Err(ChangeError::Failed(format!("it changed {ATTEMPTS} times meanwhile")))
}

fn failed(error: ClusterError) -> ChangeError {
    ChangeError::Failed(error.to_string())
}

/// The fate of an awaited run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The marks are back: the subscription has received the event, or a newer one of its pipeline with `latestOnly`.
    Delivered,
    /// The Workflow was deleted.
    Gone,
    /// The run was restarted: its event is sent at its next end.
    Restarted,
}

/// Runs whose marks were removed and are awaited.
#[derive(Debug)]
pub struct Awaited {
    namespace: String,
    subscription: NamedSubscription,
    begun: Instant,
    runs: HashMap<Uid, AwaitedRun>,
}

#[derive(Debug)]
struct AwaitedRun {
    name: String,
    outcome: RunOutcome,
    /// The scopes that await an event, at least one.
    events: usize,
}

impl Awaited {
    /// Awaits the marks of these runs of a namespace.
    pub fn new(namespace: &str, subscription: &NamedSubscription, changed: &[Step]) -> Self {
        let run = |step: &Step| {
            let workflow = &step.found.workflow;
            let run = AwaitedRun { name: workflow.name.to_string(), outcome: workflow.outcome()?, events: step.events };
            Some((workflow.uid, run))
        };
        Self {
            namespace: namespace.to_owned(),
            subscription: subscription.clone(),
            begun: Instant::now(),
            runs: changed.iter().filter_map(run).collect(),
        }
    }

    /// The number of runs that are still awaited.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Returns whether nothing is awaited any more.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The time since the begin.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The names of the runs that are still awaited.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.runs.values().map(|run| run.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Looks at the runs, after a pause. Returns those that are no longer awaited.
    ///
    /// # Errors
    /// A request failed. All runs are still awaited.
    pub async fn next(&mut self, cluster: &Cluster) -> Result<Vec<(String, Fate)>, ClusterError> {
        sleep(POLL).await;
        let mut found: HashMap<Uid, Workflow> = HashMap::new();
        if self.runs.len() <= FEW {
            for run in self.runs.values() {
                let read = cluster.workflow(&self.namespace, &run.name).await?;
                found.extend(read.map(|read| (read.workflow.uid, read.workflow)));
            }
        } else {
            let query = WorkflowQuery { namespace: Some(&self.namespace), selector: "" };
            found.extend(cluster.workflows(query).await?.into_iter().map(|read| (read.workflow.uid, read.workflow)));
        }
        let mut ended = Vec::new();
        let subscription = &self.subscription;
        self.runs.retain(|uid, run| {
            let fate = run.fate(found.get(uid), subscription);
            ended.extend(fate.map(|fate| (run.name.clone(), fate)));
            fate.is_none()
        });
        ended.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(ended)
    }
}

impl AwaitedRun {
    /// The fate of the run, whose Workflow is this one now. `None` if it is still awaited.
    fn fate(&self, workflow: Option<&Workflow>, subscription: &NamedSubscription) -> Option<Fate> {
        let Some(workflow) = workflow else { return Some(Fate::Gone) };
        // An unknown phase says nothing: the labels are being edited.
        if workflow.phase != Phase::Unknown && workflow.outcome() != Some(self.outcome) {
            return Some(Fate::Restarted);
        }
        (marks_of(workflow, subscription).len() >= self.events).then_some(Fate::Delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        k8s::VersionedWorkflow,
        model::{PipelineName, SubscriptionName, fixtures::succeeded},
    };

    fn marked(names: &[&str]) -> Workflow {
        let mark = |name: &&str| Mark {
            subscription: SubscriptionName::from_annotation((*name).into()),
            outcome: RunOutcome::Succeeded,
        };
        Workflow { marks: names.iter().map(mark).collect(), ..succeeded(PipelineName::Unknown) }
    }

    #[test]
    fn a_run_is_awaited_until_the_mark_of_each_scope_is_back() {
        let deployer = NamedSubscription::parse("deployer").unwrap();
        let found = VersionedWorkflow {
            workflow: marked(&["deployer", "deployer.a", "deployer.b", "other"]),
            resource_version: "1".to_owned(),
        };
        let planned = step(found, &deployer, Wish::Redeliver).unwrap();
        let uid = planned.found.workflow.uid;
        let awaited = Awaited::new("team", &deployer, &[planned]);
        let run = &awaited.runs[&uid];
        for (marks, expected) in [
            (&["other"][..], None),
            (&["deployer.a", "other"], None),
            (&["deployer.a", "deployer.b"], Some(Fate::Delivered)),
        ] {
            assert_eq!(run.fate(Some(&marked(marks)), &deployer), expected, "{marks:?}");
        }
        let restarted = Workflow { phase: Phase::Active, ..marked(&[]) };
        assert_eq!(run.fate(Some(&restarted), &deployer), Some(Fate::Restarted));
        let edited = Workflow { phase: Phase::Unknown, ..marked(&[]) };
        assert_eq!(run.fate(Some(&edited), &deployer), None);
        assert_eq!(run.fate(None, &deployer), Some(Fate::Gone));
    }
}
