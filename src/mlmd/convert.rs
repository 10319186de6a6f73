//! From generated types to plain ones. What lacks an id, or the time by which a foreign execution is told, is not
//! guessed around but refused.

use std::collections::HashMap;

use super::{
    error::{excerpt, malformed},
    proto::{self, artifact, event, event::path::step, value},
    rules::{Attributed, Context, Event, Execution, Property, State, pushed},
};
use crate::delivery::LookupError;

type Properties = HashMap<String, proto::Value>;

pub(super) fn context(context: proto::Context) -> Result<Context, LookupError> {
    let id = present(context.id, "a context without an id")?;
    let namespace = property(&context.custom_properties, "namespace").map(|namespace| match namespace {
        Property::Text(text) => text,
        // Whatever it means, it is not the name of the Workflow's namespace.
        other => format!("{other:?}"),
    });
    Ok(Context {
        id,
        type_name: context.r#type.unwrap_or_default(),
        name: context.name.unwrap_or_default(),
        // An empty one names no namespace.
        namespace: namespace.filter(|namespace| !namespace.is_empty()).map(|namespace| excerpt(&namespace)),
    })
}

pub(super) fn execution(execution: proto::Execution) -> Result<Execution, LookupError> {
    let id = present(execution.id, "an execution without an id")?;
    let created = execution
        .create_time_since_epoch
        .ok_or_else(|| malformed(format!("execution {id} does not say when it was created")))?;
    let custom = &execution.custom_properties;
    let task = text(custom, "task_name").or_else(|| text(custom, "display_name"));
    Ok(Execution { id, created, type_name: execution.r#type.unwrap_or_default().into(), task })
}

pub(super) fn artifact(artifact: proto::Artifact) -> Result<Attributed, LookupError> {
    use artifact::State as Wire;
    let id = present(artifact.id, "an artifact without an id")?;
    if artifact.r#type.is_none() && artifact.type_id.is_none() {
        return Err(malformed(format!("artifact {id} has no type")));
    }
    let state = match artifact.state() {
        Wire::MarkedForDeletion | Wire::Deleted | Wire::Abandoned => State::Gone,
        Wire::Unknown | Wire::Pending | Wire::Live | Wire::Reference => State::There,
    };
    let custom = &artifact.custom_properties;
    let own_name = artifact.name.filter(|name| !name.is_empty()).map(Into::into);
    let read_pushed = |properties| property(properties, "pushed").as_ref().and_then(pushed);
    Ok(Attributed {
        id,
        state,
        type_id: artifact.type_id,
        type_name: artifact.r#type.unwrap_or_default().into(),
        uri: artifact.uri.unwrap_or_default().into(),
        name: text(custom, "name").or(own_name),
        pushed: read_pushed(custom).or_else(|| read_pushed(&artifact.properties)),
        output: text(custom, "display_name"),
    })
}

pub(super) fn event(event: proto::Event) -> Result<Event, LookupError> {
    let artifact = present(event.artifact_id, "an event without an artifact")?;
    let execution = present(event.execution_id, "an event without an execution")?;
    let output = event.r#type() == event::Type::Output;
    let mut path = Event { artifact, execution, output, key: Box::default(), index: 0 };
    // TFX writes a key and an index, KFP v2 a key. Of a longer path, the first of each is the output's.
    let steps = event.path.map(|path| path.steps).unwrap_or_default();
    let mut index = None;
    for step in steps {
        match step.value {
            Some(step::Value::Key(key)) if path.key.is_empty() => path.key = key.into(),
            Some(step::Value::Index(place)) => index = index.or(Some(place)),
            Some(step::Value::Key(_)) | None => {}
        }
    }
    path.index = index.unwrap_or_default();
    Ok(path)
}

/// An id. ML Metadata counts from 1, so a zero is a message that was never filled in.
pub(super) fn present(id: Option<i64>, what: &str) -> Result<i64, LookupError> {
    id.filter(|id| *id > 0).ok_or_else(|| malformed(what))
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
