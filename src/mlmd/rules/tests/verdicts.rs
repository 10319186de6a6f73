//! The verdict about each artifact, and the limits of what is collected.

use super::*;
use crate::model::{ArtifactVerdict, NotAModel};

fn seen(collector: Collector) -> Vec<SeenArtifact> {
    collector.explained(Err(LookupError::NoContext)).artifacts
}

fn verdicts(seen: &[SeenArtifact]) -> Vec<(i64, ArtifactVerdict)> {
    seen.iter().map(|seen| (number_of(seen), seen.verdict)).collect()
}

#[test]
fn every_artifact_has_the_verdict_of_the_first_rule() {
    let importer = Execution { type_name: "system.ImporterExecution", ..task(3, "import", 1) };
    let old = Execution { created_ms: (CREATED - 301) * 1000, ..execution(4) };
    let all = [dag(1, None, 0, None), task(2, "push", 1), importer, old, task(5, "push", 1), task(6, "other", 1)];
    let context = RunContext { namespace: None, ..run_context(RunFlavor::KfpV2) };
    let mut executions = Executions::of(&run(PipelineName::Unknown), &context);
    for execution in &all {
        executions.add(execution);
    }
    let artifacts = [
        artifact(1),
        artifact(2),
        artifact(3),
        artifact(4),
        artifact(5),
        ContextArtifact { uri: "gs://models/1".into(), ..artifact(6) },
        ContextArtifact { type_name: "Schema".into(), ..artifact(7) },
        ContextArtifact { pushed: Some(0), ..artifact(8) },
        ContextArtifact { uri: "".into(), ..artifact(9) },
        ContextArtifact { type_name: "system.Model".into(), pushed: None, ..artifact(10) },
        ContextArtifact { state: ArtifactState::Removed, ..artifact(11) },
        ContextArtifact { state: ArtifactState::Abandoned, ..artifact(12) },
        artifact(13),
    ];
    let input = |artifact, execution| Event { is_output: false, ..kfp_output(artifact, execution) };
    let other = |artifact, execution| Event { key: "other", ..kfp_output(artifact, execution) };
    // The task `push` was executed again, as 5.
    let events = [
        kfp_output(1, 5),
        kfp_output(2, 2),
        kfp_output(3, 3),
        input(3, 5),
        kfp_output(4, 4),
        kfp_output(5, 99),
        input(5, 5),
        other(6, 6),
    ];
    let mut collector = Collector::default();
    let found = models_with_verdicts(artifacts, &events, &executions, &[], &mut collector);
    assert_eq!(ids(&found), [1]);
    let seen = seen(collector);
    use ArtifactVerdict as V;
    let expected = [
        V::Counts,
        V::EarlierAttempt,
        V::Importer,
        V::ForeignExecution,
        V::OnlyRead,
        V::SameLocation,
        V::NotAModel(NotAModel::OtherType),
        V::NotAModel(NotAModel::Unblessed),
        V::NotAModel(NotAModel::NoUri),
        V::NotAModel(NotAModel::NotPushed),
        V::Removed,
        V::Abandoned,
        V::NoEvent,
    ];
    assert_eq!(verdicts(&seen), (1..).zip(expected).collect::<Vec<_>>());
    let place = |seen: &SeenArtifact| (seen.node.clone().unwrap_or_default(), seen.key.clone().unwrap_or_default());
    assert_eq!(place(&seen[1]), ("push".to_owned(), "model".to_owned()));
    assert_eq!(place(&seen[2]), ("import".to_owned(), "model".to_owned()), "not the task that reads it");
    assert_eq!(place(&seen[5]), ("other".to_owned(), "other".to_owned()));
}

/// Without an execution of the run, no event is requested.
#[test]
fn without_an_execution_of_the_run_all_models_are_foreign() {
    let types = ArtifactTypes::default();
    let mut collector = Collector::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(artifact(1), &mut collector);
    candidates.add(ContextArtifact { pushed: Some(0), ..artifact(2) }, &mut collector);
    candidates.exclude_all(&mut collector);
    let unblessed = ArtifactVerdict::NotAModel(NotAModel::Unblessed);
    assert_eq!(verdicts(&seen(collector)), [(1, ArtifactVerdict::ForeignExecution), (2, unblessed)]);
}

/// Old servers do not return the names of types.
#[test]
fn the_verdict_about_a_type_follows_its_name() {
    let types = ArtifactTypes::default();
    let mut collector = Collector::default();
    let mut candidates = Candidates::of(&types);
    for (id, type_id) in [(1, 20), (2, 21), (3, 22)] {
        let nameless = ContextArtifact { type_id: Some(type_id), type_name: "".into(), pushed: None, ..artifact(id) };
        candidates.add(nameless, &mut collector);
    }
    candidates.resolve_types(&HashMap::from([(20, "PushedModel"), (22, "system.Model")]), &mut collector);
    let seen = seen(collector);
    let expected = [
        (1, ArtifactVerdict::Undecided),
        (2, ArtifactVerdict::NotAModel(NotAModel::OtherType)),
        (3, ArtifactVerdict::NotAModel(NotAModel::NotPushed)),
    ];
    assert_eq!(verdicts(&seen), expected);
    assert_eq!(seen[0].type_name, "PushedModel");
}

#[test]
fn a_limited_number_of_artifacts_and_bytes_is_collected() {
    let types = ArtifactTypes::default();
    let mut collector = Collector::default();
    let mut candidates = Candidates::of(&types);
    let long = "x".repeat(100_000);
    let of_other_type = |id| ContextArtifact { type_name: long.as_str().into(), ..artifact(id) };
    for id in 1..=1500 {
        candidates.add(of_other_type(id), &mut collector);
    }
    for id in 2001..=3500 {
        candidates.add(ContextArtifact { uri: long.as_str().into(), ..artifact(id) }, &mut collector);
    }
    let explained = collector.explained(Err(LookupError::NoContext));
    assert_eq!((explained.artifacts.len(), explained.left_out), (1000, 2000));
    assert!(explained.artifacts.iter().all(|seen| number_of(seen) > 2000), "those of other types made room");
    assert!(explained.artifacts.iter().all(|seen| seen.type_name.len() <= 1024 && seen.uri.len() <= 1024));
}
