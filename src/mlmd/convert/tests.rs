use std::collections::HashMap;

use prost::Message;

use super::*;
use crate::mlmd::{
    error::CallCode,
    proto::{self, event::path::step, value},
};

type Properties = HashMap<String, proto::Value>;

fn bytes(message: impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn value(value: impl Into<value::Value>) -> proto::Value {
    proto::Value { value: Some(value.into()) }
}

impl From<&str> for value::Value {
    fn from(text: &str) -> Self {
        Self::StringValue(text.to_owned())
    }
}

impl From<i64> for value::Value {
    fn from(value: i64) -> Self {
        Self::IntValue(value)
    }
}

fn properties<const N: usize>(properties: [(&str, proto::Value); N]) -> Properties {
    properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn wire_artifact() -> proto::Artifact {
    proto::Artifact { id: Some(1), type_id: Some(2), r#type: Some("PushedModel".into()), ..Default::default() }
}

fn is_malformed<T>(result: Result<T, CallError>) -> bool {
    matches!(result, Err(CallError { code: CallCode::Malformed, .. }))
}

#[test]
fn a_message_without_id_time_or_type_is_malformed() {
    assert!(is_malformed(context(&bytes(proto::Context::default()))));
    assert!(is_malformed(context(&bytes(proto::Context { id: Some(0), ..Default::default() }))));
    assert!(is_malformed(execution(&bytes(proto::Execution::default()))));
    assert!(is_malformed(execution(&bytes(proto::Execution { id: Some(1), ..Default::default() }))));
    assert!(is_malformed(artifact(&bytes(proto::Artifact { id: None, ..wire_artifact() }))));
    assert!(is_malformed(artifact(&bytes(proto::Artifact { id: Some(-4), ..wire_artifact() }))));
    assert!(is_malformed(artifact(&bytes(proto::Artifact { r#type: None, type_id: None, ..wire_artifact() }))));
    assert!(is_malformed(event(&bytes(proto::Event::default()))));
    assert!(is_malformed(event(&bytes(proto::Event { artifact_id: Some(1), ..Default::default() }))));
    assert!(is_malformed(event(&bytes(proto::Event { execution_id: Some(1), ..Default::default() }))));
    assert!(is_malformed(artifact_type(&bytes(proto::ArtifactType::default()))));
    assert_eq!(artifact_type(&bytes(proto::ArtifactType { id: Some(7), name: None })), Ok(7));
}

#[test]
fn a_context_may_have_a_namespace() {
    let of = |namespace| {
        let custom_properties = properties([("namespace", namespace)]);
        let wire = proto::Context { id: Some(1), custom_properties, ..Default::default() };
        context(&bytes(wire)).unwrap().namespace
    };
    assert_eq!(of(value("team-a")).as_deref(), Some("team-a"));
    assert_eq!(of(value("")), None);
    assert_eq!(of(value(7)).as_deref(), Some("Int(7)"), "not the name of the Workflow's namespace");
    assert_eq!(of(proto::Value::default()), None);
    let long = of(value("x".repeat(10_000).as_str())).unwrap();
    assert!(long.len() < 400, "cut for the log");
    assert_eq!(context(&bytes(proto::Context { id: Some(1), ..Default::default() })).unwrap().namespace, None);
}

#[test]
fn a_task_has_the_name_of_kfp_v2() {
    let task = |custom_properties| {
        let create_time_since_epoch = Some(5);
        let wire = proto::Execution { id: Some(1), create_time_since_epoch, custom_properties, ..Default::default() };
        execution(&bytes(wire)).unwrap().task.map(str::to_owned)
    };
    let both = properties([("display_name", value("shown")), ("task_name", value("push"))]);
    assert_eq!(task(both).as_deref(), Some("push"));
    let display = properties([("display_name", value("shown")), ("task_name", value(""))]);
    assert_eq!(task(display).as_deref(), Some("shown"));
    assert_eq!(task(properties([])), None);
}

#[test]
fn a_custom_name_precedes_the_artifacts_own() {
    let name = |custom: Option<&str>, own: Option<&str>| {
        let custom_properties = custom.into_iter().map(|name| ("name".to_owned(), value(name))).collect();
        let wire = proto::Artifact { custom_properties, name: own.map(Into::into), ..wire_artifact() };
        artifact(&bytes(wire)).unwrap().name.map(String::from)
    };
    assert_eq!(name(Some("custom"), Some("own")).as_deref(), Some("custom"));
    assert_eq!(name(Some(""), Some("own")).as_deref(), Some("own"));
    assert_eq!(name(None, Some("own")).as_deref(), Some("own"));
    assert_eq!(name(None, Some("")), None);
    assert_eq!(name(None, None), None);
}

#[test]
fn a_custom_pushed_precedes_the_plain_property() {
    let read = |custom: Option<proto::Value>, plain: Option<proto::Value>| {
        let of = |value: Option<proto::Value>| value.into_iter().map(|value| ("pushed".to_owned(), value)).collect();
        let wire = proto::Artifact { custom_properties: of(custom), properties: of(plain), ..wire_artifact() };
        artifact(&bytes(wire)).unwrap().pushed
    };
    assert_eq!(read(Some(value(0)), Some(value(1))), Some(0));
    assert_eq!(read(None, Some(value(0))), Some(0));
    assert_eq!(read(Some(value("what?")), Some(value(0))), Some(0));
    assert_eq!(read(Some(proto::Value::default()), None), None);
    assert_eq!(read(Some(value(value::Value::DoubleValue(1.0))), None), Some(1), "KFP v2 writes numbers as doubles");
    assert_eq!(read(Some(value(value::Value::BoolValue(false))), None), Some(0));
    assert_eq!(read(None, None), None);
}

#[test]
fn only_three_states_mean_that_an_artifact_is_removed() {
    use proto::artifact::State as Wire;
    let state = |state: Option<i32>| artifact(&bytes(proto::Artifact { state, ..wire_artifact() })).unwrap().state;
    for available in [None, Some(Wire::Unknown as i32), Some(Wire::Pending as i32), Some(Wire::Live as i32), Some(99)] {
        assert_eq!(state(available), ArtifactState::Available, "{available:?}");
    }
    for removed in [Wire::MarkedForDeletion, Wire::Deleted] {
        assert_eq!(state(Some(removed as i32)), ArtifactState::Removed, "{removed:?}");
    }
    assert_eq!(state(Some(Wire::Abandoned as i32)), ArtifactState::Abandoned);
}

#[test]
fn only_the_event_type_output_is_an_output() {
    let is_output = |kind: Option<i32>| {
        let wire = proto::Event { artifact_id: Some(1), execution_id: Some(2), r#type: kind, path: None };
        event(&bytes(wire)).unwrap().is_output
    };
    let outputs: Vec<i32> = (-1..=99).filter(|kind| is_output(Some(*kind))).collect();
    assert_eq!(outputs, [4]);
    assert!(!is_output(None));
}

#[test]
fn a_path_contains_the_key_and_the_index_of_the_output() {
    use step::Value::{Index, Key};
    let at = |steps: Vec<step::Value>| {
        let steps = steps.into_iter().map(|value| proto::event::path::Step { value: Some(value) }).collect();
        let path = Some(proto::event::Path { steps });
        let wire = bytes(proto::Event { artifact_id: Some(1), execution_id: Some(2), path, r#type: Some(4) });
        let event = event(&wire).unwrap();
        (event.key.to_owned(), event.index)
    };
    let key = |key: &str| Key(key.to_owned());
    assert_eq!(at(vec![key("pushed_model"), Index(3)]), ("pushed_model".into(), Some(3)));
    assert_eq!(at(vec![key("model")]), ("model".into(), None));
    assert_eq!(at(vec![Index(2)]), (String::new(), Some(2)));
    assert_eq!(at(vec![key("a"), Index(0), key("b"), Index(9)]), ("a".into(), Some(0)));
    assert_eq!(at(vec![]), (String::new(), None));
}

#[test]
fn a_task_has_its_place_in_the_pipeline() {
    let read = |properties: Properties| {
        let wire = proto::Execution {
            id: Some(9),
            create_time_since_epoch: Some(5),
            custom_properties: properties,
            ..Default::default()
        };
        let wire = bytes(wire);
        let execution = execution(&wire).unwrap();
        (execution.parent, execution.iteration, execution.pod.map(str::to_owned))
    };
    let all = properties([
        ("parent_dag_id", value(7)),
        ("iteration_index", value(2)),
        ("pod_name", value("run-x-push")),
        ("inputs", proto::Value::default()),
    ]);
    assert_eq!(read(all), (Some(7), Some(2), Some("run-x-push".to_owned())));
    let kfp_v1 = properties([("kfp_pod_name", value("run-x-1"))]);
    assert_eq!(read(kfp_v1), (None, None, Some("run-x-1".to_owned())));
    let invalid = properties([("parent_dag_id", value(0)), ("iteration_index", value(-1)), ("pod_name", value(""))]);
    assert_eq!(read(invalid), (None, None, None));
    let other_types =
        properties([("parent_dag_id", value("7")), ("iteration_index", value(value::Value::BoolValue(true)))]);
    assert_eq!(read(other_types), (None, None, None));
}

/// The metadata-writer of KFP v1 writes the component into the properties that its type declares.
#[test]
fn a_component_is_read_from_the_declared_properties() {
    let wire = proto::Execution {
        id: Some(9),
        create_time_since_epoch: Some(5),
        properties: properties([("component_id", value("Push")), ("run_id", value("run-x"))]),
        custom_properties: properties([("component_id", value("another"))]),
        ..Default::default()
    };
    assert_eq!(execution(&bytes(wire)).unwrap().component, Some("Push"));
}

/// A struct or a message as a property, which the reduced protocol does not have, and unknown fields.
#[test]
fn values_of_other_kinds_and_unknown_fields_are_skipped() {
    let mut value = Vec::new();
    prost::encoding::bytes::encode(4, &b"\x0a\x05abcde".to_vec(), &mut value);
    let mut entry = Vec::new();
    prost::encoding::string::encode(1, &"name".to_owned(), &mut entry);
    prost::encoding::bytes::encode(2, &value, &mut entry);
    let mut message = bytes(wire_artifact());
    prost::encoding::bytes::encode(5, &entry, &mut message);
    prost::encoding::bytes::encode(1000, &vec![0xff; 50], &mut message);
    let artifact = artifact(&message).unwrap();
    assert_eq!((artifact.id, artifact.name), (1, None));
}
