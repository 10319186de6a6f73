use opentelemetry_sdk::trace::InMemorySpanExporter;

use super::*;

const TRACE: [u8; 16] = *b"0123456789abcdef";

fn traces(sampler: Sampler) -> (Traces, InMemorySpanExporter) {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .with_id_generator(ChosenIds::default())
        .with_sampler(sampler)
        .build();
    (Traces::to(provider, sampler, true), exporter)
}

#[test]
fn a_span_is_recorded_with_the_ids_times_and_parent_that_it_is_to_have() {
    let (traces, exporter) = traces(Sampler::ALL);
    let id = SpanRef { trace: TRACE, span: *b"rootroot" };
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    traces.record(FinishedSpan { start, ..FinishedSpan::now(id, None, "run") });
    let child = SpanRef::random_in(TRACE);
    traces.record(FinishedSpan {
        links: vec![id],
        error: Some("why".into()),
        ..FinishedSpan::now(child, Some(id.span), "lookup")
    });
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans[0].span_context.trace_id().to_bytes(), TRACE);
    assert_eq!(spans[0].span_context.span_id().to_bytes(), id.span);
    assert_eq!((spans[0].start_time, spans[0].parent_span_id), (start, SpanId::INVALID));
    assert_eq!(spans[1].span_context.span_id().to_bytes(), child.span);
    assert_eq!(spans[1].parent_span_id.to_bytes(), id.span);
    assert_eq!(spans[1].links[0].span_context.span_id().to_bytes(), id.span);
    assert_eq!(spans[1].status, Status::error("why"));
}

#[test]
fn what_is_not_sampled_is_not_recorded_and_a_consumer_is_told_so() {
    let (traces, exporter) = traces(Sampler::NONE);
    traces.record(FinishedSpan::now(SpanRef { trace: TRACE, span: *b"rootroot" }, None, "run"));
    assert!(exporter.get_finished_spans().unwrap().is_empty());
    assert_eq!(traces.propagated(TRACE), Some(false));
}

#[test]
fn chosen_ids_are_for_one_span_only() {
    let (traces, exporter) = traces(Sampler::ALL);
    traces.record(FinishedSpan::now(SpanRef { trace: TRACE, span: *b"rootroot" }, None, "run"));
    let tracing = tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), traces.layer());
    tracing::subscriber::with_default(tracing, || {
        tracing::info_span!(target: TARGET, "own").in_scope(|| {});
        tracing::info_span!("not for traces").in_scope(|| {});
    });
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans.iter().map(|span| span.name.as_ref()).collect::<Vec<_>>(), ["run", "own"]);
    assert_ne!(spans[1].span_context.trace_id().to_bytes(), TRACE);
    assert_ne!(spans[1].span_context.span_id().to_bytes(), *b"rootroot");
}

#[tokio::test]
async fn what_is_traced_within_a_step_is_a_child_of_it() {
    let (traces, exporter) = traces(Sampler::ALL);
    let step = SpanRef { trace: TRACE, span: *b"rootroot" };
    let tracing = tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), traces.layer());
    let _default = tracing::subscriber::set_default(tracing);
    Traces::within(Some(step), async {
        assert!(Traces::is_within());
        tracing::info_span!(target: TARGET, "call").in_scope(|| {});
    })
    .await;
    Traces::within(None, async { assert!(!Traces::is_within()) }).await;
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans[0].span_context.trace_id().to_bytes(), TRACE);
    assert_eq!(spans[0].parent_span_id.to_bytes(), step.span);
}

#[test]
fn off_means_that_nothing_is_done() {
    let off = Traces::default();
    off.record(FinishedSpan::now(SpanRef::random(), None, "run"));
    off.flush(Duration::ZERO);
    assert!(!off.are_on() && !off.samples(TRACE));
    assert!(off.layer::<tracing_subscriber::Registry>().is_none());
    assert_eq!(off.propagated(TRACE), Some(false), "a trace context still says which run it was");
}
