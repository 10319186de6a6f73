//! Selection and naming of the outputs of a run that are serving models.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// Types of a subscription without `artifactTypes`, written by TFX on KFP v1 and v2. TFX through kfp-operator's KFP v2
/// shim writes `system.Model` with the property `pushed = 1`.
const DEFAULT_TYPES: [&str; 2] = ["PushedModel", "tfx.PushedModel"];
/// Default type that is accepted only with `pushed = 1`.
const DEFAULT_IF_PUSHED: &str = "system.Model";

/// The artifact types that are serving models.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArtifactTypes(Option<Vec<Box<str>>>);

impl Default for ArtifactTypes {
    /// `PushedModel`, `tfx.PushedModel`, and `system.Model` with `pushed = 1`.
    fn default() -> Self {
        Self(None)
    }
}

impl ArtifactTypes {
    /// Exactly these types. Order and duplicates do not matter.
    pub fn named(types: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        let mut types: Vec<Box<str>> = types.into_iter().map(Into::into).collect();
        types.sort_unstable();
        types.dedup();
        Self(Some(types))
    }

    /// Names of all types that may be accepted.
    pub fn names(&self) -> Vec<&str> {
        match &self.0 {
            Some(types) => types.iter().map(|name| &**name).collect(),
            None => DEFAULT_TYPES.into_iter().chain([DEFAULT_IF_PUSHED]).collect(),
        }
    }

    /// Returns whether an artifact of this type, with this URI and this value of the property `pushed`, is a serving
    /// model.
    pub fn accepts(&self, artifact_type: &str, uri: &str, pushed: Option<i64>) -> bool {
        self.check(artifact_type, uri, pushed).is_ok()
    }

    /// Checks whether an artifact is a serving model, like [`ArtifactTypes::accepts`].
    ///
    /// # Errors
    /// The first rule that excludes it. An unblessed model is recorded with `pushed = 0` and is never accepted.
    pub fn check(&self, artifact_type: &str, uri: &str, pushed: Option<i64>) -> Result<(), NotAModel> {
        let needs_pushed = match &self.0 {
            Some(types) if types.iter().any(|accepted| **accepted == *artifact_type) => false,
            None if DEFAULT_TYPES.contains(&artifact_type) => false,
            None if artifact_type == DEFAULT_IF_PUSHED => true,
            Some(_) | None => return Err(NotAModel::OtherType),
        };
        match pushed {
            Some(0) => Err(NotAModel::Unblessed),
            Some(1) => Ok(()),
            _ if needs_pushed => Err(NotAModel::NotPushed),
            _ => Ok(()),
        }?;
        if uri.is_empty() { Err(NotAModel::NoUri) } else { Ok(()) }
    }
}

/// The reason why an artifact is no serving model, whatever produced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum NotAModel {
    /// Its type is none of the subscription's.
    #[error("its type is none of the subscription's artifactTypes")]
    OtherType,
    /// Its type counts by default only with `pushed = 1`.
    #[error(
        "{DEFAULT_IF_PUSHED} counts only with the property pushed = 1, or if artifactTypes contains {DEFAULT_IF_PUSHED}"
    )]
    NotPushed,
    /// The model was not blessed, so it was not pushed.
    #[error("not blessed, so not pushed (pushed = 0)")]
    Unblessed,
    /// It has no location.
    #[error("it has no URI")]
    NoUri,
}

/// Id of an artifact in the source of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ArtifactId {
    /// ML Metadata counts.
    Number(i64),
    /// Kubeflow's API draws UUIDs, which have no order.
    Text(Box<str>),
}

impl From<i64> for ArtifactId {
    fn from(id: i64) -> Self {
        Self::Number(id)
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(id) => id.fmt(f),
            Self::Text(id) => f.write_str(id),
        }
    }
}

/// A serving model that a run produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Id in the source.
    pub id: ArtifactId,
    /// Name given by the artifact's writer: the custom property `name`, else the artifact's own name.
    pub name: Option<Box<str>>,
    /// Location of the model.
    pub uri: Box<str>,
    /// Node (component, task) of the pipeline that produced it.
    pub node: Box<str>,
    /// Key of the node's output that contains it.
    pub key: Box<str>,
    /// Index in that output.
    pub index: i64,
}

impl Artifact {
    /// Name in the event. A model without a name is called `pipeline:workflow:node:key:index`, as TFX did until 1.10.
    pub fn display_name(&self, pipeline: &str, workflow: &str) -> String {
        match &self.name {
            Some(name) => name.to_string(),
            None => format!("{pipeline}:{workflow}:{}:{}:{}", self.node, self.key, self.index),
        }
    }
}

/// The result of a lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunModels {
    /// Name of the run's pipeline, if the source has it and it was needed.
    pub pipeline: Option<Arc<str>>,
    /// Serving models that this run produced, in the order of the event: that of the ids in ML Metadata, else that of the
    /// tasks.
    pub models: Vec<Artifact>,
    /// Number of executions, tasks or models in the run's record that were ignored because they are older than the run, or
    /// of another namespace.
    pub foreign_executions: usize,
}

impl RunModels {
    /// The bytes that they occupy in memory, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        let model = |model: &Artifact| {
            let Artifact { id, name, uri, node, key, .. } = model;
            let id = match id {
                ArtifactId::Number(_) => 0,
                ArtifactId::Text(id) => id.len(),
            };
            size_of::<Artifact>() + id + name.as_deref().map_or(0, str::len) + uri.len() + node.len() + key.len()
        };
        let pipeline = self.pipeline.as_deref().map_or(0, str::len);
        size_of::<Self>() + pipeline + self.models.iter().map(model).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URI: &str = "gs://models/1";

    #[test]
    fn the_default_types_accept_pushed_models() {
        let types = ArtifactTypes::default();
        for (artifact_type, pushed, accepted) in [
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
            assert_eq!(types.accepts(artifact_type, URI, pushed), accepted, "{artifact_type} with pushed = {pushed:?}");
        }
    }

    #[test]
    fn named_types_replace_the_default_types() {
        let types = ArtifactTypes::named(["system.Model"]);
        assert!(types.accepts("system.Model", URI, None));
        assert!(types.accepts("system.Model", URI, Some(1)));
        assert!(!types.accepts("PushedModel", URI, Some(1)));
    }

    #[test]
    fn an_unblessed_model_and_one_without_a_uri_are_never_accepted() {
        for types in [ArtifactTypes::default(), ArtifactTypes::named(["PushedModel"])] {
            assert!(!types.accepts("PushedModel", URI, Some(0)));
            assert!(!types.accepts("PushedModel", "", Some(1)));
        }
    }

    /// A later rule is only the reason if no earlier one is.
    #[test]
    fn the_first_rule_that_excludes_an_artifact_is_the_reason() {
        use NotAModel::{NoUri, NotPushed, OtherType, Unblessed};
        let (default, named) = (ArtifactTypes::default(), ArtifactTypes::named(["system.Model"]));
        for (types, artifact_type, uri, pushed, expected) in [
            (&default, "Schema", "", Some(0), Err(OtherType)),
            (&default, "PushedModel", "", Some(0), Err(Unblessed)),
            (&default, "PushedModel", "", None, Err(NoUri)),
            (&default, "system.Model", URI, None, Err(NotPushed)),
            (&default, "system.Model", URI, Some(0), Err(Unblessed)),
            (&default, "system.Model", "", Some(1), Err(NoUri)),
            (&named, "PushedModel", URI, Some(1), Err(OtherType)),
            (&named, "system.Model", URI, None, Ok(())),
        ] {
            assert_eq!(types.check(artifact_type, uri, pushed), expected, "{artifact_type} with pushed = {pushed:?}");
        }
    }

    #[test]
    fn types_are_compared_without_order_and_duplicates() {
        assert_eq!(ArtifactTypes::named(["a", "b"]), ArtifactTypes::named(["b", "a", "b"]));
        assert_ne!(ArtifactTypes::named(["a"]), ArtifactTypes::default());
        assert_eq!(ArtifactTypes::named(["b", "a"]).names(), ["a", "b"]);
        assert_eq!(ArtifactTypes::default().names(), ["PushedModel", "tfx.PushedModel", "system.Model"]);
    }

    #[test]
    fn a_model_without_a_name_gets_the_former_name_of_tfx() {
        let unnamed = Artifact {
            id: 7.into(),
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
