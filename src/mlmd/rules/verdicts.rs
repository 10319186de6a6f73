//! The verdicts of the rules about the artifacts of a run.

use super::{ContextArtifact, Event, Executions, Role, RunContext};
use crate::{
    delivery::{Explained, LookupError, ModelSource, RunRecord},
    lookup::seen::{MAX_TEXT, Seen, text},
    model::{ArtifactId, ArtifactVerdict, NotAModel, RunModels, SeenArtifact, text::beginning},
};

/// Receives what the rules decide while they decide it.
pub(in crate::mlmd) trait Verdicts: Send {
    /// The context of the run was found.
    fn context(&mut self, context: &RunContext);
    /// An artifact of the context was read. Without an error, its events decide.
    fn artifact(&mut self, artifact: &ContextArtifact, verdict: Result<(), ArtifactVerdict>);
    /// The name of an artifact's type was looked up.
    fn type_resolved(&mut self, artifact: &ContextArtifact, verdict: Result<(), ArtifactVerdict>);
    /// An event was read: the execution, one of these, has the role.
    fn event(&mut self, event: &Event<'_>, role: Role, executions: &Executions);
    /// An artifact is no current output of the run.
    fn not_current(&mut self, artifact: i64);
    /// The verdict about an artifact is final.
    fn decided(&mut self, artifact: i64, verdict: ArtifactVerdict);
}

/// Ignores all verdicts.
impl Verdicts for () {
    fn context(&mut self, _: &RunContext) {}
    fn artifact(&mut self, _: &ContextArtifact, _: Result<(), ArtifactVerdict>) {}
    fn type_resolved(&mut self, _: &ContextArtifact, _: Result<(), ArtifactVerdict>) {}
    fn event(&mut self, _: &Event<'_>, _: Role, _: &Executions) {}
    fn not_current(&mut self, _: i64) {}
    fn decided(&mut self, _: i64, _: ArtifactVerdict) {}
}

/// Collects the verdicts about a limited number of artifacts.
#[derive(Debug, Default)]
pub(in crate::mlmd) struct Collector {
    record: Option<RunRecord>,
    artifacts: Seen<i64, Collected>,
}

#[derive(Debug)]
struct Collected {
    seen: SeenArtifact,
    relation: Option<Relation>,
}

/// The relation of an artifact to the run. Of several, the last one is named: it says most about the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Relation {
    Read,
    OutputOfForeign,
    OutputOfImporter,
    Output,
}

impl Relation {
    fn of(event: &Event<'_>, role: Role) -> Option<Self> {
        match (role, event.is_output) {
            (Role::Producer, true) => Some(Self::Output),
            (Role::Importer, true) => Some(Self::OutputOfImporter),
            (Role::Foreign, true) => Some(Self::OutputOfForeign),
            (Role::Producer | Role::Importer, false) => Some(Self::Read),
            (Role::Foreign, false) | (Role::Unknown, _) => None,
        }
    }
}

impl Collector {
    /// Returns the collected verdicts with the result of the lookup.
    pub(in crate::mlmd) fn explained(self, found: Result<RunModels, LookupError>) -> Explained {
        let Self { record, mut artifacts } = self;
        for model in found.iter().flat_map(|found| &found.models) {
            let ArtifactId::Number(id) = model.id else { continue };
            if let Some(Collected { seen, .. }) = artifacts.get_mut(&id) {
                seen.set_output(model);
            }
        }
        let left_out = artifacts.left_out();
        let artifacts = artifacts.into_artifacts().map(|(_, collected)| collected.seen).collect();
        Explained { source: ModelSource::Mlmd, found, record, artifacts, left_out }
    }
}

impl Verdicts for Collector {
    fn context(&mut self, context: &RunContext) {
        let RunContext { id, flavor, name, namespace } = context;
        let kind = flavor.context_type();
        self.record = Some(RunRecord { kind, name: name.clone(), id: Some(*id), namespace: namespace.clone() });
    }

    fn artifact(&mut self, artifact: &ContextArtifact, verdict: Result<(), ArtifactVerdict>) {
        let is_of_other_type = verdict == Err(ArtifactVerdict::NotAModel(NotAModel::OtherType));
        let ContextArtifact { id, type_name, uri, name, output, .. } = artifact;
        let seen = SeenArtifact {
            id: (*id).into(),
            type_name: beginning(type_name, MAX_TEXT).to_owned(),
            name: name.as_deref().and_then(text),
            uri: beginning(uri, MAX_TEXT).to_owned(),
            node: None,
            key: output.as_deref().and_then(text),
            verdict: verdict.err().unwrap_or(ArtifactVerdict::Undecided),
        };
        // A page may repeat a row of the one before.
        self.artifacts.insert(*id, is_of_other_type, Collected { seen, relation: None });
    }

    fn type_resolved(&mut self, artifact: &ContextArtifact, verdict: Result<(), ArtifactVerdict>) {
        if let Some(Collected { seen, .. }) = self.artifacts.get_mut(&artifact.id) {
            beginning(&artifact.type_name, MAX_TEXT).clone_into(&mut seen.type_name);
            seen.verdict = verdict.err().unwrap_or(ArtifactVerdict::Undecided);
        }
    }

    fn event(&mut self, event: &Event<'_>, role: Role, executions: &Executions) {
        let Some(collected) = self.artifacts.get_mut(&event.artifact) else { return };
        let relation = Relation::of(event, role);
        if relation > collected.relation {
            collected.relation = relation;
            collected.seen.node = executions.node(event.execution).and_then(text);
            collected.seen.key = text(event.key).or(collected.seen.key.take());
        }
    }

    fn not_current(&mut self, artifact: i64) {
        if let Some(Collected { seen, relation }) = self.artifacts.get_mut(&artifact) {
            seen.verdict = match relation {
                Some(Relation::Output) => ArtifactVerdict::EarlierAttempt,
                Some(Relation::OutputOfImporter) => ArtifactVerdict::Importer,
                Some(Relation::OutputOfForeign) => ArtifactVerdict::ForeignExecution,
                Some(Relation::Read) => ArtifactVerdict::OnlyRead,
                None => ArtifactVerdict::NoEvent,
            };
        }
    }

    fn decided(&mut self, artifact: i64, verdict: ArtifactVerdict) {
        if let Some(Collected { seen, .. }) = self.artifacts.get_mut(&artifact) {
            seen.verdict = verdict;
        }
    }
}
