//! The Sensor that posts a message about each failed run.

use serde_json::{Value, json};
use test_support::{PIPELINE, examples, manifests};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::{DELIVERY, Harness};

/// Receives the bodies of requests to a webhook, which answers each.
async fn webhook() -> (String, mpsc::UnboundedReceiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/messages", listener.local_addr().unwrap());
    let (sender, bodies) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            sender.send(body(stream).await).ok();
        }
    });
    (url, bodies)
}

/// Reads one request and answers it.
async fn body(mut stream: TcpStream) -> Value {
    let mut reader = BufReader::new(&mut stream);
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line).await.unwrap() > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn each_failed_run_posts_a_message() {
    let harness = Harness::start().await;
    let namespace = harness.cluster.namespace("alerting").await;
    let server = harness.serve().await;
    let read =
        |file: &str, kind: &str| examples::find(&manifests(&examples::text(file).replace("team-a", &namespace)), kind);
    let (url, mut messages) = webhook().await;
    let mut sensor = read("sensor/alert-failed-runs.yaml", "Sensor");
    sensor["spec"]["triggers"][0]["template"]["http"]["url"] = json!(url);
    let argo = harness.argo(&read("eventsource/failed-runs.yaml", "EventSource"), &[&sensor]).await;

    harness.succeed(&namespace, PIPELINE, "alerting-success").await;
    let workflows = harness.cluster.workflows(&namespace).await;
    for (run, phase) in [("alerting-1", "Failed"), ("alerting-2", "Error")] {
        harness.create_run(&namespace, PIPELINE, run).await;
        workflows.set_phase(run, phase).await;
        let message = timeout(DELIVERY, messages.recv()).await.expect("a message in time").unwrap();
        let text = message["text"].as_str().unwrap();
        let begin = format!("The run {run} of the pipeline {PIPELINE} in {namespace} failed at 2");
        assert!(text.starts_with(&begin) && text.ends_with("Z."), "{message}");
        harness.marked(&namespace, run, "alerts").await;
    }
    argo.triggered(2).await;
    argo.received(2).await;
    assert!(messages.try_recv().is_err(), "the run that succeeded posts nothing");
    server.stop().await;
}
