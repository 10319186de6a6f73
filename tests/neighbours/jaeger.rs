//! Jaeger, which gives back what it was sent. Built only when somebody asks (about two minutes):
//! `cargo test --test neighbours -- --ignored jaeger`.

use serde_json::json;

use crate::peers::{Peers, SOON, eventually, post_json};

#[tokio::test]
#[ignore = "builds Jaeger, which takes minutes"]
async fn jaeger_gives_back_the_spans_of_a_trace() {
    let Some(peers) = Peers::with(&["jaeger"]).await else { return };
    let jaeger = peers.jaeger().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    assert!(jaeger.spans(trace).await.is_empty());
    let span = json!({
        "traceId": trace, "spanId": "b7ad6b7169203331", "name": "run", "kind": 1,
        "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000001000000000",
    });
    let spans = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]});
    post_json(&format!("{}/v1/traces", jaeger.otlp_http_url()), &spans).await.expect("the spans are taken");
    let spans = eventually(SOON, "the span is there", async || {
        let spans = jaeger.spans(trace).await;
        (!spans.is_empty()).then_some(spans)
    })
    .await;
    assert_eq!((spans.len(), &spans[0]["operationName"]), (1, &json!("run")));
}
