//! The verdicts of the rules about the artifacts of a run.

use super::{ArtifactRow, Link, Task};
use crate::{
    delivery::{Explained, LookupError, ModelSource, RunRecord},
    lookup::seen::{MAX_TEXT, Seen, text},
    model::{ArtifactId, ArtifactVerdict, NotAModel, RunModels, SeenArtifact, text::beginning},
};

/// The kind of a run's record.
const RUN: &str = "run";

/// Receives what the rules decide while they decide it.
pub(in crate::kfp) trait Verdicts: Send {
    /// Returns whether the verdicts about all artifacts are wanted, also about those that no rule of a lookup reads.
    fn wants_all(&self) -> bool;
    /// A listing of the run's tasks begins, perhaps once more.
    fn begin(&mut self);
    /// A task of the run was read.
    fn task(&mut self, task: &Task<'_>);
    /// A link of a task to an artifact was read. `check` is about the artifact, `exclusion` about the link; without any,
    /// the other tasks decide.
    fn linked(
        &mut self,
        task: &Task<'_>,
        link: &Link<'_>,
        row: &ArtifactRow<'_>,
        check: Result<(), NotAModel>,
        exclusion: Option<ArtifactVerdict>,
    );
    /// The verdict about a model is final, unless another link of it counts.
    fn decided(&mut self, id: &str, verdict: ArtifactVerdict);
}

/// Ignores all verdicts.
impl Verdicts for () {
    fn wants_all(&self) -> bool {
        false
    }
    fn begin(&mut self) {}
    fn task(&mut self, _: &Task<'_>) {}
    fn linked(
        &mut self,
        _: &Task<'_>,
        _: &Link<'_>,
        _: &ArtifactRow<'_>,
        _: Result<(), NotAModel>,
        _: Option<ArtifactVerdict>,
    ) {
    }
    fn decided(&mut self, _: &str, _: ArtifactVerdict) {}
}

/// Collects the verdicts about a limited number of artifacts.
#[derive(Debug, Default)]
pub(in crate::kfp) struct Collector {
    record: Option<RunRecord>,
    artifacts: Seen<Box<str>, Collected>,
}

#[derive(Debug)]
struct Collected {
    seen: SeenArtifact,
    /// See [`rank`].
    rank: u8,
    /// The creation of the task, and of the artifact.
    created: (i64, i64),
}

/// The order of links: of several, the last one is named, because it says most about the artifact. One artifact is linked to
/// the task whose output it is, to each task that contains that one, and to those that read it.
fn rank(exclusion: Option<ArtifactVerdict>) -> u8 {
    match exclusion {
        Some(ArtifactVerdict::OnlyRead) => 1,
        Some(ArtifactVerdict::ForeignExecution) => 2,
        Some(ArtifactVerdict::Importer) => 3,
        Some(ArtifactVerdict::NotSucceeded) => 4,
        Some(ArtifactVerdict::ForeignNamespace) => 5,
        Some(ArtifactVerdict::Unfinished) => 6,
        Some(_) => 0,
        None => 7,
    }
}

impl Collector {
    /// Returns the collected verdicts with the result of the lookup.
    pub(in crate::kfp) fn explained(self, found: Result<RunModels, LookupError>) -> Explained {
        let Self { record, mut artifacts } = self;
        for model in found.iter().flat_map(|found| &found.models) {
            let ArtifactId::Text(id) = &model.id else { continue };
            if let Some(Collected { seen, .. }) = artifacts.get_mut(id) {
                seen.set_output(model);
            }
        }
        let left_out = artifacts.left_out();
        let mut artifacts: Vec<_> = artifacts.into_artifacts().map(|(_, collected)| collected).collect();
        artifacts.sort_by_key(|collected| collected.created);
        let artifacts = artifacts.into_iter().map(|collected| collected.seen).collect();
        Explained { source: ModelSource::Kfp, found, record, artifacts, left_out }
    }
}

impl Verdicts for Collector {
    fn wants_all(&self) -> bool {
        true
    }

    fn begin(&mut self) {
        *self = Self::default();
    }

    fn task(&mut self, task: &Task<'_>) {
        let record = || RunRecord { kind: RUN, name: task.run_id.to_owned(), id: None, namespace: None };
        self.record.get_or_insert_with(record);
    }

    fn linked(
        &mut self,
        task: &Task<'_>,
        link: &Link<'_>,
        row: &ArtifactRow<'_>,
        check: Result<(), NotAModel>,
        exclusion: Option<ArtifactVerdict>,
    ) {
        if let Some(record) = &mut self.record
            && record.namespace.is_none()
        {
            record.namespace = text(row.namespace);
        }
        let (id, rank) = (row.id.into(), rank(exclusion));
        if self.artifacts.get_mut(&id).is_some_and(|known| known.rank >= rank) {
            return;
        }
        let verdict = match check {
            Err(reason) => ArtifactVerdict::NotAModel(reason),
            Ok(()) => exclusion.unwrap_or(ArtifactVerdict::Undecided),
        };
        let seen = SeenArtifact {
            id: ArtifactId::Text(beginning(row.id, MAX_TEXT).into()),
            type_name: beginning(&row.type_name, MAX_TEXT).to_owned(),
            name: row.name.and_then(text),
            uri: beginning(row.uri, MAX_TEXT).to_owned(),
            node: text(task.name),
            key: text(link.key),
            verdict,
        };
        let is_of_other_type = check == Err(NotAModel::OtherType);
        self.artifacts.insert(id, is_of_other_type, Collected { seen, rank, created: (task.created, row.created) });
    }

    fn decided(&mut self, id: &str, verdict: ArtifactVerdict) {
        if let Some(Collected { seen, .. }) = self.artifacts.get_mut(&id.into())
            && !seen.verdict.counts()
        {
            seen.verdict = verdict;
        }
    }
}
