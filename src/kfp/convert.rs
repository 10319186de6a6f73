//! Conversion of messages to plain data. What no rule reads is skipped.
//!
//! The numbers of fields are those of `proto/kfp_run.proto`.

use std::borrow::Cow;

use super::rules::{ArtifactRow, Link, Relation, Task, TaskKind, TaskState};
use crate::lookup::{
    error::CallError,
    property::{Property, parse_pushed},
    wire::{Field, fields, map_entry},
};

/// The fields of a task with its inputs and its outputs.
const INPUTS: u32 = 16;
const OUTPUTS: u32 = 17;
/// The field with the Pods of a task.
const PODS: u32 = 5;
/// `IOType`: the links from a task to its outputs.
const ITERATOR_OUTPUT: i64 = 8;
const OUTPUT: i64 = 9;
/// Maximum length of a task's name in bytes. Each of its models has a copy, and Kubeflow's database has room for less.
const MAX_NAME: usize = 1024;
/// The key of an artifact's metadata that contains the title of its schema.
const SCHEMA_TITLE: &[u8] = b"_kfp_schema_title";

/// Reads a page of the tasks of this run: passes each as a message, and returns the token of the next page.
pub(super) fn page(
    message: &[u8],
    run_id: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), CallError>,
) -> Result<Option<String>, CallError> {
    let mut token = None;
    fields(message, |number, field| {
        match number {
            1 => {
                let row = field.bytes()?;
                if task(row)?.run_id != run_id {
                    return Err(CallError::malformed("the response contains a task of another run"));
                }
                each(row)?;
            }
            2 => token = Some(field.text()?.to_owned()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(token)
}

/// Reads a task without its artifacts.
pub(super) fn task(message: &[u8]) -> Result<Task<'_>, CallError> {
    let mut task = Task::default();
    fields(message, |number, field| {
        match number {
            1 => task.name = field.text()?,
            3 => task.id = field.text()?,
            4 => task.run_id = field.text()?,
            7 => task.created = timestamp(field)?,
            9 => {
                task.state = match field.int()? {
                    1 => TaskState::Running,
                    2 | 5 => TaskState::Done,
                    _ => TaskState::Other,
                }
            }
            12 => {
                task.kind = match field.int()? {
                    2 => TaskKind::Runtime,
                    1 => TaskKind::Root,
                    5 => TaskKind::Loop,
                    7 => TaskKind::Importer,
                    _ => TaskKind::Container,
                }
            }
            13 => fields(field.bytes()?, |number, field| {
                match number {
                    1 => task.iteration = Some(field.int()?),
                    2 => task.iterations = Some(field.int()?),
                    _ => {}
                }
                Ok(())
            })?,
            14 => task.parent = Some(field.text()?).filter(|parent| !parent.is_empty()),
            18 => task.scope = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    if task.id.is_empty() {
        return Err(CallError::malformed("a task without an id"));
    }
    if task.name.len() > MAX_NAME {
        return Err(CallError::too_large(format!("the name of a task has more than {MAX_NAME} bytes")));
    }
    Ok(task)
}

/// Passes the links from a task to its own outputs, each with its artifacts as messages.
pub(super) fn outputs<'a>(
    task: &'a [u8],
    mut each: impl FnMut(&Link<'a>, &'a [u8]) -> Result<(), CallError>,
) -> Result<(), CallError> {
    linked(
        task,
        OUTPUTS,
        |relation, link, artifact| {
            if relation == Relation::Output { each(link, artifact) } else { Ok(()) }
        },
    )
}

/// Passes all links from a task to artifacts, each with its artifacts as messages.
pub(super) fn every_link<'a>(
    task: &'a [u8],
    mut each: impl FnMut(Relation, &Link<'a>, &'a [u8]) -> Result<(), CallError>,
) -> Result<(), CallError> {
    linked(task, INPUTS, |_, link, artifact| each(Relation::Input, link, artifact))?;
    linked(task, OUTPUTS, each)
}

/// Passes the links of one side of a task as if it were that of the outputs.
fn linked<'a>(
    task: &'a [u8],
    side: u32,
    mut each: impl FnMut(Relation, &Link<'a>, &'a [u8]) -> Result<(), CallError>,
) -> Result<(), CallError> {
    links(task, side, |link| {
        let (mut kind, mut key, mut iteration) = (0, "", None);
        // The artifacts come first on the wire.
        fields(link, |number, field| {
            match number {
                2 => kind = field.int()?,
                3 => key = field.text()?,
                4 => fields(field.bytes()?, |number, field| {
                    if number == 2 {
                        iteration = Some(field.int()?);
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        let relation = if matches!(kind, OUTPUT | ITERATOR_OUTPUT) { Relation::Output } else { Relation::Repeated };
        let found = Link { key, iteration };
        fields(link, |number, field| if number == 1 { each(relation, &found, field.bytes()?) } else { Ok(()) })
    })
}

/// Passes the namespaces of all artifacts of a task, also of those that it reads.
pub(super) fn namespaces<'a>(task: &'a [u8], mut each: impl FnMut(&'a str)) -> Result<(), CallError> {
    for side in [INPUTS, OUTPUTS] {
        links(task, side, |link| {
            fields(link, |number, field| {
                if number == 1 {
                    each(artifact(field.bytes()?)?.namespace);
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Passes the names of the Pods of a task.
pub(super) fn pods<'a>(task: &'a [u8], mut each: impl FnMut(&'a str)) -> Result<(), CallError> {
    fields(task, |number, field| {
        if number != PODS {
            return Ok(());
        }
        fields(field.bytes()?, |number, field| {
            if number == 1 {
                each(field.text()?);
            }
            Ok(())
        })
    })
}

/// Passes the links of one side of a task.
fn links<'a>(
    task: &'a [u8],
    side: u32,
    mut each: impl FnMut(&'a [u8]) -> Result<(), CallError>,
) -> Result<(), CallError> {
    fields(task, |number, field| {
        if number != side {
            return Ok(());
        }
        fields(field.bytes()?, |number, field| if number == 2 { each(field.bytes()?) } else { Ok(()) })
    })
}

/// Reads the id of an artifact and the time of its creation.
pub(super) fn artifact_order(message: &[u8]) -> Result<(i64, &str), CallError> {
    let (mut created, mut id) = (0, "");
    fields(message, |number, field| {
        match number {
            1 => id = field.text()?,
            8 => created = timestamp(field)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((created, id))
}

pub(super) fn artifact(message: &[u8]) -> Result<ArtifactRow<'_>, CallError> {
    let (mut id, mut kind, mut uri, mut created, mut namespace) = ("", 0, "", 0, "");
    let (mut title, mut name, mut pushed) = (None, None, None);
    fields(message, |number, field| {
        match number {
            1 => id = field.text()?,
            4 => kind = field.int()?,
            5 => uri = field.text()?,
            6 => {
                let (key, value) = map_entry(field)?;
                match key {
                    SCHEMA_TITLE => title = text(value)?.and_then(schema_title),
                    b"name" => name = text(value)?,
                    b"pushed" => pushed = property(value)?.as_ref().and_then(parse_pushed),
                    _ => {}
                }
            }
            8 => created = timestamp(field)?,
            9 => namespace = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    if id.is_empty() {
        return Err(CallError::malformed("an artifact without an id"));
    }
    let type_name = title.unwrap_or(Cow::Borrowed(type_name(kind)));
    Ok(ArtifactRow { id, type_name, uri, name, pushed, created, namespace })
}

/// The name of a type of `ArtifactType`, as Kubeflow Pipelines spells it in a schema. Metrics have a plural there.
fn type_name(kind: i64) -> &'static str {
    match kind {
        1 => "system.Artifact",
        2 => "system.Model",
        3 => "system.Dataset",
        4 => "system.HTML",
        5 => "system.Markdown",
        6 => "system.Metrics",
        7 => "system.ClassificationMetrics",
        8 => "system.SlicedClassificationMetrics",
        _ => "",
    }
}

/// Returns the title of a schema: the text itself, or the value of `title` in a schema in YAML.
pub(super) fn schema_title(text: &str) -> Option<Cow<'_, str>> {
    let unquoted = |value: &str| -> Option<String> {
        let value = value.trim();
        let value =
            ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(value);
        (!value.is_empty()).then(|| value.to_owned())
    };
    match text.lines().find_map(|line| line.strip_prefix("title:")) {
        Some(title) => unquoted(title).map(Cow::Owned),
        None => Some(text.trim()).filter(|title| !title.is_empty() && !title.contains(['\n', ':'])).map(Cow::Borrowed),
    }
}

/// Returns a `google.protobuf.Value`. A struct, a list or null is none that a rule reads.
fn property(value: &[u8]) -> Result<Option<Property<'_>>, CallError> {
    let mut property = None;
    fields(value, |number, field| {
        property = match number {
            2 => Some(Property::Double(field.double()?)),
            3 => Some(Property::Text(field.text()?)),
            4 => Some(Property::Bool(field.int()? != 0)),
            _ => None,
        };
        Ok(())
    })?;
    Ok(property)
}

fn text(value: &[u8]) -> Result<Option<&str>, CallError> {
    Ok(match property(value)? {
        Some(Property::Text(text)) if !text.is_empty() => Some(text),
        _ => None,
    })
}

/// Returns the seconds of a `google.protobuf.Timestamp`. The server keeps whole seconds.
fn timestamp(field: Field<'_>) -> Result<i64, CallError> {
    let mut seconds = 0;
    fields(field.bytes()?, |number, field| {
        if number == 1 {
            seconds = field.int()?;
        }
        Ok(())
    })?;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_bare_or_in_yaml() {
        for (text, title) in [
            ("tfx.PushedModel", Some("tfx.PushedModel")),
            (" tfx.PushedModel\n", Some("tfx.PushedModel")),
            ("title: tfx.PushedModel\ntype: object\n", Some("tfx.PushedModel")),
            (
                "type: object\ntitle: \"tfx.PushedModel\"\nproperties:\n  title:\n    type: string\n",
                Some("tfx.PushedModel"),
            ),
            ("type: object\ntitle: 'PushedModel'\n", Some("PushedModel")),
            ("type: object\nproperties:\n  title: x\n", None),
            ("title:\n", None),
            ("", None),
        ] {
            assert_eq!(schema_title(text).as_deref(), title, "{text:?}");
        }
    }

    #[test]
    fn types_are_spelled_as_in_schemas() {
        let names = [0, 1, 2, 6, 7, 8, 9].map(type_name);
        let expected = [
            "",
            "system.Artifact",
            "system.Model",
            "system.Metrics",
            "system.ClassificationMetrics",
            "system.SlicedClassificationMetrics",
            "",
        ];
        assert_eq!(names, expected);
    }
}
