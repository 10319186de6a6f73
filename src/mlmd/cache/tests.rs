use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::{FutureExt, future::join_all, poll};
use tokio::sync::{oneshot, watch};

use super::*;
use crate::mlmd::error;

const RUN: u128 = 1;

fn cache() -> Cache {
    Cache::new(&Options::default())
}

fn types(names: &[&str]) -> Arc<ArtifactTypes> {
    Arc::new(ArtifactTypes::named(names.iter().copied()))
}

fn models(ids: impl IntoIterator<Item = i64>) -> RunModels {
    let model = |id| Artifact {
        id,
        name: None,
        uri: "gs://x".into(),
        node: "Pusher".into(),
        key: "pushed_model".into(),
        index: 0,
    };
    RunModels { models: ids.into_iter().map(model).collect(), ..RunModels::default() }
}

async fn get(cache: &Cache, types: &Arc<ArtifactTypes>, answer: RunModels) -> (Arc<RunModels>, bool) {
    let (answer, spared) = cache.get(RUN.into(), types, || async { Ok(answer.clone()) }).await;
    (answer.unwrap(), spared)
}

#[tokio::test]
async fn an_answer_is_remembered_by_run_and_types_and_so_is_one_without_models() {
    let cache = cache();
    let (a, b) = (types(&["A"]), types(&["B"]));
    assert_eq!(get(&cache, &a, models([])).await, (Arc::new(models([])), false));
    assert_eq!(get(&cache, &types(&["A"]), models([1])).await, (Arc::new(models([])), true));
    assert_eq!(get(&cache, &b, models([2])).await, (Arc::new(models([2])), false));
    let (other, _) = cache.get(7.into(), &a, || async { Ok(models([3])) }).await;
    assert_eq!(other, Ok(Arc::new(models([3]))));
}

#[tokio::test]
async fn an_error_is_not_remembered() {
    let cache = cache();
    let types = types(&["A"]);
    let (answer, spared) = cache.get(RUN.into(), &types, || async { Err(LookupError::NoContext) }).await;
    assert_eq!((answer, spared), (Err(LookupError::NoContext), false));
    assert_eq!(get(&cache, &types, models([1])).await, (Arc::new(models([1])), false));
}

#[tokio::test]
async fn equal_questions_share_one_lookup_and_its_error() {
    let cache = cache();
    let types = types(&["A"]);
    let asked = AtomicUsize::new(0);
    let gate = watch::Sender::new(false);
    let error = error::malformed("garbage");
    let question = || {
        asked.fetch_add(1, Ordering::Relaxed);
        let (mut open, error) = (gate.subscribe(), error.clone());
        async move {
            open.wait_for(|open| *open).await.unwrap();
            Err(error)
        }
    };
    let mut all = pin!(join_all((0..20).map(|_| cache.get(RUN.into(), &types, &question))));
    assert!(poll!(&mut all).is_pending());
    gate.send_replace(true);
    let answers = all.await;
    assert!(answers.iter().all(|(answer, _)| *answer == Err(error.clone())));
    assert_eq!(answers.iter().filter(|(_, spared)| !spared).count(), 1);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_lookup_whose_asker_leaves_is_taken_over_by_another() {
    let cache = cache();
    let types = types(&["A"]);
    let mut leaving = Box::pin(cache.get(RUN.into(), &types, || std::future::pending().boxed()));
    assert!(poll!(&mut leaving).is_pending());
    let mut staying = pin!(cache.get(RUN.into(), &types, || async { Ok(models([1])) }.boxed()));
    assert!(poll!(&mut staying).is_pending());
    drop(leaving);
    assert_eq!(staying.await.0, Ok(Arc::new(models([1]))));
}

#[tokio::test]
async fn a_run_that_was_forgotten_is_asked_for_again_under_all_types() {
    let cache = cache();
    let (a, b) = (types(&["A"]), types(&["B"]));
    for types in [&a, &b] {
        get(&cache, types, models([1])).await;
    }
    cache.forget(RUN.into());
    for types in [&a, &b] {
        assert_eq!(get(&cache, types, models([2])).await, (Arc::new(models([2])), false));
        assert_eq!(get(&cache, types, models([3])).await, (Arc::new(models([2])), true));
    }
}

#[tokio::test]
async fn an_answer_under_way_when_its_run_is_forgotten_reaches_nobody() {
    let cache = cache();
    let types = types(&["A"]);
    let (answer, under_way) = oneshot::channel();
    let under_way = Mutex::new(Some(under_way));
    let question = || {
        let first = under_way.lock().unwrap().take();
        async {
            match first {
                Some(answer) => Ok(answer.await.unwrap()),
                None => Ok(models([2])),
            }
        }
    };
    let mut before = pin!(cache.get(RUN.into(), &types, question));
    assert!(poll!(&mut before).is_pending());
    cache.forget(RUN.into());
    // Whoever asks now does not wait for the old lookup...
    assert_eq!(get(&cache, &types, models([2])).await, (Arc::new(models([2])), false));
    // ...and the old answer, when it comes, goes neither to who asked before nor to who asks later.
    answer.send(models([1])).unwrap();
    assert_eq!(before.await.0, Ok(Arc::new(models([2]))));
    assert_eq!(get(&cache, &types, models([3])).await, (Arc::new(models([2])), true));
}

#[tokio::test]
async fn what_is_remembered_has_a_bound_in_octets() {
    let cache = Cache::new(&Options { cache_octets: 100_000, ..Options::default() });
    let types = types(&["A"]);
    for run in 0..1000_u128 {
        cache.get(run.into(), &types, || async { Ok(models(0..10)) }).await.0.unwrap();
    }
    cache.answers.run_pending_tasks().await;
    assert!(cache.answers.weighted_size() <= 100_000);
    assert!(cache.answers.entry_count() > 10);
}

#[tokio::test]
async fn generations_are_forgotten_when_no_answer_of_an_older_one_can_be_left() {
    let options = Options { cache_ttl: Duration::ZERO, lookup_timeout: Duration::ZERO, ..Options::default() };
    let cache = Cache::new(&options);
    for run in 0..100_u128 {
        cache.forget(run.into());
    }
    assert_eq!(cache.lock().by_run.len(), 1);
}
