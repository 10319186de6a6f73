//! Traces: spans whose ids are chosen, so that replicas and restarts speak of the same ones.
//!
//! A run's spans are recorded when they are over, with the ids and times that they are to have: whoever records them
//! knows the ids beforehand and needs nothing from whoever recorded the others. What happens *within* a step (a call to
//! ML Metadata, a request to the API server) is traced through `tracing` as usual: [`Traces::within`] makes it a child.
//!
//! Off by default: then every method returns at once.

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
use tracing::{Subscriber, level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::sampler::Sampler;

pub use opentelemetry::{KeyValue as Attribute, trace::SpanKind as Kind};

/// The target of spans that are made for traces. The log does not show them.
pub const TARGET: &str = "modelupdate_trace";
/// The instrumentation scope of all spans.
const SCOPE: &str = "model-update-eventsource";

/// A span, by its trace and its own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRef {
    /// The trace.
    pub trace: [u8; 16],
    /// The span in it.
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

/// A span that is over.
#[derive(Clone, Debug)]
pub struct FinishedSpan {
    /// Its ids.
    pub id: SpanRef,
    /// The span of the same trace under which it stands; none for the root.
    pub parent: Option<[u8; 8]>,
    /// Its name, of low cardinality.
    pub name: Cow<'static, str>,
    /// Its kind.
    pub kind: SpanKind,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Its attributes.
    pub attributes: Vec<KeyValue>,
    /// What happened in it, and when.
    pub events: Vec<(&'static str, SystemTime, Vec<KeyValue>)>,
    /// Spans that have to do with it.
    pub links: Vec<SpanRef>,
    /// Why it failed, if it did.
    pub error: Option<Cow<'static, str>>,
}

impl FinishedSpan {
    /// An internal span that begins and ends now, to be filled in further.
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

    /// It failed, or found that something had: `event` says what happened, `code` why. Both are one of a few.
    pub fn fail(&mut self, event: &'static str, code: &'static str) {
        self.attributes.push(KeyValue::new("error.type", code));
        self.events.push((event, self.end, vec![KeyValue::new("error.type", code)]));
        self.error = Some(code.into());
    }
}

/// Where spans go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    sampler: Sampler,
    /// Whether consumers are told of their event's trace (`OTEL_PROPAGATORS`).
    propagates: bool,
}

impl Traces {
    /// Spans go to this provider, which was made with [`ChosenIds`] and this sampler.
    pub(super) fn to(provider: SdkTracerProvider, sampler: Sampler, propagates: bool) -> Self {
        let tracer = provider.tracer(SCOPE);
        Self(Some(Arc::new(On { provider, tracer, sampler, propagates })))
    }

    /// Whether there are traces at all.
    pub fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether this trace is one of those that are kept.
    pub fn samples(&self, trace: [u8; 16]) -> bool {
        self.0.as_ref().is_some_and(|on| on.sampler.samples(trace))
    }

    /// Whether a consumer is to be told of this trace, and if so, whether it is kept.
    pub fn propagated(&self, trace: [u8; 16]) -> Option<bool> {
        match &self.0 {
            Some(on) => on.propagates.then(|| on.sampler.samples(trace)),
            None => Some(false),
        }
    }

    /// Records a span that is over, if its trace is kept.
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

    /// Makes whatever is traced while this future runs a child of `parent`, if there is one.
    pub fn within<F: Future>(parent: Option<SpanRef>, future: F) -> WithContext<F> {
        let context = Context::new();
        future.with_context(match parent {
            Some(parent) => context.with_remote_span_context(parent.context(true)),
            None => context,
        })
    }

    /// Whether what happens here is part of a trace.
    pub fn is_within() -> bool {
        Context::current().has_active_span()
    }

    /// The layer by which spans of [`TARGET`] become part of traces. With a filter of its own: what is logged does not
    /// change what is traced.
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

    /// Sends what has not been sent yet, and blocks until then or for this long. To be called when all else is over.
    pub fn flush(&self, timeout: Duration) {
        if let Some(on) = &self.0
            && let Err(error) = on.provider.shutdown_with_timeout(timeout)
        {
            warn!("the last spans could not be sent: {error}");
        }
    }
}

thread_local! {
    static CHOSEN: Cell<Option<SpanRef>> = const { Cell::new(None) };
}

/// Makes the ids of the next span on this thread, for as long as it lives.
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

/// Gives a span the ids that were chosen for it, if any were, else random ones.
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
