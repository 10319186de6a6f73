//! The choice of a run's models among its outputs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    Candidates, ContextArtifact, Places, Verdicts,
    executions::{Executions, Output, Outputs},
};
use crate::model::{Artifact, ArtifactId, ArtifactVerdict};

/// A serving model with the execution that produced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mlmd) struct Model {
    pub(in crate::mlmd) artifact: Artifact,
    pub(in crate::mlmd) execution: i64,
}

/// Returns the executions of which it is not known whether they are of one node: several executions of a class have an
/// output of the same key. Only the contexts of a TFX execution name its node, and mostly each class has one.
pub(in crate::mlmd) fn ambiguous_executions(executions: &Executions, outputs: &Outputs<'_>) -> Vec<i64> {
    let mut by_output: HashMap<(&str, &str), BTreeSet<i64>> = HashMap::new();
    for output in &outputs.all {
        let node = &executions.by_id[&output.execution].node;
        by_output.entry((node, &output.key)).or_default().insert(output.execution);
    }
    let ambiguous = by_output.into_values().filter(|executions| executions.len() > 1).flatten();
    let ambiguous: BTreeSet<i64> = ambiguous.collect();
    ambiguous.into_iter().collect()
}

/// Returns the candidates that this run produced, ordered by id; a location appears once.
///
/// Of several executions at one place, each output of the last one that has it replaces those of the others. KFP writes
/// one artifact an output; where one execution has several, its Pod was restarted, and the last one counts. Where several
/// executions have the same artifact as output, one of them from a cache, the first of them names it.
pub(in crate::mlmd) fn select(
    candidates: Candidates<'_>,
    outputs: &Outputs<'_>,
    executions: &Executions,
    places: &Places<'_>,
    verdicts: &mut dyn Verdicts,
) -> Vec<Model> {
    let mut by_artifact: HashMap<i64, &Output> = HashMap::new();
    for output in current(&outputs.all, places) {
        let first = by_artifact.entry(output.artifact).or_insert(output);
        if (output.execution, &output.key, output.index) < (first.execution, &first.key, first.index) {
            *first = output;
        }
    }
    let model = |artifact: ContextArtifact| {
        let output = by_artifact.get(&artifact.id)?;
        let ContextArtifact { id, name, uri, output: output_name, .. } = artifact;
        let key = if output.key.is_empty() { output_name.unwrap_or_default() } else { (*output.key).into() };
        let node = (*executions.by_id[&output.execution].node).into();
        let index = places.iteration(output.execution).or(output.index).unwrap_or_default();
        Some(Model { artifact: Artifact { id: id.into(), name, uri, node, key, index }, execution: output.execution })
    };
    let mut models: Vec<Model> = Vec::new();
    for artifact in candidates.into_artifacts() {
        let id = artifact.id;
        match model(artifact) {
            Some(model) => models.push(model),
            None => verdicts.not_current(id),
        }
    }
    let mut locations = HashSet::new();
    let is_first: Vec<bool> = models.iter().map(|model| locations.insert(&*model.artifact.uri)).collect();
    let mut is_first = is_first.into_iter();
    models.retain(|model| {
        let is_first = is_first.next().unwrap_or_default();
        let verdict = if is_first { ArtifactVerdict::Counts } else { ArtifactVerdict::SameLocation };
        if let ArtifactId::Number(id) = model.artifact.id {
            verdicts.decided(id, verdict);
        }
        is_first
    });
    models
}

/// Drops outputs that later ones replace.
fn current<'a>(outputs: &'a [Output], places: &Places<'_>) -> Vec<&'a Output> {
    let mut last: BTreeMap<(u32, &str), i64> = BTreeMap::new();
    for output in outputs {
        if let Some(place) = places.current(output.execution) {
            let last = last.entry((place, &output.key)).or_insert(output.execution);
            *last = (*last).max(output.execution);
        }
    }
    let is_last = |output: &&Output| {
        let place = places.current(output.execution);
        place.is_some_and(|place| last.get(&(place, &*output.key)) == Some(&output.execution))
    };
    let mut kept: Vec<&Output> = Vec::new();
    let mut written: HashMap<(i64, &str), i64> = HashMap::new();
    for output in outputs.iter().filter(is_last) {
        kept.push(output);
        let last = written.entry((output.execution, &output.key)).or_insert(output.artifact);
        *last = (*last).max(output.artifact);
    }
    // With an index, as TFX writes it, an output is a list. Without a key, two artifacts may be two outputs.
    kept.retain(|output| {
        let is_single = output.index.is_none() && !output.key.is_empty();
        !is_single || written[&(output.execution, &*output.key)] == output.artifact
    });
    kept
}
