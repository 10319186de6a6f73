use super::*;
use crate::model::{Artifact, PipelineName};

const RUN: u128 = 1;

fn cache() -> Cache {
    Cache::new(16 * 1024 * 1024, Duration::from_secs(3600))
}

fn types(names: &[&str]) -> Arc<ArtifactTypes> {
    Arc::new(ArtifactTypes::named(names.iter().copied()))
}

fn models(ids: impl IntoIterator<Item = i64>) -> Arc<RunModels> {
    let model = |id: i64| Artifact {
        id: id.into(),
        name: None,
        uri: "gs://x".into(),
        node: "Pusher".into(),
        key: "pushed_model".into(),
        index: 0,
    };
    Arc::new(RunModels { models: ids.into_iter().map(model).collect(), ..RunModels::default() })
}

/// The key of a lookup of a succeeded run's models of these types.
fn key(types: &Arc<ArtifactTypes>) -> LookupKey {
    LookupKey::of(&crate::model::fixtures::succeeded(PipelineName::Unknown), types)
}

fn cached(cache: &Cache, run: u128, types: &Arc<ArtifactTypes>) -> Option<Arc<RunModels>> {
    cache.entry(run.into()).get(&key(types)).map(Result::unwrap)
}

/// A lookup from its first call to its answer.
fn look_up(cache: &Cache, run: u128, types: &Arc<ArtifactTypes>, found: Option<&Arc<RunModels>>) {
    let entry = cache.entry(run.into());
    let answer = found.cloned().ok_or(LookupError::NoContext);
    cache.store(run.into(), &entry, key(types), &answer);
}

fn entries(cache: &Cache) -> u64 {
    cache.0.run_pending_tasks();
    cache.0.entry_count()
}

#[test]
fn an_answer_is_cached_by_run_and_types_also_without_models() {
    let cache = cache();
    let (a, b) = (types(&["A"]), types(&["B"]));
    look_up(&cache, RUN, &a, Some(&models([])));
    assert_eq!(cached(&cache, RUN, &types(&["A"])), Some(models([])));
    assert_eq!(cached(&cache, RUN, &b), None);
    look_up(&cache, RUN, &b, Some(&models([2])));
    assert_eq!(cached(&cache, RUN, &b), Some(models([2])));
    assert_eq!(cached(&cache, RUN, &a), Some(models([])));
    assert_eq!(cached(&cache, 7, &a), None);
}

#[test]
fn an_error_is_not_cached_and_leaves_no_entry() {
    let cache = cache();
    let (a, b) = (types(&["A"]), types(&["B"]));
    look_up(&cache, RUN, &a, None);
    assert_eq!(entries(&cache), 0);
    look_up(&cache, RUN, &a, Some(&models([1])));
    look_up(&cache, RUN, &b, None);
    assert_eq!((cached(&cache, RUN, &a), cached(&cache, RUN, &b)), (Some(models([1])), None));
}

#[test]
fn a_forgotten_run_has_no_answer_for_any_types() {
    let cache = cache();
    let (a, b) = (types(&["A"]), types(&["B"]));
    for types in [&a, &b] {
        look_up(&cache, RUN, types, Some(&models([1])));
    }
    cache.forget(RUN.into());
    assert_eq!(entries(&cache), 0);
    for types in [&a, &b] {
        assert_eq!(cached(&cache, RUN, types), None);
        look_up(&cache, RUN, types, Some(&models([2])));
        assert_eq!(cached(&cache, RUN, types), Some(models([2])));
    }
}

/// Another lookup that begins or ends in between makes no difference.
#[test]
fn an_answer_in_flight_when_its_run_is_forgotten_is_not_cached() {
    let cache = cache();
    let types = types(&["A"]);
    let old = cache.entry(RUN.into());
    cache.forget(RUN.into());
    cache.store(RUN.into(), &old, key(&types), &Ok(models([1])));
    assert_eq!(cached(&cache, RUN, &types), None);

    let new = cache.entry(RUN.into());
    cache.store(RUN.into(), &old, key(&types), &Ok(models([1])));
    assert_eq!(cached(&cache, RUN, &types), None);
    cache.store(RUN.into(), &new, key(&types), &Ok(models([2])));
    cache.store(RUN.into(), &old, key(&types), &Ok(models([1])));
    assert_eq!(cached(&cache, RUN, &types), Some(models([2])));
}

#[test]
fn the_answers_have_a_bound_in_bytes() {
    let cache = Cache::new(100_000, Duration::from_secs(3600));
    let types = types(&["A"]);
    for run in 0..1000_u128 {
        look_up(&cache, run, &types, Some(&models(0..10)));
    }
    assert!(entries(&cache) > 10);
    assert!(cache.0.weighted_size() <= 100_000);
}

#[test]
fn an_entry_is_weighed_again_with_each_answer() {
    let cache = cache();
    let mut weights = vec![];
    for name in ["A", "B"] {
        look_up(&cache, RUN, &types(&[name]), Some(&models([1])));
        assert_eq!(entries(&cache), 1);
        weights.push(cache.0.weighted_size());
    }
    assert!(weights[0] < weights[1], "{weights:?}");
}

/// Only the pipeline's name is looked up for a failed run, so its answer is not that of a success, even if no restart
/// was seen in between.
#[test]
fn the_answer_of_a_failed_run_is_not_that_of_its_success() {
    let cache = cache();
    let types = types(&["A"]);
    let mut run = crate::model::fixtures::succeeded(PipelineName::Unknown);
    run.phase = crate::model::Phase::Failed;
    let failed = LookupKey::of(&run, &types);
    let entry = cache.entry(RUN.into());
    cache.store(RUN.into(), &entry, failed.clone(), &Ok(models([])));
    assert_eq!(cached(&cache, RUN, &types), None);
    assert_eq!(entry.get(&failed), Some(Ok(models([]))));
}

#[test]
fn a_run_that_is_too_large_is_remembered() {
    let cache = cache();
    let types = types(&["A"]);
    let entry = cache.entry(RUN.into());
    cache.store(RUN.into(), &entry, key(&types), &Err(LookupError::TooLarge));
    assert_eq!(cache.entry(RUN.into()).get(&key(&types)), Some(Err(TooLarge)));
    cache.forget(RUN.into());
    assert_eq!(cache.entry(RUN.into()).get(&key(&types)), None);
}
