use super::*;
use crate::mlmd::error::CallCode;

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
    assert!(is_malformed(context(proto::Context::default())));
    assert!(is_malformed(context(proto::Context { id: Some(0), ..Default::default() })));
    assert!(is_malformed(execution(proto::Execution::default())));
    assert!(is_malformed(execution(proto::Execution { id: Some(1), ..Default::default() })));
    assert!(is_malformed(artifact(proto::Artifact { id: None, ..wire_artifact() })));
    assert!(is_malformed(artifact(proto::Artifact { id: Some(-4), ..wire_artifact() })));
    assert!(is_malformed(artifact(proto::Artifact { r#type: None, type_id: None, ..wire_artifact() })));
    assert!(is_malformed(event(proto::Event::default())));
    assert!(is_malformed(event(proto::Event { artifact_id: Some(1), ..Default::default() })));
    assert!(is_malformed(event(proto::Event { execution_id: Some(1), ..Default::default() })));
}

#[test]
fn a_context_may_have_a_namespace() {
    let of = |namespace| {
        let custom_properties = properties([("namespace", namespace)]);
        context(proto::Context { id: Some(1), custom_properties, ..Default::default() }).unwrap().namespace
    };
    assert_eq!(of(value("team-a")).as_deref(), Some("team-a"));
    assert_eq!(of(value("")), None);
    assert_eq!(of(value(7)).as_deref(), Some("Int(7)"), "not the name of the Workflow's namespace");
    assert_eq!(of(proto::Value::default()), None);
    let long = of(value("x".repeat(10_000).as_str())).unwrap();
    assert!(long.len() < 400, "cut for the log");
    assert_eq!(context(proto::Context { id: Some(1), ..Default::default() }).unwrap().namespace, None);
}

#[test]
fn a_task_has_the_name_of_kfp_v2() {
    let task = |custom_properties| {
        let create_time_since_epoch = Some(5);
        let wire = proto::Execution { id: Some(1), create_time_since_epoch, custom_properties, ..Default::default() };
        execution(wire).unwrap().task
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
        artifact(wire).unwrap().name.map(String::from)
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
        artifact(wire).unwrap().pushed
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
    use artifact::State as Wire;
    let state = |state: Option<i32>| artifact(proto::Artifact { state, ..wire_artifact() }).unwrap().state;
    for available in [None, Some(Wire::Unknown as i32), Some(Wire::Pending as i32), Some(Wire::Live as i32), Some(99)] {
        assert_eq!(state(available), ArtifactState::Available, "{available:?}");
    }
    for removed in [Wire::MarkedForDeletion, Wire::Deleted, Wire::Abandoned] {
        assert_eq!(state(Some(removed as i32)), ArtifactState::Removed, "{removed:?}");
    }
}

#[test]
fn only_the_event_type_output_is_an_output() {
    let is_output = |kind: Option<i32>| {
        event(proto::Event { artifact_id: Some(1), execution_id: Some(2), r#type: kind, path: None }).unwrap().is_output
    };
    let outputs: Vec<i32> = (-1..=99).filter(|kind| is_output(Some(*kind))).collect();
    assert_eq!(outputs, [4]);
    assert!(!is_output(None));
}

#[test]
fn a_path_contains_the_key_and_the_index_of_the_output() {
    use step::Value::{Index, Key};
    let at = |steps: Vec<step::Value>| {
        let steps = steps.into_iter().map(|value| event::path::Step { value: Some(value) }).collect();
        let path = Some(event::Path { steps });
        let event = event(proto::Event { artifact_id: Some(1), execution_id: Some(2), path, r#type: Some(4) }).unwrap();
        (event.key.to_string(), event.index)
    };
    let key = |key: &str| Key(key.to_owned());
    assert_eq!(at(vec![key("pushed_model"), Index(3)]), ("pushed_model".into(), 3));
    assert_eq!(at(vec![key("model")]), ("model".into(), 0));
    assert_eq!(at(vec![Index(2)]), (String::new(), 2));
    assert_eq!(at(vec![key("a"), Index(0), key("b"), Index(9)]), ("a".into(), 0));
    assert_eq!(at(vec![]), (String::new(), 0));
}
