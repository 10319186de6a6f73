//! Creations, patches and deletions.

use http::Method;
use serde_json::{Value, json};

use super::{METADATA, World, fields, label, numbers, outcome};
use crate::on_both;

on_both!(
    a_name_is_given_or_generated_and_taken_once,
    a_new_object_is_what_it_says_it_is,
    a_patch_with_the_objects_own_uid_is_accepted,
    a_patch_with_another_uid_is_invalid,
    a_patch_of_what_is_not_there_is_not_found,
    a_patch_of_another_version_is_a_conflict_whatever_else_is_wrong,
    a_patch_must_keep_name_namespace_and_version,
    a_patch_counts_a_version_if_it_changes_anything_and_a_generation_if_it_changes_more_than_metadata,
    null_removes_and_what_is_empty_is_left_out,
    what_is_the_servers_own_stays_as_it_is,
    labels_and_annotations_must_be_such,
    what_is_no_merge_patch_is_refused,
    the_answer_to_a_patch_may_be_metadata_only,
    a_deletion_says_what_it_deleted_and_works_once,
    unknown_paths_are_not_found,
);

fn workflow(metadata: Value) -> String {
    json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata}).to_string()
}

async fn post(world: &World, body: &str) -> Result<Value, kube::core::Status> {
    world.send_json(Method::POST, "", "application/json", body).await
}

async fn a_name_is_given_or_generated_and_taken_once(world: World) {
    post(&world, &workflow(json!({"name": "run"}))).await.expect("created");
    let taken = post(&world, &workflow(json!({"name": "run"}))).await.expect_err("taken");
    assert_eq!(outcome(&taken), (409, "AlreadyExists", "workflows.argoproj.io \"run\" already exists"));

    let generated = post(&world, &workflow(json!({"generateName": "run-"}))).await.expect("created");
    let name = generated["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("run-") && name.len() == 9, "{name}");
    assert_eq!(generated["metadata"]["generateName"], "run-");

    let nameless = post(&world, &workflow(json!({}))).await.expect_err("nameless");
    let message =
        "Workflow.argoproj.io \"\" is invalid: metadata.name: Required value: name or generateName is required";
    assert_eq!((outcome(&nameless), fields(&nameless)), ((422, "Invalid", message), vec!["metadata.name"]));
    let odd = post(&world, &workflow(json!({"name": "A_b"}))).await.expect_err("no name");
    assert_eq!((odd.code, fields(&odd)), (422, vec!["metadata.name"]));
}

async fn a_new_object_is_what_it_says_it_is(world: World) {
    let uid = "00000000-0000-0000-0000-000000000000";
    let created = post(&world, &workflow(json!({"name": "run", "uid": uid, "generation": 7}))).await.expect("created");
    assert_ne!(created["metadata"]["uid"], uid, "the server gives it");
    assert_eq!(numbers(&created).1, 1);
    assert_eq!(created["metadata"]["namespace"], world.namespace);

    let elsewhere = post(&world, &workflow(json!({"name": "b", "namespace": "elsewhere"}))).await.expect_err("no");
    let message = "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!(outcome(&elsewhere), (400, "BadRequest", message));
    let kind = workflow(json!({"name": "b"})).replace("Workflow", "Workflows");
    assert_eq!(fields(&post(&world, &kind).await.expect_err("no")), ["kind"]);
    assert_eq!(post(&world, "{").await.expect_err("no").code, 400);
}

async fn a_patch_with_the_objects_own_uid_is_accepted(world: World) {
    let created = post(&world, &workflow(json!({"name": "run"}))).await.expect("created");
    let uid = &created["metadata"]["uid"];
    let patched = world.patch("run", json!({"metadata": {"uid": uid, "annotations": {"mark": uid}}})).await;
    assert_eq!(&patched.expect("accepted")["metadata"]["annotations"]["mark"], uid);
}

async fn a_patch_with_another_uid_is_invalid(world: World) {
    world.create(&["run"]).await;
    let patch = json!({"metadata": {"uid": "another", "annotations": {"a": "b"}}});
    let refusal = world.patch("run", patch).await.expect_err("another");
    let message =
        "Workflow.argoproj.io \"run\" is invalid: metadata.uid: Invalid value: \"another\": field is immutable";
    assert_eq!((outcome(&refusal), fields(&refusal)), ((422, "Invalid", message), vec!["metadata.uid"]));
    let details = refusal.details.expect("details");
    assert_eq!((&*details.name, &*details.group, &*details.kind), ("run", "argoproj.io", "Workflow"));
    assert!(world.get("/run", "*/*").await.expect("it is there")["metadata"].get("annotations").is_none());
}

async fn a_patch_of_what_is_not_there_is_not_found(world: World) {
    let refusal = world.patch("nobody", label("a", json!("b"))).await.expect_err("nobody");
    assert_eq!(outcome(&refusal), (404, "NotFound", "workflows.argoproj.io \"nobody\" not found"));
    let details = refusal.details.expect("details");
    assert_eq!((&*details.name, &*details.group, &*details.kind), ("nobody", "argoproj.io", "workflows"));
}

async fn a_patch_of_another_version_is_a_conflict_whatever_else_is_wrong(world: World) {
    world.create(&["run"]).await;
    let version = world.get("/run", "*/*").await.expect("it is there")["metadata"]["resourceVersion"].clone();
    let own = world.patch("run", json!({"metadata": {"resourceVersion": version, "annotations": {"a": "b"}}})).await;
    own.expect("this was its version");
    for uid in [json!("another"), Value::Null] {
        let patch = json!({"metadata": {"resourceVersion": version, "uid": uid, "annotations": {"a": "c"}}});
        let refusal = world.patch("run", patch).await.expect_err("this was its version before");
        let message = "Operation cannot be fulfilled on workflows.argoproj.io \"run\": the object has been modified; \
                       please apply your changes to the latest version and try again";
        assert_eq!(outcome(&refusal), (409, "Conflict", message));
    }
}

async fn a_patch_must_keep_name_namespace_and_version(world: World) {
    world.create(&["run"]).await;
    let refusal = world.patch("run", json!({"metadata": {"name": "other"}})).await.expect_err("no");
    let message = "the name of the object (other) does not match the name on the URL (run)";
    assert_eq!(outcome(&refusal), (400, "BadRequest", message));
    let refusal = world.patch("run", json!({"metadata": {"namespace": "other"}})).await.expect_err("no");
    assert_eq!((refusal.code, &*refusal.reason), (400, "BadRequest"));
    let refusal = world.patch("run", json!({"metadata": {"resourceVersion": null}})).await.expect_err("no");
    assert_eq!((refusal.code, fields(&refusal)), (422, vec!["metadata.resourceVersion"]));
    let refusal = world.patch("run", json!({"kind": "Flow"})).await.expect_err("no");
    assert_eq!((refusal.code, fields(&refusal)), (422, vec!["kind"]));
}

async fn a_patch_counts_a_version_if_it_changes_anything_and_a_generation_if_it_changes_more_than_metadata(
    world: World,
) {
    world.create(&["run"]).await;
    let created = world.get("/run", "*/*").await.expect("it is there");
    let annotated = world.patch("run", json!({"metadata": {"annotations": {"a": "b"}}})).await.expect("accepted");
    assert_ne!(numbers(&annotated).0, numbers(&created).0);
    assert_eq!(numbers(&annotated).1, 1);
    for nothing in
        [json!({}), json!({"metadata": {"annotations": {"a": "b", "absent": null}}}), json!({"absent": null})]
    {
        let same = world.patch("run", nothing).await.expect("accepted");
        assert_eq!(numbers(&same), numbers(&annotated));
    }
    let phase = world.patch("run", json!({"status": {"phase": "Running"}})).await.expect("accepted");
    assert_ne!(numbers(&phase).0, numbers(&annotated).0);
    assert_eq!(numbers(&phase).1, 2);
}

async fn null_removes_and_what_is_empty_is_left_out(world: World) {
    world.create(&["run"]).await;
    let entry = json!({"metadata": {"annotations": {"a": ""}}});
    assert_eq!(world.patch("run", entry).await.expect("accepted")["metadata"]["annotations"], json!({"a": ""}));
    let removed = world.patch("run", json!({"metadata": {"annotations": {"a": null}, "labels": null}})).await;
    let metadata = &removed.expect("accepted")["metadata"];
    assert!(metadata.get("annotations").is_none() && metadata.get("labels").is_none(), "{metadata}");
}

async fn what_is_the_servers_own_stays_as_it_is(world: World) {
    world.create(&["run"]).await;
    let before = world.get("/run", "*/*").await.expect("it is there");
    let own = json!({"uid": null, "creationTimestamp": "2020-01-01T00:00:00Z", "generation": 77, "nonsense": "x"});
    let after = world.patch("run", json!({"metadata": own})).await.expect("accepted");
    assert_eq!(after["metadata"], before["metadata"]);
}

async fn labels_and_annotations_must_be_such(world: World) {
    world.create(&["run"]).await;
    let annotation = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}});
    let refusal = world.patch("run", label("a", json!("x y"))).await.expect_err("no label");
    assert_eq!((refusal.code, fields(&refusal)), (422, vec!["metadata.labels"]));
    let refusal = world.patch("run", annotation("a b/c/d", json!("1"))).await.expect_err("no key");
    assert_eq!((refusal.code, fields(&refusal)), (422, vec!["metadata.annotations"]));
    let refusal = world.patch("run", annotation("a", json!(1))).await.expect_err("no text");
    assert_eq!((refusal.code, &*refusal.reason), (422, "Invalid"));
    world.patch("run", annotation("Example.COM/Key_1.2", json!("any text, and more\n"))).await.expect("accepted");
}

async fn what_is_no_merge_patch_is_refused(world: World) {
    world.create(&["run"]).await;
    for body in ["{", "[]", "null", "\"text\""] {
        let refusal = world.send_json(Method::PATCH, "/run", "application/merge-patch+json", body).await;
        assert_eq!(refusal.expect_err("no patch").code, 400, "{body}");
    }
    let refusal = world.send_json(Method::PATCH, "/run", "text/plain", "{}").await.expect_err("text");
    assert_eq!((refusal.code, &*refusal.reason), (415, "UnsupportedMediaType"));
}

async fn the_answer_to_a_patch_may_be_metadata_only(world: World) {
    world.create(&["run"]).await;
    let request = http::Request::patch(world.path("/run"))
        .header("accept", METADATA)
        .header("content-type", "application/merge-patch+json")
        .body(label("a", json!("b")).to_string().into_bytes());
    let answer = world.send(request.expect("a request")).await.expect("accepted");
    let mut keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["apiVersion", "kind", "metadata"]);
    assert_eq!((&answer["kind"], &answer["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
    assert_eq!(answer["metadata"]["labels"]["a"], "b");
}

async fn a_deletion_says_what_it_deleted_and_works_once(world: World) {
    world.create(&["run"]).await;
    let uid = world.get("/run", "*/*").await.expect("it is there")["metadata"]["uid"].clone();
    let delete = async || world.send_json(Method::DELETE, "/run", "application/json", "{}").await;
    let deleted = delete().await.expect("deleted");
    let details = json!({"name": "run", "group": "argoproj.io", "kind": "workflows", "uid": uid});
    assert_eq!((&deleted["status"], &deleted["details"]), (&json!("Success"), &details));
    assert_eq!(delete().await.expect_err("gone").code, 404);
    assert_eq!(world.get("/run", "*/*").await.expect_err("gone").reason, "NotFound");
}

async fn unknown_paths_are_not_found(world: World) {
    let request = http::Request::get("/apis/argoproj.io/v1alpha1/flows").body(Vec::new()).expect("a request");
    let refusal = world.send(request).await.expect_err("no such thing");
    assert_eq!(refusal.code, 404);
    assert!(refusal.message.contains("404 page not found"), "{refusal:?}");
}
