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

#[cfg(test)]
mod tests {
    use super::*;

    const URI: &str = "gs://models/1";

    #[test]
    fn by_default_what_a_pusher_pushed_is_a_model() {
        let types = ArtifactTypes::default();
        for (artifact_type, pushed, wanted) in [
            ("PushedModel", None, true),
            ("PushedModel", Some(1), true),
            ("PushedModel", Some(0), false),
            ("tfx.PushedModel", None, true),
            ("tfx.PushedModel", Some(0), false),
            ("system.Model", Some(1), true),
            ("system.Model", None, false),
            ("system.Model", Some(0), false),
            ("system.Model", Some(2), false),
            ("Model", Some(1), false),
            ("pushedmodel", Some(1), false),
            ("", Some(1), false),
        ] {
            assert_eq!(types.want(artifact_type, URI, pushed), wanted, "{artifact_type} with pushed = {pushed:?}");
        }
    }

    #[test]
    fn named_types_count_and_no_others_whatever_is_known_of_a_push() {
        let types = ArtifactTypes::named(["system.Model"]);
        assert!(types.want("system.Model", URI, None));
        assert!(types.want("system.Model", URI, Some(1)));
        assert!(!types.want("PushedModel", URI, Some(1)));
    }

    #[test]
    fn an_unblessed_model_and_one_that_lies_nowhere_never_count() {
        for types in [ArtifactTypes::default(), ArtifactTypes::named(["PushedModel"])] {
            assert!(!types.want("PushedModel", URI, Some(0)));
            assert!(!types.want("PushedModel", "", Some(1)));
        }
    }

    #[test]
    fn the_same_types_in_another_order_are_the_same_question() {
        assert_eq!(ArtifactTypes::named(["a", "b"]), ArtifactTypes::named(["b", "a", "b"]));
        assert_ne!(ArtifactTypes::named(["a"]), ArtifactTypes::default());
        assert_eq!(ArtifactTypes::named(["b", "a"]).names(), ["a", "b"]);
        assert_eq!(ArtifactTypes::default().names(), ["PushedModel", "tfx.PushedModel", "system.Model"]);
    }

    #[test]
    fn a_model_without_a_name_gets_the_one_that_tfx_used_to_write() {
        let unnamed = Artifact {
            id: 7,
            name: None,
            uri: URI.into(),
            node: "Pusher".into(),
            key: "pushed_model".into(),
            index: 0,
        };
        assert_eq!(unnamed.display_name("penguin-pipeline", "run-x"), "penguin-pipeline:run-x:Pusher:pushed_model:0");
        let named = Artifact { name: Some("mine".into()), ..unnamed };
        assert_eq!(named.display_name("penguin-pipeline", "run-x"), "mine");
    }
}
