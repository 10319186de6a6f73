use super::*;
use crate::model::{Artifact, Phase, RunId, fixtures::succeeded};

fn workflow(pipeline: PipelineName) -> Workflow {
    Workflow {
        uid: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef.into(),
        run_id: Some(RunId::new("6c0a0f4e-5f0a-4a8b-9f2e-0d8f3b1f2a3c")),
        created: 1_785_578_400,
        finished: 1_785_578_461,
        ..succeeded(pipeline)
    }
}

fn penguin() -> Workflow {
    workflow(PipelineName::Spec("penguin-pipeline".into()))
}

fn model(name: Option<&str>, uri: &str) -> Artifact {
    Artifact {
        id: 1.into(),
        name: name.map(Into::into),
        uri: uri.into(),
        node: "Pusher".into(),
        key: "pushed_model".into(),
        index: 0,
    }
}

fn found(models: impl Into<Vec<Artifact>>) -> RunModels {
    RunModels { models: models.into(), ..RunModels::default() }
}

fn text(workflow: &Workflow, found: &RunModels, include: &[IncludeField]) -> String {
    let include = include.iter().copied().collect();
    String::from_utf8(payload(workflow, found, include, Some("00-a-b-01")).unwrap()).unwrap()
}

#[test]
fn the_payload_equals_the_documented_one_byte_for_byte() {
    let models = found([model(None, "gs://root/Pusher/pushed_model/1638")]);
    assert_eq!(
        text(&penguin(), &models, &[]),
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:run-x:Pusher:pushed_model:0","location":"gs://root/Pusher/pushed_model/1638"}]}"#
    );
}

#[test]
fn models_keep_their_order() {
    let models = found([model(Some("b"), "gs://b"), model(Some("a"), "gs://a")]);
    assert_eq!(
        text(&penguin(), &models, &[]),
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"b","location":"gs://b"},{"name":"a","location":"gs://a"}]}"#
    );
}

#[test]
fn included_fields_follow_in_a_fixed_order() {
    let models = found([model(Some("m"), "gs://m")]);
    let expected = concat!(
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"m","location":"gs://m"}],"#,
        r#""namespace":"team","workflowName":"run-x","workflowUid":"01234567-89ab-cdef-0123-456789abcdef","#,
        r#""runId":"6c0a0f4e-5f0a-4a8b-9f2e-0d8f3b1f2a3c","traceparent":"00-a-b-01","status":"succeeded","#,
        r#""createdAt":"2026-08-01T10:00:00Z","finishedAt":"2026-08-01T10:01:01Z","#,
        r#""eventId":"a72204a9-e4c5-5069-aeea-5ec4e2e9143e"}"#,
    );
    assert_eq!(text(&penguin(), &models, &IncludeField::ALL), expected);
    let mut reversed = IncludeField::ALL;
    reversed.reverse();
    assert_eq!(text(&penguin(), &models, &reversed), expected);
}

#[test]
fn each_included_field_adds_only_its_key() {
    let models = found([model(Some("m"), "gs://m")]);
    for field in IncludeField::ALL {
        let payload: serde_json::Value = serde_json::from_str(&text(&penguin(), &models, &[field])).unwrap();
        let extra: Vec<_> = payload.as_object().unwrap().keys().skip(2).collect();
        let expected: Vec<_> = payload.as_object().unwrap().keys().filter(|key| **key == *field.key()).collect();
        assert_eq!((extra.len(), expected.len()), (1, 1), "{field:?} in {payload}");
    }
}

#[test]
fn an_included_field_without_a_value_is_absent() {
    let models = found([model(Some("m"), "gs://m")]);
    let workflow = Workflow { run_id: None, ..penguin() };
    let include = [IncludeField::RunId, IncludeField::Traceparent].into_iter().collect();
    let payload = String::from_utf8(payload(&workflow, &models, include, None).unwrap()).unwrap();
    assert!(payload.ends_with(r#""location":"gs://m"}]}"#), "{payload}");
}

#[test]
fn texts_are_escaped() {
    let models = found([model(Some("a \"b\" \\ \n ü"), "gs://m")]);
    let payload: serde_json::Value = serde_json::from_str(&text(&penguin(), &models, &[])).unwrap();
    assert_eq!(payload["servingModelArtifacts"][0]["name"], "a \"b\" \\ \n ü");
}

/// The name in the spec precedes the one in ML Metadata, which precedes `generateName`.
#[test]
fn the_pipeline_name_has_three_sources_in_order() {
    let known = |name: Option<&str>| RunModels { pipeline: name.map(Into::into), ..RunModels::default() };
    let spec = PipelineName::Spec("spec".into());
    let generated = PipelineName::Generated("generated".into());
    for (pipeline, mlmd, expected) in [
        (&spec, Some("mlmd"), Some("spec")),
        (&spec, None, Some("spec")),
        (&generated, Some("mlmd"), Some("mlmd")),
        (&generated, None, Some("generated")),
        (&PipelineName::Unknown, Some("mlmd"), Some("mlmd")),
        (&PipelineName::Unknown, None, None),
    ] {
        assert_eq!(pipeline_name(&workflow(pipeline.clone()), &known(mlmd)), expected, "{pipeline:?}, {mlmd:?}");
    }
}

/// There is no event without a model, without a pipeline's name, or above the size limit.
#[test]
fn a_run_without_an_event_has_a_skip_reason() {
    let payload = |workflow: &Workflow, found: &RunModels| payload(workflow, found, Include::default(), None);
    let one = found([model(Some("m"), "gs://m")]);
    assert_eq!(payload(&penguin(), &found([])), Err(SkipReason::NoModel));
    assert_eq!(payload(&workflow(PipelineName::Unknown), &one), Err(SkipReason::NoPipelineName));
    let around = payload(&penguin(), &found([model(Some("m"), "")])).unwrap().len();
    let largest = found([model(Some("m"), &"x".repeat(MAX_PAYLOAD - around))]);
    assert_eq!(payload(&penguin(), &largest).map(|payload| payload.len()), Ok(MAX_PAYLOAD));
    let larger = found([model(Some("m"), &"x".repeat(MAX_PAYLOAD - around + 1))]);
    assert_eq!(payload(&penguin(), &larger), Err(SkipReason::TooLarge));
}

fn failed() -> Workflow {
    Workflow { phase: Phase::Failed, ..penguin() }
}

#[test]
fn a_failed_run_has_a_status_and_no_models() {
    assert_eq!(
        text(&failed(), &RunModels::default(), &[]),
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[],"status":"failed"}"#
    );
    let pushed = found([model(None, "gs://a")]);
    assert!(
        text(&failed(), &pushed, &[]).contains(r#""servingModelArtifacts":[],"#),
        "what it pushed before it failed"
    );
    let unnamed = Workflow { pipeline: PipelineName::Unknown.into(), ..failed() };
    let refused = payload(&unnamed, &RunModels::default(), Include::default(), None);
    assert_eq!(refused, Err(SkipReason::NoPipelineName));
}

#[test]
fn status_and_times_are_included_on_request() {
    let include = [IncludeField::Status, IncludeField::CreatedAt, IncludeField::FinishedAt];
    let json = text(&penguin(), &found([model(Some("m"), "gs://m")]), &include);
    assert!(
        json.ends_with(
            r#","status":"succeeded","createdAt":"2026-08-01T10:00:00Z","finishedAt":"2026-08-01T10:01:01Z"}"#
        ),
        "{json}"
    );
    let unknown = Workflow { finished: 0, ..penguin() };
    let unknown = text(&unknown, &found([model(Some("m"), "gs://m")]), &[IncludeField::FinishedAt]);
    assert!(!unknown.contains("finishedAt"), "{unknown}");
}

/// Consumers deduplicate by it: a release that computed other ids would look like new events.
#[test]
fn event_ids_never_change() {
    let models = found([model(None, "gs://a"), model(None, "gs://b")]);
    assert_eq!(event_id(&penguin(), &models).to_string(), "dbd3cc29-b727-5d0c-9d00-ef89b0df4772");
}

#[test]
fn an_event_id_depends_on_the_run_its_models_and_its_outcome() {
    let one = found([model(None, "gs://a"), model(None, "gs://b")]);
    let other = Workflow { uid: 7.into(), ..penguin() };
    let ids = [
        event_id(&penguin(), &one),
        event_id(&other, &one),
        event_id(&failed(), &one),
        event_id(&penguin(), &found([model(None, "gs://a")])),
        event_id(&penguin(), &found([model(None, "gs://ags://b")])),
        event_id(&penguin(), &RunModels::default()),
    ];
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    let renamed = found([model(Some("x"), "gs://a"), model(Some("y"), "gs://b")]);
    assert_eq!(event_id(&penguin(), &renamed), ids[0], "names of models do not matter");
}

#[test]
fn a_pipeline_name_that_is_too_long_is_none() {
    let long: std::sync::Arc<str> = "x".repeat(MAX_PIPELINE_NAME + 1).into();
    let one = RunModels { pipeline: Some(long), ..found([model(None, "gs://a")]) };
    assert_eq!(pipeline_name(&workflow(PipelineName::Unknown), &one), None);
    assert_eq!(pipeline_name(&workflow(PipelineName::TooLong), &found([])), None);
    let named = RunModels { pipeline: Some("taxi".into()), ..found([]) };
    assert_eq!(pipeline_name(&workflow(PipelineName::TooLong), &named), None, "the Workflow's own name decides");
    assert_eq!(pipeline_name(&workflow(PipelineName::Unknown), &named), Some("taxi"));
}
