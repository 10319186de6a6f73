//! Traces: spans with derived ids, so that replicas and restarts report the same spans.
//!
//! The spans of a run are recorded when they are finished, with given ids and times. The ids are known beforehand, so
//! no part of the program needs a span from another part. Calls within a step (to ML Metadata, to the API server) are
//! traced with `tracing`: [`Traces::within`] makes their spans children of the step.
//!
//! Tracing is off by default. Then every method returns at once.

use std::{
    borrow::Cow,
    cell::Cell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Event, FutureExt, Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt,
        TraceFlags, TraceId, TraceState, Tracer, TracerProvider, WithContext,
    },
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use tokio_util::sync::CancellationToken;
use tracing::{Subscriber, level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::sampler::Sampler;

pub use opentelemetry::{KeyValue as Attribute, trace::SpanKind as Kind};

/// The target of the spans that belong to traces. The log does not show them.
pub const TARGET: &str = "modelupdate_trace";
/// The instrumentation scope of all spans.
const SCOPE: &str = "model-update-eventsource";

/// The identity of a span: its trace's id and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRef {
    /// The trace's id.
    pub trace: [u8; 16],
    /// The span's id.
    pub span: [u8; 8],
}

impl SpanRef {
    /// A span with a random id in this trace.
    pub fn random_in(trace: [u8; 16]) -> Self {
        Self { trace, span: RandomIdGenerator::default().new_span_id().to_bytes() }
    }

    /// A span with random ids.
    pub fn random() -> Self {
        Self::random_in(RandomIdGenerator::default().new_trace_id().to_bytes())
    }

    fn context(self, sampled: bool) -> SpanContext {
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let (trace, span) = (TraceId::from_bytes(self.trace), SpanId::from_bytes(self.span));
        SpanContext::new(trace, span, flags, true, TraceState::default())
    }
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct FinishedSpan {
    /// Its ids.
    pub id: SpanRef,
    /// The parent's id, in the same trace. The root has none.
    pub parent: Option<[u8; 8]>,
    /// Its name, of low cardinality.
    pub name: Cow<'static, str>,
    /// Its kind.
    pub kind: SpanKind,
    /// Its start.
    pub start: SystemTime,
    /// Its end.
    pub end: SystemTime,
    /// Its attributes.
    pub attributes: Vec<KeyValue>,
    /// Its events: name, time, attributes.
    pub events: Vec<(&'static str, SystemTime, Vec<KeyValue>)>,
    /// Links to related spans.
    pub links: Vec<SpanRef>,
    /// The error, if it failed.
    pub error: Option<Cow<'static, str>>,
}

impl FinishedSpan {
    /// An internal span that starts and ends now, without attributes.
    pub fn now(id: SpanRef, parent: Option<[u8; 8]>, name: impl Into<Cow<'static, str>>) -> Self {
        let now = SystemTime::now();
        Self {
            id,
            parent,
            name: name.into(),
            kind: SpanKind::Internal,
            start: now,
            end: now,
            attributes: Vec::new(),
            events: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }

    /// Marks the span as failed, with an event. Both names are of low cardinality.
    pub fn fail(&mut self, event: &'static str, code: &'static str) {
        self.attributes.push(KeyValue::new("error.type", code));
        self.events.push((event, self.end, vec![KeyValue::new("error.type", code)]));
        self.error = Some(code.into());
    }
}

/// The recorder of spans. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    sampler: Sampler,
    /// Payloads may contain a trace context (`OTEL_PROPAGATORS`).
    propagates: bool,
    /// Ends the exports. See [`Traces::flush`].
    stop_exports: CancellationToken,
}

impl Traces {
    /// Traces through a provider that was built with [`ChosenIds`] and this sampler.
    pub(super) fn new(
        provider: SdkTracerProvider,
        sampler: Sampler,
        propagates: bool,
        stop_exports: CancellationToken,
    ) -> Self {
        let tracer = provider.tracer(SCOPE);
        Self(Some(Arc::new(On { provider, tracer, sampler, propagates, stop_exports })))
    }

    /// Returns whether tracing is on.
    pub fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns whether the sampler keeps this trace.
    pub fn samples(&self, trace: [u8; 16]) -> bool {
        self.0.as_ref().is_some_and(|on| on.sampler.samples(trace))
    }

    /// Returns the sampled flag of the trace context in a payload, or `None` where payloads carry none.
    pub fn propagated(&self, trace: [u8; 16]) -> Option<bool> {
        match &self.0 {
            Some(on) => on.propagates.then(|| on.sampler.samples(trace)),
            None => Some(false),
        }
    }

    /// Records a finished span, if the sampler keeps its trace.
    pub fn record(&self, span: FinishedSpan) {
        let Some(on) = self.0.as_ref().filter(|on| on.sampler.samples(span.id.trace)) else { return };
        let parent = match span.parent {
            Some(parent) => {
                let parent = SpanRef { trace: span.id.trace, span: parent };
                Context::new().with_remote_span_context(parent.context(true))
            }
            None => Context::new(),
        };
        let events = span.events.into_iter().map(|(name, at, attributes)| Event::new(name, at, attributes, 0));
        let links = span.links.into_iter().map(|link| Link::new(link.context(true), Vec::new(), 0));
        let builder = SpanBuilder::from_name(span.name)
            .with_kind(span.kind)
            .with_start_time(span.start)
            .with_attributes(span.attributes)
            .with_events(events.collect())
            .with_links(links.collect());
        let mut recorded = {
            let _chosen = Chosen::set(span.id);
            on.tracer.build_with_context(builder, &parent)
        };
        if let Some(error) = span.error {
            recorded.set_status(Status::Error { description: error });
        }
        recorded.end_with_timestamp(span.end);
    }

    /// Runs a future in which spans of [`TARGET`] become children of `parent`, if there is one.
    pub fn within<F: Future>(parent: Option<SpanRef>, future: F) -> WithContext<F> {
        let context = Context::new();
        future.with_context(match parent {
            Some(parent) => context.with_remote_span_context(parent.context(true)),
            None => context,
        })
    }

    /// Returns whether the current task runs within a traced step.
    pub fn is_within() -> bool {
        Context::current().has_active_span()
    }

    /// The layer that makes spans of [`TARGET`] part of traces. It has a filter of its own, so that the log level does
    /// not change the traces.
    pub fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let on = self.0.as_ref()?;
        let layer = tracing_opentelemetry::layer()
            .with_tracer(on.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false);
        Some(layer.with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO)))
    }

    /// Sends the spans in the queue, and ends tracing. Blocks up to `timeout`, then drops what is left.
    ///
    /// The runtime must still run, and this must not be called on one of its threads.
    pub fn flush(&self, timeout: Duration) {
        let Some(on) = &self.0 else { return };
        if let Err(error) = on.provider.shutdown_with_timeout(timeout) {
            warn!(%error, "the last spans could not be sent");
        }
        // An export in progress must not outlive the runtime that it uses.
        on.stop_exports.cancel();
    }
}

thread_local! {
    static CHOSEN: Cell<Option<SpanRef>> = const { Cell::new(None) };
}

/// Sets the ids of the next span on this thread, until it is dropped.
struct Chosen;

impl Chosen {
    fn set(id: SpanRef) -> Self {
        CHOSEN.set(Some(id));
        Self
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        CHOSEN.set(None);
    }
}

/// Generates the ids that were chosen for the next span, or random ones.
///
/// OpenTelemetry's span builder takes no ids; the id generator is the place for them, see
/// [opentelemetry-rust#2743](https://github.com/open-telemetry/opentelemetry-rust/issues/2743).
#[derive(Debug, Default)]
pub(super) struct ChosenIds(RandomIdGenerator);

impl IdGenerator for ChosenIds {
    fn new_trace_id(&self) -> TraceId {
        CHOSEN.get().map_or_else(|| self.0.new_trace_id(), |chosen| TraceId::from_bytes(chosen.trace))
    }

    fn new_span_id(&self) -> SpanId {
        CHOSEN.get().map_or_else(|| self.0.new_span_id(), |chosen| SpanId::from_bytes(chosen.span))
    }
}

#[cfg(test)]
mod tests;
