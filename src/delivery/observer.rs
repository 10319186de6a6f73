//! Logs, metrics, traces and notices of the delivery task.

use std::{fmt, sync::Arc, time::Duration};

use tracing::{debug, field::display, info, warn};

use super::{
    CloseReason, LookupError, MarkError, MarkPatch, Notice, NoticeSink,
    gauges::NamespaceGauges,
    ledger::{Now, Report, Stats},
    metrics::{
        DeliveryMetrics, DurationHistogram, ErrorLabel, FilteredLabel, NamespaceLabel, Skipped, SkippedLabel,
        TraceExemplar,
    },
    notices::{DELIVERED, FILTERED},
    recent::RecentRuns,
    spans::{Spans, Step},
    status::DeliveryStatus,
};
use crate::{
    clock::WallClock,
    model::{RunModels, SkipReason, Subscription, SubscriptionName, Workflow},
    store::Store,
    telemetry::{LimitHits, Traces, trace::SpanRef},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Observer {
    metrics: DeliveryMetrics,
    namespaces: NamespaceGauges,
    limits: LimitHits,
    notices: Option<Arc<dyn NoticeSink>>,
    spans: Spans,
    recent: RecentRuns,
}

impl Observer {
    pub(super) fn new(
        metrics: DeliveryMetrics,
        limits: LimitHits,
        notices: Option<Arc<dyn NoticeSink>>,
        traces: Traces,
        store: Arc<Store>,
        clock: WallClock,
    ) -> Self {
        let (namespaces, spans) = (NamespaceGauges::new(metrics.clone()), Spans::new(traces, store));
        Self { metrics, namespaces, limits, notices, spans, recent: RecentRuns::new(clock) }
    }

    // === actions of the driver ===

    pub(super) fn lookup_begins(&mut self, workflow: &Workflow, attempt: u32) -> Option<Step> {
        debug!(namespace = %workflow.namespace, workflow = %workflow.name, attempt, "looking up models");
        self.spans.lookup_begins(workflow, attempt)
    }

    pub(super) fn lookup_ended(
        &self,
        step: Option<Step>,
        workflow: &Workflow,
        answer: &Result<Arc<RunModels>, LookupError>,
    ) {
        self.spans.lookup_ended(step, workflow, answer);
    }

    pub(super) fn patch_begins(&mut self, patch: &MarkPatch, attempt: u32) -> Option<Step> {
        debug!(
            namespace = %patch.namespace, workflow = %patch.name, attempt, change = %patch.change, "patching marks"
        );
        self.spans.patch_begins(patch, attempt)
    }

    pub(super) fn patch_ended(&self, step: Option<Step>, patch: &MarkPatch, result: &Result<(), MarkError>) {
        self.spans.patch_ended(step, patch, result);
    }

    /// Records the hand-off of an event. `stream` is the stream's own span.
    pub(super) fn handing_off(
        &mut self,
        subscription: &Subscription,
        workflow: &Workflow,
        pending_for: Duration,
        redelivery: bool,
        stream: Option<SpanRef>,
    ) {
        debug!(
            namespace = %workflow.namespace, workflow = %workflow.name, subscription = %subscription.name, redelivery,
            trace_id = self.spans.trace_id(workflow).map(display), "handing off event"
        );
        self.metrics.sent.get_or_create(&namespace(workflow)).inc();
        if redelivery {
            self.metrics.redelivered.get_or_create(&namespace(workflow)).inc();
        }
        self.observe(&self.metrics.handoff_duration, pending_for, workflow);
        self.spans.handed_off(subscription, workflow, redelivery, stream);
    }

    /// Sets the gauges.
    pub(super) fn update_gauges(&mut self, stats: &Stats, now: Now) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.streams.set(gauge(stats.streams));
        self.metrics.shared_subscriptions.set(gauge(stats.shared_subscriptions));
        self.metrics.runs_without_context.set(gauge(stats.runs_without_context));
        self.metrics.pending_marks.set(gauge(stats.pending_marks));
        self.namespaces.update(&stats.namespaces, now);
    }

    /// Returns the latest deliveries and problems.
    pub(super) fn recent(&self) -> DeliveryStatus {
        self.recent.status()
    }

    /// Counts a stream that the server ends.
    pub(super) fn closing(&self, reason: CloseReason) {
        self.metrics.streams_closed(reason).inc();
    }

    /// Logs the end of a drain.
    pub(super) fn drained(&self, stats: &Stats) {
        if stats.streams == 0 && stats.pending_marks == 0 {
            info!("drained, every event is confirmed and marked");
        } else {
            warn!(streams = stats.streams, marks = stats.pending_marks, "drain incomplete, its time is over");
        }
    }

    // === reports of the ledger ===

    pub(super) fn report(&mut self, report: &Report) {
        match report {
            Report::Attached { stream, subscription, peer, pending, filtered } => info!(
                stream = stream.0, namespace = %subscription.namespace, subscription = %subscription.name,
                peer = peer.map(display), pending, filtered_pipelines = filtered.pipelines,
                filtered_max_age = filtered.max_age, filtered_statuses = filtered.statuses, "stream attached"
            ),
            Report::Ended { subscription, unconfirmed } => self.ended(subscription, unconfirmed),
            Report::Confirmed { subscription, workflow, since_handoff, pending_for } => {
                info!(
                    namespace = %workflow.namespace, workflow = %workflow.name, subscription = %subscription.name,
                    pipeline = workflow.pipeline.known(), confirmed_after_ms = millis(*since_handoff),
                    age_ms = millis(*pending_for), trace_id = self.spans.trace_id(workflow).map(display), "delivered"
                );
                self.metrics.confirmed.get_or_create(&namespace(workflow)).inc();
                self.observe(&self.metrics.confirmation_duration, *pending_for, workflow);
                self.spans.confirmed(subscription, workflow, *since_handoff);
                self.recent.delivered(subscription, workflow, self.spans.trace_id(workflow));
                let name = &subscription.name;
                self.notify(
                    workflow,
                    Some(name),
                    DELIVERED,
                    false,
                    format_args!("delivered to the subscription {name}"),
                );
            }
            Report::LookupFailed { workflow, error, attempt, retry_in, given_up } => {
                self.lookup_failed(workflow, error, *attempt, *retry_in, *given_up);
            }
            Report::ForeignExecutions { workflow, count } => {
                self.skipped(workflow, None, Skipped::ForeignExecution);
                let reason = Skipped::ForeignExecution.as_str();
                self.problem(workflow, None, reason, true, format_args!(
                    "ignoring executions older than the run ({count}), its context in ML Metadata belongs to another run too"
                ));
                warn!(
                    namespace = %workflow.namespace, workflow = %workflow.name, count,
                    trace_id = self.spans.trace_id(workflow).map(display),
                    "ignoring executions older than the run, its context belongs to another run too"
                );
            }
            Report::Filtered { subscription, workflow, reason, by_all } => {
                debug!(
                    namespace = %workflow.namespace, workflow = %workflow.name, subscription = %subscription.name,
                    reason = reason.as_str(), "run filtered"
                );
                self.metrics.filtered.get_or_create(&FilteredLabel { reason: reason.as_str() }).inc();
                self.spans.filtered(workflow, subscription, *reason);
                if let Some(count) = by_all {
                    let (name, filter) = (&subscription.name, reason.as_str());
                    self.notify(workflow, None, FILTERED, false, format_args!(
                        "no event: the filters of every attached subscription ({count}) exclude the run, those of {name} \
                         by {filter}"
                    ));
                }
            }
            Report::Skipped { subscription, workflow, reason } => self.no_event(subscription, workflow, *reason),
            Report::Marked { patch, attempt } => debug!(
                namespace = %patch.namespace, workflow = %patch.name, attempt, change = %patch.change, "marks patched"
            ),
            Report::MarkFailed { patch, error, attempt, retry_in } => {
                self.mark_failed(patch, error, *attempt, *retry_in);
            }
            Report::MarksFull { workflow, subscription } => {
                self.metrics.skipped.get_or_create(&SkippedLabel { reason: Skipped::MarksFull }).inc();
                self.spans.marks_full(workflow, subscription);
                self.problem(workflow, Some(subscription), Skipped::MarksFull.as_str(), true, format_args!(
                    "the Workflow has no room for another mark: after a restart of the server, the event may be sent to \
                     the subscription {subscription} again"
                ));
                warn!(
                    namespace = %workflow.namespace, workflow = %workflow.name, %subscription,
                    "no room for another mark on the Workflow, the delivery is remembered until this server restarts"
                );
            }
            Report::Shared { namespace, subscription, peers } => warn!(
                %namespace, %subscription, peers,
                "several peers share a subscription, only one of them confirms each event; \
                 for independent delivery set a `subscription` of its own for each"
            ),
            Report::Expired { workflow, without_context: false } => {
                self.skipped(workflow, None, Skipped::Expired);
                self.problem(
                    workflow,
                    None,
                    Skipped::Expired.as_str(),
                    true,
                    format_args!("not delivered: the Workflow was deleted before"),
                );
                warn!(
                    namespace = %workflow.namespace, workflow = %workflow.name,
                    trace_id = self.spans.trace_id(workflow).map(display),
                    "run not delivered, its Workflow was deleted before"
                );
            }
            // It was counted when lookups became rare.
            Report::Expired { workflow, without_context: true } => info!(
                namespace = %workflow.namespace, workflow = %workflow.name, reason = Skipped::NoContext.as_str(),
                trace_id = self.spans.trace_id(workflow).map(display), "no event for this run, its Workflow was deleted"
            ),
            Report::NotReading { subscription, bytes } => warn!(
                namespace = %subscription.namespace, subscription = %subscription.name, bytes,
                "closed a stream whose subscriber does not read"
            ),
            Report::TooManyRuns { subscription, runs } => warn!(
                namespace = %subscription.namespace, subscription = %subscription.name, runs,
                "closed a stream, too many runs are pending for the streams of its namespace"
            ),
            Report::MaxConnectionAge { subscription, age } => info!(
                namespace = %subscription.namespace, subscription = %subscription.name, age_s = age.as_secs(),
                "closed a stream that has reached its maximum age"
            ),
            Report::LimitHit(limit) => self.limits.hit(*limit),
        }
    }

    fn ended(&self, subscription: &Subscription, unconfirmed: &[Arc<Workflow>]) {
        let Subscription { namespace, name, .. } = subscription;
        if unconfirmed.is_empty() {
            debug!(%namespace, subscription = %name, "stream closed, nothing to redeliver");
        } else {
            warn!(
                %namespace, subscription = %name, unconfirmed = unconfirmed.len(),
                "stream closed before every event was confirmed, redelivering"
            );
        }
        unconfirmed.iter().for_each(|workflow| self.spans.unconfirmed(subscription, workflow));
    }

    fn lookup_failed(
        &mut self,
        workflow: &Workflow,
        error: &LookupError,
        attempt: u32,
        retry_in: Duration,
        given_up: bool,
    ) {
        let (namespace, name, reason) = (&workflow.namespace, &workflow.name, error.code());
        let (retry_in_ms, trace_id) = (millis(retry_in), self.spans.trace_id(workflow).map(display));
        self.metrics.lookup_retries.get_or_create(&ErrorLabel { reason }).inc();
        if given_up {
            let skipped = match error {
                LookupError::NoContext => Skipped::NoContext,
                LookupError::TooLarge => Skipped::TooLarge,
                _ => Skipped::ForeignContext,
            };
            self.skipped(workflow, None, skipped);
            // Without the name of the other namespace, which is none of the tenant's.
            let text = match skipped {
                Skipped::NoContext => {
                    "no event yet: the source of models does not know this run; it is looked up hourly"
                }
                Skipped::TooLarge => "no event: the run's record is too large to be read",
                _ => "no event yet: the run's record belongs to another namespace; it is looked up hourly",
            };
            self.problem(workflow, None, skipped.as_str(), true, format_args!("{text}"));
        } else if attempt == 1 && !matches!(error, LookupError::NoContext) {
            let text = "no event yet: the lookup of the run's models has failed; it is retried";
            self.recent.problem(workflow, None, reason, text, self.spans.trace_id(workflow));
        }
        // Warnings for the first failure of a run, and for the one after which retries are rare.
        if given_up || (attempt == 1 && !matches!(error, LookupError::NoContext)) {
            warn!(
                %namespace, workflow = %name, attempt, retry_in_ms, trace_id, reason, %error,
                "model lookup failed, retrying"
            );
        } else {
            debug!(
                %namespace, workflow = %name, attempt, retry_in_ms, trace_id, reason, %error,
                "model lookup failed, retrying"
            );
        }
    }

    fn no_event(&mut self, subscription: &Subscription, workflow: &Workflow, reason: SkipReason) {
        let skipped = Skipped::from(reason);
        self.skipped(workflow, Some(subscription), skipped);
        let (namespace, name, detail) = (&workflow.namespace, &workflow.name, reason.to_string());
        let (reason, trace_id) = (skipped.as_str(), self.spans.trace_id(workflow).map(display));
        let is_normal = matches!(skipped, Skipped::NoModel | Skipped::Superseded);
        self.problem(
            workflow,
            Some(&subscription.name),
            skipped.as_str(),
            !is_normal,
            format_args!("no event for the subscription {}: {detail}", subscription.name),
        );
        if is_normal {
            info!(
                %namespace, workflow = %name, subscription = %subscription.name, reason, detail, trace_id,
                "no event for this run"
            );
        } else {
            warn!(
                %namespace, workflow = %name, subscription = %subscription.name, reason, detail, trace_id,
                "no event for this run"
            );
        }
    }

    fn mark_failed(&mut self, patch: &MarkPatch, error: &MarkError, attempt: u32, retry_in: Option<Duration>) {
        let (namespace, name, reason) = (&patch.namespace, &patch.name, error.code());
        let Some(retry_in) = retry_in else {
            debug!(%namespace, workflow = %name, reason, %error, "mark patch failed, no longer needed");
            return;
        };
        self.metrics.mark_retries.get_or_create(&ErrorLabel { reason }).inc();
        if attempt == 1 || matches!(error, MarkError::Refused { .. }) {
            let retry_in_ms = millis(retry_in);
            warn!(%namespace, workflow = %name, attempt, retry_in_ms, reason, %error, "mark patch failed, retrying");
            if !matches!(error, MarkError::Conflict) {
                self.recent.mark_failed(patch, reason);
            }
        }
    }

    fn observe(&self, histogram: &DurationHistogram, duration: Duration, workflow: &Workflow) {
        let exemplar = self.spans.trace_id(workflow).map(|id| TraceExemplar { trace_id: id.to_string() });
        histogram.observe(duration.as_secs_f64(), exemplar, None);
    }

    /// Records a problem of a run, and sends a notice to its owner.
    fn problem(
        &mut self,
        workflow: &Workflow,
        subscription: Option<&SubscriptionName>,
        reason: &'static str,
        is_warning: bool,
        text: fmt::Arguments<'_>,
    ) {
        self.recent.problem(workflow, subscription, reason, &text.to_string(), self.spans.trace_id(workflow));
        self.notify(workflow, subscription, reason, is_warning, text);
    }

    /// Sends a notice to the owner of a run.
    fn notify(
        &self,
        workflow: &Workflow,
        subscription: Option<&SubscriptionName>,
        reason: &'static str,
        is_warning: bool,
        text: fmt::Arguments<'_>,
    ) {
        if let Some(notices) = &self.notices {
            notices.notify(Notice::new(workflow, subscription, reason, is_warning, text.to_string()));
        }
    }

    fn skipped(&mut self, workflow: &Workflow, subscription: Option<&Subscription>, reason: Skipped) {
        self.metrics.skipped.get_or_create(&SkippedLabel { reason }).inc();
        self.spans.skipped(workflow, subscription, reason.as_str());
    }
}

/// Milliseconds, as a number that JSON can hold.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn namespace(workflow: &Workflow) -> NamespaceLabel {
    NamespaceLabel { namespace: workflow.namespace.to_string() }
}
