//! Which artifacts are a run's serving models: the rules, without the calls. Everything here is a function of plain
//! data.
//!
//! ML Metadata is shared by all tenants of a cluster, tenants choose the names, and a run is attributed whatever it
//! has so much as read. So an artifact is a run's model only if all of this holds:
//!
//! 1. It stands in the run's context ([`forms`]), and that context does not say that it belongs to another namespace
//!    ([`check_namespace`]).
//! 2. An execution of that context put it **out**: an event of the type OUTPUT. Neither an INPUT nor the internal and
//!    declared kinds count; an execution that took its outputs from a cache counts as any other.
//! 3. That execution is the run's own: not created more than [`MARGIN_MS`] before the Workflow. An older one comes
//!    from another run of the same name, and is counted ([`Executions::foreign`]).
//! 4. That execution is not an importer. Importers put out, in ML Metadata's words, what has existed before and
//!    elsewhere, a base model for instance; the run merely reads it.
//! 5. Its type, its URI and its property `pushed` make it a serving model ([`ArtifactTypes::accepts`]).
//! 6. It is still there: not deleted, nor about to be, nor abandoned by an execution that failed. Who is told of a
//!    model goes and fetches it. A state that is unknown or pending does not matter: the OUTPUT event is the proof.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    delivery::LookupError,
    model::{Artifact, ArtifactTypes, PipelineName, Workflow},
};

/// How much older than its Workflow an execution may be, in milliseconds: clocks differ.
pub(super) const MARGIN_MS: i64 = 5 * 60 * 1000;

/// The type of the context that TFX on KFP v1 makes for a pipeline, associated with each of its executions.
const TFX_PIPELINE: &str = "pipeline";
/// The type of the context that TFX makes for a node of a pipeline, named `<pipeline>.<node>`.
const TFX_NODE: &str = "node";
/// The type of the context that KFP v2 makes for a pipeline, the parent of its runs' contexts.
const KFP_V2_PIPELINE: &str = "system.Pipeline";
/// The types of KFP v2's executions that import.
const KFP_V2_IMPORTERS: [&str; 2] = ["system.ImporterExecution", "system.ImporterWorkspaceExecution"];
/// The last parts of the types of TFX's executions that import.
const TFX_IMPORTERS: [&str; 2] = ["Importer", "ImporterNode"];

/// The two ways in which a run's context is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// TFX on KFP v1: `pipeline_run`, named like the Workflow.
    Tfx,
    /// KFP v2: `system.PipelineRun`, named by the run id.
    KfpV2,
}

impl Form {
    pub(super) fn context_type(self) -> &'static str {
        match self {
            Self::Tfx => "pipeline_run",
            Self::KfpV2 => "system.PipelineRun",
        }
    }
}

/// Where to look for the run's context, the likely place first: only KFP v1 compiles the pipeline's name into the
/// Workflow.
pub(super) fn forms(run: &Workflow) -> Vec<(Form, String)> {
    let tfx = (Form::Tfx, run.name.to_string());
    let kfp_v2 = run.run_id.as_ref().map(|id| (Form::KfpV2, id.to_string())).filter(|(_, name)| !name.is_empty());
    match run.pipeline {
        PipelineName::Spec(_) => [Some(tfx), kfp_v2].into_iter().flatten().collect(),
        PipelineName::Generated(_) | PipelineName::Unknown => [kfp_v2, Some(tfx)].into_iter().flatten().collect(),
    }
}

/// A context: a run, a pipeline, or a node of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) id: i64,
    pub(super) type_name: String,
    pub(super) name: String,
    /// The custom property `namespace`, where it says anything.
    pub(super) namespace: Option<String>,
}

/// Whether a context that has the run's name may be the run's.
pub(super) fn check_namespace(context: &Context, run: &Workflow) -> Result<(), LookupError> {
    match &context.namespace {
        Some(namespace) if **namespace != *run.namespace => {
            Err(LookupError::ForeignContext { namespace: namespace.clone() })
        }
        _ => Ok(()),
    }
}

/// The pipeline's name, given the parents of the run's context (KFP v2) or the contexts of one of its executions (TFX).
pub(super) fn pipeline(form: Form, contexts: &[Context]) -> Option<Arc<str>> {
    let wanted = match form {
        Form::Tfx => TFX_PIPELINE,
        Form::KfpV2 => KFP_V2_PIPELINE,
    };
    named(contexts, wanted).map(Arc::from)
}

fn named<'a>(contexts: &'a [Context], type_name: &str) -> Option<&'a str> {
    let of_type = contexts.iter().filter(|context| context.type_name == type_name && !context.name.is_empty());
    of_type.min_by_key(|context| context.id).map(|context| &*context.name)
}

/// An execution of the run's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Execution {
    pub(super) id: i64,
    /// In milliseconds since the Unix epoch.
    pub(super) created: i64,
    pub(super) type_name: Box<str>,
    /// What KFP v2 calls its task.
    pub(super) task: Option<Box<str>>,
}

impl Execution {
    fn imports(&self) -> bool {
        let tfx = self.type_name.strip_prefix("tfx.").map(|_| self.kind());
        KFP_V2_IMPORTERS.contains(&&*self.type_name) || tfx.is_some_and(|kind| TFX_IMPORTERS.contains(&kind))
    }

    /// The last part of the type: `Pusher` for `tfx.components.pusher.component.Pusher`.
    fn kind(&self) -> &str {
        self.type_name.rsplit('.').next().unwrap_or_default()
    }
}

/// The executions of the run's context, sorted into the run's own and those of older runs.
#[derive(Debug)]
pub(super) struct Executions {
    earliest: i64,
    own: HashMap<i64, Execution>,
    foreign: HashSet<i64>,
}

impl Executions {
    /// None yet, of this run.
    pub(super) fn of(run: &Workflow) -> Self {
        let earliest = run.created.saturating_mul(1000).saturating_sub(MARGIN_MS);
        Self { earliest, own: HashMap::new(), foreign: HashSet::new() }
    }

    pub(super) fn add(&mut self, execution: Execution) {
        if execution.created < self.earliest {
            self.foreign.insert(execution.id);
        } else {
            self.own.insert(execution.id, execution);
        }
    }

    /// How many are older than the run.
    pub(super) fn foreign(&self) -> usize {
        self.foreign.len()
    }

    pub(super) fn own(&self, id: i64) -> Option<&Execution> {
        self.own.get(&id)
    }

    /// The run's own execution that was created last: most likely the one that pushed.
    pub(super) fn last(&self) -> Option<i64> {
        self.own.keys().max().copied()
    }

    fn producer(&self, id: i64) -> Option<&Execution> {
        self.own(id).filter(|execution| !execution.imports())
    }
}

/// What has become of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There, or nothing is said of it.
    There,
    /// Deleted, marked for deletion, or abandoned.
    Gone,
}

/// An artifact of the run's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributed {
    pub(super) id: i64,
    pub(super) state: State,
    pub(super) type_id: Option<i64>,
    /// Empty from servers before 1.0.
    pub(super) type_name: Box<str>,
    pub(super) uri: Box<str>,
    /// The custom property `name`, else the artifact's own name; never an empty one.
    pub(super) name: Option<Box<str>>,
    /// See [`pushed`].
    pub(super) pushed: Option<i64>,
    /// What KFP v2 calls the output.
    pub(super) output: Option<Box<str>>,
}

/// A property of an artifact.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Property {
    Int(i64),
    Double(f64),
    Bool(bool),
    Text(String),
}

/// Reads the property `pushed`: TFX writes an integer, KFP v2 writes all numbers as doubles, and whoever copies
/// properties may write a boolean or a text. `None` for what is no whole number: it says nothing.
pub(super) fn pushed(property: &Property) -> Option<i64> {
    match property {
        Property::Int(value) => Some(*value),
        Property::Bool(value) => Some(i64::from(*value)),
        Property::Double(value) => whole(*value),
        Property::Text(text) => match text.trim() {
            text if text.eq_ignore_ascii_case("true") => Some(1),
            text if text.eq_ignore_ascii_case("false") => Some(0),
            text => text.parse().ok().or_else(|| whole(text.parse().ok()?)),
        },
    }
}

fn whole(value: f64) -> Option<i64> {
    // The comparison excludes NaN, the infinities and what an i64 cannot hold exactly.
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

/// The artifacts of the run's context that are serving models, if it was this run that put them out.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    types: &'a ArtifactTypes,
    by_id: BTreeMap<i64, Attributed>,
    gone: usize,
}

impl<'a> Candidates<'a> {
    /// None yet, of these types.
    pub(super) fn of(types: &'a ArtifactTypes) -> Self {
        Self { types, by_id: BTreeMap::new(), gone: 0 }
    }

    pub(super) fn add(&mut self, artifact: Attributed) {
        if !self.may_count(&artifact) {
            return;
        }
        match artifact.state {
            State::There => {
                self.by_id.insert(artifact.id, artifact);
            }
            State::Gone => self.gone += 1,
        }
    }

    /// Where the type has no name yet, everything else decides.
    fn may_count(&self, artifact: &Attributed) -> bool {
        let Attributed { type_name, uri, pushed, .. } = artifact;
        match &**type_name {
            "" => self.types.names().into_iter().any(|wanted| self.types.accepts(wanted, uri, *pushed)),
            known => self.types.accepts(known, uri, *pushed),
        }
    }

    /// Whether there are some whose type has no name yet.
    pub(super) fn unresolved(&self) -> bool {
        self.by_id.values().any(|artifact| artifact.type_name.is_empty())
    }

    /// Names those types. One that is not among these is no wanted one.
    pub(super) fn resolve(&mut self, names: &HashMap<i64, &str>) {
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

    /// How many would count if they were still there.
    pub(super) fn gone(&self) -> usize {
        self.gone
    }
}

/// What happened to an artifact in an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) artifact: i64,
    pub(super) execution: i64,
    /// Whether its type is OUTPUT.
    pub(super) output: bool,
    /// The execution's output under which the artifact stands; empty where it is not said.
    pub(super) key: Box<str>,
    /// Its place there.
    pub(super) index: i64,
}

/// A serving model and the execution that put it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) artifact: Artifact,
    pub(super) execution: i64,
}

/// The candidates that this run put out, in the order of their ids, each once. Where several executions did (one of
/// them from a cache), the first of them counts.
pub(super) fn models(candidates: Candidates<'_>, events: &[Event], executions: &Executions) -> Vec<Model> {
    let mut outputs: HashMap<i64, (&Event, &Execution)> = HashMap::new();
    for event in events.iter().filter(|event| event.output) {
        let Some(execution) = executions.producer(event.execution) else { continue };
        let first = outputs.entry(event.artifact).or_insert((event, execution));
        if execution.id < first.1.id {
            *first = (event, execution);
        }
    }
    let model = |artifact: Attributed| {
        let (event, execution) = outputs.get(&artifact.id)?;
        let key = if event.key.is_empty() { artifact.output.unwrap_or_default() } else { event.key.clone() };
        let node = execution.task.clone().unwrap_or_else(|| execution.kind().into());
        let Attributed { id, name, uri, .. } = artifact;
        Some(Model { artifact: Artifact { id, name, uri, node, key, index: event.index }, execution: execution.id })
    };
    candidates.by_id.into_values().filter_map(model).collect()
}

/// The executions whose node has to be asked for, because it becomes part of a name: only TFX's, which has a context
/// for it. Each once.
pub(super) fn nodes_wanted(form: Form, models: &[Model]) -> Vec<i64> {
    if form != Form::Tfx {
        return Vec::new();
    }
    let unnamed = models.iter().filter(|model| model.artifact.name.is_none());
    let mut executions: Vec<i64> = unnamed.map(|model| model.execution).collect();
    executions.sort_unstable();
    executions.dedup();
    executions
}

/// The node of a TFX execution, out of its contexts: what follows the pipeline's name in the name of its `node`.
pub(super) fn node(contexts: &[Context]) -> Option<Box<str>> {
    let name = named(contexts, TFX_NODE)?;
    let of_pipeline = named(contexts, TFX_PIPELINE).and_then(|pipeline| name.strip_prefix(pipeline)?.strip_prefix('.'));
    // A pipeline's name may hold dots, a node's does not.
    let node = of_pipeline.or_else(|| name.rsplit('.').next()).filter(|node| !node.is_empty())?;
    Some(node.into())
}

#[cfg(test)]
mod tests;
