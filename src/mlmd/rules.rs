//! Rules that select a run's serving models. Pure functions of plain data, without calls.
//!
//! ML Metadata is shared by all tenants of a cluster, tenants choose the names, and every artifact that a run reads is
//! attributed to the run as well. An artifact is a model of the run only if all of these hold:
//!
//! 1. The run's context contains it ([`run_contexts`]), and that context does not name another namespace
//!    ([`check_namespace`]).
//! 2. An execution of that context **produced** it: an event of type OUTPUT. INPUT, internal and declared events do
//!    not count. An execution that took its outputs from a cache counts like any other.
//! 3. That execution belongs to the run: it was created at most [`CLOCK_TOLERANCE_MS`] before the Workflow. An older
//!    one belongs to another run of the same name and is counted ([`Executions::foreign_count`]).
//! 4. That execution is not an importer. Importers have OUTPUT events too, for artifacts that existed before, such as a
//!    base model.
//! 5. Its type, its URI and its property `pushed` make it a serving model ([`ArtifactTypes::accepts`]).
//! 6. It still exists: not deleted, marked for deletion, or abandoned by a failed execution, because subscribers fetch
//!    it. Unknown and pending states are accepted: the OUTPUT event is the proof.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    delivery::LookupError,
    model::{Artifact, ArtifactTypes, PipelineName, Workflow},
};

/// Maximum age of an execution relative to its Workflow, in milliseconds: clocks differ.
pub(super) const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;

/// Context type of a pipeline in TFX on KFP v1, associated with each execution of the pipeline.
const TFX_PIPELINE: &str = "pipeline";
/// Context type of a pipeline's node in TFX, named `<pipeline>.<node>`.
const TFX_NODE: &str = "node";
/// Context type of a pipeline in KFP v2, the parent of the contexts of its runs.
const KFP_V2_PIPELINE: &str = "system.Pipeline";
/// Execution types of importers in KFP v2.
const KFP_V2_IMPORTERS: [&str; 2] = ["system.ImporterExecution", "system.ImporterWorkspaceExecution"];
/// Last segments of the execution types of importers in TFX.
const TFX_IMPORTERS: [&str; 2] = ["Importer", "ImporterNode"];

/// The two ways in which a run is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunFlavor {
    /// TFX on KFP v1: context `pipeline_run`, named like the Workflow.
    Tfx,
    /// KFP v2: context `system.PipelineRun`, named by the run id.
    KfpV2,
}

impl RunFlavor {
    pub(super) fn context_type(self) -> &'static str {
        match self {
            Self::Tfx => "pipeline_run",
            Self::KfpV2 => "system.PipelineRun",
        }
    }
}

/// Flavors and names under which the run's context may exist, the likely one first: only KFP v1 compiles the pipeline's
/// name into the Workflow.
pub(super) fn run_contexts(run: &Workflow) -> Vec<(RunFlavor, String)> {
    let tfx = (RunFlavor::Tfx, run.name.to_string());
    let kfp_v2 = run.run_id.as_ref().map(|id| (RunFlavor::KfpV2, id.to_string())).filter(|(_, name)| !name.is_empty());
    match run.pipeline {
        PipelineName::Spec(_) | PipelineName::TooLong => [Some(tfx), kfp_v2].into_iter().flatten().collect(),
        PipelineName::Generated(_) | PipelineName::Unknown => [kfp_v2, Some(tfx)].into_iter().flatten().collect(),
    }
}

/// The context of a run, a pipeline, or a node of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) id: i64,
    pub(super) type_name: String,
    pub(super) name: String,
    /// The custom property `namespace`, where present and not empty.
    pub(super) namespace: Option<String>,
}

/// Refuses a context with the run's name that belongs to another namespace.
pub(super) fn check_namespace(context: &Context, run: &Workflow) -> Result<(), LookupError> {
    match &context.namespace {
        Some(namespace) if **namespace != *run.namespace => {
            Err(LookupError::ForeignContext { namespace: namespace.clone() })
        }
        _ => Ok(()),
    }
}

/// Returns the pipeline's name, given the parents of the run's context (KFP v2) or the contexts of one of its executions
/// (TFX).
pub(super) fn pipeline_name(flavor: RunFlavor, contexts: &[Context]) -> Option<Arc<str>> {
    let type_name = match flavor {
        RunFlavor::Tfx => TFX_PIPELINE,
        RunFlavor::KfpV2 => KFP_V2_PIPELINE,
    };
    context_name(contexts, type_name).map(Arc::from)
}

/// Returns the name of the oldest named context of this type.
fn context_name<'a>(contexts: &'a [Context], type_name: &str) -> Option<&'a str> {
    let of_type = contexts.iter().filter(|context| context.type_name == type_name && !context.name.is_empty());
    of_type.min_by_key(|context| context.id).map(|context| &*context.name)
}

/// An execution of the run's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Execution {
    pub(super) id: i64,
    /// In milliseconds since the Unix epoch.
    pub(super) created_ms: i64,
    pub(super) type_name: Box<str>,
    /// The task's name in KFP v2.
    pub(super) task: Option<Box<str>>,
}

impl Execution {
    fn is_importer(&self) -> bool {
        let tfx_class = self.type_name.strip_prefix("tfx.").map(|_| self.class());
        KFP_V2_IMPORTERS.contains(&&*self.type_name) || tfx_class.is_some_and(|class| TFX_IMPORTERS.contains(&class))
    }

    /// The last segment of the type: `Pusher` for `tfx.components.pusher.component.Pusher`.
    fn class(&self) -> &str {
        self.type_name.rsplit('.').next().unwrap_or_default()
    }
}

/// The executions of the run's context, divided into the run's own and those of older runs.
#[derive(Debug)]
pub(super) struct Executions {
    earliest_ms: i64,
    own: HashMap<i64, Execution>,
    foreign: HashSet<i64>,
}

impl Executions {
    /// An empty set for this run.
    pub(super) fn of(run: &Workflow) -> Self {
        let earliest_ms = run.created.saturating_mul(1000).saturating_sub(CLOCK_TOLERANCE_MS);
        Self { earliest_ms, own: HashMap::new(), foreign: HashSet::new() }
    }

    pub(super) fn add(&mut self, execution: Execution) {
        if execution.created_ms < self.earliest_ms {
            self.foreign.insert(execution.id);
        } else {
            self.own.insert(execution.id, execution);
        }
    }

    /// Number of executions that are older than the run.
    pub(super) fn foreign_count(&self) -> usize {
        self.foreign.len()
    }

    pub(super) fn own(&self, id: i64) -> Option<&Execution> {
        self.own.get(&id)
    }

    /// The run's own execution that was created last: most likely the Pusher.
    pub(super) fn latest(&self) -> Option<i64> {
        self.own.keys().max().copied()
    }

    fn producer(&self, id: i64) -> Option<&Execution> {
        self.own(id).filter(|execution| !execution.is_importer())
    }
}

/// Availability of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArtifactState {
    /// Live, or in a state that does not say otherwise.
    Available,
    /// Deleted, marked for deletion, or abandoned.
    Removed,
}

/// An artifact that is attributed to the run's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContextArtifact {
    pub(super) id: i64,
    pub(super) state: ArtifactState,
    pub(super) type_id: Option<i64>,
    /// Empty from servers before 1.0.
    pub(super) type_name: Box<str>,
    pub(super) uri: Box<str>,
    /// The custom property `name`, else the artifact's own name; never empty.
    pub(super) name: Option<Box<str>>,
    /// See [`parse_pushed`].
    pub(super) pushed: Option<i64>,
    /// The output's name in KFP v2.
    pub(super) output: Option<Box<str>>,
}

/// The value of an artifact's property.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Property {
    Int(i64),
    Double(f64),
    Bool(bool),
    Text(String),
}

/// Parses the property `pushed`. TFX writes an integer and KFP v2 writes all numbers as doubles; programs that copy
/// properties may write a boolean or a text. Returns `None` for anything but a whole number.
pub(super) fn parse_pushed(property: &Property) -> Option<i64> {
    match property {
        Property::Int(value) => Some(*value),
        Property::Bool(value) => Some(i64::from(*value)),
        Property::Double(value) => whole_number(*value),
        Property::Text(text) => match text.trim() {
            text if text.eq_ignore_ascii_case("true") => Some(1),
            text if text.eq_ignore_ascii_case("false") => Some(0),
            text => text.parse().ok().or_else(|| whole_number(text.parse().ok()?)),
        },
    }
}

fn whole_number(value: f64) -> Option<i64> {
    // The comparison excludes NaN, the infinities and numbers that an i64 cannot hold exactly.
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

/// The artifacts of the run's context that are serving models, provided that the run produced them.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    types: &'a ArtifactTypes,
    by_id: BTreeMap<i64, ContextArtifact>,
    removed: usize,
}

impl<'a> Candidates<'a> {
    /// An empty set for these artifact types.
    pub(super) fn of(types: &'a ArtifactTypes) -> Self {
        Self { types, by_id: BTreeMap::new(), removed: 0 }
    }

    pub(super) fn add(&mut self, artifact: ContextArtifact) {
        if !self.may_be_model(&artifact) {
            return;
        }
        match artifact.state {
            ArtifactState::Available => {
                self.by_id.insert(artifact.id, artifact);
            }
            ArtifactState::Removed => self.removed += 1,
        }
    }

    /// Returns whether the artifact is a serving model, or could be one while the name of its type is unknown.
    fn may_be_model(&self, artifact: &ContextArtifact) -> bool {
        let ContextArtifact { type_name, uri, pushed, .. } = artifact;
        match &**type_name {
            "" => self.types.names().into_iter().any(|name| self.types.accepts(name, uri, *pushed)),
            name => self.types.accepts(name, uri, *pushed),
        }
    }

    /// Returns whether the type of any candidate is known by its id only.
    pub(super) fn has_unnamed_types(&self) -> bool {
        self.by_id.values().any(|artifact| artifact.type_name.is_empty())
    }

    /// Names the types that are known by their ids only, and drops candidates whose type is not among these.
    pub(super) fn resolve_types(&mut self, names: &HashMap<i64, &str>) {
        let types = self.types;
        self.by_id.retain(|_, artifact| {
            if artifact.type_name.is_empty() {
                let name = artifact.type_id.and_then(|id| names.get(&id));
                artifact.type_name = name.copied().unwrap_or_default().into();
            }
            types.accepts(&artifact.type_name, &artifact.uri, artifact.pushed)
        });
    }

    pub(super) fn ids(&self) -> Vec<i64> {
        self.by_id.keys().copied().collect()
    }

    /// Number of artifacts that would be candidates if they still existed.
    pub(super) fn removed(&self) -> usize {
        self.removed
    }
}

/// An event: the relation of an artifact to an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) artifact: i64,
    pub(super) execution: i64,
    /// True for events of type OUTPUT.
    pub(super) is_output: bool,
    /// Key of the execution's output that contains the artifact; empty where unknown.
    pub(super) key: Box<str>,
    /// Index of the artifact in that output.
    pub(super) index: i64,
}

/// A serving model with the execution that produced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) artifact: Artifact,
    pub(super) execution: i64,
}

/// Returns the candidates that this run produced, ordered by id, each once. Where several executions have the same
/// output (one of them from a cache), the first of them counts.
pub(super) fn models(candidates: Candidates<'_>, events: &[Event], executions: &Executions) -> Vec<Model> {
    let mut outputs: HashMap<i64, (&Event, &Execution)> = HashMap::new();
    for event in events.iter().filter(|event| event.is_output) {
        let Some(execution) = executions.producer(event.execution) else { continue };
        let first = outputs.entry(event.artifact).or_insert((event, execution));
        if execution.id < first.1.id {
            *first = (event, execution);
        }
    }
    let model = |artifact: ContextArtifact| {
        let (event, execution) = outputs.get(&artifact.id)?;
        let key = if event.key.is_empty() { artifact.output.unwrap_or_default() } else { event.key.clone() };
        let node = execution.task.clone().unwrap_or_else(|| execution.class().into());
        let ContextArtifact { id, name, uri, .. } = artifact;
        Some(Model { artifact: Artifact { id, name, uri, node, key, index: event.index }, execution: execution.id })
    };
    candidates.by_id.into_values().filter_map(model).collect()
}

/// Returns the executions whose node becomes part of a model's name, each once. Only TFX has a context for the node.
pub(super) fn executions_naming_models(flavor: RunFlavor, models: &[Model]) -> Vec<i64> {
    if flavor != RunFlavor::Tfx {
        return Vec::new();
    }
    let unnamed = models.iter().filter(|model| model.artifact.name.is_none());
    let mut executions: Vec<i64> = unnamed.map(|model| model.execution).collect();
    executions.sort_unstable();
    executions.dedup();
    executions
}

/// Returns the node of a TFX execution, given its contexts: the name of the `node` without the pipeline's name.
pub(super) fn node_name(contexts: &[Context]) -> Option<Box<str>> {
    let name = context_name(contexts, TFX_NODE)?;
    let pipeline = context_name(contexts, TFX_PIPELINE);
    let suffix = pipeline.and_then(|pipeline| name.strip_prefix(pipeline)?.strip_prefix('.'));
    // Names of pipelines may contain dots, names of nodes do not.
    let node = suffix.or_else(|| name.rsplit('.').next()).filter(|node| !node.is_empty())?;
    Some(node.into())
}

#[cfg(test)]
mod tests;
