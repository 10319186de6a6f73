//! The demo as a newcomer starts it.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::time::Duration;

use serde_json::Value;
use tokio::{process::Command, time::timeout};

async fn demo(arguments: &[&str]) -> (Vec<Value>, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-update-eventsource"));
    command.arg("demo").args(arguments).kill_on_drop(true);
    // Nothing here is encrypted, and a machine without root certificates will do.
    command.env("SSL_CERT_FILE", "/dev/null").env_remove("SSL_CERT_DIR");
    let output = timeout(Duration::from_secs(60), command.output()).await.expect("it ends by itself").unwrap();
    let events = String::from_utf8(output.stdout).unwrap();
    let events = events.lines().map(|line| serde_json::from_str(line).expect("an event is a line of JSON")).collect();
    (events, String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[tokio::test]
async fn it_announces_each_run_once_tells_the_steps_and_ends_by_itself() {
    let (events, told, status) = demo(&["--runs", "2"]).await;
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(events.len(), 2, "{told}");
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event["pipelineName"], "penguin-pipeline");
        let location = format!("gs://models/penguin-pipeline/Pusher/pushed_model/{}", n + 1);
        assert_eq!(event["servingModelArtifacts"][0]["location"], location);
    }
    for step in ["subscribes", "submits a run", "runs it", "pushes a model", "Succeeded", "gets the event", "marks"] {
        assert!(told.contains(step), "{step}: {told}");
    }
    assert!(!told.contains("WARN") && !told.contains('\x1b'), "{told}");
}

#[tokio::test]
async fn it_announces_what_it_is_told_to() {
    let arguments = ["--runs", "1", "--namespace", "team-a", "--pipeline", "My Pipeline", "--location", "s3://m/7"];
    let (events, told, status) = demo(&arguments).await;
    assert_eq!(status, Some(0), "{told}");
    assert_eq!(events[0]["pipelineName"], "My Pipeline");
    assert_eq!(events[0]["servingModelArtifacts"][0]["location"], "s3://m/7");
    assert!(told.contains("kfpNamespace: team-a"), "{told}");
}
