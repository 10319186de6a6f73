use super::*;

fn artifact(id: i64) -> ContextArtifact {
    ContextArtifact {
        id,
        state: ArtifactState::Available,
        type_id: Some(9),
        type_name: "PushedModel".into(),
        uri: format!("gs://models/{id}").into(),
        name: Some(format!("model {id}").into()),
        pushed: Some(1),
        output: None,
    }
}

fn serving(candidates: Candidates<'_>) -> Vec<i64> {
    candidates.into_artifacts().map(|artifact| artifact.id).collect()
}

#[test]
fn candidates_are_selected_by_type_uri_and_pushed() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(artifact(1), &mut ());
    candidates.add(ContextArtifact { uri: "".into(), ..artifact(2) }, &mut ());
    candidates.add(ContextArtifact { pushed: Some(0), ..artifact(3) }, &mut ());
    candidates.add(ContextArtifact { type_name: "Model".into(), ..artifact(4) }, &mut ());
    candidates.add(ContextArtifact { type_name: "system.Model".into(), ..artifact(5) }, &mut ());
    candidates.add(ContextArtifact { type_name: "system.Model".into(), pushed: None, ..artifact(6) }, &mut ());
    candidates.add(ContextArtifact { type_name: "tfx.PushedModel".into(), pushed: None, ..artifact(7) }, &mut ());
    assert!(!candidates.has_unnamed_types() && !candidates.is_empty());
    assert_eq!(candidates.ids(), [1, 2, 3, 5, 6, 7], "those of a fitting type may replace an earlier model");
    assert_eq!(serving(candidates), [1, 5, 7]);
}

#[test]
fn a_run_without_a_candidate_has_none_whatever_it_replaces() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(ContextArtifact { pushed: Some(0), ..artifact(3) }, &mut ());
    assert!(candidates.is_empty());
}

#[test]
fn a_removed_candidate_is_ignored_and_counted() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    candidates.add(ContextArtifact { state: ArtifactState::Removed, ..artifact(1) }, &mut ());
    candidates
        .add(ContextArtifact { state: ArtifactState::Removed, type_name: "Examples".into(), ..artifact(2) }, &mut ());
    candidates.add(ContextArtifact { state: ArtifactState::Abandoned, ..artifact(3) }, &mut ());
    assert_eq!((candidates.ids(), candidates.removed()), (vec![1], 2), "an abandoned one was never completed");
    assert!(candidates.is_empty());
}

#[test]
fn types_without_a_name_are_resolved_by_their_ids() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    let nameless = |id, type_id, pushed| ContextArtifact { type_id, pushed, type_name: "".into(), ..artifact(id) };
    candidates.add(nameless(1, Some(20), None), &mut ());
    candidates.add(nameless(2, Some(21), None), &mut ());
    candidates.add(nameless(3, Some(22), Some(1)), &mut ());
    candidates.add(nameless(4, Some(22), None), &mut ());
    candidates.add(nameless(5, None, Some(1)), &mut ());
    candidates.add(nameless(6, Some(20), Some(0)), &mut ());
    candidates.add(artifact(7), &mut ());
    assert_eq!(candidates.ids(), [1, 2, 3, 4, 5, 7], "those that are no model with any type are dropped");
    assert!(candidates.has_unnamed_types());
    candidates.resolve_types(&HashMap::from([(20, "PushedModel"), (22, "system.Model")]), &mut ());
    assert!(!candidates.has_unnamed_types());
    assert_eq!(serving(candidates), [1, 3, 7]);
}

#[test]
fn kept_bytes_cover_the_texts_of_a_candidate() {
    let types = ArtifactTypes::default();
    let mut candidates = Candidates::of(&types);
    let long = "x".repeat(10_000);
    let mut add = |artifact| candidates.add(artifact, &mut ());
    assert!(add(ContextArtifact { uri: long.as_str().into(), ..artifact(1) }) > 10_000);
    assert!(add(ContextArtifact { name: Some(long.as_str().into()), ..artifact(2) }) > 10_000);
    let large_uri = || long.as_str().into();
    assert!(add(ContextArtifact { pushed: Some(0), uri: large_uri(), ..artifact(3) }) < 100);
    assert_eq!(add(ContextArtifact { type_name: "Examples".into(), uri: large_uri(), ..artifact(4) }), 0);
}
