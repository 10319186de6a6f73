//! The demo, run as a user does.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::Command,
    time::timeout,
};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-update-eventsource"));
    command.arg("demo").args(arguments).kill_on_drop(true);
    // Without TLS, the demo needs no root certificates.
    command.env("SSL_CERT_FILE", "/dev/null").env_remove("SSL_CERT_DIR");
    command
}

async fn finished(mut command: Command) -> (Vec<Value>, String, Option<i32>) {
    let output = timeout(Duration::from_secs(60), command.output()).await.expect("an end without a signal").unwrap();
    let events = String::from_utf8(output.stdout).unwrap();
    let events = events.lines().map(|line| serde_json::from_str(line).expect("an event is a line of JSON")).collect();
    (events, String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[tokio::test]
async fn every_run_has_one_event_and_its_steps_are_described() {
    let (events, steps, status) = finished(demo(&["--runs", "2"])).await;
    assert_eq!(status, Some(0), "{steps}");
    assert_eq!(events.len(), 2, "{steps}");
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event["pipelineName"], "penguin-pipeline");
        let location = format!("gs://models/penguin-pipeline/Pusher/pushed_model/{}", n + 1);
        assert_eq!(event["servingModelArtifacts"][0]["location"], location);
    }
    for step in
        ["subscribes", "submits a run", "starts the run", "pushes a model", "Succeeded", "receives the event", "marks"]
    {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    assert!(!steps.contains("WARN") && !steps.contains('\x1b'), "{steps}");
}

#[tokio::test]
async fn the_namespace_pipeline_and_location_can_be_chosen() {
    let arguments = ["--runs", "1", "--namespace", "team-a", "--pipeline", "My Pipeline", "--location", "s3://m/7"];
    let (events, steps, status) = finished(demo(&arguments)).await;
    assert_eq!(status, Some(0), "{steps}");
    assert_eq!(events[0]["pipelineName"], "My Pipeline");
    assert_eq!(events[0]["servingModelArtifacts"][0]["location"], "s3://m/7");
    assert!(steps.contains("kfpNamespace: team-a"), "{steps}");
}

/// SIGTERM ends the process within 10 s, also if the OTLP collector accepts connections and never answers.
#[tokio::test]
async fn a_silent_collector_does_not_delay_the_exit_beyond_10_s() {
    for protocol in ["http/protobuf", "grpc"] {
        // The kernel accepts the connections.
        let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut command = demo(&["--forever"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.local_addr().unwrap()));
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        let mut program = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut events = BufReader::new(program.stdout.take().unwrap()).lines();
        let event = timeout(Duration::from_secs(60), events.next_line()).await.expect("an event in time").unwrap();
        assert!(event.is_some(), "{protocol}");

        let pid = rustix::process::Pid::from_raw(program.id().unwrap().cast_signed()).unwrap();
        let start = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = timeout(Duration::from_secs(60), program.wait()).await.expect("an exit").unwrap();
        assert_eq!(status.code(), Some(0), "{protocol}");
        assert!(start.elapsed() < Duration::from_secs(10), "{protocol}: {:?}", start.elapsed());
    }
}
