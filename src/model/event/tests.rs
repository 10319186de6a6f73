use super::*;
use crate::model::{Artifact, RunId, fixtures::succeeded};

fn workflow(pipeline: PipelineName) -> Workflow {
    Workflow {
        uid: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef.into(),
        run_id: Some(RunId::new("6c0a0f4e-5f0a-4a8b-9f2e-0d8f3b1f2a3c")),
        ..succeeded(pipeline)
    }
}

fn penguin() -> Workflow {
    workflow(PipelineName::Spec("penguin-pipeline".into()))
}

fn model(name: Option<&str>, uri: &str) -> Artifact {
    Artifact {
        id: 1,
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
        r#""runId":"6c0a0f4e-5f0a-4a8b-9f2e-0d8f3b1f2a3c","traceparent":"00-a-b-01"}"#,
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
