//! Conversion of generated types to plain ones. A message without an id, or without the time that identifies foreign
//! executions, is malformed.

use std::collections::HashMap;

use super::{
    error::{CallError, excerpt},
    proto::{self, artifact, event, event::path::step, value},
    rules::{ArtifactState, Context, ContextArtifact, Event, Execution, Property, parse_pushed},
};

type Properties = HashMap<String, proto::Value>;

pub(super) fn context(context: proto::Context) -> Result<Context, CallError> {
    let id = id(context.id, "a context without an id")?;
    let namespace = property(&context.custom_properties, "namespace").map(|namespace| match namespace {
        Property::Text(text) => text,
        // Not a text, so not the name of the Workflow's namespace.
        other => format!("{other:?}"),
    });
    Ok(Context {
        id,
        type_name: context.r#type.unwrap_or_default(),
        name: context.name.unwrap_or_default(),
        // An empty text names no namespace.
        namespace: namespace.filter(|namespace| !namespace.is_empty()).map(|namespace| excerpt(&namespace)),
    })
}

pub(super) fn execution(execution: proto::Execution) -> Result<Execution, CallError> {
    let id = id(execution.id, "an execution without an id")?;
    let created_ms = execution
        .create_time_since_epoch
        .ok_or_else(|| CallError::malformed(format!("execution {id} has no creation time")))?;
    let custom = &execution.custom_properties;
    let task = text(custom, "task_name").or_else(|| text(custom, "display_name"));
    Ok(Execution { id, created_ms, type_name: execution.r#type.unwrap_or_default().into(), task })
}

pub(super) fn artifact(artifact: proto::Artifact) -> Result<ContextArtifact, CallError> {
    use artifact::State as Wire;
    let id = id(artifact.id, "an artifact without an id")?;
    if artifact.r#type.is_none() && artifact.type_id.is_none() {
        return Err(CallError::malformed(format!("artifact {id} has no type")));
    }
    let state = match artifact.state() {
        Wire::MarkedForDeletion | Wire::Deleted | Wire::Abandoned => ArtifactState::Removed,
        Wire::Unknown | Wire::Pending | Wire::Live | Wire::Reference => ArtifactState::Available,
    };
    let custom = &artifact.custom_properties;
    let own_name = artifact.name.filter(|name| !name.is_empty()).map(Into::into);
    let pushed = |properties| property(properties, "pushed").as_ref().and_then(parse_pushed);
    Ok(ContextArtifact {
        id,
        state,
        type_id: artifact.type_id,
        type_name: artifact.r#type.unwrap_or_default().into(),
        uri: artifact.uri.unwrap_or_default().into(),
        name: text(custom, "name").or(own_name),
        pushed: pushed(custom).or_else(|| pushed(&artifact.properties)),
        output: text(custom, "display_name"),
    })
}

pub(super) fn event(event: proto::Event) -> Result<Event, CallError> {
    let artifact = id(event.artifact_id, "an event without an artifact")?;
    let execution = id(event.execution_id, "an event without an execution")?;
    let is_output = event.r#type() == event::Type::Output;
    // TFX writes a key and an index, KFP v2 a key. Of a longer path, the first of each belongs to the output.
    let (mut key, mut index) = (None, None);
    for step in event.path.map(|path| path.steps).unwrap_or_default() {
        match step.value {
            Some(step::Value::Key(text)) => key = key.or(Some(text).filter(|text| !text.is_empty())),
            Some(step::Value::Index(place)) => index = index.or(Some(place)),
            None => {}
        }
    }
    let key = key.unwrap_or_default().into();
    Ok(Event { artifact, execution, is_output, key, index: index.unwrap_or_default() })
}

/// Returns an id. ML Metadata counts from 1, so zero is a message that was never filled in.
pub(super) fn id(id: Option<i64>, problem: &str) -> Result<i64, CallError> {
    id.filter(|id| *id > 0).ok_or_else(|| CallError::malformed(problem))
}

fn property(properties: &Properties, name: &str) -> Option<Property> {
    Some(match properties.get(name)?.value.clone()? {
        value::Value::IntValue(value) => Property::Int(value),
        value::Value::DoubleValue(value) => Property::Double(value),
        value::Value::BoolValue(value) => Property::Bool(value),
        value::Value::StringValue(text) => Property::Text(text),
    })
}

fn text(properties: &Properties, name: &str) -> Option<Box<str>> {
    match property(properties, name)? {
        Property::Text(text) if !text.is_empty() => Some(text.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
