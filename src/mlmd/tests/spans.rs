//! The client spans of calls.

use std::{collections::BTreeMap, fmt, sync::Mutex};

use tonic::Code;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt, registry};

use super::*;
use crate::{
    mlmd::fake::Fault,
    telemetry::{Traces, trace::SpanRef},
};

type Fields = BTreeMap<&'static str, String>;

/// Collects the fields of every span, by the order of their creation.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Fields>>>);

struct Collect<'a>(&'a mut Fields);

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        attributes.record(&mut Collect(spans.entry(id.into_u64()).or_default()));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut spans = self.0.lock().unwrap();
        values.record(&mut Collect(spans.entry(id.into_u64()).or_default()));
    }
}

/// Returns the fields of the span of the only call of a lookup.
async fn span_of_call(env: &TestEnv) -> Fields {
    let spans = Spans::default();
    let _default = tracing::subscriber::set_default(registry().with(spans.clone()));
    let step = SpanRef { trace: *b"0123456789abcdef", span: *b"rootroot" };
    let run = Workflow { run_id: None, ..recurring() };
    drop(Traces::within(Some(step), env.find(&run)).await);
    let spans = spans.0.lock().unwrap();
    let mut calls = spans.values().filter(|fields| fields.contains_key("rpc.method"));
    calls.next().expect("a call").clone()
}

#[tokio::test(start_paused = true)]
async fn a_call_has_the_attributes_of_opentelemetry() {
    let env = TestEnv::new();
    let fields = span_of_call(&env).await;
    let method = "ml_metadata.MetadataStoreService/GetContextByTypeAndName";
    for (field, value) in [
        ("otel.name", method),
        ("otel.kind", "client"),
        ("rpc.system.name", "grpc"),
        ("rpc.method", method),
        ("server.address", "fake"),
        ("server.port", "8080"),
        ("rpc.status_code", "OK"),
    ] {
        assert_eq!(fields[field], value, "{field}");
    }
    assert!(!fields.contains_key("error.type"));
    for (fault, code, error) in [
        (Fault::Status(Code::Unavailable), "UNAVAILABLE", "unavailable"),
        (Fault::Hang, "DEADLINE_EXCEEDED", "timeout"),
    ] {
        env.server.inject(CONTEXT, fault);
        let fields = span_of_call(&env).await;
        assert_eq!((&*fields["rpc.status_code"], &*fields["error.type"]), (code, error));
        assert_eq!(fields["otel.status_code"], "ERROR");
    }
}
