//! Jaeger 1.62 all-in-one, in memory: takes spans over OTLP, and gives traces back as JSON. It has no web page. Ask for
//! it by name: `Peers::with(&["jaeger", …])`.

use serde_json::Value;

use super::{Peers, START, eventually, plain_http, ports::free_port, process::Neighbour};

/// Those of its listeners that nobody here uses; they must not take the ports that they have by default.
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
    process: Neighbour,
    grpc: u16,
    http: u16,
    query: u16,
}

impl Peers {
    /// A Jaeger of the test's own, empty.
    pub async fn jaeger(&self) -> Jaeger {
        let process = Neighbour::new("jaeger", self.program("jaeger"));
        let mut jaeger = Jaeger { process, grpc: free_port(), http: free_port(), query: free_port() };
        let mut args = vec![
            format!("--collector.otlp.grpc.host-port=127.0.0.1:{}", jaeger.grpc),
            format!("--collector.otlp.http.host-port=127.0.0.1:{}", jaeger.http),
            format!("--query.http-server.host-port=127.0.0.1:{}", jaeger.query),
        ];
        args.extend(UNUSED.iter().map(|flag| format!("--{flag}=127.0.0.1:{}", free_port())));
        jaeger.process.set_args(args);
        jaeger.process.start();
        eventually(START, "Jaeger answers", async || {
            assert!(jaeger.process.is_running(), "Jaeger ends as soon as it starts: {}", jaeger.process.log());
            plain_http::get(&format!("{}/api/services", jaeger.query_url())).await
        })
        .await;
        jaeger
    }
}

impl Jaeger {
    /// For `OTEL_EXPORTER_OTLP_ENDPOINT` with the protocol `grpc`.
    pub fn otlp_grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT` with the protocol `http/protobuf`.
    pub fn otlp_http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Where its API is.
    pub fn query_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.query)
    }

    /// The spans of a trace (32 hexadecimal digits), as Jaeger's API gives them; none where it does not know the trace.
    pub async fn spans(&self, trace: &str) -> Vec<Value> {
        let answer = plain_http::get(&format!("{}/api/traces/{trace}", self.query_url())).await;
        // 404 says that the trace is not known, yet.
        let Ok(answer) = answer else { return Vec::new() };
        let answer: Value = serde_json::from_str(&answer).expect("Jaeger answers in JSON");
        answer["data"][0]["spans"].as_array().cloned().unwrap_or_default()
    }

    /// The spans of a service's latest traces.
    pub async fn latest_spans(&self, service: &str) -> Vec<Value> {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("service", service), ("limit", "1000"), ("lookback", "1h")])
            .finish();
        let answer = plain_http::get(&format!("{}/api/traces?{query}", self.query_url())).await;
        let answer: Value = serde_json::from_str(&answer.expect("Jaeger answers")).expect("Jaeger answers in JSON");
        let traces = answer["data"].as_array().cloned().unwrap_or_default();
        traces.iter().filter_map(|trace| trace["spans"].as_array()).flatten().cloned().collect()
    }

    /// SIGKILL; what it knew is lost.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
