//! The trace of a run: the run as its root, and a span for each step of its delivery. Design: `docs/tracing.md`.
//!
//! The ids of the root and of the first hand-off to a subscription are derived from the Workflow, so that all replicas
//! record the same span. Each retry has a span of its own, with a link to the first attempt.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{LookupError, MarkError, MarkPatch};
use crate::{
    model::{
        FilterReason, RunModels, RunOutcome, Subscription, SubscriptionName, TraceId, Uid, Workflow, event, trace,
    },
    store::Store,
    telemetry::trace::{Attribute, FinishedSpan, Kind, SpanRef, Traces},
};

/// Runs remembered as recorded.
const MAX_RECORDED: usize = 16_384;

/// Records the spans of runs. Does nothing where traces are off.
#[derive(Debug)]
pub(super) struct Spans {
    traces: Traces,
    /// Knows which trace ids are used.
    store: Arc<Store>,
    recorded: RecordedRuns,
}

/// The latest runs whose root was recorded.
#[derive(Debug, Default)]
struct RecordedRuns {
    runs: HashMap<Uid, RecordedRun>,
    order: VecDeque<Uid>,
}

#[derive(Clone, Copy, Debug)]
struct RecordedRun {
    trace: [u8; 16],
    first_lookup: Option<SpanRef>,
    first_mark: Option<SpanRef>,
}

impl RecordedRuns {
    /// Adds a run. Returns whether it is new.
    fn insert(&mut self, uid: Uid, trace: [u8; 16]) -> bool {
        let run = RecordedRun { trace, first_lookup: None, first_mark: None };
        if self.runs.contains_key(&uid) {
            return false;
        }
        self.runs.insert(uid, run);
        self.order.push_back(uid);
        if self.order.len() > MAX_RECORDED {
            self.order.pop_front().and_then(|oldest| self.runs.remove(&oldest));
        }
        true
    }
}

/// Remembers the first attempt, and returns it for a later one.
fn first_attempt(first: &mut Option<SpanRef>, attempt: u32, id: SpanRef) -> Option<SpanRef> {
    if attempt <= 1 {
        *first = Some(id);
        None
    } else {
        *first
    }
}

/// A lookup or patch in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    id: SpanRef,
    start: SystemTime,
    /// The first attempt, if this is a later one.
    first: Option<SpanRef>,
    attempt: u32,
}

impl Step {
    /// The step's span, which is the parent of the spans of its calls.
    pub(super) fn id(&self) -> SpanRef {
        self.id
    }
}

impl Spans {
    pub(super) fn new(traces: Traces, store: Arc<Store>) -> Self {
        Self { traces, store, recorded: RecordedRuns::default() }
    }

    /// The trace of a run.
    pub(super) fn trace_id(&self, workflow: &Workflow) -> Option<TraceId> {
        self.store.trace_id(workflow)
    }

    /// The trace of a run, if it is sampled.
    fn trace_of(&self, workflow: &Workflow) -> Option<[u8; 16]> {
        if !self.traces.are_on() {
            return None;
        }
        let trace = *self.trace_id(workflow)?.as_bytes();
        self.traces.samples(trace).then_some(trace)
    }

    /// Records a run itself, and that it was seen, if it was not recorded. Returns its trace, if it is sampled.
    fn run_seen(&mut self, workflow: &Workflow) -> Option<[u8; 16]> {
        let trace = self.trace_of(workflow)?;
        if self.recorded.insert(workflow.uid, trace) {
            self.record_run(workflow, trace);
        }
        Some(trace)
    }

    /// Begins a lookup. Before the first one, records the run itself.
    pub(super) fn lookup_begins(&mut self, workflow: &Workflow, attempt: u32) -> Option<Step> {
        let trace = self.run_seen(workflow)?;
        let id = SpanRef::random_in(trace);
        let run = self.recorded.runs.get_mut(&workflow.uid);
        let first = run.and_then(|run| first_attempt(&mut run.first_lookup, attempt, id));
        Some(Step { id, start: SystemTime::now(), first, attempt })
    }

    fn record_run(&self, workflow: &Workflow, trace: [u8; 16]) {
        let now = SystemTime::now();
        let root = trace::root_span_id(workflow.uid);
        let created = UNIX_EPOCH + Duration::from_secs(u64::try_from(workflow.created).unwrap_or(0));
        let pipeline = workflow.pipeline.known();
        let id = SpanRef { trace, span: *root.as_bytes() };
        let mut run = FinishedSpan::now(id, None, "run");
        run.start = created.min(now);
        run.attributes = run_attributes(workflow);
        let result = if workflow.outcome() == Some(RunOutcome::Failed) { "failure" } else { "success" };
        run.attributes.push(Attribute::new("cicd.pipeline.result", result));
        run.attributes.extend(pipeline.map(|name| Attribute::new("cicd.pipeline.name", name.to_string())));
        self.traces.record(run);
        self.traces.record(child(workflow, SpanRef::random_in(trace), "seen"));
    }

    /// Records a lookup and its answer.
    pub(super) fn lookup_ended(
        &self,
        step: Option<Step>,
        workflow: &Workflow,
        answer: &Result<Arc<RunModels>, LookupError>,
    ) {
        let Some(step) = step else { return };
        let mut span = step_span(workflow, step, "lookup");
        match answer {
            Ok(found) => {
                let count = i64::try_from(found.models.len()).unwrap_or(i64::MAX);
                let outcome = if found.models.is_empty() { "no_model" } else { "found" };
                span.attributes.push(Attribute::new("modelupdate.outcome", outcome));
                span.attributes.push(Attribute::new("modelupdate.models", count));
                let pipeline = event::pipeline_name(workflow, found).map(str::to_owned);
                span.attributes.extend(pipeline.map(|name| Attribute::new("cicd.pipeline.name", name)));
            }
            Err(error) => span.fail("failed", error.code()),
        }
        self.traces.record(span);
    }

    /// Records a hand-off. `stream` is the stream's own span.
    pub(super) fn handed_off(
        &mut self,
        subscription: &Subscription,
        workflow: &Workflow,
        redelivery: bool,
        stream: Option<SpanRef>,
    ) {
        let Some(trace) = self.run_seen(workflow) else { return };
        let first = SpanRef { trace, span: *trace::send_span_id(workflow.uid, &subscription.name).as_bytes() };
        let id = if redelivery { SpanRef::random_in(trace) } else { first };
        let mut span = child(workflow, id, format!("send {}", event::NAME));
        span.kind = Kind::Producer;
        span.attributes.extend([
            Attribute::new("messaging.system", "argo_events"),
            Attribute::new("messaging.operation.name", "send"),
            Attribute::new("messaging.operation.type", "send"),
            Attribute::new("messaging.destination.name", event::NAME),
            Attribute::new("messaging.message.id", workflow.uid.to_string()),
            subscription_attribute(&subscription.name),
            Attribute::new("modelupdate.redelivered", redelivery),
        ]);
        span.links.extend(redelivery.then_some(first));
        span.links.extend(stream);
        self.traces.record(span);
    }

    /// Records the confirmation of an event, this long after its hand-off.
    pub(super) fn confirmed(&self, subscription: &Subscription, workflow: &Workflow, since_handoff: Duration) {
        let Some(mut span) = self.confirmation(subscription, workflow) else { return };
        span.start = span.end.checked_sub(since_handoff).unwrap_or(span.end);
        self.traces.record(span);
    }

    /// Records an event whose stream ended before it was confirmed.
    pub(super) fn unconfirmed(&self, subscription: &Subscription, workflow: &Workflow) {
        let Some(mut span) = self.confirmation(subscription, workflow) else { return };
        span.fail("unconfirmed", "stream_ended");
        self.traces.record(span);
    }

    fn confirmation(&self, subscription: &Subscription, workflow: &Workflow) -> Option<FinishedSpan> {
        let mut span = child(workflow, SpanRef::random_in(self.trace_of(workflow)?), "confirm");
        span.attributes.push(subscription_attribute(&subscription.name));
        Some(span)
    }

    /// Records that a run has no event, or none yet.
    pub(super) fn skipped(&mut self, workflow: &Workflow, subscription: Option<&Subscription>, reason: &'static str) {
        let Some(trace) = self.run_seen(workflow) else { return };
        let mut span = child(workflow, SpanRef::random_in(trace), "skipped");
        span.attributes.push(Attribute::new("modelupdate.reason", reason));
        span.attributes.extend(subscription.map(|subscription| subscription_attribute(&subscription.name)));
        self.traces.record(span);
    }

    /// Records that a filter of a subscription excludes a run.
    pub(super) fn filtered(&mut self, workflow: &Workflow, subscription: &Subscription, reason: FilterReason) {
        let Some(trace) = self.run_seen(workflow) else { return };
        let mut span = child(workflow, SpanRef::random_in(trace), "filtered");
        span.attributes.push(Attribute::new("modelupdate.reason", reason.as_str()));
        span.attributes.push(subscription_attribute(&subscription.name));
        self.traces.record(span);
    }

    /// Begins a patch of a run that was looked up here. Others are not traced: they remove the marks of restarted runs.
    pub(super) fn patch_begins(&mut self, patch: &MarkPatch, attempt: u32) -> Option<Step> {
        let run = self.recorded.runs.get_mut(&patch.uid)?;
        let id = SpanRef::random_in(run.trace);
        let first = first_attempt(&mut run.first_mark, attempt, id);
        Some(Step { id, start: SystemTime::now(), first, attempt })
    }

    /// Records a patch and its result.
    pub(super) fn patch_ended(&self, step: Option<Step>, patch: &MarkPatch, result: &Result<(), MarkError>) {
        let Some(step) = step else { return };
        let mut span = step_span(patch, step, "mark");
        span.attributes.push(Attribute::new("modelupdate.change", patch.change.to_string()));
        if let Err(error) = result {
            span.fail("failed", error.code());
        }
        self.traces.record(span);
    }

    /// Records a delivery for whose mark the Workflow has no room.
    pub(super) fn marks_full(&self, workflow: &Workflow, subscription: &SubscriptionName) {
        let Some(trace) = self.trace_of(workflow) else { return };
        let mut span = child(workflow, SpanRef::random_in(trace), "mark");
        span.attributes.push(subscription_attribute(subscription));
        span.fail("failed", "marks_full");
        self.traces.record(span);
    }
}

/// The run of a span. Every span names it, not only the root: a table of spans is searched by it.
struct RunRef<'a> {
    uid: Uid,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> From<&'a Workflow> for RunRef<'a> {
    fn from(workflow: &'a Workflow) -> Self {
        Self { uid: workflow.uid, namespace: &workflow.namespace, name: &workflow.name }
    }
}

impl<'a> From<&'a MarkPatch> for RunRef<'a> {
    fn from(patch: &'a MarkPatch) -> Self {
        Self { uid: patch.uid, namespace: &patch.namespace, name: &patch.name }
    }
}

impl RunRef<'_> {
    fn attributes(&self) -> Vec<Attribute> {
        vec![
            Attribute::new("modelupdate.namespace", self.namespace.to_owned()),
            Attribute::new("modelupdate.workflow.name", self.name.to_owned()),
        ]
    }
}

/// A span whose parent is the run's root.
fn child<'a>(run: impl Into<RunRef<'a>>, id: SpanRef, name: impl Into<Cow<'static, str>>) -> FinishedSpan {
    let run = run.into();
    let mut span = FinishedSpan::now(id, Some(*trace::root_span_id(run.uid).as_bytes()), name);
    span.attributes = run.attributes();
    span
}

/// The span of a step that ends now.
fn step_span<'a>(run: impl Into<RunRef<'a>>, step: Step, name: &'static str) -> FinishedSpan {
    let mut span = child(run, step.id, name);
    span.start = step.start;
    let attempt = Attribute::new("modelupdate.attempt", i64::from(step.attempt));
    if step.attempt > 1 {
        span.events.push(("retried", step.start, vec![attempt.clone()]));
    }
    span.attributes.push(attempt);
    span.links.extend(step.first);
    span
}

fn run_attributes(workflow: &Workflow) -> Vec<Attribute> {
    let mut attributes = RunRef::from(workflow).attributes();
    attributes.push(Attribute::new("modelupdate.workflow.uid", workflow.uid.to_string()));
    attributes.extend(workflow.run_id.as_ref().map(|id| Attribute::new("cicd.pipeline.run.id", id.to_string())));
    attributes
}

fn subscription_attribute(name: &SubscriptionName) -> Attribute {
    Attribute::new("modelupdate.subscription", name.to_string())
}
