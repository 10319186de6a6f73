use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{
    RunOutcome,
    workflow::{COMPLETED_LABEL, EVENTS_PUBLISHED_LABEL, PHASE_LABEL, RUN_ID_LABEL},
};

const UID: &str = "0b64ec22-9e1f-4c8e-8a2f-6f1c8f4f6a01";

fn record(metadata: Value) -> Workflow {
    let object: Object =
        serde_json::from_value(json!({"kind": "PartialObjectMetadata", "metadata": metadata})).unwrap();
    object.into_record(&mut Names::default()).unwrap()
}

#[test]
fn a_kfp_v1_run_becomes_a_record() {
    let workflow = record(json!({
        "name": "penguin-x7f", "namespace": "team-a", "uid": UID, "resourceVersion": "12", "generateName": "other-",
        "creationTimestamp": "2026-08-01T10:00:00Z",
        "managedFields": [{"manager": "x", "fieldsV1": {"f:metadata": {}}}],
        "labels": {"workflows.argoproj.io/phase": "Succeeded", "workflows.argoproj.io/completed": "true", "pipeline/runid": "9c3a0f0e-8f5b-4f6e-9a35-2f8a4d1c9b77", "a": "b"},
        "annotations": {
            "pipelines.kubeflow.org/pipeline_spec": "{\"description\":\"d\",\"inputs\":[{\"name\":\"n\"}],\"name\":\"penguin-pipeline\"}",
            "workflows.argoproj.io/trace-id": "0af7651916cd43dd8448eb211c80319c",
            "published.pipelines.kubeflow.org/update": UID,
            "published.pipelines.kubeflow.org/copied": "5a64ec22-9e1f-4c8e-8a2f-6f1c8f4f6a02",
        },
    }));
    assert_eq!((&*workflow.namespace, &*workflow.name), ("team-a", "penguin-x7f"));
    assert_eq!(workflow.uid.to_string(), UID);
    assert_eq!(workflow.created, 1_785_578_400);
    assert!(workflow.succeeded() && !workflow.events_published);
    assert_eq!(workflow.pipeline, PipelineName::Spec("penguin-pipeline".into()));
    assert_eq!(workflow.run_id.unwrap().to_string(), "9c3a0f0e-8f5b-4f6e-9a35-2f8a4d1c9b77");
    assert_eq!(workflow.trace_id.unwrap().to_string(), "0af7651916cd43dd8448eb211c80319c");
    let marks: Vec<_> = workflow.marks.iter().map(|mark| (mark.subscription.as_str(), mark.outcome)).collect();
    assert_eq!(marks, [("update", RunOutcome::Succeeded)], "one of another UID was copied by a resubmission");
    assert_eq!(workflow.resource_version, None, "kept only where marks have to be removed");
}

#[test]
fn a_kfp_v2_run_is_named_after_its_generate_name() {
    let workflow = record(json!({"name": "p-1", "namespace": "n", "uid": UID, "generateName": "penguin-"}));
    assert_eq!(workflow.pipeline, PipelineName::Generated("penguin".into()));
    assert!(!workflow.succeeded());
}

#[test]
fn a_pipeline_may_have_no_name() {
    for (generate_name, spec) in [("-", "{}"), ("", "not JSON"), ("-", "{\"name\":\"\"}"), ("-", "{\"name\":7}")] {
        let annotations = json!({"pipelines.kubeflow.org/pipeline_spec": spec});
        let metadata = json!({"uid": UID, "generateName": generate_name, "annotations": annotations});
        assert_eq!(record(metadata).pipeline, PipelineName::Unknown, "{generate_name:?} {spec:?}");
    }
}

#[test]
fn labels_are_read_under_their_names() {
    let labels = json!({PHASE_LABEL: "Succeeded", COMPLETED_LABEL: "true", RUN_ID_LABEL: "a run", EVENTS_PUBLISHED_LABEL: "true"});
    let workflow = record(json!({"uid": UID, "labels": labels}));
    assert!(workflow.succeeded() && workflow.events_published);
    assert_eq!(workflow.run_id.unwrap().to_string(), "a run");
    let labels = json!({PHASE_LABEL: "Failed", RUN_ID_LABEL: "", EVENTS_PUBLISHED_LABEL: "false"});
    let workflow = record(json!({"uid": UID, "labels": labels}));
    assert!(!workflow.succeeded() && !workflow.events_published);
    assert_eq!(workflow.run_id.unwrap().to_string(), "");
}

#[test]
fn a_restarted_run_keeps_its_resource_version() {
    let marks = json!({"published.pipelines.kubeflow.org/update": UID});
    let workflow = record(json!({
        "uid": UID, "resourceVersion": "77", "annotations": marks, "labels": {PHASE_LABEL: "Running"},
    }));
    assert!(workflow.is_restarted());
    assert_eq!(workflow.resource_version.as_deref(), Some("77"));
}

#[test]
fn labels_and_annotations_may_be_null() {
    assert_eq!(record(json!({"uid": UID, "labels": null, "annotations": null, "generateName": null})).marks.len(), 0);
}

#[test]
fn an_invalid_uid_is_an_error_of_its_workflow() {
    let object: Object =
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "w", "uid": "7"}})).unwrap();
    let error = object.into_record(&mut Names::default()).unwrap_err();
    assert_eq!(error.to_string(), "the Workflow n/w has the UID \"7\", which is not a UUID");
}

#[test]
fn fields_with_an_unexpected_type_are_ignored() {
    let plain = record(json!({"uid": UID, "name": "w", "namespace": "n"}));
    for odd in
        [json!(null), json!(7), json!(-7), json!(0.5), json!(true), json!("x"), json!([[1], {}]), json!({"a": {}})]
    {
        let mut metadata = json!({"uid": UID, "name": "w", "namespace": "n", "labels": odd, "annotations": odd});
        assert_eq!(record(metadata.clone()), plain, "{odd} instead of an object");
        if odd.is_string() {
            continue;
        }
        metadata["generateName"] = odd.clone();
        metadata["creationTimestamp"] = odd.clone();
        metadata["labels"] = json!({PHASE_LABEL: odd, RUN_ID_LABEL: odd, EVENTS_PUBLISHED_LABEL: odd});
        metadata["annotations"] = json!({PIPELINE_SPEC_ANNOTATION: odd, TRACE_ID_ANNOTATION: odd});
        assert_eq!(record(metadata), plain, "{odd} instead of a string");
    }
}

#[test]
fn anything_but_a_workflow_is_malformed() {
    for odd in [json!(null), json!(7), json!("x"), json!([]), json!({}), json!({"metadata": 7})] {
        let object: Object = serde_json::from_value(odd.clone()).unwrap();
        assert!(object.into_record(&mut Names::default()).is_err(), "{odd}");
    }
}

#[test]
fn annotations_of_any_size_make_a_small_record() {
    let marks = json!({
        "pipelines.kubeflow.org/components-comp-trainer": "x".repeat(50_000),
        PIPELINE_SPEC_ANNOTATION: json!({"description": "y".repeat(50_000), "name": "penguin"}).to_string(),
        "published.pipelines.kubeflow.org/update": "z".repeat(50_000),
    });
    let workflow = record(json!({"uid": UID, "name": "w", "namespace": "n", "annotations": marks}));
    assert_eq!(workflow.pipeline, PipelineName::Spec("penguin".into()));
    assert!(workflow.marks.is_empty());
}

#[test]
fn nesting_of_any_depth_is_skipped_in_a_page() {
    let deep = format!("{}1{}", "{\"f:x\":".repeat(5_000), "}".repeat(5_000));
    let page = format!(
        r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"9"}},"items":[
            {{"metadata":{{"name":"a","uid":"{UID}","managedFields":[{{"fieldsV1":{deep}}}]}}}},
            {{"metadata":{{"name":"b","uid":"{UID}","labels":{deep}}}}}]}}"#
    );
    let list: kube::core::ObjectList<Object> = serde_json::from_str(&page).unwrap();
    assert_eq!(list.items.iter().map(|object| object.identity().1).collect::<Vec<_>>(), ["a", "b"]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z/.]{0,12}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Known keys with arbitrary values.
fn any_metadata() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generateName",
        "creationTimestamp",
        "labels",
        "annotations",
        "x",
    ]);
    let inner = prop::sample::select(vec![
        PHASE_LABEL,
        RUN_ID_LABEL,
        EVENTS_PUBLISHED_LABEL,
        PIPELINE_SPEC_ANNOTATION,
        TRACE_ID_ANNOTATION,
        "published.pipelines.kubeflow.org/a",
        "published.pipelines.kubeflow.org/",
        "y",
    ]);
    let map = prop::collection::hash_map(inner, any_json(), 0..6)
        .prop_map(|map| Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()));
    let value = prop_oneof![2 => any_json(), 1 => map, 1 => Just(Value::from(UID))];
    prop::collection::hash_map(keys, value, 0..9)
        .prop_map(|map| Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

proptest! {
    #[test]
    fn any_metadata_decodes(metadata in any_metadata()) {
        let uid = metadata["uid"].as_str().and_then(Uid::parse);
        let object: Object = serde_json::from_str(&json!({"metadata": metadata}).to_string()).unwrap();
        prop_assert_eq!(object.into_record(&mut Names::default()).ok().map(|workflow| workflow.uid), uid);
    }

    #[test]
    fn unknown_fields_change_nothing(extra in any_json(), key in "x[a-z]{0,8}") {
        let plain = json!({"uid": UID, "name": "w", "namespace": "n"});
        let mut more = plain.clone();
        more[&key] = extra.clone();
        let object: Object = serde_json::from_value(json!({"metadata": more, "spec": extra, "status": extra})).unwrap();
        prop_assert_eq!(object.into_record(&mut Names::default()).unwrap(), record(plain));
    }

    #[test]
    fn decoding_never_panics(text in ".{0,200}") {
        serde_json::from_str::<Object>(&text).ok();
        PipelineSpec::from_text(&text);
    }
}
