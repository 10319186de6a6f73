//! Places of executions in their pipeline. Two executions at one place are executions of one task: the component was
//! restarted, or the run was retried.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{RunFlavor, executions::Executions};

/// Maximum depth of nested DAGs for which iterations are counted. Real pipelines have a few.
const MAX_DEPTH: usize = 32;

/// The place of an execution.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Equal for executions of one task and iteration.
    id: u32,
    /// Equal for executions of one task, in whatever iteration.
    task: u32,
    /// False if a DAG that contains the execution was executed again.
    is_current: bool,
}

/// The identity of a place, or of a task.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key<'a> {
    parent: Parent,
    name: &'a str,
    pod: Option<&'a str>,
    iteration: Option<u32>,
    /// Set where an execution shares its place with no other.
    alone: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Parent {
    None,
    /// The place, or the task, of a known execution.
    Known(u32),
    /// The id of an execution that the context does not contain.
    Unknown(i64),
}

/// The places of the run's executions.
#[derive(Debug)]
pub(in crate::mlmd) struct Places<'a> {
    executions: &'a Executions,
    places: BTreeMap<i64, Place>,
    /// Iterations of each task that is one: the highest index + 1.
    iterations: HashMap<u32, i64>,
}

impl<'a> Places<'a> {
    /// Places the executions. In TFX, the place is the node; `nodes` has the nodes as far as they are known.
    ///
    /// In KFP v2, the place is the path of tasks and iterations from the run down to the task. Runs of the SDK of KFP v1
    /// and of KFP v2's compatible mode have no such path: there, an execution again has the same Pod, and tasks that
    /// share a name, as in loops, have different ones.
    pub(in crate::mlmd) fn of(executions: &'a Executions, nodes: &HashMap<i64, Box<str>>) -> Self {
        let mut keys: HashMap<Key<'_>, u32> = HashMap::new();
        let mut tasks: HashMap<Key<'_>, u32> = HashMap::new();
        let mut places: BTreeMap<i64, Place> = BTreeMap::new();
        let mut iterations: HashMap<u32, i64> = HashMap::new();
        let mut latest: HashMap<u32, i64> = HashMap::new();
        // Parents come before their children, because their ids are lower.
        for (&id, execution) in &executions.by_id {
            let parent = |of_known: fn(&Place) -> u32| match execution.parent {
                None => Parent::None,
                Some(parent) => {
                    places.get(&parent).map_or(Parent::Unknown(parent), |known| Parent::Known(of_known(known)))
                }
            };
            let (name, pod, alone) = match executions.flavor {
                RunFlavor::Tfx => match nodes.get(&id) {
                    Some(node) => (&**node, None, None),
                    None => ("", None, Some(id)),
                },
                RunFlavor::KfpV2 if execution.is_named => {
                    (&*execution.node, execution.pod.as_deref().filter(|_| execution.parent.is_none()), None)
                }
                RunFlavor::KfpV1 | RunFlavor::KfpV2 => match &execution.pod {
                    Some(pod) => (&*execution.node, Some(&**pod), None),
                    None => ("", None, Some(id)),
                },
            };
            let iteration = execution.iteration;
            let key = Key { parent: parent(|place| place.id), name, pod, iteration, alone };
            let place = number(&mut keys, key);
            let iteration_of_any = iteration.map(|_| 0);
            let key = Key { parent: parent(|place| place.task), name, pod: None, iteration: iteration_of_any, alone };
            let task = number(&mut tasks, key);
            if let Some(iteration) = iteration {
                let count = iterations.entry(task).or_default();
                *count = (*count).max(i64::from(iteration) + 1);
            }
            latest.insert(place, id);
            places.insert(id, Place { id: place, task, is_current: true });
        }
        let ids: Vec<i64> = places.keys().copied().collect();
        for id in ids {
            let Some(parent) = executions.by_id[&id].parent else { continue };
            let Some(&Place { id: place, is_current, .. }) = places.get(&parent) else { continue };
            let is_current = is_current && latest[&place] == parent;
            places.get_mut(&id).expect("each execution has a place").is_current = is_current;
        }
        Self { executions, places, iterations }
    }

    /// Returns the place of an execution, unless a DAG that contains it was executed again.
    pub(super) fn current(&self, execution: i64) -> Option<u32> {
        self.places.get(&execution).filter(|place| place.is_current).map(|place| place.id)
    }

    /// Returns the task of an execution, in whatever iteration.
    pub(super) fn task(&self, execution: i64) -> Option<u32> {
        self.places.get(&execution).map(|place| place.task)
    }

    /// Returns the iteration of an execution, if it is part of a loop. Nested loops are counted as if they were one.
    pub(super) fn iteration(&self, execution: i64) -> Option<i64> {
        let mut index = None;
        let mut factor = 1_i64;
        // From the innermost loop outwards.
        for (id, iteration) in self.path(execution).filter_map(|(id, _, iteration)| Some((id, iteration?))) {
            let count = self.iterations[&self.places[&id].task];
            index = Some(i64::from(iteration).saturating_mul(factor).saturating_add(index.unwrap_or_default()));
            factor = factor.saturating_mul(count);
        }
        index
    }

    /// Returns the names of the tasks from the run down to this one, separated by slashes.
    pub(super) fn path_name(&self, execution: i64) -> String {
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut is_iteration = false;
        for (_, name, iteration) in self.path(execution) {
            let is_its_loop = is_iteration && names.last() == Some(&name);
            // An iteration has the name of its loop, and the run itself has none.
            if !name.is_empty() && !is_its_loop {
                names.push(name);
            }
            is_iteration = iteration.is_some();
        }
        names.reverse();
        names.join("/")
    }

    /// The execution and the DAGs that contain it, from the inside outwards.
    fn path(&self, execution: i64) -> impl Iterator<Item = (i64, Arc<str>, Option<u32>)> {
        let next = |id: &i64| self.executions.by_id.get(id)?.parent;
        std::iter::successors(Some(execution), next).take(MAX_DEPTH).filter_map(|id| {
            let execution = self.executions.by_id.get(&id)?;
            Some((id, execution.node.clone(), execution.iteration))
        })
    }
}

/// Returns the number of a key: those of new ones count up.
fn number<'a>(numbers: &mut HashMap<Key<'a>, u32>, key: Key<'a>) -> u32 {
    let next = u32::try_from(numbers.len()).expect("a context has fewer executions");
    *numbers.entry(key).or_insert(next)
}
