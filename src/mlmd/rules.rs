//! Rules that select a run's serving models. Pure functions of plain data, without calls.
//!
//! ML Metadata is shared by all tenants of a cluster, tenants choose the names, and every artifact that a run reads is
//! attributed to the run as well. An artifact is a model of the run only if all of these hold:
//!
//! 1. The run's context contains it ([`run_contexts`]), and that context does not name another namespace
//!    ([`check_namespace`]).
//! 2. An execution of that context **produced** it: an event of type OUTPUT. INPUT, internal and declared events do
//!    not count. An execution that took its outputs from a cache counts like any other.
//! 3. That execution belongs to the run ([`Executions::of`]). Others are of another run of the same name, and are
//!    counted ([`Executions::foreign_count`]).
//! 4. That execution is not an importer. Importers have OUTPUT events too, for artifacts that existed before, such as a
//!    base model.
//! 5. Its task was not executed again later with another output ([`select`]).
//! 6. Its type, its URI and its property `pushed` make it a serving model ([`ArtifactTypes::accepts`]).
//! 7. It still exists: not deleted, marked for deletion, or abandoned by a failed execution, because subscribers fetch
//!    it. Unknown and pending states are accepted: the OUTPUT event is the proof.
//!
//! The rules tell [`Verdicts`] what they decide about each artifact. The lookups of the server pass `()`, which ignores
//! it; `explain` passes a [`Collector`].
//!
//! [`ArtifactTypes::accepts`]: crate::model::ArtifactTypes::accepts

mod artifacts;
mod executions;
mod models;
mod names;
mod places;
mod verdicts;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    delivery::LookupError,
    model::{PipelineName, Workflow, text::beginning},
};

pub(super) use artifacts::{ArtifactState, Candidates, ContextArtifact};
#[cfg(test)]
pub(super) use executions::EXECUTION_BYTES;
pub(super) use executions::{Event, Execution, Executions, Outputs, Role};
pub(super) use models::{Model, ambiguous_executions, select};
pub(super) use names::{distinguish, drop_shared_names, executions_naming_models};
pub(super) use places::Places;
pub(super) use verdicts::{Collector, Verdicts};

/// Context type of a pipeline in TFX on KFP v1, associated with each execution of the pipeline.
const TFX_PIPELINE: &str = "pipeline";
/// Context type of a pipeline's node in TFX, named `<pipeline>.<node>`.
const TFX_NODE: &str = "node";
/// Context type of a pipeline in KFP v2, the parent of the contexts of its runs.
const KFP_V2_PIPELINE: &str = "system.Pipeline";
/// Maximum length of a kept context's name in bytes: longer than any valid name of a pipeline, so that a name that is
/// too long stays too long.
const MAX_CONTEXT_NAME: usize = 1024;

/// The ways in which a run is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunFlavor {
    /// TFX on KFP v1: context `pipeline_run`, named like the Workflow.
    Tfx,
    /// KFP v2: context `system.PipelineRun`, named by the run id.
    KfpV2,
    /// The SDK of KFP v1: context `KfpRun`, named like the Workflow. KFP's metadata-writer creates it from the run's
    /// Pods, without the pipeline's name, and a moment after each Pod has ended.
    KfpV1,
}

impl RunFlavor {
    pub(super) fn context_type(self) -> &'static str {
        match self {
            Self::Tfx => "pipeline_run",
            Self::KfpV2 => "system.PipelineRun",
            Self::KfpV1 => "KfpRun",
        }
    }
}

/// Flavors and names under which the run's context may exist, the likely one first: only KFP v1 compiles the pipeline's
/// name into the Workflow. Where several exist, the metadata-writer's is last, because it records also single Pods of
/// runs of the other flavors.
pub(super) fn run_contexts(run: &Workflow) -> Vec<(RunFlavor, String)> {
    let tfx = (RunFlavor::Tfx, run.name.to_string());
    let kfp_v1 = (RunFlavor::KfpV1, run.name.to_string());
    let kfp_v2 = run.run_id.as_ref().map(|id| (RunFlavor::KfpV2, id.to_string())).filter(|(_, name)| !name.is_empty());
    match *run.pipeline {
        PipelineName::Spec(_) | PipelineName::TooLong => {
            [Some(tfx), kfp_v2, Some(kfp_v1)].into_iter().flatten().collect()
        }
        PipelineName::Generated(_) | PipelineName::Unknown => {
            [kfp_v2, Some(tfx), Some(kfp_v1)].into_iter().flatten().collect()
        }
    }
}

/// The context of a run, a pipeline, or a node of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context<'a> {
    pub(super) id: i64,
    pub(super) type_name: &'a str,
    pub(super) name: &'a str,
    /// The custom property `namespace`, where present and not empty.
    pub(super) namespace: Option<String>,
}

/// The context of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunContext {
    pub(super) id: i64,
    pub(super) flavor: RunFlavor,
    pub(super) name: String,
    /// See [`Context::namespace`].
    pub(super) namespace: Option<String>,
}

impl RunContext {
    /// Returns the place of this context among those that the run may have, see [`run_contexts`].
    pub(super) fn place(&self, run: &Workflow) -> Option<usize> {
        run_contexts(run).iter().position(|(flavor, name)| *flavor == self.flavor && *name == self.name)
    }
}

/// Refuses a context with the run's name that belongs to another namespace.
pub(super) fn check_namespace(context: &RunContext, run: &Workflow) -> Result<(), LookupError> {
    match &context.namespace {
        Some(namespace) if **namespace != *run.namespace => {
            Err(LookupError::ForeignContext { namespace: namespace.clone() })
        }
        _ => Ok(()),
    }
}

/// The names of a pipeline and of a node, taken from the contexts that are added. Of several contexts of a type, the
/// oldest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ContextNames(BTreeMap<&'static str, (i64, Box<str>)>);

impl ContextNames {
    pub(super) fn add(&mut self, context: &Context<'_>) {
        let types = [TFX_PIPELINE, TFX_NODE, KFP_V2_PIPELINE];
        let Some(type_name) = types.into_iter().find(|known| *known == context.type_name) else { return };
        if context.name.is_empty() || self.0.get(type_name).is_some_and(|(oldest, _)| *oldest <= context.id) {
            return;
        }
        self.0.insert(type_name, (context.id, beginning(context.name, MAX_CONTEXT_NAME).into()));
    }

    fn of_type(&self, type_name: &str) -> Option<&str> {
        self.0.get(type_name).map(|(_, name)| &**name)
    }

    /// Returns the pipeline's name, given the contexts of one of its executions (TFX) or the parents of the run's
    /// context (KFP v2).
    ///
    /// KFP 1.7 to 2.0 prefixed it with `pipeline/` or, in multi-user mode, with `namespace/<namespace>/pipeline/`. A
    /// prefix that names another namespace stays, so that a pipeline does not appear under the name of one of this
    /// namespace.
    pub(super) fn pipeline(&self, flavor: RunFlavor, namespace: &str) -> Option<Arc<str>> {
        let name = match flavor {
            RunFlavor::Tfx => self.of_type(TFX_PIPELINE)?,
            RunFlavor::KfpV2 => {
                let name = self.of_type(KFP_V2_PIPELINE)?;
                let of_namespace =
                    || name.strip_prefix("namespace/")?.strip_prefix(namespace)?.strip_prefix("/pipeline/");
                name.strip_prefix("pipeline/").or_else(of_namespace).unwrap_or(name)
            }
            RunFlavor::KfpV1 => return None,
        };
        (!name.is_empty()).then(|| name.into())
    }

    /// Returns the node of a TFX execution, given its contexts: the name of the `node` without the pipeline's name.
    pub(super) fn node(&self) -> Option<Box<str>> {
        let name = self.of_type(TFX_NODE)?;
        let suffix = self.of_type(TFX_PIPELINE).and_then(|pipeline| name.strip_prefix(pipeline)?.strip_prefix('.'));
        // Names of pipelines may contain dots, names of nodes do not.
        let node = suffix.or_else(|| name.rsplit('.').next()).filter(|node| !node.is_empty())?;
        Some(node.into())
    }
}

#[cfg(test)]
mod tests;
