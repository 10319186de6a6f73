//! The rules that decide what becomes of a run for a subscription. Pure functions, in the order in which the server
//! applies the rules, and with the server's own functions.

use std::time::Duration;

use serde::Serialize;

use crate::{
    delivery::{CONTEXT_EXPECTED, LookupError, ModelSource},
    kfp,
    model::{
        FilterReason, PipelineName, RunModels, RunOutcome, SkipReason, Subscription, Workflow,
        event::{self, MAX_PAYLOAD},
        trace,
        workflow::EVENTS_PUBLISHED_LABEL,
    },
};

/// The state of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// The subscription has it.
    Delivered,
    /// It is sent later, or that is not known yet.
    Pending,
    /// It is not sent, unless something changes.
    Never,
}

impl Status {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Pending => "pending",
            Self::Never => "never",
        }
    }
}

/// The decision about a run and a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The state.
    pub status: Status,
    /// The word of the server's metrics, logs and Kubernetes Events for it.
    pub reason: &'static str,
    /// The filter that excludes the run.
    pub filter: Option<FilterReason>,
    /// One sentence with the facts.
    pub message: String,
    /// The time at which the state changes at the latest, in seconds since the Unix epoch.
    pub until: Option<i64>,
}

impl Decision {
    /// A decision.
    pub fn new(status: Status, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, filter: None, message: message.into(), until: None }
    }

    fn filtered(reason: &'static str, filter: FilterReason, message: String) -> Self {
        Self { filter: Some(filter), ..Self::new(Status::Never, reason, message) }
    }

    /// The reason, and the filter where one excludes the run.
    pub fn reason_with_filter(&self) -> String {
        match self.filter {
            Some(filter) => format!("{} ({})", self.reason, filter.as_str()),
            None => self.reason.to_owned(),
        }
    }
}

/// The facts beside the Workflow and the subscription.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The time in seconds since the Unix epoch.
    pub now: i64,
    /// The server has the flag `--skip-labelled`.
    pub skip_labelled: bool,
    /// The server's selector, if it does not match the Workflow.
    pub unselected_by: Option<&'a str>,
    /// The statement of the server about the run and the subscription.
    pub server: ServerWord<'a>,
}

/// The statement of the server about a run and a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerWord<'a> {
    /// It cannot be asked.
    Unknown,
    /// No stream of the subscription is open.
    NoStream,
    /// Streams of the subscription are open.
    Streams {
        /// Their number.
        streams: usize,
        /// Pending runs of the subscription.
        pending: usize,
    },
    /// It has confirmed the event at this time.
    Delivered(&'a str),
    /// It has superseded the run at this time.
    Superseded(&'a str),
}

/// A delivered run that supersedes older ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newer {
    /// The name of its Workflow.
    pub name: String,
    /// Its end.
    pub finished: i64,
}

/// Returns the decision, if it needs no lookup.
pub fn before_lookup(
    run: &Workflow,
    subscription: &Subscription,
    circumstances: &Circumstances<'_>,
) -> Option<Decision> {
    let &Circumstances { now, skip_labelled, unselected_by, server } = circumstances;
    if let Some(selector) = unselected_by {
        let message =
            format!("the server's selector {selector:?} does not match the Workflow's labels, so it is no run");
        return Some(Decision::new(Status::Never, "not_selected", message));
    }
    let Some(outcome) = run.outcome() else { return Some(running(run)) };
    if let ServerWord::Superseded(time) = server {
        let message = format!("{}; the server superseded this run at {time}", SkipReason::Superseded);
        return Some(Decision::new(Status::Never, SkipReason::Superseded.as_str(), message));
    }
    if subscription.is_delivered(run, skip_labelled) {
        return Some(Decision::new(Status::Delivered, "delivered", delivered(run, subscription)));
    }
    if let ServerWord::Delivered(time) = server {
        let message = format!("the subscriber confirmed the event at {time}; its mark is not on the Workflow yet");
        return Some(Decision::new(Status::Delivered, "delivered", message));
    }
    if !subscription.statuses.accept(outcome) {
        let (reason, message) = match outcome {
            RunOutcome::Failed => ("failed", "the run failed, and the subscription's statuses contain no failed"),
            RunOutcome::Succeeded => {
                ("filtered", "the run succeeded, and the subscription's statuses contain no succeeded")
            }
        };
        return Some(Decision::filtered(reason, FilterReason::Statuses, message.to_owned()));
    }
    if subscription.is_too_old(run, now) {
        let message = format!(
            "the run ended {} ago, longer than the subscription's maxAge of {}",
            age(now - run.end()),
            humantime::format_duration(subscription.max_age.unwrap_or_default()),
        );
        return Some(Decision::filtered("filtered", FilterReason::MaxAge, message));
    }
    let name = Subscription::certain_pipeline(run)?;
    (!subscription.pipelines.matches(name)).then(|| other_pipeline(subscription, name))
}

/// Returns whether the decision about a run needs the models that it produced. The event of a failed run does not.
pub fn needs_lookup(run: &Workflow) -> bool {
    run.outcome() != Some(RunOutcome::Failed) || *run.pipeline == PipelineName::Unknown
}

/// Returns the decision about a run that [`before_lookup`] left open, given its models. `newer` is the newest delivered
/// run that supersedes it.
pub fn after_lookup(
    run: &Workflow,
    subscription: &Subscription,
    found: &RunModels,
    newer: Option<&Newer>,
    circumstances: &Circumstances<'_>,
) -> Decision {
    if found.models.is_empty() && run.succeeded() {
        return Decision::new(Status::Never, SkipReason::NoModel.as_str(), SkipReason::NoModel.to_string());
    }
    if let Some(name) = event::pipeline_name(run, found)
        && !subscription.pipelines.matches(name)
    {
        return other_pipeline(subscription, name);
    }
    if subscription.latest_only
        && let Some(newer) = newer
    {
        return superseded(newer);
    }
    match payload(run, subscription, found) {
        Ok(_) => pending(circumstances.server),
        Err(reason) => Decision::new(Status::Never, reason.as_str(), reason.to_string()),
    }
}

/// The decision about a run in favor of a newer one.
pub fn superseded(newer: &Newer) -> Decision {
    let message = format!("{}: {}, which was delivered", SkipReason::Superseded, newer.name);
    Decision::new(Status::Never, SkipReason::Superseded.as_str(), message)
}

/// Returns the payload that the server sends.
///
/// # Errors
/// The run has no event.
pub fn payload(run: &Workflow, subscription: &Subscription, found: &RunModels) -> Result<Vec<u8>, SkipReason> {
    // The server sets the last two digits by its sampling.
    let traceparent =
        trace::trace_id(run, |_| true).map(|id| trace::traceparent(id, run.uid, &subscription.name, true));
    event::payload(run, found, subscription.include, traceparent.as_deref())
}

/// Returns what the reader can do about a decision.
pub fn advice(decision: &Decision) -> &'static str {
    match (decision.reason, decision.filter) {
        ("delivered", _) => {
            "If nothing happened after that, look at the EventBus and the Sensor. To send it again, use redeliver"
        }
        ("running", _) => "Wait for the end of the run, for example with --watch",
        ("pending", _) => "Check that the EventSource's Pod runs and is connected; its log has the server's refusals",
        ("no_context", _) => "Check that the run is recorded in this Kubeflow (--kfp-api, --metadata-store)",
        ("foreign_context", _) => "Check who has recorded a run under this name or run id",
        (kfp::UNFINISHED_CODE, _) => "Wait for the end of the task, for example with --watch",
        ("unauthenticated", _) => {
            "Give Kubeflow's API a token of the audience pipelines.kubeflow.org (--kfp-token-file), such as that of `kubectl \
             create token NAME --audience pipelines.kubeflow.org`"
        }
        ("permission_denied", _) => {
            "Grant the account get on runs.pipelines.kubeflow.org in the namespace of the run, by a binding to the account itself; \
             or give the token of another one (--kfp-token-file)"
        }
        ("no_model", _) => {
            "Compare the artifacts with the subscription's artifactTypes; a model that is not blessed is not pushed"
        }
        ("no_pipeline_name", _) => {
            "Shorten the pipeline's name, or set it in the annotation pipelines.kubeflow.org/pipeline_spec"
        }
        ("too_large", _) => "Reduce what the run records, or the number and length of its models' names and locations",
        ("superseded", _) => "Nothing: with latestOnly only the newest run of a pipeline is sent",
        ("not_selected", _) => "Set the label pipeline/runid, or the server's --selector",
        (_, Some(FilterReason::Pipelines)) => "Compare pipelines in the EventSource's config with the pipeline's name",
        (_, Some(FilterReason::MaxAge)) => "Raise maxAge in the EventSource's config, or run the pipeline again",
        (_, Some(FilterReason::Statuses)) => "Add the outcome to statuses in the EventSource's config, if it is wanted",
        _ => {
            "Check that the source of models answers (`check` names the likely cause); the server retries until it does"
        }
    }
}

fn running(run: &Workflow) -> Decision {
    let message = match run.phase {
        crate::model::Phase::Active => "the run has not ended",
        _ => {
            "the Workflow has no label that names a final phase together with completed=true, so the run has not ended"
        }
    };
    Decision::new(Status::Pending, "running", message)
}

fn delivered(run: &Workflow, subscription: &Subscription) -> String {
    let by = |name: &crate::model::SubscriptionName| run.is_marked_for(name).then(|| name.clone());
    match by(&subscription.name).or_else(|| subscription.unscoped.as_ref().and_then(by)) {
        Some(name) => format!("marked by {}{name}", crate::model::workflow::MARK_PREFIX),
        None => format!("the label {EVENTS_PUBLISHED_LABEL}=true counts as a delivery (--skip-labelled)"),
    }
}

fn other_pipeline(subscription: &Subscription, name: &str) -> Decision {
    let entries = subscription.pipelines.entries();
    let shown: Vec<String> = entries.iter().take(4).map(|entry| format!("{entry:?}")).collect();
    let more = if entries.len() > shown.len() { ", …" } else { "" };
    let message =
        format!("the pipeline {name:?} matches none of the subscription's pipelines [{}{more}]", shown.join(", "));
    Decision::filtered("filtered", FilterReason::Pipelines, message)
}

/// Returns the decision about a run that [`before_lookup`] left open, and whose lookup failed in this source.
pub fn failed_lookup(run: &Workflow, source: ModelSource, error: &LookupError, now: i64) -> Decision {
    match error {
        LookupError::NoContext => {
            let until = run.end().saturating_add(i64::try_from(CONTEXT_EXPECTED.as_secs()).unwrap_or(i64::MAX));
            if now < until {
                let message = format!("{error}; it is expected within {} of its end", age_of(CONTEXT_EXPECTED));
                return Decision { until: Some(until), ..Decision::new(Status::Pending, error.code(), message) };
            }
            let message = format!("{error}, {} after its end; the server asks again hourly", age(now - run.end()));
            Decision::new(Status::Never, error.code(), message)
        }
        LookupError::ForeignContext { .. } => Decision::new(Status::Never, error.code(), error.to_string()),
        LookupError::TooLarge => {
            let message = format!("{error}, or its models' names and locations exceed {MAX_PAYLOAD} bytes");
            Decision::new(Status::Never, error.code(), message)
        }
        LookupError::Failed { code: code @ kfp::UNFINISHED_CODE, message } => {
            let left_out = run.finished.saturating_add(kfp::UNFINISHED);
            let message = format!("{message}; it is left out {} after the end of the run", age(kfp::UNFINISHED));
            Decision { until: Some(left_out), ..Decision::new(Status::Pending, code, message) }
        }
        LookupError::Failed { code, message } => {
            Decision::new(Status::Pending, code, format!("{source} cannot be asked, the server retries: {message}"))
        }
    }
}

fn pending(server: ServerWord<'_>) -> Decision {
    let message = match server {
        ServerWord::Streams { streams: 1, pending } => {
            format!("not delivered yet; the server has a stream of the subscription, with {pending} pending runs")
        }
        ServerWord::Streams { streams, pending } => {
            format!(
                "not delivered yet; the server has {streams} streams of the subscription, with {pending} pending runs"
            )
        }
        ServerWord::NoStream => "no subscriber is connected; the event is sent when one connects".to_owned(),
        _ => "not delivered yet; the server cannot be asked whether a subscriber is connected".to_owned(),
    };
    Decision::new(Status::Pending, "pending", message)
}

/// A time span for people, with at most two units.
pub fn age(seconds: i64) -> String {
    age_of(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

fn age_of(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if !seconds.is_multiple_of(60) => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..36_000 if !minutes.is_multiple_of(60) => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests;
