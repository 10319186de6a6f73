//! Conversion of messages to plain data. Properties that no rule reads are skipped. A message without an id, or without
//! the time that identifies foreign executions, is malformed.
//!
//! The numbers of fields are those of `proto/metadata_store.proto`.

use super::{
    error::{CallError, excerpt},
    rules::{ArtifactState, Context, ContextArtifact, Event, Execution},
    wire::{Field, fields, map_entry},
};
use crate::lookup::property::{Property, parse_pushed};

/// `Artifact.State`.
const MARKED_FOR_DELETION: i64 = 3;
const DELETED: i64 = 4;
const ABANDONED: i64 = 5;
/// `Event.Type`.
const OUTPUT: i64 = 4;

pub(super) fn context(message: &[u8]) -> Result<Context<'_>, CallError> {
    let (mut id, mut type_name, mut name, mut namespace) = (None, "", "", None);
    fields(message, |number, field| {
        match number {
            1 => id = Some(field.int()?),
            3 => name = field.text()?,
            5 => with_property(field, |key, value| {
                if key == b"namespace" {
                    namespace = value()?;
                }
                Ok(())
            })?,
            6 => type_name = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    let namespace = match namespace {
        Some(Property::Text(text)) => excerpt(text),
        // Not a text, so not the name of the Workflow's namespace.
        Some(other) => format!("{other:?}"),
        None => String::new(),
    };
    Ok(Context {
        id: valid_id(id, "a context without an id")?,
        type_name,
        name,
        // An empty text names no namespace.
        namespace: Some(namespace).filter(|namespace| !namespace.is_empty()),
    })
}

pub(super) fn execution(message: &[u8]) -> Result<Execution<'_>, CallError> {
    let (mut id, mut created_ms, mut type_name) = (None, None, "");
    let (mut task_name, mut display_name, mut component, mut pod) = (None, None, None, None);
    let (mut parent, mut iteration) = (None, None);
    fields(message, |number, field| {
        match number {
            1 => id = Some(field.int()?),
            4 => with_property(field, |key, value| {
                if key == b"component_id" {
                    component = text(value()?);
                }
                Ok(())
            })?,
            5 => with_property(field, |key, value| {
                match key {
                    b"task_name" => task_name = text(value()?),
                    b"display_name" => display_name = text(value()?),
                    b"pod_name" | b"kfp_pod_name" => pod = text(value()?),
                    b"parent_dag_id" => parent = whole_number(value()?).filter(|id| *id > 0),
                    b"iteration_index" => iteration = whole_number(value()?).and_then(|index| index.try_into().ok()),
                    _ => {}
                }
                Ok(())
            })?,
            7 => type_name = field.text()?,
            8 => created_ms = Some(field.int()?),
            _ => {}
        }
        Ok(())
    })?;
    let id = valid_id(id, "an execution without an id")?;
    let created_ms = created_ms.ok_or_else(|| CallError::malformed(format!("execution {id} has no creation time")))?;
    Ok(Execution { id, created_ms, type_name, task: task_name.or(display_name), component, pod, parent, iteration })
}

pub(super) fn artifact(message: &[u8]) -> Result<ContextArtifact, CallError> {
    let (mut id, mut type_id, mut type_name, mut uri, mut state) = (None, None, None, "", 0);
    let (mut own_name, mut custom_name, mut output) = (None, None, None);
    let (mut pushed, mut custom_pushed) = (None, None);
    fields(message, |number, field| {
        match number {
            1 => id = Some(field.int()?),
            2 => type_id = Some(field.int()?),
            3 => uri = field.text()?,
            4 => with_property(field, |key, value| {
                if key == b"pushed" {
                    pushed = value()?.as_ref().and_then(parse_pushed);
                }
                Ok(())
            })?,
            5 => with_property(field, |key, value| {
                match key {
                    b"name" => custom_name = text(value()?),
                    b"pushed" => custom_pushed = value()?.as_ref().and_then(parse_pushed),
                    b"display_name" => output = text(value()?),
                    _ => {}
                }
                Ok(())
            })?,
            6 => state = field.int()?,
            7 => own_name = Some(field.text()?).filter(|name| !name.is_empty()),
            8 => type_name = Some(field.text()?),
            _ => {}
        }
        Ok(())
    })?;
    let id = valid_id(id, "an artifact without an id")?;
    if type_name.is_none() && type_id.is_none() {
        return Err(CallError::malformed(format!("artifact {id} has no type")));
    }
    Ok(ContextArtifact {
        id,
        state: match state {
            MARKED_FOR_DELETION | DELETED => ArtifactState::Removed,
            ABANDONED => ArtifactState::Abandoned,
            _ => ArtifactState::Available,
        },
        type_id,
        type_name: type_name.unwrap_or_default().into(),
        uri: uri.into(),
        name: custom_name.or(own_name).map(Into::into),
        pushed: custom_pushed.or(pushed),
        output: output.map(Into::into),
    })
}

pub(super) fn event(message: &[u8]) -> Result<Event<'_>, CallError> {
    let (mut artifact, mut execution, mut kind) = (None, None, 0);
    let (mut key, mut index) = (None, None);
    fields(message, |number, field| {
        match number {
            1 => artifact = Some(field.int()?),
            2 => execution = Some(field.int()?),
            // TFX writes a key and an index, KFP a key. Of a longer path, the first of each belongs to the output.
            3 => fields(field.bytes()?, |number, step| {
                if number != 1 {
                    return Ok(());
                }
                fields(step.bytes()?, |number, value| {
                    match number {
                        1 => index = index.or(Some(value.int()?)),
                        2 => key = key.or(Some(value.text()?).filter(|text| !text.is_empty())),
                        _ => {}
                    }
                    Ok(())
                })
            })?,
            4 => kind = field.int()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(Event {
        artifact: valid_id(artifact, "an event without an artifact")?,
        execution: valid_id(execution, "an event without an execution")?,
        is_output: kind == OUTPUT,
        key: key.unwrap_or_default(),
        index,
    })
}

/// Returns the id of an artifact type.
pub(super) fn artifact_type(message: &[u8]) -> Result<i64, CallError> {
    let mut id = None;
    fields(message, |number, field| {
        if number == 1 {
            id = Some(field.int()?);
        }
        Ok(())
    })?;
    valid_id(id, "a type without an id")
}

/// Returns an id. ML Metadata counts from 1, so zero is a message that was never filled in.
fn valid_id(id: Option<i64>, problem: &str) -> Result<i64, CallError> {
    id.filter(|id| *id > 0).ok_or_else(|| CallError::malformed(problem))
}

/// Passes the name of a property, and a function that reads its value.
fn with_property<'a>(
    entry: Field<'a>,
    read: impl FnOnce(&'a [u8], &dyn Fn() -> Result<Option<Property<'a>>, CallError>) -> Result<(), CallError>,
) -> Result<(), CallError> {
    let (key, value) = map_entry(entry)?;
    read(key, &|| property(value))
}

/// Returns the value of a property. A struct or another message is none that a rule reads.
fn property(value: &[u8]) -> Result<Option<Property<'_>>, CallError> {
    let mut property = None;
    fields(value, |number, field| {
        property = match number {
            1 => Some(Property::Int(field.int()?)),
            2 => Some(Property::Double(field.double()?)),
            3 => Some(Property::Text(field.text()?)),
            6 => Some(Property::Bool(field.int()? != 0)),
            _ => None,
        };
        Ok(())
    })?;
    Ok(property)
}

fn text(property: Option<Property<'_>>) -> Option<&str> {
    match property? {
        Property::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn whole_number(property: Option<Property<'_>>) -> Option<i64> {
    match property? {
        Property::Int(number) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
