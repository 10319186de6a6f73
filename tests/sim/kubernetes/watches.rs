//! Watches.

use std::time::Duration;

use futures::{AsyncBufReadExt as _, Stream, TryStreamExt as _};
use http::Request;
use serde_json::{Value, json};
use test_support::{NewWorkflow, SOON};

use super::{METADATA, World, label};
use crate::on_both;

on_both!(
    an_object_that_enters_the_selection_is_added_and_one_that_leaves_is_deleted,
    a_watch_from_a_version_tells_what_happened_after_it,
    a_watch_from_any_version_begins_with_what_there_is,
    a_watch_of_metadata_is_of_metadata_only,
    a_watch_ends_after_its_time_and_says_before_how_far_it_has_come,
    a_version_that_is_forgotten_is_answered_with_200_and_a_410_as_event,
    a_patch_that_changes_nothing_is_not_told,
);

/// The lines of a watch.
struct Events(std::pin::Pin<Box<dyn Stream<Item = std::io::Result<String>> + Send>>);

impl Events {
    async fn open(world: &World, accept: &str, query: &str) -> Self {
        let path = world.path(&format!("?watch=true&{query}"));
        let request = Request::get(path).header("accept", accept).body(Vec::new()).expect("a request");
        let answer = world.client.request_stream(request).await.expect("a watch is answered with 200");
        Self(Box::pin(answer.lines()))
    }

    async fn next(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(SOON, self.0.try_next()).await.expect("a line in time").expect("a line");
        line.map(|line| serde_json::from_str(&line).expect("JSON"))
    }

    /// The type of the next event, and the name, labels and version of its object.
    async fn told(&mut self) -> (String, String, Value, String) {
        let event = self.next().await.expect("an event");
        let metadata = &event["object"]["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&metadata["resourceVersion"]);
        (text(&event["type"]), text(&metadata["name"]), metadata["labels"].clone(), version)
    }
}

async fn version(world: &World) -> String {
    let list = world.get("?limit=1", "*/*").await.expect("a list");
    list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

async fn an_object_that_enters_the_selection_is_added_and_one_that_leaves_is_deleted(world: World) {
    world.create(&["run"]).await;
    let from = version(&world).await;
    let mut events = Events::open(&world, "*/*", &format!("resourceVersion={from}&labelSelector=in%3Dyes")).await;
    let change = async |patch| {
        let changed = world.patch("run", patch).await.expect("accepted");
        changed["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
    };
    let inside = json!({"l": "run", "in": "yes"});
    let told = |what: &str, version| (what.to_owned(), "run".to_owned(), inside.clone(), version);

    let entered = change(label("in", json!("yes"))).await;
    assert_eq!(events.told().await, told("ADDED", entered));
    let changed = change(json!({"status": {"phase": "Running"}})).await;
    assert_eq!(events.told().await, told("MODIFIED", changed));
    let left = change(label("in", json!("no"))).await;
    // As it was inside, with the version at which it left.
    assert_eq!(events.told().await, told("DELETED", left));
    change(label("in", json!("still-not"))).await;
    let back = change(label("in", json!("yes"))).await;
    assert_eq!(events.told().await, told("ADDED", back.clone()));
    world.workflows.delete("run").await;
    let (what, name, labels, at) = events.told().await;
    assert_eq!((what.as_str(), name.as_str(), labels), ("DELETED", "run", inside));
    assert!(number(&at) > number(&back), "a deletion has a version of its own");
}

fn number(version: &str) -> u64 {
    version.parse().expect("versions are numbers")
}

async fn a_watch_from_a_version_tells_what_happened_after_it(world: World) {
    world.create(&["a"]).await;
    let from = version(&world).await;
    world.create(&["b"]).await;
    world.workflows.delete("a").await;
    let mut events = Events::open(&world, "*/*", &format!("resourceVersion={from}")).await;
    let (what, name, ..) = events.told().await;
    assert_eq!((what.as_str(), name.as_str()), ("ADDED", "b"));
    let (what, name, ..) = events.told().await;
    assert_eq!((what.as_str(), name.as_str()), ("DELETED", "a"));
    world.create(&["c"]).await;
    let (what, name, ..) = events.told().await;
    assert_eq!((what.as_str(), name.as_str()), ("ADDED", "c"));
}

async fn a_watch_from_any_version_begins_with_what_there_is(world: World) {
    world.create(&["a", "b"]).await;
    version(&world).await;
    for query in ["resourceVersion=0", "resourceVersion="] {
        let mut events = Events::open(&world, "*/*", query).await;
        let mut found = Vec::new();
        for _ in 0..2 {
            let (what, name, ..) = events.told().await;
            found.push((what, name));
        }
        found.sort();
        assert_eq!(found, ["a", "b"].map(|name| ("ADDED".to_owned(), name.to_owned())));
    }
}

async fn a_watch_of_metadata_is_of_metadata_only(world: World) {
    let from = version(&world).await;
    let mut events = Events::open(&world, METADATA, &format!("resourceVersion={from}")).await;
    world.workflows.create(NewWorkflow::tfx_v1("run", "penguin").phase("Running")).await;
    let event = events.next().await.expect("an event");
    let object = &event["object"];
    let mut keys: Vec<_> = object.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["apiVersion", "kind", "metadata"]);
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
}

async fn a_watch_ends_after_its_time_and_says_before_how_far_it_has_come(world: World) {
    world.create(&["a", "b"]).await;
    let from = version(&world).await;
    world.create(&["c"]).await;
    let reached = version(&world).await;
    let query = format!("resourceVersion={from}&timeoutSeconds=5&allowWatchBookmarks=true&labelSelector=nobody");
    let begin = std::time::Instant::now();
    let mut events = Events::open(&world, METADATA, &query).await;
    let mut bookmarks = Vec::new();
    while let Some(event) = events.next().await {
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("BOOKMARK"), &json!("PartialObjectMetadata")));
        bookmarks.push(event["object"]["metadata"]["resourceVersion"].as_str().expect("a version").to_owned());
    }
    assert!(begin.elapsed() >= Duration::from_secs(5), "not before its time");
    let last = bookmarks.last().expect("a bookmark");
    assert!(number(last) >= number(&reached), "{bookmarks:?}");
}

async fn a_version_that_is_forgotten_is_answered_with_200_and_a_410_as_event(world: World) {
    let mut events = Events::open(&world, METADATA, "resourceVersion=1").await;
    let event = events.next().await.expect("an event");
    let status = &event["object"];
    assert_eq!((&event["type"], &status["kind"]), (&json!("ERROR"), &json!("Status")));
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));
    let message = status["message"].as_str().expect("a message");
    assert!(message.starts_with("too old resource version: 1 ("), "{message}");
    assert_eq!(events.next().await, None);
}

async fn a_patch_that_changes_nothing_is_not_told(world: World) {
    world.create(&["run"]).await;
    let from = version(&world).await;
    let mut events = Events::open(&world, "*/*", &format!("resourceVersion={from}")).await;
    world.patch("run", label("l", json!("run"))).await.expect("accepted");
    world.patch("run", label("l", json!("other"))).await.expect("accepted");
    let (what, _, labels, _) = events.told().await;
    assert_eq!((what.as_str(), labels), ("MODIFIED", json!({"l": "other"})));
}
