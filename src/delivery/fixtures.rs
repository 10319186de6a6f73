//! Runs, subscriptions and answers for the tests of delivery.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{LookupError, MarkChange, MarkError, MarkPatch, Notice, NoticeSink, payload};
use crate::{
    model::{
        Artifact, Mark, PipelineFilter, PipelineName, RunModels, RunOutcome, Statuses, Subscription, SubscriptionName,
        Uid, Workflow, event::SkipReason, fixtures::succeeded,
    },
    store::Store,
    telemetry::Traces,
};

/// The wall clock at the begin of a test, and the creation time of its runs.
pub(super) const BEGIN: i64 = 1_700_000_000;

/// The payload of an event, without traces.
pub(super) fn encode(
    workflow: &Workflow,
    models: &RunModels,
    subscription: &Subscription,
) -> Result<Bytes, SkipReason> {
    payload::encode(&Traces::default(), &Store::default(), workflow, models, subscription)
}

/// An answer of ML Metadata.
pub(super) type Answer = Result<Arc<RunModels>, LookupError>;

/// A Workflow after this patch.
pub(super) fn with_patch(workflow: &Workflow, change: &MarkChange) -> Workflow {
    let mut workflow = workflow.clone();
    let mut marks: Vec<Mark> = workflow.marks.to_vec();
    match change {
        MarkChange::Set(written) => {
            marks.retain(|mark| written.iter().all(|other| other.subscription != mark.subscription));
            marks.extend(written.iter().cloned());
        }
        MarkChange::Remove { subscriptions, .. } => marks.retain(|mark| !subscriptions.contains(&mark.subscription)),
    }
    let version = workflow.marks.resource_version().map(str::to_owned);
    workflow.marks = marks.into();
    if let Some(version) = version.filter(|_| workflow.is_restarted()) {
        workflow.marks = workflow.marks.at_version(&version);
    }
    workflow
}

/// A succeeded run in the namespace `team`.
pub(super) fn run(name: &str) -> Workflow {
    let pipeline = PipelineName::Spec("penguin".into());
    Workflow { name: name.into(), uid: uid(name), created: BEGIN, ..succeeded(pipeline) }
}

/// The UID of the run of this name.
pub(super) fn uid(name: &str) -> Uid {
    Uid::from(name.bytes().fold(1, |uid: u128, byte| uid.wrapping_mul(257).wrapping_add(u128::from(byte))))
}

pub(super) fn mark(subscription: &str) -> Mark {
    Mark { subscription: name(subscription), outcome: RunOutcome::Succeeded }
}

pub(super) fn name(subscription: &str) -> SubscriptionName {
    SubscriptionName::new(subscription).unwrap()
}

/// A subscription to the namespace `team` without filters.
pub(super) fn subscription(subscription: &str) -> Subscription {
    Subscription {
        namespace: "team".into(),
        name: name(subscription),
        pipelines: PipelineFilter::default(),
        artifact_types: Arc::default(),
        max_age: None,
        latest_only: false,
        statuses: Statuses::default(),
        unscoped: None,
        remember: true,
        include: [].into_iter().collect(),
    }
}

/// The same for another namespace.
pub(crate) fn subscription_in(namespace: &str, name: &str) -> Subscription {
    Subscription { namespace: namespace.into(), ..subscription(name) }
}

/// One model.
pub(super) fn model() -> Answer {
    model_at("gs://models/1".into())
}

pub(super) fn model_at(uri: Box<str>) -> Answer {
    let artifact = Artifact {
        id: 1.into(),
        name: Some("model".into()),
        uri,
        node: "Pusher".into(),
        key: "pushed".into(),
        index: 0,
    };
    Ok(Arc::new(RunModels { models: vec![artifact], ..RunModels::default() }))
}

/// The answer that there is no model.
pub(super) fn no_model() -> Answer {
    Ok(Arc::default())
}

pub(super) fn unavailable() -> Answer {
    Err(LookupError::Failed { code: "unavailable", message: "down".into() })
}

pub(super) fn transient() -> Result<(), MarkError> {
    Err(MarkError::Transient { message: "503".into() })
}

pub(super) fn refused() -> Result<(), MarkError> {
    Err(MarkError::Refused { status: 403, message: "forbidden".into() })
}

/// The subscriptions that a patch marks.
pub(super) fn marks_set(patch: &MarkPatch) -> Vec<&str> {
    match &patch.change {
        MarkChange::Set(marks) => marks.iter().map(|mark| mark.subscription.as_str()).collect(),
        MarkChange::Remove { .. } => panic!("{patch:?} removes"),
    }
}

/// Keeps the notices.
#[derive(Debug, Default)]
pub(super) struct KeptNotices(Mutex<Vec<Notice>>);

impl KeptNotices {
    pub(super) fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl NoticeSink for KeptNotices {
    fn notify(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice);
    }
}
