//! Executions of a run's context: those that belong to the run, and their outputs.

use std::{
    collections::{BTreeMap, HashSet},
    mem::size_of,
    sync::Arc,
};

use super::{RunContext, RunFlavor, Verdicts};
use crate::model::Workflow;

/// Maximum age of an execution relative to its Workflow, in milliseconds: clocks differ.
const CLOCK_TOLERANCE_MS: i64 = 5 * 60 * 1000;
/// The same for a copy that `argo resubmit` made, perhaps seconds after the original ended.
const RESUBMIT_TOLERANCE_MS: i64 = 5 * 1000;
/// Execution types of importers in KFP v2.
const KFP_V2_IMPORTERS: [&str; 2] = ["system.ImporterExecution", "system.ImporterWorkspaceExecution"];
/// Last segments of the execution types of importers in TFX.
const TFX_IMPORTERS: [&str; 2] = ["Importer", "ImporterNode"];
/// Execution type of a DAG in KFP v2: the run as a whole, a sub-pipeline, a condition, a loop, or an iteration.
const KFP_V2_DAG: &str = "system.DAGExecution";
/// Estimated bytes of an execution in the tables of this module and of `places`, without its texts.
pub(in crate::mlmd) const EXECUTION_BYTES: usize = size_of::<Recorded>() + 96;

/// An execution of the run's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mlmd) struct Execution<'a> {
    pub(in crate::mlmd) id: i64,
    /// In milliseconds since the Unix epoch.
    pub(in crate::mlmd) created_ms: i64,
    pub(in crate::mlmd) type_name: &'a str,
    /// The task's name in KFP v2, unique in its DAG.
    pub(in crate::mlmd) task: Option<&'a str>,
    /// The component's name in the SDK of KFP v1, not unique.
    pub(in crate::mlmd) component: Option<&'a str>,
    /// The Pod's name in KFP.
    pub(in crate::mlmd) pod: Option<&'a str>,
    /// The execution of the DAG that contains the task in KFP v2.
    pub(in crate::mlmd) parent: Option<i64>,
    /// The iteration of a loop in KFP v2, counted from 0.
    pub(in crate::mlmd) iteration: Option<u32>,
}

impl Execution<'_> {
    fn is_importer(&self) -> bool {
        let tfx_class = self.type_name.strip_prefix("tfx.").map(|_| self.class());
        KFP_V2_IMPORTERS.contains(&self.type_name) || tfx_class.is_some_and(|class| TFX_IMPORTERS.contains(&class))
    }

    /// The last segment of the type: `Pusher` for `tfx.components.pusher.component.Pusher`.
    fn class(&self) -> &str {
        self.type_name.rsplit('.').next().unwrap_or_default()
    }

    /// The type that KFP v1's metadata-writer gives to a component, without its prefix and its digest.
    fn kfp_v1_component(&self) -> &str {
        let name = self.type_name.strip_prefix("components.").unwrap_or(self.type_name);
        name.split_once("@sha256=").map_or(name, |(name, _)| name)
    }
}

/// The kept fields of an execution.
#[derive(Debug)]
pub(super) struct Recorded {
    /// It belongs to the run.
    is_own: bool,
    is_importer: bool,
    /// The name of its node: the task, the component, or the component's class; empty for the run's own DAG.
    pub(super) node: Arc<str>,
    /// The name distinguishes nodes of the same DAG.
    pub(super) is_named: bool,
    pub(super) pod: Option<Arc<str>>,
    pub(super) parent: Option<i64>,
    pub(super) iteration: Option<u32>,
}

/// The executions of the run's context.
#[derive(Debug)]
pub(in crate::mlmd) struct Executions {
    pub(super) flavor: RunFlavor,
    earliest_ms: i64,
    /// Names that executions share.
    names: HashSet<Arc<str>>,
    pub(super) by_id: BTreeMap<i64, Recorded>,
}

impl Executions {
    /// An empty set for this run.
    ///
    /// In KFP v2, the context belongs to the run alone, and its property `namespace` says whose it is. So all its
    /// executions count, however old: KFP's Retry creates a deleted Workflow again, and does not execute again what had
    /// succeeded. Contexts named like the Workflow may be those of an older Workflow of the name; there, and in stores
    /// without the property, only what was created with the Workflow or after it counts. `argo resubmit` copies the run id.
    pub(in crate::mlmd) fn of(run: &Workflow, context: &RunContext) -> Self {
        let created_ms = run.created.saturating_mul(1000);
        let earliest_ms = if run.resubmitted {
            created_ms.saturating_sub(RESUBMIT_TOLERANCE_MS)
        } else if context.flavor == RunFlavor::KfpV2 && context.namespace.is_some() {
            i64::MIN
        } else {
            created_ms.saturating_sub(CLOCK_TOLERANCE_MS)
        };
        Self { flavor: context.flavor, earliest_ms, names: HashSet::new(), by_id: BTreeMap::new() }
    }

    /// Adds an execution. Returns the estimated bytes that are kept of it.
    pub(in crate::mlmd) fn add(&mut self, execution: &Execution<'_>) -> usize {
        let mut bytes = EXECUTION_BYTES;
        let (node, is_named) = match self.flavor {
            RunFlavor::Tfx => (execution.class(), false),
            RunFlavor::KfpV2 => match execution.task {
                Some(task) => (task, true),
                // The DAG of the run itself has no name.
                None if execution.type_name == KFP_V2_DAG => ("", true),
                None => (execution.class(), false),
            },
            RunFlavor::KfpV1 => (execution.component.unwrap_or_else(|| execution.kfp_v1_component()), false),
        };
        let recorded = Recorded {
            is_own: execution.created_ms >= self.earliest_ms,
            is_importer: execution.is_importer(),
            node: self.intern(node, &mut bytes),
            is_named,
            pod: execution.pod.map(|pod| self.intern(pod, &mut bytes)),
            // A parent is older than its children. Anything else would be a cycle.
            parent: execution.parent.filter(|parent| *parent < execution.id),
            iteration: execution.iteration,
        };
        self.by_id.insert(execution.id, recorded);
        bytes
    }

    fn intern(&mut self, name: &str, bytes: &mut usize) -> Arc<str> {
        if let Some(shared) = self.names.get(name) {
            return shared.clone();
        }
        *bytes += name.len() + 2 * size_of::<Arc<str>>() + size_of::<usize>();
        let shared: Arc<str> = name.into();
        self.names.insert(shared.clone());
        shared
    }

    /// Number of executions that belong to another run of the same name.
    pub(in crate::mlmd) fn foreign_count(&self) -> usize {
        self.by_id.values().filter(|execution| !execution.is_own).count()
    }

    /// The run's own execution that was created last: most likely the Pusher.
    pub(in crate::mlmd) fn latest(&self) -> Option<i64> {
        self.by_id.iter().rev().find(|(_, execution)| execution.is_own).map(|(id, _)| *id)
    }

    /// The executions of the run that may have made a model.
    pub(in crate::mlmd) fn producers(&self) -> impl Iterator<Item = i64> {
        self.by_id.keys().copied().filter(|id| self.role(*id) == Role::Producer)
    }

    /// Returns the role of the execution of this id.
    pub(in crate::mlmd) fn role(&self, id: i64) -> Role {
        match self.by_id.get(&id) {
            None => Role::Unknown,
            Some(execution) if !execution.is_own => Role::Foreign,
            Some(execution) if execution.is_importer => Role::Importer,
            Some(_) => Role::Producer,
        }
    }

    /// Returns the name of the node of an execution; empty where it has none.
    pub(super) fn node(&self, id: i64) -> Option<&str> {
        self.by_id.get(&id).map(|execution| &*execution.node)
    }
}

/// The role of an execution for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mlmd) enum Role {
    /// It belongs to the run, and made what it has as output.
    Producer,
    /// It belongs to the run, and has as output what existed before.
    Importer,
    /// It is of the run's context, but belongs to an older run of the same name.
    Foreign,
    /// It is not of the run's context.
    Unknown,
}

/// An event: the relation of an artifact to an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mlmd) struct Event<'a> {
    pub(in crate::mlmd) artifact: i64,
    pub(in crate::mlmd) execution: i64,
    /// True for events of type OUTPUT.
    pub(in crate::mlmd) is_output: bool,
    /// Key of the execution's output that contains the artifact; empty where unknown.
    pub(in crate::mlmd) key: &'a str,
    /// Index of the artifact in that output, if written.
    pub(in crate::mlmd) index: Option<i64>,
}

/// An artifact that one of the run's own executions produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) artifact: i64,
    pub(super) execution: i64,
    pub(super) key: Arc<str>,
    pub(super) index: Option<i64>,
}

/// The outputs of the run's own executions.
#[derive(Debug)]
pub(in crate::mlmd) struct Outputs<'a> {
    executions: &'a Executions,
    keys: HashSet<Arc<str>>,
    pub(super) all: Vec<Output>,
}

impl<'a> Outputs<'a> {
    pub(in crate::mlmd) fn of(executions: &'a Executions) -> Self {
        Self { executions, keys: HashSet::new(), all: Vec::new() }
    }

    /// Adds an event, which may be one of another run. Returns the estimated bytes that are kept of it.
    pub(in crate::mlmd) fn add(&mut self, event: &Event<'_>, verdicts: &mut dyn Verdicts) -> usize {
        let role = self.executions.role(event.execution);
        verdicts.event(event, role, self.executions);
        if !event.is_output || role != Role::Producer {
            return 0;
        }
        // Vectors double their size.
        let mut bytes = 2 * size_of::<Output>();
        let key = match self.keys.get(event.key) {
            Some(key) => key.clone(),
            None => {
                bytes += event.key.len();
                let key: Arc<str> = event.key.into();
                self.keys.insert(key.clone());
                key
            }
        };
        let Event { artifact, execution, index, .. } = *event;
        self.all.push(Output { artifact, execution, key, index });
        bytes
    }
}
