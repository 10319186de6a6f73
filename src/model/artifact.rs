//! Which outputs of a run count as serving models, and what they are called.

use std::sync::Arc;

/// The types that count where a subscription names none. TFX on KFP v1 and v2 write the first two; TFX through
/// kfp-operator's KFP v2 shim writes `system.Model` with the property `pushed = 1`.
const DEFAULT_TYPES: [&str; 2] = ["PushedModel", "tfx.PushedModel"];
/// Counts by default only where the Pusher says that it pushed.
const DEFAULT_IF_PUSHED: &str = "system.Model";

/// Which artifact types count as a serving model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArtifactTypes(Option<Vec<Box<str>>>);

impl Default for ArtifactTypes {
    /// `PushedModel`, `tfx.PushedModel`, and `system.Model` with `pushed = 1`.
    fn default() -> Self {
        Self(None)
    }
}

impl ArtifactTypes {
    /// Exactly these types, whatever order and however often they are named.
    pub fn named(types: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        let mut types: Vec<Box<str>> = types.into_iter().map(Into::into).collect();
        types.sort_unstable();
        types.dedup();
        Self(Some(types))
    }

    /// The names of the types that can count.
    pub fn names(&self) -> Vec<&str> {
        match &self.0 {
            Some(types) => types.iter().map(|name| &**name).collect(),
            None => DEFAULT_TYPES.into_iter().chain([DEFAULT_IF_PUSHED]).collect(),
        }
    }

    /// Whether an artifact of this type, with this URI and this value of the property `pushed`, is a serving model.
    /// An unblessed model is recorded with `pushed = 0` and is never one.
    pub fn want(&self, artifact_type: &str, uri: &str, pushed: Option<i64>) -> bool {
        if uri.is_empty() || pushed == Some(0) {
            return false;
        }
        match &self.0 {
            Some(types) => types.iter().any(|wanted| **wanted == *artifact_type),
            None => DEFAULT_TYPES.contains(&artifact_type) || (artifact_type == DEFAULT_IF_PUSHED && pushed == Some(1)),
        }
    }
}

/// A serving model that a run put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// ML Metadata's id; models are announced in this order.
    pub id: i64,
    /// The name that its writer gave it: the custom property `name`, else the artifact's own name.
    pub name: Option<Box<str>>,
    /// Where the model lies.
    pub uri: Box<str>,
    /// The node (component, task) of the pipeline that put it out.
    pub node: Box<str>,
    /// The output of the node under which it stands.
    pub key: Box<str>,
    /// Its place in that output.
    pub index: i64,
}

impl Artifact {
    /// The name to announce. One without a name gets `pipeline:workflow:node:key:index`, the form that TFX itself
    /// wrote until 1.10.
    pub fn display_name(&self, pipeline: &str, workflow: &str) -> String {
        match &self.name {
            Some(name) => name.to_string(),
            None => format!("{pipeline}:{workflow}:{}:{}:{}", self.node, self.key, self.index),
        }
    }
}

/// What ML Metadata says of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunModels {
    /// The name of the run's pipeline, where ML Metadata knows it.
    pub pipeline: Option<Arc<str>>,
    /// The serving models that this run put out, in the order of their ids.
    pub models: Vec<Artifact>,
    /// How many executions of the run's context were left out, because they are older than the run itself.
    pub foreign_executions: usize,
}
