//! Rules that select a run's serving models among its tasks. Pure functions of plain data, without calls.
//!
//! An artifact is a model of the run only if all of these hold:
//!
//! 1. A task of type RUNTIME has it as an output: a link of type OUTPUT or ITERATOR_OUTPUT. The same artifact is linked
//!    again to each DAG that declares it, and an importer has outputs too, so such links on other tasks prove nothing.
//! 2. That task succeeded, or took its outputs from the cache. A task stays RUNNING forever if its launcher was killed,
//!    even in a run that succeeded: with a model, it is waited for ([`UNFINISHED`]), and then left out.
//! 3. The artifact's namespace is the Workflow's. It is empty in an installation for a single user.
//! 4. Its task was not executed again later with another output, see [`places`].
//! 5. Its type, its URI and its property `pushed` make it a serving model ([`ArtifactTypes::accepts`]).
//!
//! The rules tell [`Verdicts`] what they decide about each artifact. The lookups of the server pass `()`, which ignores
//! it; `explain` passes a [`Collector`].
//!
//! A run id is the key of the database, and retries keep older tasks, so the age of a task is no condition. The
//! exception is a copy by `argo resubmit`, which has the run id of the original.

mod places;
mod verdicts;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    mem::size_of,
};

use self::places::Places;
pub(super) use self::verdicts::{Collector, Verdicts};
use crate::{
    delivery::LookupError,
    lookup::{
        allowance::MAX_KEPT,
        error::excerpt,
        names::{self, Placed},
    },
    model::{Artifact, ArtifactId, ArtifactTypes, ArtifactVerdict, NotAModel, Workflow},
};

/// Time after the end of a run in which a task with a model that is still RUNNING is waited for, in seconds. The
/// launcher ends its task before its container ends.
pub const UNFINISHED: i64 = 120;
/// The code of [`LookupError::Failed`] while it is waited for.
pub const UNFINISHED_CODE: &str = "unfinished";
/// Tolerance of the creation of tasks in a copy that `argo resubmit` made, in seconds.
const RESUBMIT_TOLERANCE: i64 = 5;
/// Estimated bytes of a kept task or model beside its texts.
const ENTRY_BYTES: usize = 64;

/// The type of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// A container.
    Runtime,
    /// The run as a whole.
    Root,
    /// A loop.
    Loop,
    /// It links artifacts that existed before.
    Importer,
    /// Any other task that contains tasks: a DAG, a condition, an exit handler.
    #[default]
    Container,
}

/// The state of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TaskState {
    Running,
    /// Succeeded, or taken from the cache.
    Done,
    /// Failed, skipped, or unknown.
    #[default]
    Other,
}

/// A task of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Task<'a> {
    pub(super) id: &'a str,
    pub(super) run_id: &'a str,
    /// Its key in the DAG that contains it.
    pub(super) name: &'a str,
    /// The path of DAGs that contain it.
    pub(super) scope: &'a str,
    pub(super) parent: Option<&'a str>,
    pub(super) kind: TaskKind,
    pub(super) state: TaskState,
    /// The iteration of a loop, counted from 0.
    pub(super) iteration: Option<i64>,
    /// The number of iterations of a loop.
    pub(super) iterations: Option<i64>,
    /// In seconds since the Unix epoch.
    pub(super) created: i64,
}

/// The relation of a task to an artifact that it is linked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// The task reads it.
    Input,
    /// The task's own output.
    Output,
    /// An output of a task that this one contains, under a type of its own.
    Repeated,
}

/// A link from a task to its artifacts of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub(super) key: &'a str,
    pub(super) iteration: Option<i64>,
}

/// An artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArtifactRow<'a> {
    pub(super) id: &'a str,
    pub(super) type_name: Cow<'a, str>,
    pub(super) uri: &'a str,
    /// The name that the executor gave it; never empty.
    pub(super) name: Option<&'a str>,
    pub(super) pushed: Option<i64>,
    /// In seconds since the Unix epoch.
    pub(super) created: i64,
    /// Empty in an installation for a single user.
    pub(super) namespace: &'a str,
}

/// The fields of a task that the rules read.
#[derive(Clone, Debug)]
struct KeptTask {
    id: Box<str>,
    name: Box<str>,
    scope: Box<str>,
    parent: Option<Box<str>>,
    is_root: bool,
    is_loop: bool,
    iteration: Option<i64>,
    iterations: Option<i64>,
    created: i64,
}

impl KeptTask {
    fn of(task: &Task<'_>) -> Self {
        Self {
            id: task.id.into(),
            name: task.name.into(),
            scope: task.scope.into(),
            parent: task.parent.map(Into::into),
            is_root: task.kind == TaskKind::Root,
            is_loop: task.kind == TaskKind::Loop,
            iteration: task.iteration,
            iterations: task.iterations,
            created: task.created,
        }
    }

    fn bytes(&self) -> usize {
        let texts = self.id.len() + self.name.len() + self.scope.len() + self.parent.as_deref().map_or(0, str::len);
        size_of::<Self>() + ENTRY_BYTES + texts
    }
}

/// An output of one of the wanted types.
#[derive(Debug)]
struct Output {
    /// Index of the task among those with outputs.
    task: usize,
    key: Box<str>,
    iteration: Option<i64>,
    created: i64,
    id: Box<str>,
    /// Place among the artifacts of the key.
    index: i64,
    /// `None`: not a serving model. Where it is the latest output, an earlier model is out of date.
    model: Option<Model>,
}

#[derive(Debug)]
struct Model {
    name: Option<Box<str>>,
    uri: Box<str>,
}

impl Output {
    fn bytes(&self) -> usize {
        let model = self.model.as_ref().map_or(0, |it| it.uri.len() + it.name.as_deref().map_or(0, str::len));
        size_of::<Self>() + ENTRY_BYTES + self.key.len() + self.id.len() + model
    }
}

/// The tasks of a run, as far as they matter for its models.
#[derive(Debug)]
pub(super) struct Tasks<'a> {
    run: &'a Workflow,
    types: &'a ArtifactTypes,
    is_empty: bool,
    /// Tasks that contain tasks, by id.
    containers: HashMap<Box<str>, KeptTask>,
    /// Tasks with outputs.
    tasks: Vec<KeptTask>,
    outputs: Vec<Output>,
    /// The name of a task that is RUNNING and has a model.
    unfinished: Option<String>,
    /// Another namespace that a model has, and the number of such models.
    foreign: Option<(String, usize)>,
    /// Tasks that are older than the Workflow, which is a copy.
    older: usize,
}

/// The result of a lookup.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) models: Vec<Artifact>,
    /// Number of tasks that are older than the Workflow, which is a copy.
    pub(super) older_tasks: usize,
    /// Number of models of other namespaces.
    pub(super) foreign_models: usize,
}

impl<'a> Tasks<'a> {
    /// No task yet, for a lookup of this run's models of these types.
    pub(super) fn of(run: &'a Workflow, types: &'a ArtifactTypes) -> Self {
        Self {
            run,
            types,
            is_empty: true,
            containers: HashMap::new(),
            tasks: Vec::new(),
            outputs: Vec::new(),
            unfinished: None,
            foreign: None,
            older: 0,
        }
    }

    /// Adds a task. Returns the estimated bytes that are kept of it, and whether its outputs matter.
    pub(super) fn add(&mut self, task: &Task<'_>, verdicts: &mut dyn Verdicts) -> (usize, bool) {
        self.is_empty = false;
        verdicts.task(task);
        match self.excluded_task(task) {
            Some(ArtifactVerdict::NoEvent) => {
                let kept = KeptTask::of(task);
                let bytes = kept.bytes() + kept.id.len();
                self.containers.insert(kept.id.clone(), kept);
                (bytes, false)
            }
            Some(ArtifactVerdict::ForeignExecution) => {
                self.older += 1;
                (0, false)
            }
            Some(_) => (0, false),
            None => (0, true),
        }
    }

    /// Returns the rule that excludes the outputs of a task.
    fn excluded_task(&self, task: &Task<'_>) -> Option<ArtifactVerdict> {
        match task.kind {
            TaskKind::Importer => Some(ArtifactVerdict::Importer),
            TaskKind::Root | TaskKind::Loop | TaskKind::Container => Some(ArtifactVerdict::NoEvent),
            TaskKind::Runtime if self.is_older(task) => Some(ArtifactVerdict::ForeignExecution),
            TaskKind::Runtime if task.state == TaskState::Other => Some(ArtifactVerdict::NotSucceeded),
            TaskKind::Runtime => None,
        }
    }

    /// Returns the rule that excludes an output of a task, regardless of the outputs of other tasks.
    fn excluded_output(&self, task: &Task<'_>, row: &ArtifactRow<'_>) -> Option<ArtifactVerdict> {
        let of_artifact = || {
            if !row.namespace.is_empty() && *row.namespace != *self.run.namespace {
                Some(ArtifactVerdict::ForeignNamespace)
            } else {
                (task.state == TaskState::Running).then_some(ArtifactVerdict::Unfinished)
            }
        };
        self.excluded_task(task).or_else(of_artifact)
    }

    fn is_older(&self, task: &Task<'_>) -> bool {
        self.run.resubmitted && task.created < self.run.created.saturating_sub(RESUBMIT_TOLERANCE)
    }

    fn check(&self, row: &ArtifactRow<'_>) -> Result<(), NotAModel> {
        self.types.check(&row.type_name, row.uri, row.pushed)
    }

    /// Reports the verdict about an artifact that a task is linked to.
    pub(super) fn judge(
        &self,
        task: &Task<'_>,
        relation: Relation,
        link: &Link<'_>,
        row: &ArtifactRow<'_>,
        verdicts: &mut dyn Verdicts,
    ) {
        let exclusion = match relation {
            Relation::Input => Some(ArtifactVerdict::OnlyRead),
            Relation::Repeated => Some(ArtifactVerdict::NoEvent),
            Relation::Output => self.excluded_output(task, row),
        };
        verdicts.linked(task, link, row, self.check(row), exclusion);
    }

    /// Adds an output of a task whose outputs matter. `index` is its place among the artifacts of its key. Returns the
    /// estimated bytes that are kept of it.
    pub(super) fn add_output(&mut self, task: &Task<'_>, link: &Link<'_>, index: i64, row: &ArtifactRow<'_>) -> usize {
        let check = self.check(row);
        if check == Err(NotAModel::OtherType) {
            return 0;
        }
        let is_model = check.is_ok();
        match self.excluded_output(task, row) {
            None => {}
            Some(exclusion) => {
                match exclusion {
                    ArtifactVerdict::ForeignNamespace if is_model => {
                        self.foreign.get_or_insert_with(|| (excerpt(row.namespace), 0)).1 += 1;
                    }
                    ArtifactVerdict::Unfinished if is_model => {
                        self.unfinished.get_or_insert_with(|| excerpt(task.name));
                    }
                    _ => {}
                }
                return 0;
            }
        }
        let mut bytes = 0;
        if self.tasks.last().is_none_or(|last| *last.id != *task.id) {
            let kept = KeptTask::of(task);
            bytes += kept.bytes();
            self.tasks.push(kept);
        }
        let output = Output {
            task: self.tasks.len() - 1,
            key: link.key.into(),
            iteration: link.iteration.or(task.iteration),
            created: row.created,
            id: row.id.into(),
            index,
            model: is_model.then(|| Model { name: row.name.map(Into::into), uri: row.uri.into() }),
        };
        bytes += output.bytes();
        self.outputs.push(output);
        bytes
    }

    /// Returns the models of the run, in the order of the event.
    ///
    /// # Errors
    /// [`LookupError::NoContext`] without any task, [`LookupError::ForeignContext`] if all models are of other
    /// namespaces, [`LookupError::TooLarge`] if the paths of their tasks need too much memory, and a failure while a
    /// task with a model is RUNNING shortly after the end of the run.
    pub(super) fn select(self, now: i64, verdicts: &mut dyn Verdicts) -> Result<Selection, LookupError> {
        if self.is_empty {
            // A run that is known has a task for itself. A server for a single user answers so for an unknown run.
            return Err(LookupError::NoContext);
        }
        if let Some(task) = &self.unfinished
            && now < self.run.finished.saturating_add(UNFINISHED)
        {
            let message = format!("the task {task:?} has a model and is still running");
            return Err(LookupError::Failed { code: UNFINISHED_CODE, message });
        }
        let (places, mut outputs) = (Places::of(&self.containers, &self.tasks), self.outputs);
        keep_latest(&mut outputs, &self.tasks, &places, verdicts);
        outputs.retain(|output| output.model.is_some());
        if let (true, Some((namespace, _))) = (outputs.is_empty(), &self.foreign) {
            return Err(LookupError::ForeignContext { namespace: namespace.clone() });
        }
        outputs.sort_by(|a, b| order(a, &self.tasks).cmp(&order(b, &self.tasks)));
        let mut locations = HashSet::new();
        let mut chosen = Vec::new();
        for Output { task, key, iteration, id, index, model, .. } in outputs {
            let Some(Model { name, uri }) = model else { continue };
            if locations.insert(uri.clone()) {
                verdicts.decided(&id, ArtifactVerdict::Counts);
                let index = places.iteration(task, iteration).unwrap_or(index);
                let node = self.tasks[task].name.clone();
                chosen.push((task, Artifact { id: ArtifactId::Text(id), name, uri, node, key, index }));
            } else {
                verdicts.decided(&id, ArtifactVerdict::SameLocation);
            }
        }
        // A tenant may nest long names, and each model has the path of its task.
        let mut paths = Vec::with_capacity(chosen.len());
        let mut bytes = 0;
        for (task, _) in &chosen {
            let path = places.path_name(*task);
            bytes += path.len();
            if bytes > MAX_KEPT {
                return Err(LookupError::TooLarge);
            }
            paths.push(path);
        }
        names::drop_shared_names(&mut chosen.iter_mut().map(|(_, artifact)| artifact).collect::<Vec<_>>());
        let placed = chosen.iter_mut().zip(paths).map(|((task, artifact), path)| Placed {
            artifact,
            task: Some(places.task(*task)),
            path,
        });
        names::distinguish(&mut placed.collect::<Vec<_>>());
        Ok(Selection {
            models: chosen.into_iter().map(|(_, artifact)| artifact).collect(),
            older_tasks: self.older,
            foreign_models: self.foreign.map_or(0, |(_, count)| count),
        })
    }
}

/// The order of models in an event.
fn order<'a>(output: &'a Output, tasks: &'a [KeptTask]) -> impl Ord + use<'a> {
    let task = &tasks[output.task];
    (task.created, &*task.scope, output.iteration, &*output.key, output.created, &*output.id)
}

/// Of several tasks at one place, keeps the outputs of each key and iteration of the last one that has them.
fn keep_latest(outputs: &mut Vec<Output>, tasks: &[KeptTask], places: &Places<'_>, verdicts: &mut dyn Verdicts) {
    let age = |task: usize| (tasks[task].created, &tasks[task].id);
    let mut latest: HashMap<(u32, &str, Option<i64>), usize> = HashMap::new();
    for output in outputs.iter() {
        let last = latest.entry((places.place(output.task), &output.key, output.iteration)).or_insert(output.task);
        if age(output.task) > age(*last) {
            *last = output.task;
        }
    }
    let is_latest: Vec<bool> = outputs
        .iter()
        .map(|output| latest[&(places.place(output.task), &*output.key, output.iteration)] == output.task)
        .collect();
    let mut is_latest = is_latest.into_iter();
    outputs.retain(|output| {
        let is_latest = is_latest.next().unwrap_or_default();
        if !is_latest && output.model.is_some() {
            verdicts.decided(&output.id, ArtifactVerdict::EarlierAttempt);
        }
        is_latest
    });
}

#[cfg(test)]
mod tests;
