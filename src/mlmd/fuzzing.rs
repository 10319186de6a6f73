//! The conversion of ML Metadata's answers, for the fuzz target `mlmd`.

use prost::Message;

use super::{
    convert, proto, reader,
    rules::{Context, Event, Execution},
};

/// Converts the rows of an answer as messages of every kind.
///
/// # Panics
/// If a conversion disagrees with the generated types about a message that both accept.
pub fn convert(answer: &[u8]) {
    // The result is the error of the answer's frame; each row is converted before.
    let _ = reader::rows(answer, |row| {
        context(row);
        execution(row);
        artifact(row);
        event(row);
        if let (Ok(id), Ok(message)) = (convert::artifact_type(row), proto::ArtifactType::decode(row)) {
            assert_eq!(Some(id), message.id);
        }
        Ok(())
    });
    let _ = reader::context_names(answer);
}

fn context(row: &[u8]) {
    if let (Ok(Context { id, type_name, name, .. }), Ok(message)) = (convert::context(row), proto::Context::decode(row))
    {
        assert_eq!((Some(id), type_name, name), (message.id, message.r#type(), message.name()));
    }
}

fn execution(row: &[u8]) {
    if let (Ok(Execution { id, created_ms, type_name, .. }), Ok(message)) =
        (convert::execution(row), proto::Execution::decode(row))
    {
        assert_eq!((Some(id), Some(created_ms)), (message.id, message.create_time_since_epoch));
        assert_eq!(type_name, message.r#type());
    }
}

fn artifact(row: &[u8]) {
    if let (Ok(artifact), Ok(message)) = (convert::artifact(row), proto::Artifact::decode(row)) {
        assert_eq!((Some(artifact.id), artifact.type_id), (message.id, message.type_id));
        assert_eq!((&*artifact.type_name, &*artifact.uri), (message.r#type(), message.uri()));
    }
}

fn event(row: &[u8]) {
    if let (Ok(Event { artifact, execution, is_output, .. }), Ok(message)) =
        (convert::event(row), proto::Event::decode(row))
    {
        assert_eq!((Some(artifact), Some(execution)), (message.artifact_id, message.execution_id));
        assert_eq!(is_output, message.r#type() == proto::event::Type::Output);
    }
}
