//! Artifacts of a run's context that may be serving models.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem::size_of,
};

use super::Verdicts;
use crate::model::{ArtifactTypes, ArtifactVerdict, NotAModel};

/// Estimated bytes of an entry in an ordered table beside its value.
const TABLE_ENTRY: usize = 16;

/// Availability of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mlmd) enum ArtifactState {
    /// Live, or in a state that does not say otherwise.
    Available,
    /// Deleted, or marked for deletion.
    Removed,
    /// Never completed: its execution failed.
    Abandoned,
}

impl ArtifactState {
    fn verdict(self) -> Result<(), ArtifactVerdict> {
        match self {
            Self::Available => Ok(()),
            Self::Removed => Err(ArtifactVerdict::Removed),
            Self::Abandoned => Err(ArtifactVerdict::Abandoned),
        }
    }
}

/// An artifact that is attributed to the run's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mlmd) struct ContextArtifact {
    pub(in crate::mlmd) id: i64,
    pub(in crate::mlmd) state: ArtifactState,
    pub(in crate::mlmd) type_id: Option<i64>,
    /// Empty from servers before 1.0.
    pub(in crate::mlmd) type_name: Box<str>,
    pub(in crate::mlmd) uri: Box<str>,
    /// The custom property `name`, else the artifact's own name; never empty.
    pub(in crate::mlmd) name: Option<Box<str>>,
    /// See [`parse_pushed`](crate::lookup::property::parse_pushed).
    pub(in crate::mlmd) pushed: Option<i64>,
    /// The output's name in KFP v2.
    pub(in crate::mlmd) output: Option<Box<str>>,
}

impl ContextArtifact {
    fn bytes(&self) -> usize {
        let texts = [&self.name, &self.output].into_iter().flatten().map(|text| text.len()).sum::<usize>();
        size_of::<Self>() + TABLE_ENTRY + self.type_name.len() + self.uri.len() + texts
    }
}

/// The artifacts of the run's context that are serving models, provided that the run produced them.
#[derive(Debug)]
pub(in crate::mlmd) struct Candidates<'a> {
    types: &'a ArtifactTypes,
    by_id: BTreeMap<i64, ContextArtifact>,
    /// Artifacts of the same types that are no serving models: not pushed, without a URI, or deleted. Where a task produced
    /// one of these after a model, the model is out of date.
    replacements: BTreeSet<i64>,
    removed: usize,
}

impl<'a> Candidates<'a> {
    /// An empty set for these artifact types.
    pub(in crate::mlmd) fn of(types: &'a ArtifactTypes) -> Self {
        Self { types, by_id: BTreeMap::new(), replacements: BTreeSet::new(), removed: 0 }
    }

    /// Adds an artifact. Returns the estimated bytes that are kept of it.
    pub(in crate::mlmd) fn add(&mut self, artifact: ContextArtifact, verdicts: &mut dyn Verdicts) -> usize {
        let checked = self.may_be_model(&artifact);
        let is_model = checked.is_ok();
        verdicts
            .artifact(&artifact, checked.map_err(ArtifactVerdict::NotAModel).and_then(|()| artifact.state.verdict()));
        match artifact.state {
            ArtifactState::Available if is_model => {
                let bytes = artifact.bytes();
                self.by_id.insert(artifact.id, artifact);
                bytes
            }
            ArtifactState::Abandoned => {
                self.removed += usize::from(is_model);
                0
            }
            state => {
                self.removed += usize::from(is_model && state == ArtifactState::Removed);
                if !self.types.names().contains(&&*artifact.type_name) {
                    return 0;
                }
                self.replacements.insert(artifact.id);
                size_of::<i64>() + TABLE_ENTRY
            }
        }
    }

    /// Checks whether the artifact is a serving model, or could be one while the name of its type is unknown.
    fn may_be_model(&self, artifact: &ContextArtifact) -> Result<(), NotAModel> {
        let ContextArtifact { type_name, uri, pushed, .. } = artifact;
        match &**type_name {
            "" => {
                let mut checked = self.types.names().into_iter().map(|name| self.types.check(name, uri, *pushed));
                let first = checked.next().unwrap_or(Err(NotAModel::OtherType));
                if first.is_ok() || checked.any(|checked| checked.is_ok()) { Ok(()) } else { first }
            }
            name => self.types.check(name, uri, *pushed),
        }
    }

    /// Returns whether the type of any candidate is known by its id only.
    pub(in crate::mlmd) fn has_unnamed_types(&self) -> bool {
        self.by_id.values().any(|artifact| artifact.type_name.is_empty())
    }

    /// Names the types that are known by their ids only, and drops candidates whose type is not among these.
    pub(in crate::mlmd) fn resolve_types(&mut self, names: &HashMap<i64, &str>, verdicts: &mut dyn Verdicts) {
        let types = self.types;
        self.by_id.retain(|_, artifact| {
            if artifact.type_name.is_empty() {
                let name = artifact.type_id.and_then(|id| names.get(&id));
                artifact.type_name = name.copied().unwrap_or_default().into();
            }
            let checked = types.check(&artifact.type_name, &artifact.uri, artifact.pushed);
            verdicts.type_resolved(artifact, checked.map_err(ArtifactVerdict::NotAModel));
            checked.is_ok()
        });
    }

    /// Excludes every candidate: no execution of the run could have produced one.
    pub(in crate::mlmd) fn exclude_all(self, verdicts: &mut dyn Verdicts) {
        self.by_id.keys().for_each(|id| verdicts.decided(*id, ArtifactVerdict::ForeignExecution));
    }

    pub(in crate::mlmd) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the ids of the artifacts whose events are needed, in order.
    pub(in crate::mlmd) fn ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.by_id.keys().chain(&self.replacements).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Number of artifacts that would be candidates if they still existed.
    pub(in crate::mlmd) fn removed(&self) -> usize {
        self.removed
    }

    /// The candidates, ordered by id.
    pub(super) fn into_artifacts(self) -> impl Iterator<Item = ContextArtifact> {
        self.by_id.into_values()
    }
}

#[cfg(test)]
mod tests;
