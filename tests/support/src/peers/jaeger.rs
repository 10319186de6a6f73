//! Jaeger all-in-one, in memory and without its web page: receives spans over OTLP and returns traces as JSON.

use serde_json::Value;

use super::{Peers, START};
use crate::{ChildProcess, eventually, free_port, plain_http};

/// Listeners that tests do not use, moved away from their default ports.
const UNUSED: [&str; 8] = [
    "collector.grpc-server.host-port",
    "collector.http-server.host-port",
    "http-server.host-port",
    "processor.jaeger-binary.server-host-port",
    "processor.jaeger-compact.server-host-port",
    "processor.zipkin-compact.server-host-port",
    "query.grpc-server.host-port",
    "admin.http.host-port",
];

/// A running Jaeger.
#[derive(Debug)]
pub struct Jaeger {
    /// Ends with this value.
    _process: ChildProcess,
    grpc: u16,
    http: u16,
    query: u16,
}

impl Peers {
    /// Starts an empty Jaeger.
    pub async fn jaeger(&self) -> Jaeger {
        let mut process = ChildProcess::new("jaeger", self.program("jaeger"));
        let (grpc, http, query) = (free_port(), free_port(), free_port());
        let mut args = vec![
            format!("--collector.otlp.grpc.host-port=127.0.0.1:{grpc}"),
            format!("--collector.otlp.http.host-port=127.0.0.1:{http}"),
            format!("--query.http-server.host-port=127.0.0.1:{query}"),
        ];
        args.extend(UNUSED.iter().map(|flag| format!("--{flag}=127.0.0.1:{}", free_port())));
        process.set_args(args);
        process.start();
        eventually(START, "Jaeger responds", async || {
            assert!(process.is_running(), "Jaeger has ended: {}", process.log());
            plain_http::get(&format!("http://127.0.0.1:{query}/api/services")).await
        })
        .await;
        Jaeger { _process: process, grpc, http, query }
    }
}

impl Jaeger {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` for the protocol `grpc`.
    pub fn otlp_grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// `OTEL_EXPORTER_OTLP_ENDPOINT` for the protocol `http/protobuf`.
    pub fn otlp_http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    fn traces_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/traces", self.query)
    }

    /// Returns the spans of a trace (32 hexadecimal digits), empty if Jaeger does not know it.
    pub async fn spans(&self, trace: &str) -> Vec<Value> {
        // An unknown trace is a 404.
        let Ok(traces) = plain_http::get(&format!("{}/{trace}", self.traces_url())).await else { return Vec::new() };
        spans(&traces)
    }

    /// Returns the spans of a service's latest traces.
    pub async fn latest_spans(&self, service: &str) -> Vec<Value> {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("service", service), ("limit", "1000"), ("lookback", "1h")])
            .finish();
        spans(&plain_http::get(&format!("{}?{query}", self.traces_url())).await.expect("Jaeger responds"))
    }
}

/// The spans of all traces in a response.
fn spans(traces: &str) -> Vec<Value> {
    let traces: Value = serde_json::from_str(traces).expect("Jaeger responds with JSON");
    let traces = traces["data"].as_array().cloned().unwrap_or_default();
    traces.iter().filter_map(|trace| trace["spans"].as_array()).flatten().cloned().collect()
}
