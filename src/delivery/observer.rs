//! Tells those who watch what happens: logs and metrics.

use std::{fmt, sync::Arc, time::Duration};

use tracing::{debug, info, warn};

use super::{
    LookupError, MarkError, MarkPatch,
    ledger::{Census, Now, Report},
    spans::{Spans, Step},
};
use crate::{
    model::{RunModels, Subscription, Workflow, event::SkipReason, trace},
    telemetry::{
        Traces,
        metrics::delivery::{DeliveryMetrics, NamespaceLabel, ReasonLabel, Seconds, TraceExemplar},
        trace::SpanRef,
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct Observer {
    metrics: DeliveryMetrics,
    spans: Spans,
}

impl Observer {
    pub(super) fn new(metrics: DeliveryMetrics, traces: Traces) -> Self {
        Self { metrics, spans: Spans::new(traces) }
    }

    /// A lookup begins.
    pub(super) fn asking(&mut self, workflow: &Workflow, attempt: u32) -> Option<Step> {
        debug!(namespace = %workflow.namespace, workflow = %workflow.name, attempt, "asking for the run's models");
        self.spans.looking_up(workflow, attempt)
    }

    /// A lookup has been answered.
    pub(super) fn asked(&self, step: Option<Step>, workflow: &Workflow, answer: &Result<Arc<RunModels>, LookupError>) {
        self.spans.looked_up(step, workflow, answer);
    }

    /// A patch begins.
    pub(super) fn patching(&mut self, patch: &MarkPatch, attempt: u32) -> Option<Step> {
        debug!(namespace = %patch.namespace, workflow = %patch.name, attempt, change = %patch.change, "patching marks");
        self.spans.marking(patch, attempt)
    }

    /// A patch has been answered.
    pub(super) fn patched(&self, step: Option<Step>, patch: &MarkPatch, result: &Result<(), MarkError>) {
        self.spans.marked(step, patch, result);
    }

    /// An event goes to a stream, whose own span this is.
    pub(super) fn handing_off(
        &self,
        subscription: &Subscription,
        workflow: &Workflow,
        waited: Duration,
        again: bool,
        stream: Option<SpanRef>,
    ) {
        debug!(
            namespace = %workflow.namespace, workflow = %workflow.name, subscription = %subscription.name,
            again, trace_id = %TraceOf(workflow), "handing an event off"
        );
        self.metrics.sent.get_or_create(&namespace(&workflow.namespace)).inc();
        if again {
            self.metrics.redelivered.get_or_create(&namespace(&workflow.namespace)).inc();
        }
        observe(&self.metrics.handoff_seconds, waited, workflow);
        self.spans.handed_off(subscription, workflow, again, stream);
    }

    pub(super) fn report(&self, report: &Report) {
        match report {
            Report::Attached { stream, subscription, peer, pending } => info!(
                stream = stream.0, namespace = %subscription.namespace, subscription = %subscription.name,
                peer = %Or(peer.as_ref(), "unknown"), pending, "a stream attached"
            ),
            Report::Ended { subscription, unconfirmed } if unconfirmed.is_empty() => debug!(
                namespace = %subscription.namespace, subscription = %subscription.name, "a stream gave nothing back"
            ),
            Report::Ended { subscription, unconfirmed } => {
                warn!(
                    namespace = %subscription.namespace, subscription = %subscription.name,
                    unconfirmed = unconfirmed.len(),
                    "a stream ended before everything was confirmed that had been handed to it: it will be sent again"
                );
                unconfirmed.iter().for_each(|workflow| self.spans.unconfirmed(subscription, workflow));
            }
            Report::Confirmed { subscription, workflow, since_handoff, waited } => {
                info!(
                    namespace = %workflow.namespace, workflow = %workflow.name, subscription = %subscription.name,
                    pipeline = workflow.pipeline.known(), confirmed_after_ms = millis(*since_handoff), age_ms = millis(*waited),
                    trace_id = %TraceOf(workflow), "delivered"
                );
                self.metrics.confirmed.get_or_create(&namespace(&workflow.namespace)).inc();
                observe(&self.metrics.confirmation_seconds, *waited, workflow);
                self.spans.confirmed(subscription, workflow, *since_handoff);
            }
            Report::LookupFailed { workflow, error, attempt, retry_in, given_up } => {
                self.lookup_failed(workflow, error, *attempt, *retry_in, *given_up);
            }
            Report::ForeignExecutions { workflow, count } => {
                self.unannounced(workflow, None, "foreign_execution");
                warn!(
                    namespace = %workflow.namespace, workflow = %workflow.name, count, trace_id = %TraceOf(workflow),
                    "left out executions that are older than the run: its context belongs to another run, too"
                );
            }
            Report::Unannounced { subscription, workflow, why } => {
                self.unannounced(workflow, Some(subscription), reason(*why));
                if *why == SkipReason::NoModel {
                    info!(
                        namespace = %workflow.namespace, workflow = %workflow.name,
                        trace_id = %TraceOf(workflow), "no event: {why}"
                    );
                } else {
                    warn!(
                        namespace = %workflow.namespace, workflow = %workflow.name,
                        subscription = %subscription.name, trace_id = %TraceOf(workflow), "no event: {why}"
                    );
                }
            }
            Report::Marked { patch, attempt } => debug!(
                namespace = %patch.namespace, workflow = %patch.name, attempt, change = %patch.change, "marks patched"
            ),
            Report::MarkFailed { patch, error, attempt, retry_in } => {
                self.mark_failed(patch, error, *attempt, *retry_in);
            }
            Report::MarksFull { workflow, subscription } => {
                self.count_unannounced("marks_full");
                self.spans.marks_full(workflow, subscription);
                warn!(
                    namespace = %workflow.namespace, workflow = %workflow.name, %subscription,
                    "the Workflow carries as many marks as it may: this delivery is remembered until this server \
                     restarts, no longer"
                );
            }
            Report::Shared { namespace, subscription, peers } => warn!(
                %namespace, %subscription, peers,
                "several peers have used one subscription for over a minute: each gets every event, but only one of \
                 them has to confirm it. For independent delivery give each its own `subscription`"
            ),
            Report::Expired { workflow } => {
                self.unannounced(workflow, None, "expired");
                warn!(
                    namespace = %workflow.namespace, workflow = %workflow.name, trace_id = %TraceOf(workflow),
                    "gave up a run whose Workflow was deleted before its event could be delivered"
                );
            }
        }
    }

    fn lookup_failed(
        &self,
        workflow: &Workflow,
        error: &LookupError,
        attempt: u32,
        retry_in: Duration,
        given_up: bool,
    ) {
        let reason = error.code();
        self.metrics.lookup_retries.get_or_create(&ReasonLabel { reason }).inc();
        if given_up {
            self.unannounced(workflow, None, reason);
        }
        // The first failure of a run, and the one after which nobody should wait for it any more.
        if given_up || (attempt == 1 && !matches!(error, LookupError::NoContext)) {
            warn!(
                namespace = %workflow.namespace, workflow = %workflow.name, attempt,
                retry_in_ms = millis(retry_in), trace_id = %TraceOf(workflow), "no models yet: {error}"
            );
        } else {
            debug!(
                namespace = %workflow.namespace, workflow = %workflow.name, attempt,
                retry_in_ms = millis(retry_in), "no models yet: {error}"
            );
        }
    }

    fn mark_failed(&self, patch: &MarkPatch, error: &MarkError, attempt: u32, retry_in: Option<Duration>) {
        let Some(retry_in) = retry_in else {
            debug!(namespace = %patch.namespace, workflow = %patch.name, "marks left as they are: {error}");
            return;
        };
        self.metrics.mark_retries.get_or_create(&ReasonLabel { reason: error.code() }).inc();
        if attempt == 1 || matches!(error, MarkError::Refused { .. }) {
            warn!(
                namespace = %patch.namespace, workflow = %patch.name, attempt,
                retry_in_ms = millis(retry_in), "the marks could not be patched, and it will be tried again: {error}"
            );
        }
    }

    /// A run is not announced: counted, and told in its trace.
    fn unannounced(&self, workflow: &Workflow, subscription: Option<&Subscription>, reason: &'static str) {
        self.count_unannounced(reason);
        self.spans.unannounced(workflow, subscription, reason);
    }

    fn count_unannounced(&self, reason: &'static str) {
        self.metrics.unannounced.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Renews the gauges.
    pub(super) fn census(&self, census: &Census, now: Now) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.streams.set(gauge(census.streams));
        self.metrics.shared.set(gauge(census.shared));
        self.metrics.pending.set(gauge(census.pending));
        self.metrics.pending_marks.set(gauge(census.marks));
        self.metrics.oldest_pending.set(census.oldest.map_or(0.0, |oldest| {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact for millions of years")]
            let now_unix = now.unix as f64;
            now_unix - now.instant.saturating_duration_since(oldest).as_secs_f64()
        }));
    }

    /// The drain is over.
    pub(super) fn drained(&self, census: &Census) {
        if census.streams == 0 && census.marks == 0 {
            info!("drained: every hand-off is confirmed and marked");
        } else {
            warn!(streams = census.streams, marks = census.marks, "drained as far as the time allowed");
        }
    }
}

fn observe(histogram: &Seconds, duration: Duration, workflow: &Workflow) {
    let exemplar = trace::trace_id(workflow).map(|id| TraceExemplar { trace_id: id.to_string() });
    histogram.observe(duration.as_secs_f64(), exemplar, None);
}

/// As a number that JSON can hold.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn namespace(namespace: &str) -> NamespaceLabel {
    NamespaceLabel { namespace: namespace.to_owned() }
}

fn reason(why: SkipReason) -> &'static str {
    match why {
        SkipReason::NoModel => "no_model",
        SkipReason::NoPipelineName => "no_pipeline_name",
        SkipReason::TooLarge => "too_large",
    }
}

struct TraceOf<'a>(&'a Workflow);

impl fmt::Display for TraceOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        trace::trace_id(self.0).map_or(Ok(()), |id| id.fmt(f))
    }
}

struct Or<T>(Option<T>, &'static str);

impl<T: fmt::Display> fmt::Display for Or<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str(self.1),
        }
    }
}
