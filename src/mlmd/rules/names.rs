//! Names that distinguish the models of a run.

use std::collections::{HashMap, HashSet};

use super::{Model, Places, RunFlavor};

/// The node and the key of an output, which its models share.
type OutputName = (Box<str>, Box<str>);

/// Drops given names that several models of the run have: the metadata-writer of KFP v1 gives each the name of its
/// output, and a task in a loop may give the same name in each iteration. Such models get generated names.
pub(in crate::mlmd) fn drop_shared_names(models: &mut [Model]) {
    let mut counts: HashMap<Box<str>, usize> = HashMap::new();
    for name in models.iter().filter_map(|model| model.artifact.name.clone()) {
        *counts.entry(name).or_default() += 1;
    }
    for model in models {
        model.artifact.name = model.artifact.name.take().filter(|name| counts[name] == 1);
    }
}

/// Returns the executions whose node becomes part of a model's name, each once. Only TFX has a context for the node.
pub(in crate::mlmd) fn executions_naming_models(flavor: RunFlavor, models: &[Model]) -> Vec<i64> {
    if flavor != RunFlavor::Tfx {
        return Vec::new();
    }
    let unnamed = models.iter().filter(|model| model.artifact.name.is_none());
    let mut executions: Vec<i64> = unnamed.map(|model| model.execution).collect();
    executions.sort_unstable();
    executions.dedup();
    executions
}

/// Makes the generated names of models differ. Tasks of the same name in several DAGs are named by their paths; what is
/// left, such as iterations that no rule can count, gets the next free index, in the order of the ids.
pub(in crate::mlmd) fn distinguish(models: &mut [Model], places: &Places<'_>) {
    let mut tasks: HashMap<OutputName, HashSet<Option<u32>>> = HashMap::new();
    for model in models.iter().filter(|model| model.artifact.name.is_none()) {
        let output = (model.artifact.node.clone(), model.artifact.key.clone());
        tasks.entry(output).or_default().insert(places.task(model.execution));
    }
    let mut taken: HashMap<OutputName, Indices> = HashMap::new();
    for model in models.iter_mut().filter(|model| model.artifact.name.is_none()) {
        let artifact = &mut model.artifact;
        if tasks[&(artifact.node.clone(), artifact.key.clone())].len() > 1 {
            let path = places.path_name(model.execution);
            // Without a path, as in TFX, the node is all there is.
            if path.contains('/') {
                artifact.node = path.into();
            }
        }
        let indices = taken.entry((artifact.node.clone(), artifact.key.clone())).or_default();
        artifact.index = indices.take(artifact.index);
    }
}

/// The indices in use for one output.
#[derive(Debug, Default)]
struct Indices {
    taken: HashSet<i64>,
    /// No lower index is free.
    lowest: i64,
}

impl Indices {
    /// Returns this index, or the lowest free one if it is taken.
    fn take(&mut self, index: i64) -> i64 {
        if self.taken.insert(index) {
            return index;
        }
        while !self.taken.insert(self.lowest) {
            self.lowest += 1;
        }
        self.lowest
    }
}
