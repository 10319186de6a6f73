//! Places of tasks in their pipeline. Two tasks at one place are executions of one task: the run was retried.
//!
//! A place is the path of scopes, names and iterations from the run down to the task. Names alone do not tell tasks
//! apart, and neither do the ids of the tasks that contain them, which a retry may draw again.

use std::collections::HashMap;

use super::KeptTask;

/// Maximum depth of nested DAGs. Real pipelines have a few; a cycle has no end.
const MAX_DEPTH: usize = 32;

/// The identity of a place, or of a task in whatever iteration.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key<'a> {
    parent: Parent<'a>,
    scope: &'a str,
    name: &'a str,
    iteration: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Parent<'a> {
    None,
    Known(u32),
    /// The id of a task that is no container of this run.
    Unknown(&'a str),
}

/// The places of tasks, by their indices.
#[derive(Debug)]
pub(super) struct Places<'a> {
    containers: &'a HashMap<Box<str>, KeptTask>,
    tasks: &'a [KeptTask],
    places: Vec<u32>,
    /// Equal for executions of one task, in whatever iteration.
    ids: Vec<u32>,
}

impl<'a> Places<'a> {
    pub(super) fn of(containers: &'a HashMap<Box<str>, KeptTask>, tasks: &'a [KeptTask]) -> Self {
        let number = |is_iteration_part: bool| -> Vec<u32> {
            let mut numbers = Numbers { containers, is_iteration_part, keys: HashMap::new(), known: HashMap::new() };
            tasks.iter().map(|task| numbers.of(task, MAX_DEPTH)).collect()
        };
        let (places, ids) = (number(true), number(false));
        Self { containers, tasks, places, ids }
    }

    pub(super) fn place(&self, task: usize) -> u32 {
        self.places[task]
    }

    pub(super) fn task(&self, task: usize) -> u32 {
        self.ids[task]
    }

    /// Returns the iteration of an output, if its task is part of a loop. Nested loops are counted as if they were one:
    /// the second iteration of an outer loop with three inner ones begins at 3.
    pub(super) fn iteration(&self, task: usize, own: Option<i64>) -> Option<i64> {
        let mut ancestors = self.ancestors(task);
        let mut index = own;
        if index.is_none() {
            // The task is in a DAG that is the iteration.
            index = Some(ancestors.find_map(|container| container.iteration)?);
        }
        let mut index = index?;
        let mut factor = 1_i64;
        loop {
            // Out of the loop, and on to the next iteration.
            let Some(inner) = ancestors.by_ref().find(|container| container.is_loop) else { return Some(index) };
            factor = factor.saturating_mul(inner.iterations.unwrap_or(1).max(1));
            let outer = inner.iteration.or_else(|| ancestors.by_ref().find_map(|container| container.iteration));
            let Some(outer) = outer else { return Some(index) };
            index = index.saturating_add(outer.saturating_mul(factor));
        }
    }

    /// Returns the names of the tasks from the run down to this one, separated by slashes.
    pub(super) fn path_name(&self, task: usize) -> String {
        let mut names: Vec<&str> = vec![&self.tasks[task].name];
        for container in self.ancestors(task).filter(|container| !container.is_root && !container.name.is_empty()) {
            // An iteration may have the name of its loop.
            if names.last() != Some(&&*container.name) {
                names.push(&container.name);
            }
        }
        names.reverse();
        names.join("/")
    }

    /// The containers of a task, from the inside outwards.
    fn ancestors(&self, task: usize) -> impl Iterator<Item = &'a KeptTask> + use<'a> {
        let containers = self.containers;
        let parent = move |task: &&'a KeptTask| containers.get(task.parent.as_deref()?);
        std::iter::successors(Some(&self.tasks[task]), parent).skip(1).take(MAX_DEPTH)
    }
}

/// Counts keys up.
struct Numbers<'a> {
    containers: &'a HashMap<Box<str>, KeptTask>,
    is_iteration_part: bool,
    keys: HashMap<Key<'a>, u32>,
    /// The numbers of containers, by id.
    known: HashMap<&'a str, u32>,
}

impl<'a> Numbers<'a> {
    fn of(&mut self, task: &'a KeptTask, depth: usize) -> u32 {
        let parent = match &task.parent {
            None => Parent::None,
            Some(id) => match (self.known.get(&**id), self.containers.get(id)) {
                (Some(known), _) => Parent::Known(*known),
                (None, Some(container)) if depth > 0 => {
                    let number = self.of(container, depth - 1);
                    self.known.insert(id, number);
                    Parent::Known(number)
                }
                _ => Parent::Unknown(id),
            },
        };
        let iteration = task.iteration.map(|iteration| if self.is_iteration_part { iteration } else { 0 });
        let key = Key { parent, scope: &task.scope, name: &task.name, iteration };
        let next = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        *self.keys.entry(key).or_insert(next)
    }
}
