//! The decoders of Kubeflow's answers, for the fuzz target `kfp`.

use prost::Message;

use super::{
    convert, lookup, proto,
    rules::{Collector, Task, Tasks, Verdicts as _},
    spec::SpecReader,
};
use crate::model::{ArtifactTypes, Workflow};

/// Reads an answer as a page of tasks, and as a single task, for runs of which it is the last page.
///
/// # Panics
/// If a conversion disagrees with the generated types about a message that both accept, or if more is kept than was
/// accounted for.
pub fn list_tasks(answer: &[u8], run: &Workflow) {
    let run_id = run.run_id.as_ref().map(ToString::to_string).unwrap_or_default();
    let types = ArtifactTypes::default();
    let mut tasks = Tasks::of(run, &types);
    let mut verdicts = Collector::default();
    let mut kept = 0;
    verdicts.begin();
    let page = convert::page(answer, &run_id, |row| {
        task(row);
        kept += lookup::add(&mut tasks, row, &mut verdicts)?;
        let mut namespaces = 0;
        convert::namespaces(row, |namespace| namespaces += namespace.len())?;
        convert::pods(row, |_| {})?;
        assert!(namespaces <= row.len(), "more than there is");
        Ok(())
    });
    if page.is_ok()
        && let Ok(selection) = tasks.select(run.finished, &mut verdicts)
    {
        let texts = selection.models.iter().map(|model| model.uri.len() + model.name.as_deref().map_or(0, str::len));
        assert!(texts.sum::<usize>() <= kept, "more is kept than was accounted for");
    }
    task(answer);
}

/// Reads a run in pieces of this size and as a whole.
///
/// # Panics
/// If the pieces make a difference, or if the run's id disagrees with the generated types.
pub fn run(message: &[u8], piece: usize) {
    let read = |size: usize| {
        let mut reader = SpecReader::default();
        message.chunks(size.max(1)).try_for_each(|piece| reader.read(piece)).map(|()| reader.finish())
    };
    let whole = read(message.len());
    assert_eq!(whole, read(piece));
    // Longer ids are cut, and an empty one does not replace another.
    if let (Ok((Some(id), _)), Ok(run)) = (&whole, proto::Run::decode(message))
        && (1..1024).contains(&run.run_id.len())
    {
        assert_eq!(*id, run.run_id);
    }
}

/// Finds the title of a schema.
///
/// # Panics
/// If it is not one line of the text.
pub fn title(text: &str) {
    if let Some(title) = convert::schema_title(text) {
        assert!(!title.is_empty() && !title.contains('\n') && text.contains(&*title), "{title:?}");
    }
}

fn task(row: &[u8]) {
    let (Ok(converted), Ok(message)) = (convert::task(row), proto::PipelineTask::decode(row)) else { return };
    let Task { id, run_id, name, scope, .. } = converted;
    assert_eq!((id, run_id, name, scope), (&*message.task_id, &*message.run_id, &*message.name, &*message.scope_path));
    assert_eq!(converted.parent, message.parent_task_id.as_deref().filter(|parent| !parent.is_empty()));
    // The result is the error of a link.
    let _ = convert::outputs(row, |_, artifact| {
        if let (Ok(converted), Ok(message)) = (convert::artifact(artifact), proto::Artifact::decode(artifact)) {
            assert_eq!((converted.id, converted.uri), (&*message.artifact_id, message.uri()));
            assert_eq!(converted.namespace, message.namespace);
        }
        Ok(())
    });
}
