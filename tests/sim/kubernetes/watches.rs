//! Watches.

use std::time::Duration;

use futures::{AsyncBufReadExt as _, Stream, TryStreamExt as _};
use http::Request;
use serde_json::{Value, json};
use test_support::{NewWorkflow, SOON};

use super::{METADATA, TestEnv, label, version};
use crate::on_both;

on_both!(
    entering_a_selection_is_added_and_leaving_it_is_deleted,
    a_watch_from_a_version_has_the_events_after_it,
    a_watch_has_metadata_only,
    a_watch_ends_after_its_timeout,
    a_forgotten_version_is_answered_with_200_and_a_410_event,
    a_patch_without_an_effect_is_no_event,
);

/// The lines of a watch.
struct Events(std::pin::Pin<Box<dyn Stream<Item = std::io::Result<String>> + Send>>);

impl Events {
    async fn open(env: &TestEnv, accept: &str, query: &str) -> Self {
        let path = env.path(&format!("?watch=true&{query}"));
        let request = Request::get(path).header("accept", accept).body(Vec::new()).expect("a request");
        let answer = env.client.request_stream(request).await.expect("a watch is answered with 200");
        Self(Box::pin(answer.lines()))
    }

    async fn next(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(SOON, self.0.try_next()).await.expect("a line in time").expect("a line");
        line.map(|line| serde_json::from_str(&line).expect("JSON"))
    }

    /// The type of the next event, and the name, labels and version of its object.
    async fn next_event(&mut self) -> (String, String, Value, u64) {
        let event = self.next().await.expect("an event");
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        (text(&event["type"]), text(&metadata["name"]), metadata["labels"].clone(), version(object))
    }
}

async fn current_version(env: &TestEnv) -> u64 {
    version(&env.get("?limit=1", "*/*").await.expect("a list"))
}

async fn entering_a_selection_is_added_and_leaving_it_is_deleted(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    let from = current_version(&env).await;
    let mut events = Events::open(&env, "*/*", &format!("resourceVersion={from}&labelSelector=in%3Dyes")).await;
    let change = async |patch| version(&env.patch("run", patch).await.expect("accepted"));
    let inside = json!({"l": "run", "in": "yes"});
    let expected = |event: &str, version| (event.to_owned(), "run".to_owned(), inside.clone(), version);

    let entered = change(label("in", json!("yes"))).await;
    assert_eq!(events.next_event().await, expected("ADDED", entered));
    let changed = change(json!({"status": {"phase": "Running"}})).await;
    assert_eq!(events.next_event().await, expected("MODIFIED", changed));
    let left = change(label("in", json!("no"))).await;
    // The last content inside the selection, with the version of the change.
    assert_eq!(events.next_event().await, expected("DELETED", left));
    change(label("in", json!("still-not"))).await;
    let back = change(label("in", json!("yes"))).await;
    assert_eq!(events.next_event().await, expected("ADDED", back));
    env.delete("run").await.expect("deleted");
    let (event, name, labels, version) = events.next_event().await;
    assert_eq!((event.as_str(), name.as_str(), labels), ("DELETED", "run", inside));
    assert!(version > back, "a deletion has its own version");
}

async fn a_watch_from_a_version_has_the_events_after_it(env: TestEnv) {
    env.create_labelled(&["a"]).await;
    let from = current_version(&env).await;
    env.create_labelled(&["b"]).await;
    env.delete("a").await.expect("deleted");
    let mut events = Events::open(&env, "*/*", &format!("resourceVersion={from}")).await;
    let (event, name, ..) = events.next_event().await;
    assert_eq!((event.as_str(), name.as_str()), ("ADDED", "b"));
    let (event, name, ..) = events.next_event().await;
    assert_eq!((event.as_str(), name.as_str()), ("DELETED", "a"));
    env.create_labelled(&["c"]).await;
    let (event, name, ..) = events.next_event().await;
    assert_eq!((event.as_str(), name.as_str()), ("ADDED", "c"));
}

async fn a_watch_has_metadata_only(env: TestEnv) {
    let from = current_version(&env).await;
    let mut events = Events::open(&env, METADATA, &format!("resourceVersion={from}")).await;
    env.create(NewWorkflow::tfx_v1("run", "penguin").phase("Running")).await.expect("created");
    let event = events.next().await.expect("an event");
    let object = &event["object"];
    let mut keys: Vec<_> = object.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["apiVersion", "kind", "metadata"]);
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
}

async fn a_watch_ends_after_its_timeout(env: TestEnv) {
    env.create_labelled(&["a"]).await;
    let from = current_version(&env).await;
    let start = std::time::Instant::now();
    let query = format!("resourceVersion={from}&timeoutSeconds=2&labelSelector=absent");
    let mut events = Events::open(&env, METADATA, &query).await;
    assert_eq!(events.next().await, None);
    assert!(start.elapsed() >= Duration::from_secs(2), "too early");
}

async fn a_forgotten_version_is_answered_with_200_and_a_410_event(env: TestEnv) {
    let mut events = Events::open(&env, METADATA, "resourceVersion=1").await;
    let event = events.next().await.expect("an event");
    let status = &event["object"];
    assert_eq!((&event["type"], &status["kind"]), (&json!("ERROR"), &json!("Status")));
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));
    let message = status["message"].as_str().expect("a message");
    assert!(message.starts_with("too old resource version: 1 ("), "{message}");
    assert_eq!(events.next().await, None);
}

async fn a_patch_without_an_effect_is_no_event(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    let from = current_version(&env).await;
    let mut events = Events::open(&env, "*/*", &format!("resourceVersion={from}")).await;
    env.patch("run", label("l", json!("run"))).await.expect("accepted");
    env.patch("run", label("l", json!("other"))).await.expect("accepted");
    let (event, _, labels, _) = events.next_event().await;
    assert_eq!((event.as_str(), labels), ("MODIFIED", json!({"l": "other"})));
}
