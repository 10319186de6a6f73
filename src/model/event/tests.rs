use super::*;
use crate::model::{Artifact, Phase, RunId, Uid};

fn workflow(pipeline: PipelineName) -> Workflow {
    Workflow {
        namespace: "team".into(),
        name: "run-x".into(),
        uid: Uid::from(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        created: 0,
        phase: Phase::Succeeded,
        labelled: false,
        pipeline,
        run_id: Some(RunId::new("6c0a0f4e-5f0a-4a8b-9f2e-0d8f3b1f2a3c")),
        trace_id: None,
        marks: [].into(),
        resource_version: None,
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
fn the_payload_is_what_the_documentation_shows_octet_for_octet() {
    let models = found([model(None, "gs://root/Pusher/pushed_model/1638")]);
    assert_eq!(
        text(&penguin(), &models, &[]),
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:run-x:Pusher:pushed_model:0","location":"gs://root/Pusher/pushed_model/1638"}]}"#
    );
}

#[test]
fn several_models_stand_in_the_order_in_which_they_were_found() {
    let models = found([model(Some("b"), "gs://b"), model(Some("a"), "gs://a")]);
    assert_eq!(
        text(&penguin(), &models, &[]),
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"b","location":"gs://b"},{"name":"a","location":"gs://a"}]}"#
    );
}

#[test]
fn included_fields_come_after_the_others_in_a_fixed_order_however_they_were_named() {
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
fn each_included_field_stands_alone_under_its_key() {
    let models = found([model(Some("m"), "gs://m")]);
    for field in IncludeField::ALL {
        let payload: serde_json::Value = serde_json::from_str(&text(&penguin(), &models, &[field])).unwrap();
        let extra: Vec<_> = payload.as_object().unwrap().keys().skip(2).collect();
        let expected: Vec<_> = payload.as_object().unwrap().keys().filter(|key| **key == *field.key()).collect();
        assert_eq!((extra.len(), expected.len()), (1, 1), "{field:?} in {payload}");
    }
}

#[test]
fn an_included_field_that_is_not_known_is_left_out() {
    let models = found([model(Some("m"), "gs://m")]);
    let workflow = Workflow { run_id: None, ..penguin() };
    let include = [IncludeField::RunId, IncludeField::Traceparent].into_iter().collect();
    let payload = String::from_utf8(payload(&workflow, &models, include, None).unwrap()).unwrap();
    assert!(payload.ends_with(r#""location":"gs://m"}]}"#), "{payload}");
}

#[test]
fn what_needs_it_is_escaped() {
    let models = found([model(Some("a \"b\" \\ \n ü"), "gs://m")]);
    let payload: serde_json::Value = serde_json::from_str(&text(&penguin(), &models, &[])).unwrap();
    assert_eq!(payload["servingModelArtifacts"][0]["name"], "a \"b\" \\ \n ü");
}

#[test]
fn the_pipeline_is_named_by_its_spec_else_by_ml_metadata_else_by_generate_name() {
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

#[test]
fn there_is_no_event_without_a_model_without_a_pipelines_name_or_beyond_the_size_that_the_bus_carries() {
    let payload = |workflow: &Workflow, found: &RunModels| payload(workflow, found, Include::default(), None);
    let one = found([model(Some("m"), "gs://m")]);
    assert_eq!(payload(&penguin(), &found([])), Err(Unannounced::NoModel));
    assert_eq!(payload(&workflow(PipelineName::Unknown), &one), Err(Unannounced::NoPipelineName));
    let around = payload(&penguin(), &found([model(Some("m"), "")])).unwrap().len();
    let largest = found([model(Some("m"), &"x".repeat(MAX_PAYLOAD - around))]);
    assert_eq!(payload(&penguin(), &largest).map(|payload| payload.len()), Ok(MAX_PAYLOAD));
    let larger = found([model(Some("m"), &"x".repeat(MAX_PAYLOAD - around + 1))]);
    assert_eq!(payload(&penguin(), &larger), Err(Unannounced::TooLarge));
}
