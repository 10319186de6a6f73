//! Names that distinguish the models of a run.

use super::{Model, Places, RunFlavor};
use crate::{
    lookup::names::{self, Placed},
    model::Artifact,
};

/// Drops given names that several models of the run have.
pub(in crate::mlmd) fn drop_shared_names(models: &mut [Model]) {
    let mut artifacts: Vec<&mut Artifact> = models.iter_mut().map(|model| &mut model.artifact).collect();
    names::drop_shared_names(&mut artifacts);
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

/// Makes the generated names of models differ.
pub(in crate::mlmd) fn distinguish(models: &mut [Model], places: &Places<'_>) {
    let placed = models.iter_mut().map(|Model { artifact, execution }| Placed {
        artifact,
        task: places.task(*execution),
        path: places.path_name(*execution),
    });
    names::distinguish(&mut placed.collect::<Vec<_>>());
}
