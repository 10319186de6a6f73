//! Names that distinguish the models of a run.

use std::collections::{HashMap, HashSet};

use crate::model::Artifact;

/// The node and the key of an output, which its models share.
type OutputName = (Box<str>, Box<str>);

/// A model, and the place of the task that produced it.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    pub(crate) artifact: &'a mut Artifact,
    /// Equal for models of one task, in whatever iteration.
    pub(crate) task: Option<u32>,
    /// The names of the tasks from the run down to this one, separated by slashes.
    pub(crate) path: String,
}

/// Drops given names that several models of the run have: the metadata-writer of KFP v1 gives each the name of its
/// output, and a task in a loop may give the same name in each iteration. Such models get generated names.
pub(crate) fn drop_shared_names(artifacts: &mut [&mut Artifact]) {
    let mut counts: HashMap<Box<str>, usize> = HashMap::new();
    for name in artifacts.iter().filter_map(|artifact| artifact.name.clone()) {
        *counts.entry(name).or_default() += 1;
    }
    for artifact in artifacts {
        artifact.name = artifact.name.take().filter(|name| counts[name] == 1);
    }
}

/// Makes the generated names of models differ. Tasks of the same name in several DAGs are named by their paths; what is
/// left, such as iterations that no rule can count, gets the next free index, in the order of the models.
pub(crate) fn distinguish(models: &mut [Placed<'_>]) {
    let mut tasks: HashMap<OutputName, HashSet<Option<u32>>> = HashMap::new();
    for Placed { artifact, task, .. } in models.iter().filter(|model| model.artifact.name.is_none()) {
        tasks.entry((artifact.node.clone(), artifact.key.clone())).or_default().insert(*task);
    }
    let mut taken: HashMap<OutputName, Indices> = HashMap::new();
    for Placed { artifact, path, .. } in models.iter_mut().filter(|model| model.artifact.name.is_none()) {
        // Without a path, as in TFX, the node is all there is.
        if tasks[&(artifact.node.clone(), artifact.key.clone())].len() > 1 && path.contains('/') {
            artifact.node = path.as_str().into();
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
