//! Large records: what a lookup reads and keeps, and what others notice of it.

use futures::future::join_all;
use tokio::task::JoinSet;

use super::*;
use crate::{
    lookup::{allowance::MAX_KEPT, meter::MAX_ANSWER},
    mlmd::{
        fake::{Fault, text},
        proto::event,
    },
    model::{PipelineName, event::MAX_PAYLOAD},
    telemetry::Limit,
};

/// A TFX run with this many models, each with a property of this size.
fn with_large_models(count: i64, bytes: usize) -> TestEnv {
    let env = TestEnv::tfx();
    for id in 1..=count {
        env.server.store().add_model_with(id, 10, &[1], |artifact| {
            artifact.custom_properties.insert("document".into(), text(&"x".repeat(bytes)));
        });
    }
    env
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_in_smaller_ones() {
    let env = with_large_models(25, 300_000);
    assert_eq!(env.ids(&compiled()).await, (1..=25).collect::<Vec<_>>());
    assert_eq!(env.count_calls(ARTIFACTS), 1 + 3, "7 MB at once, then three pages");
    env.assert_counted("mlmd_calls_total{method=\"GetArtifactsByContext\",code=\"too_large\"} 1");
    assert_eq!(env.limit_hits.count(Limit::MetadataAnswer), 1);

    let env = with_large_models(12, 3_000_000);
    assert_eq!(env.ids(&compiled()).await, (1..=12).collect::<Vec<_>>());
    assert_eq!(env.count_calls(ARTIFACTS), 2 + 10 + 1 + 2, "after ten single ones, more at once is tried again");
}

#[tokio::test]
async fn a_row_that_is_too_large_ends_the_lookup_for_good() {
    let env = with_large_models(1, MAX_ANSWER);
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));
    assert_eq!(env.count_calls(ARTIFACTS), 3);
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));
    assert!(env.server.calls().is_empty(), "remembered");
    env.assert_counted("mlmd_lookups_total{outcome=\"too_large\"} 1");
    env.mlmd.forget(compiled().uid);
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));
    assert_eq!(env.count_calls(ARTIFACTS), 1, "a restarted run may be smaller; it begins with the smallest page");
}

#[tokio::test]
async fn a_context_that_is_too_large_ends_the_lookup_for_good() {
    let env = TestEnv::tfx();
    let large = || text(&"x".repeat(MAX_ANSWER));
    env.server.store().contexts[0].custom_properties.insert("document".into(), large());
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));
}

#[tokio::test]
async fn more_than_64_mib_of_a_run_are_not_read() {
    let env = with_large_models(20, 3_500_000);
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));
    let calls = env.count_calls(ARTIFACTS);
    assert!((18..=25).contains(&calls), "{calls}");
}

#[tokio::test]
async fn more_than_1_mib_of_a_run_is_not_kept() {
    let env = TestEnv::tfx();
    for id in 0..20_000 {
        env.server.store().add_execution(100 + id, DURING_MS, &[1]);
    }
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));
    assert!(env.count_calls(EXECUTIONS) < 100, "it ended as soon as that was clear");

    let env = TestEnv::tfx();
    env.server.store().add_model_with(1, 10, &[1], |artifact| artifact.uri = Some("x".repeat(MAX_KEPT)));
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));

    let env = TestEnv::tfx();
    env.server.store().add_model_with(1, 10, &[1], |artifact| {
        artifact.uri = Some("x".repeat(MAX_KEPT));
        artifact.r#type = Some("Examples".into());
    });
    env.server.store().add_model(2, 10, &[1]);
    assert_eq!(env.ids(&compiled()).await, [2], "what is no model is not kept");
}

#[tokio::test]
async fn models_that_no_event_can_hold_are_not_kept() {
    let env = TestEnv::tfx();
    for id in 1..=800 {
        let uri = format!("gs://{id}/{}", "x".repeat(MAX_PAYLOAD / 800));
        env.server.store().add_model_with(id, 10, &[1], |artifact| artifact.uri = Some(uri));
    }
    assert_eq!(env.find(&compiled()).await, Err(LookupError::TooLarge));
}

/// Events of other runs that took the artifacts from a cache, which no request leaves out.
#[tokio::test]
async fn events_that_are_too_many_are_asked_for_in_smaller_batches() {
    let env = TestEnv::tfx();
    for id in 1..=30 {
        env.server.store().add_model(id, 10, &[1]);
        for other_run in 0..400 {
            env.server.store().add_event(id, 1000 + other_run, event::Type::Output);
            let mut store = env.server.store();
            let steps = &mut store.events.last_mut().unwrap().path.as_mut().unwrap().steps;
            steps[0].value = Some(event::path::step::Value::Key("x".repeat(500)));
        }
    }
    assert_eq!(env.ids(&compiled()).await, (1..=30).collect::<Vec<_>>());
    assert_eq!(env.count_calls(EVENTS), 1 + 3);

    for other_run in 0..8000 {
        env.server.store().add_event(30, 5000 + other_run, event::Type::Output);
        let mut store = env.server.store();
        let steps = &mut store.events.last_mut().unwrap().path.as_mut().unwrap().steps;
        steps[0].value = Some(event::path::step::Value::Key("x".repeat(600)));
    }
    assert_eq!(env.find_uncached(&compiled()).await, Err(LookupError::TooLarge));
}

/// Names of contexts that tenants share are cut, and other contexts are not kept.
#[tokio::test]
async fn a_pipelines_name_of_any_length_is_no_reason_to_fail() {
    let env = TestEnv::kfp_v2();
    env.server.store().add_model(5, 10, &[1]);
    env.server.store().contexts[1].name = Some("x".repeat(1_000_000));
    let found = env.find(&recurring()).await.unwrap();
    assert_eq!(crate::model::event::pipeline_name(&recurring(), &found), None, "it is too long");
}

/// Runs of one namespace whose records are as large as they may be, at all times, and small runs of another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_runs_of_a_namespace_delay_no_other_one() {
    let env = Arc::new(TestEnv::tfx());
    let large = env.server.store().add_context("pipeline_run", "large");
    env.server.store().add_execution(11, DURING_MS, &[large]);
    for id in 100..200 {
        env.server.store().add_model_with(id, 11, &[large], |artifact| {
            artifact.custom_properties.insert("document".into(), text(&"x".repeat(60_000)));
        });
    }
    env.server.store().add_model(5, 10, &[1]);
    let mut tenants = JoinSet::new();
    for number in 1..=8_u128 {
        let env = env.clone();
        tenants.spawn(async move {
            let run = Workflow { name: "large".into(), namespace: "team-large".into(), ..compiled() };
            let run = Workflow { uid: (1000 + number).into(), ..run };
            loop {
                match env.find_uncached(&run).await {
                    Ok(found) => assert_eq!(found.models.len(), 100),
                    Err(LookupError::Failed { code: "overloaded", .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let started = Instant::now();
        assert_eq!(env.ids(&compiled()).await, [5]);
        slowest = slowest.max(started.elapsed());
    }
    tenants.shutdown().await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(env.limit_hits.count(Limit::MetadataBytes) > 0, "its answers waited for each other");
}

/// The bytes that lookups keep are limited in all, and released.
#[tokio::test]
async fn lookups_that_keep_much_are_refused_until_others_have_ended() {
    let env = TestEnv::tfx();
    for id in 0..4000 {
        env.server.store().add_execution(100 + id, DURING_MS, &[1]);
    }
    env.server.store().add_model(5, 10, &[1]);
    env.server.inject(EVENTS, Fault::Delay(Duration::from_millis(300)));
    let runs: Vec<_> = (0..4_u128).map(|number| Workflow { uid: number.into(), ..compiled() }).collect();
    let answers = join_all(runs.iter().map(|run| env.find(run))).await;
    let refused = answers.into_iter().filter_map(Result::err).map(|error| failure(Err(error)).0);
    assert_eq!(refused.collect::<Vec<_>>(), ["overloaded"; 3], "a namespace has room for one of them");
    assert!(env.limit_hits.count(Limit::MetadataBytes) >= 3);
    for run in &runs {
        assert_eq!(env.ids(run).await, [5]);
    }
    let small = Workflow { pipeline: PipelineName::Unknown.into(), ..compiled() };
    assert_eq!(env.ids(&small).await, [5]);
}

/// A thousand lookups may be in flight. A change that needs more raises the limit, with the reason in the commit.
#[tokio::test]
async fn the_state_of_a_lookup_has_a_limited_size() {
    let (env, run) = (TestEnv::new(), compiled());
    let bytes = size_of_val(&env.mlmd.lookup.models(&run, &env.types, None, &mut ()));
    assert!(bytes <= 4_000, "{bytes} B");
}
