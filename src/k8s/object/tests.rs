use proptest::prelude::*;
use serde_json::{Value, json};

use super::{lenient::Lenient, metadata::PipelineSpec, *};
use crate::model::workflow::{
    COMPLETED_LABEL, EVENTS_PUBLISHED_LABEL, MARK_PREFIX, PHASE_LABEL, PIPELINE_SPEC_ANNOTATION, RESUBMITTED_LABEL,
    RUN_ID_LABEL, TRACE_ID_ANNOTATION,
};

const UID: &str = "0b64ec22-9e1f-4c8e-8a2f-6f1c8f4f6a01";

fn object(metadata: &Value) -> Object {
    serde_json::from_value(json!({"kind": "PartialObjectMetadata", "metadata": metadata})).unwrap()
}

fn decoder() -> Decoder {
    Decoder::new(SubscriptionsInUse::default(), LimitHits::default())
}

fn record(metadata: Value) -> Workflow {
    decoder().record(object(&metadata)).unwrap()
}

fn marks(workflow: &Workflow) -> Vec<(&str, RunOutcome)> {
    workflow.marks.iter().map(|mark| (mark.subscription.as_str(), mark.outcome)).collect()
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
    assert_eq!(*workflow.pipeline, PipelineName::Spec("penguin-pipeline".into()));
    assert_eq!(workflow.run_id.as_ref().unwrap().to_string(), "9c3a0f0e-8f5b-4f6e-9a35-2f8a4d1c9b77");
    assert_eq!(workflow.trace_id.as_deref().unwrap().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(
        marks(&workflow),
        [("update", RunOutcome::Succeeded)],
        "one of another UID was copied by a resubmission"
    );
    assert_eq!(workflow.marks.resource_version(), None, "kept only where marks have to be removed");
}

#[test]
fn a_kfp_v2_run_is_named_after_its_generate_name() {
    let workflow = record(json!({"name": "p-1", "namespace": "n", "uid": UID, "generateName": "penguin-"}));
    assert_eq!(*workflow.pipeline, PipelineName::Generated("penguin".into()));
    assert!(!workflow.succeeded());
}

#[test]
fn a_pipeline_may_have_no_name() {
    for (generate_name, spec) in [("-", "{}"), ("", "not JSON"), ("-", "{\"name\":\"\"}"), ("-", "{\"name\":7}")] {
        let annotations = json!({"pipelines.kubeflow.org/pipeline_spec": spec});
        let metadata = json!({"uid": UID, "generateName": generate_name, "annotations": annotations});
        assert_eq!(*record(metadata).pipeline, PipelineName::Unknown, "{generate_name:?} {spec:?}");
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
    assert_eq!(workflow.marks.resource_version(), Some("77"));
}

#[test]
fn labels_and_annotations_may_be_null() {
    assert_eq!(record(json!({"uid": UID, "labels": null, "annotations": null, "generateName": null})).marks.len(), 0);
}

#[test]
fn an_invalid_uid_is_an_error_of_its_workflow() {
    let object: Object =
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "w", "uid": "7"}})).unwrap();
    let error = decoder().record(object).unwrap_err();
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
        assert!(decoder().record(object).is_err(), "{odd}");
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
    assert_eq!(*workflow.pipeline, PipelineName::Spec("penguin".into()));
    assert!(workflow.marks.is_empty());
}

#[test]
fn nesting_of_any_depth_is_skipped() {
    let deep = format!("{}1{}", "{\"f:x\":".repeat(5_000), "}".repeat(5_000));
    for field in [
        format!(r#""managedFields":[{{"fieldsV1":{deep}}}]"#),
        format!(
            r#""managedFields":[{{"fieldsV1":{{"f:metadata":{{"f:labels":{{"f:workflows.argoproj.io/phase":{deep}}}}}}}}}]"#
        ),
        format!(r#""managedFields":{deep}"#),
        format!(r#""labels":{deep}"#),
        format!(r#""labels":{{"{PHASE_LABEL}":{deep}}}"#),
        format!(r#""annotations":{{"{PIPELINE_SPEC_ANNOTATION}":{deep}}}"#),
    ] {
        let json = format!(r#"{{"metadata":{{"name":"a","uid":"{UID}",{field}}}}}"#);
        let object: Object = serde_json::from_str(&json).unwrap();
        assert_eq!(object.identity().1, "a");
    }
}

#[test]
fn a_mark_is_an_annotation_or_a_label() {
    let other = "5a64ec22-9e1f-4c8e-8a2f-6f1c8f4f6a02";
    let key = |name: &str| format!("{MARK_PREFIX}{name}");
    let workflow = record(json!({
        "uid": UID,
        "annotations": {key("a"): UID, key("both"): UID, key("copied"): other, key("odd"): format!("{UID}.x"), key("c"): 7},
        "labels": {key("both"): UID, key("b"): format!("{UID}.failed"), key("a"): format!("{UID}.failed"), key("d"): other},
    }));
    let (succeeded, failed) = (RunOutcome::Succeeded, RunOutcome::Failed);
    assert_eq!(marks(&workflow), [("a", succeeded), ("a", failed), ("b", failed), ("both", succeeded)]);
}

#[test]
fn of_too_many_marks_those_in_use_here_are_kept() {
    let many: serde_json::Map<_, _> =
        (0..7_000).map(|number| (format!("{MARK_PREFIX}m-{number:04}"), json!(UID))).collect();
    let (annotations, labels): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
        many.into_iter().partition(|(key, _)| key.ends_with(['0', '2', '4', '6', '8']));
    let metadata = json!({"namespace": "team", "uid": UID, "annotations": annotations, "labels": labels});
    let (in_use, limits) = (SubscriptionsInUse::default(), LimitHits::default());
    for name in ["m-5000", "m-6999", "absent"] {
        in_use.insert("team", &SubscriptionName::new(name).unwrap());
    }
    in_use.insert("other", &SubscriptionName::new("m-4000").unwrap());
    let decoder = Decoder::new(in_use, limits.clone());
    let workflow = decoder.record(object(&metadata)).unwrap();
    let names: Vec<_> = workflow.marks.iter().map(|mark| mark.subscription.as_str().to_owned()).collect();
    let expected: Vec<_> = (0..30).chain([5000, 6999]).map(|number| format!("m-{number:04}")).collect();
    assert_eq!(names, expected);
    assert_eq!(limits.count(Limit::Marks), 1);
    assert_eq!(decoder.record(object(&metadata)).unwrap(), workflow, "the same again");

    let enough: serde_json::Map<_, _> = (0..32).map(|number| (format!("{MARK_PREFIX}{number}"), json!(UID))).collect();
    assert_eq!(decoder.record(object(&json!({"uid": UID, "annotations": enough}))).unwrap().marks.len(), 32);
    assert_eq!(limits.count(Limit::Marks), 2, "at the limit, and not above it");
}

#[test]
fn a_pipelines_name_has_a_limit() {
    let limits = LimitHits::default();
    let decoder = Decoder::new(SubscriptionsInUse::default(), limits.clone());
    let pipeline = |name: &str, generate_name: &str| {
        let spec = json!({"name": name}).to_string();
        let annotations = json!({PIPELINE_SPEC_ANNOTATION: spec});
        let metadata = json!({"uid": UID, "generateName": generate_name, "annotations": annotations});
        decoder.record(object(&metadata)).unwrap().pipeline
    };
    let longest = "é".repeat(MAX_PIPELINE_NAME / 2);
    assert_eq!(*pipeline(&longest, "x-"), PipelineName::Spec(longest.as_str().into()));
    assert_eq!(limits.count(Limit::PipelineName), 0);
    assert_eq!(*pipeline(&format!("{longest}x"), "x-"), PipelineName::TooLong);
    assert_eq!(*pipeline(&"x".repeat(250_000), ""), PipelineName::TooLong);
    assert_eq!(*pipeline("", &"x".repeat(MAX_PIPELINE_NAME + 1)), PipelineName::TooLong);
    assert_eq!(limits.count(Limit::PipelineName), 3);
}

/// Managed fields as Kubernetes writes them.
fn managed(manager: &str, time: &str, fields: &Value) -> Value {
    json!({
        "manager": manager, "operation": "Update", "apiVersion": "argoproj.io/v1alpha1", "time": time,
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    })
}

#[test]
fn a_run_finished_when_its_phase_label_was_updated_last() {
    let owned = |label: &str| json!({"f:metadata": {"f:labels": {".": {}, format!("f:{label}"): {}}}, "f:status": {}});
    let finished =
        |labels: Value, fields: Value| record(json!({"uid": UID, "labels": labels, "managedFields": fields})).finished;
    let succeeded = || json!({PHASE_LABEL: "Succeeded", COMPLETED_LABEL: "true"});
    let controller = managed("argo", "2026-08-01T10:00:00Z", &owned(PHASE_LABEL));
    let user = managed("kubectl", "2026-08-01T11:00:00Z", &owned("team"));
    let annotation = json!({"f:metadata": {"f:annotations": {format!("f:{PHASE_LABEL}"): {}}}});
    let annotator = managed("kubectl", "2026-08-01T11:00:00Z", &annotation);
    let fields = json!([user, controller, annotator, 7, null, {"time": "2026-08-01T12:00:00Z"}]);
    assert_eq!(finished(succeeded(), fields.clone()), 1_785_578_400);
    assert_eq!(finished(json!({PHASE_LABEL: "Error", COMPLETED_LABEL: "true"}), fields.clone()), 1_785_578_400);
    // The time of a running Workflow changes with each update of the controller.
    assert_eq!(finished(json!({PHASE_LABEL: "Running"}), fields.clone()), 0);
    assert_eq!(finished(json!({PHASE_LABEL: "Succeeded"}), fields), 0);
    let editor = managed("kubectl", "2026-08-01T10:00:07Z", &owned(PHASE_LABEL));
    assert_eq!(finished(succeeded(), json!([controller, editor])), 1_785_578_407, "the latest of several owners");
    for odd in [json!(null), json!([]), json!({}), json!([managed("argo", "yesterday", &owned(PHASE_LABEL))])] {
        assert_eq!(finished(succeeded(), odd.clone()), 0, "{odd}");
    }
}

#[test]
fn a_resubmitted_workflow_is_recognized() {
    assert!(record(json!({"uid": UID, "labels": {RESUBMITTED_LABEL: "penguin-x7f"}})).resubmitted);
    assert!(!record(json!({"uid": UID, "labels": {}})).resubmitted);
}

#[test]
fn a_completed_run_without_a_phase_is_undecidable() {
    for (labels, expected) in [
        (json!({COMPLETED_LABEL: "true"}), true),
        (json!({COMPLETED_LABEL: "true", PHASE_LABEL: ""}), true),
        (json!({COMPLETED_LABEL: "true", PHASE_LABEL: "Succeeded"}), false),
        (json!({COMPLETED_LABEL: "true", PHASE_LABEL: "Skipped"}), false),
        (json!({COMPLETED_LABEL: "false"}), false),
        (json!({}), false),
    ] {
        let object = object(&json!({"uid": UID, "labels": labels}));
        assert_eq!(object.is_undecidable(), expected, "{labels}");
        if expected {
            assert_eq!(decoder().record(object).unwrap().phase, Phase::Unknown);
        }
    }
}

#[test]
fn names_of_deleted_workflows_are_freed() {
    let decoder = decoder();
    for number in 0..20_000 {
        let metadata = json!({"uid": UID, "namespace": "team", "generateName": format!("p-{number}-")});
        drop(decoder.record(object(&metadata)).unwrap());
    }
    let held = format!("{:?}", decoder.interner.lock().unwrap()).matches("p-").count();
    // Each name may be kept as a string and as a pipeline, up to 1,024 of both.
    assert!(held <= 2_048, "{held} names of no record");
    decoder.shrink();
    assert!(!format!("{:?}", decoder.interner.lock().unwrap()).contains("p-"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(Value::from(UID)),
        Just(json!([managed("argo", "2026-08-01T10:00:00Z", &json!({"f:metadata": {"f:labels": 7}}))])),
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
        "managedFields",
        "x",
    ]);
    let inner = prop::sample::select(vec![
        PHASE_LABEL,
        COMPLETED_LABEL,
        RESUBMITTED_LABEL,
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
        prop_assert_eq!(decoder().record(object).ok().map(|workflow| workflow.uid), uid);
    }

    #[test]
    fn unknown_fields_change_nothing(extra in any_json(), key in "x[a-z]{0,8}") {
        let plain = json!({"uid": UID, "name": "w", "namespace": "n"});
        let mut more = plain.clone();
        more[&key] = extra.clone();
        let object: Object = serde_json::from_value(json!({"metadata": more, "spec": extra, "status": extra})).unwrap();
        prop_assert_eq!(decoder().record(object).unwrap(), record(plain));
    }

    #[test]
    fn decoding_never_panics(text in ".{0,200}") {
        serde_json::from_str::<Object>(&text).ok();
        PipelineSpec::from_text(&text);
    }
}
