//! Creations, patches and deletions.

use http::Method;
use serde_json::{Value, json};
use test_support::NewWorkflow;

use super::{MERGE_PATCH, METADATA, TestEnv, label, outcome, version};
use crate::on_both;

on_both!(
    a_name_is_given_or_generated_and_unique,
    the_server_sets_namespace_uid_and_creation_time,
    a_patch_with_the_objects_own_uid_is_accepted,
    a_patch_with_the_uid_of_another_object_is_invalid,
    a_patch_of_an_absent_object_is_not_found,
    a_patch_of_another_version_is_a_conflict,
    only_a_patch_with_an_effect_changes_the_version,
    null_removes_and_empty_maps_are_omitted,
    a_patch_that_is_no_object_is_refused,
    the_answer_to_a_patch_has_metadata_only,
    an_object_is_deleted_once,
);

async fn a_name_is_given_or_generated_and_unique(env: TestEnv) {
    env.create(NewWorkflow::named("run")).await.expect("created");
    let refusal = env.create(NewWorkflow::named("run")).await.expect_err("a duplicate name");
    assert_eq!(outcome(&refusal), (409, "AlreadyExists", "workflows.argoproj.io \"run\" already exists"));

    let generated = env.create(NewWorkflow::generated("run-")).await.expect("created");
    let name = generated["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("run-") && name.len() == 9, "{name}");
    assert_eq!(generated["metadata"]["generateName"], "run-");
}

async fn the_server_sets_namespace_uid_and_creation_time(env: TestEnv) {
    let created = env.create(NewWorkflow::named("run")).await.expect("created");
    let metadata = &created["metadata"];
    assert_eq!(metadata["namespace"], env.namespace);
    assert!(uuid::Uuid::try_parse(metadata["uid"].as_str().expect("a UID")).is_ok(), "{metadata}");
    let time = metadata["creationTimestamp"].as_str().expect("a time");
    assert!(time.len() == "2026-01-01T00:00:00Z".len() && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
}

async fn a_patch_with_the_objects_own_uid_is_accepted(env: TestEnv) {
    let created = env.create(NewWorkflow::named("run")).await.expect("created");
    let uid = &created["metadata"]["uid"];
    let patched = env.patch("run", json!({"metadata": {"uid": uid, "annotations": {"mark": uid}}})).await;
    assert_eq!(&patched.expect("accepted")["metadata"]["annotations"]["mark"], uid);
}

/// Also with the UID of a deleted object of the same name.
async fn a_patch_with_the_uid_of_another_object_is_invalid(env: TestEnv) {
    let deleted = env.create(NewWorkflow::named("run")).await.expect("created");
    env.delete("run").await.expect("deleted");
    env.create_labelled(&["run"]).await;
    for uid in [deleted["metadata"]["uid"].as_str().expect("a UID"), "another"] {
        let patch = json!({"metadata": {"uid": uid, "annotations": {"a": "b"}}});
        let refusal = env.patch("run", patch).await.expect_err("another object");
        let message = format!(
            "Workflow.argoproj.io \"run\" is invalid: metadata.uid: Invalid value: \"{uid}\": field is immutable"
        );
        assert_eq!(outcome(&refusal), (422, "Invalid", &*message));
        let details = refusal.details.expect("details");
        assert_eq!((&*details.name, &*details.group, &*details.kind), ("run", "argoproj.io", "Workflow"));
        // kube-apiserver lists the same cause twice.
        let mut fields: Vec<_> = details.causes.iter().map(|cause| cause.field.as_str()).collect();
        fields.dedup();
        assert_eq!(fields, ["metadata.uid"]);
        assert!(env.stored("run").await.expect("stored")["metadata"].get("annotations").is_none());
    }
}

async fn a_patch_of_an_absent_object_is_not_found(env: TestEnv) {
    env.create_labelled(&["deleted"]).await;
    let uid = env.stored("deleted").await.expect("stored")["metadata"]["uid"].clone();
    env.delete("deleted").await.expect("deleted");
    for (name, patch) in [("absent", label("a", json!("b"))), ("deleted", json!({"metadata": {"uid": uid}}))] {
        let refusal = env.patch(name, patch).await.expect_err("absent");
        let message = format!("workflows.argoproj.io \"{name}\" not found");
        assert_eq!(outcome(&refusal), (404, "NotFound", &*message));
        let details = refusal.details.expect("details");
        assert_eq!((&*details.name, &*details.group, &*details.kind), (name, "argoproj.io", "workflows"));
    }
}

/// The conflict takes precedence over a wrong UID, and over a patch without an effect.
async fn a_patch_of_another_version_is_a_conflict(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    let version = env.stored("run").await.expect("stored")["metadata"]["resourceVersion"].clone();
    let own = env.patch("run", json!({"metadata": {"resourceVersion": version, "annotations": {"a": "b"}}})).await;
    own.expect("the current version");
    for (uid, annotations) in [
        (json!("another"), json!({"a": "c"})),
        (Value::Null, json!({"a": "c"})),
        (Value::Null, json!({"absent": null})),
    ] {
        let patch = json!({"metadata": {"resourceVersion": version, "uid": uid, "annotations": annotations}});
        let refusal = env.patch("run", patch).await.expect_err("an earlier version");
        let message = "Operation cannot be fulfilled on workflows.argoproj.io \"run\": the object has been modified; \
                       please apply your changes to the latest version and try again";
        assert_eq!(outcome(&refusal), (409, "Conflict", message));
    }
}

async fn only_a_patch_with_an_effect_changes_the_version(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    let created = env.stored("run").await.expect("stored");
    let unannotated = env.patch("run", json!({"metadata": {"annotations": {"absent": null}}})).await.expect("accepted");
    assert_eq!(version(&unannotated), version(&created));
    let annotated = env.patch("run", json!({"metadata": {"annotations": {"a": "b"}}})).await.expect("accepted");
    assert!(version(&annotated) > version(&created));
    for patch in [json!({}), json!({"metadata": {"annotations": {"a": "b", "absent": null}}}), json!({"absent": null})]
    {
        let same = env.patch("run", patch).await.expect("accepted");
        assert_eq!(version(&same), version(&annotated));
    }
    let phase = env.patch("run", json!({"status": {"phase": "Running"}})).await.expect("accepted");
    assert!(version(&phase) > version(&annotated));
}

async fn null_removes_and_empty_maps_are_omitted(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    let entry = json!({"metadata": {"annotations": {"a": ""}}});
    assert_eq!(env.patch("run", entry).await.expect("accepted")["metadata"]["annotations"], json!({"a": ""}));
    let removed = env.patch("run", json!({"metadata": {"annotations": {"a": null}, "labels": null}})).await;
    let metadata = &removed.expect("accepted")["metadata"];
    assert!(metadata.get("annotations").is_none() && metadata.get("labels").is_none(), "{metadata}");
}

async fn a_patch_that_is_no_object_is_refused(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    for body in ["{", "[]", "null", "\"text\""] {
        let refusal = env.send_json(Method::PATCH, "/run", MERGE_PATCH, body).await;
        assert_eq!(refusal.expect_err("no patch").code, 400, "{body}");
    }
}

async fn the_answer_to_a_patch_has_metadata_only(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    let request = http::Request::patch(env.path("/run"))
        .header("accept", METADATA)
        .header("content-type", MERGE_PATCH)
        .body(label("a", json!("b")).to_string().into_bytes());
    let answer = env.send(request.expect("a request")).await.expect("accepted");
    let mut keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["apiVersion", "kind", "metadata"]);
    assert_eq!((&answer["kind"], &answer["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
    assert_eq!(answer["metadata"]["labels"]["a"], "b");
}

async fn an_object_is_deleted_once(env: TestEnv) {
    env.create_labelled(&["run"]).await;
    env.delete("run").await.expect("deleted");
    assert_eq!(env.delete("run").await.expect_err("absent").code, 404);
    assert_eq!(env.stored("run").await.expect_err("absent").reason, "NotFound");
}
