//! The result of `explain`. Its JSON form is documented in `docs/tools.md`.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    Explainer, Lookups,
    decision::{self, Decision, Status},
    server::ServerReport,
    subscriptions::Known,
};
use crate::{
    delivery::{Explained, LookupError, ModelSource},
    model::{ArtifactId, Phase, RunModels, SeenArtifact, Workflow, event, trace},
};

/// A run and its decisions.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunStory {
    /// The Workflow's namespace.
    pub namespace: String,
    /// Its name.
    pub workflow: String,
    /// Its UID.
    pub uid: String,
    /// Kubeflow's run id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The pipeline's name in the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_name: Option<String>,
    /// `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: &'static str,
    /// Creation of the Workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// End of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The run's trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The source whose answer about the models it is: `kfp` or `mlmd`. `None`: no decision needed a lookup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_source: Option<&'static str>,
    /// The decisions.
    pub subscriptions: Vec<SubscriptionStory>,
    /// Seconds since the Unix epoch from which the age counts: the end, else the creation.
    #[serde(skip)]
    pub since: i64,
    /// The source of `model_source`.
    #[serde(skip)]
    pub source: Option<ModelSource>,
}

/// The decision about a subscription.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionStory {
    /// The subscription.
    pub name: String,
    /// The state.
    pub status: Status,
    /// The word for it in metrics and logs.
    pub reason: &'static str,
    /// The filter that excludes the run: a key of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<&'static str>,
    /// One sentence.
    pub message: String,
    /// The time at which the state changes at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The place from which the subscription is known.
    pub source: String,
    /// The artifacts, if other types count for this subscription than for the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<ArtifactStory>>,
    /// The reason as the table shows it.
    #[serde(skip)]
    pub shown_reason: String,
    /// The next step for the reader.
    #[serde(skip)]
    pub advice: &'static str,
}

/// The whole story of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// The run.
    #[serde(flatten)]
    pub run: RunStory,
    /// The run in the source of models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
    /// The failure of the lookup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup_error: Option<LookupFailure>,
    /// The artifacts of the run, judged by the types of the first subscription.
    pub artifacts: Vec<ArtifactStory>,
    /// Number of further artifacts.
    #[serde(skip_serializing_if = "is_zero")]
    pub artifacts_left_out: usize,
    /// The event of the first subscription that has or gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Value>,
    /// The marks of the Workflow.
    pub marks: Vec<MarkStory>,
    /// The report of the server.
    pub server: ServerReport,
    /// Notes about what could not be read, or is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The event as it is sent.
    #[serde(skip)]
    pub payload: Option<String>,
    /// The source that cannot be read for a missing right, so that the decision is not known.
    #[serde(skip)]
    pub blocked: Option<String>,
}

/// The run in the source of models.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The type of the context in ML Metadata, or `run` in Kubeflow's API.
    pub kind: &'static str,
    /// Its name, or the run id.
    pub name: String,
    /// Its id in ML Metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The namespace that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The failure of a lookup.
#[derive(Clone, Debug, Serialize)]
pub struct LookupFailure {
    /// The word for it in metrics.
    pub code: &'static str,
    /// The problem.
    pub message: String,
}

/// An artifact, and whether it counts.
#[derive(Clone, Debug, Serialize)]
pub struct ArtifactStory {
    /// Id in the source of models: a number in ML Metadata, a text in Kubeflow's API.
    pub id: ArtifactId,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its location.
    pub uri: String,
    /// The node that produced or read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The key of that node's output or input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// It is a model of the run.
    pub counts: bool,
    /// The word for the reason.
    pub reason: &'static str,
    /// The reason in words.
    pub message: String,
}

/// A mark.
#[derive(Clone, Debug, Serialize)]
pub struct MarkStory {
    /// The subscription.
    pub subscription: String,
    /// The outcome of the run whose event was delivered.
    pub outcome: &'static str,
    /// It counts: the run still has that outcome.
    pub counts: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl RunStory {
    pub(super) fn new(run: &Workflow, decided: &[(Known, Decision)], lookups: &Lookups) -> Self {
        let explained = || decided.iter().filter_map(|(known, _)| lookups.get(&known.subscription.artifact_types));
        let found = explained().find_map(|explained| explained.found.as_ref().ok());
        let source = explained().next().map(|explained| explained.source);
        let nothing = RunModels::default();
        let name = event::pipeline_name(run, found.unwrap_or(&nothing));
        Self {
            namespace: run.namespace.to_string(),
            workflow: run.name.to_string(),
            uid: run.uid.to_string(),
            run_id: run.run_id.as_ref().map(ToString::to_string),
            pipeline_name: name.map(ToOwned::to_owned),
            phase: match run.phase {
                Phase::Succeeded => "Succeeded",
                Phase::Failed => "Failed",
                Phase::Active => "Running",
                Phase::Unknown => "Unknown",
            },
            created: time(run.created),
            finished: time(run.finished),
            trace_id: trace::trace_id(run, |_| true).map(|id| id.to_string()),
            model_source: source.map(ModelSource::as_str),
            source,
            subscriptions: decided.iter().map(|(known, decision)| SubscriptionStory::new(known, decision)).collect(),
            since: run.end(),
        }
    }

    /// The state of all subscriptions together: pending if any is pending, else never if any is never.
    pub fn status(&self) -> Status {
        let has = |status| self.subscriptions.iter().any(|subscription| subscription.status == status);
        if has(Status::Pending) {
            Status::Pending
        } else if has(Status::Never) {
            Status::Never
        } else {
            Status::Delivered
        }
    }
}

impl SubscriptionStory {
    fn new(known: &Known, decision: &Decision) -> Self {
        let message = if known.source.has_filters() || decision.status == Status::Delivered {
            decision.message.clone()
        } else {
            format!("{}; the subscription's filters are not known", decision.message)
        };
        Self {
            name: known.subscription.name.to_string(),
            status: decision.status,
            reason: decision.reason,
            filter: decision.filter.map(crate::model::FilterReason::as_str),
            message,
            until: decision.until.and_then(time),
            source: known.source.to_string(),
            artifacts: None,
            shown_reason: decision.reason_with_filter(),
            advice: decision::advice(decision),
        }
    }
}

impl Story {
    pub(super) fn new(
        run: &Workflow,
        decided: &[(Known, Decision)],
        lookups: &Lookups,
        explainer: &Explainer,
        blocked: Option<String>,
    ) -> Self {
        let explained = decided.first().and_then(|(known, _)| lookups.get(&known.subscription.artifact_types));
        let failure = explained.and_then(|explained| explained.found.as_ref().err());
        let payload = decided.iter().filter(|(_, decision)| decision.status != Status::Never).find_map(|(known, _)| {
            run.outcome()?;
            let empty = Ok(RunModels::default());
            let found = lookups.get(&known.subscription.artifact_types).map_or(&empty, |explained| &explained.found);
            let payload = decision::payload(run, &known.subscription, found.as_ref().ok()?).ok()?;
            String::from_utf8(payload).ok()
        });
        let mut story = RunStory::new(run, decided, lookups);
        let first = decided.first().map(|(known, _)| &known.subscription.artifact_types);
        for ((known, _), subscription) in decided.iter().zip(&mut story.subscriptions) {
            let types = &known.subscription.artifact_types;
            let explained = lookups.get(types).filter(|_| Some(types) != first);
            subscription.artifacts = explained.map(ArtifactStory::all);
        }
        Self {
            run: story,
            record: explained.and_then(Record::of),
            lookup_error: failure.map(LookupFailure::of),
            artifacts: explained.map(ArtifactStory::all).unwrap_or_default(),
            artifacts_left_out: explained.map_or(0, |explained| explained.left_out),
            event: payload.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            marks: run
                .marks
                .iter()
                .map(|mark| MarkStory {
                    subscription: mark.subscription.to_string(),
                    outcome: mark.outcome.as_str(),
                    counts: run.is_marked_for(&mark.subscription) && run.outcome() == Some(mark.outcome),
                })
                .collect(),
            server: explainer.server().clone(),
            notes: explainer.notes().to_vec(),
            payload,
            blocked,
        }
    }
}

impl Record {
    fn of(explained: &Explained) -> Option<Self> {
        let record = explained.record.clone()?;
        Some(Self { kind: record.kind, name: record.name, id: record.id, namespace: record.namespace })
    }
}

impl LookupFailure {
    fn of(error: &LookupError) -> Self {
        let message = match error {
            LookupError::Failed { message, .. } => message.clone(),
            error => error.to_string(),
        };
        Self { code: error.code(), message }
    }
}

impl ArtifactStory {
    fn all(explained: &Explained) -> Vec<Self> {
        explained.artifacts.iter().map(Self::of).collect()
    }

    fn of(seen: &SeenArtifact) -> Self {
        let SeenArtifact { id, type_name, name, uri, node, key, verdict } = seen.clone();
        let (counts, reason, message) = (verdict.counts(), verdict.as_str(), verdict.to_string());
        Self { id, type_name, name, uri, node, key, counts, reason, message }
    }
}

/// A time as Kubernetes writes it. `None` for the unknown time 0.
pub fn time(seconds: i64) -> Option<String> {
    Some(Timestamp::from_second(seconds).ok().filter(|_| seconds != 0)?.to_string())
}
