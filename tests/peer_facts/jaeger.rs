//! Jaeger returns the spans that it received.

use serde_json::json;
use test_support::{Peers, SOON, eventually, plain_http};

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn jaeger_returns_the_spans_of_a_trace() {
    let peers = Peers::with(&["jaeger"]).await;
    let jaeger = peers.jaeger().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    assert!(jaeger.spans(trace).await.is_empty());
    let span = json!({
        "traceId": trace, "spanId": "b7ad6b7169203331", "name": "run", "kind": 1,
        "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000001000000000",
    });
    let spans = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]});
    plain_http::post_json(&format!("{}/v1/traces", jaeger.otlp_http_url()), &spans).await.expect("accepted");
    let spans = eventually(SOON, "the span", async || {
        let spans = jaeger.spans(trace).await;
        (!spans.is_empty()).then_some(spans)
    })
    .await;
    assert_eq!((spans.len(), &spans[0]["operationName"]), (1, &json!("run")));
}
