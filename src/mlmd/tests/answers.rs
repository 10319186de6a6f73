//! The sequence of calls, and what lookups return.

use tokio::sync::Barrier;

use super::*;
use crate::mlmd::{
    fake::{Fault, text},
    proto::{self, artifact, event},
};

fn remove_name(artifact: &mut proto::Artifact) {
    artifact.custom_properties.remove("name");
}

#[tokio::test(start_paused = true)]
async fn a_named_model_takes_four_calls_in_three_round_trips() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    // Either call would hang without the other one.
    let together = Fault::Barrier(Arc::new(Barrier::new(2)));
    env.server.inject(ARTIFACTS, together.clone());
    env.server.inject(EXECUTIONS, together);
    let found = env.find(&compiled()).await.unwrap();
    assert_eq!((found.models.len(), &*found.models[0].uri), (1, "gs://models/5"));
    assert_eq!(found.pipeline, None, "the Workflow names it");
    let mut calls = env.server.calls();
    calls[1..3].sort_unstable();
    assert_eq!(calls, [CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS]);
    env.assert_counted("mlmd_lookups_total{outcome=\"found\"} 1");
    env.assert_counted("mlmd_calls_total{method=\"GetEventsByArtifactIDs\",code=\"ok\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_run_without_models_takes_two_round_trips_and_is_cached() {
    let env = TestEnv::tfx();
    env.server.store().add_model_with(5, 10, &[1], |artifact| artifact.r#type = Some("Examples".into()));
    assert!(env.find(&recurring()).await.unwrap().models.is_empty());
    let mut calls = env.server.calls();
    calls[2..].sort_unstable();
    assert_eq!(calls, [CONTEXT, CONTEXT, ARTIFACTS, EXECUTIONS]);
    assert!(env.find(&recurring()).await.unwrap().models.is_empty());
    assert!(env.server.calls().is_empty());
    env.assert_counted("mlmd_lookups_total{outcome=\"no_model\"} 1");
    env.assert_counted("mlmd_cache_hits_total 1");
}

#[tokio::test(start_paused = true)]
async fn a_kfp_v2_pipeline_name_is_requested_beside_the_events() {
    let env = TestEnv::kfp_v2();
    env.server.store().add_model_with(5, 10, &[1, 2], |artifact| artifact.r#type = Some("system.Model".into()));
    let together = Fault::Barrier(Arc::new(Barrier::new(2)));
    env.server.inject(EVENTS, together.clone());
    env.server.inject(PARENTS, together);
    let found = env.find(&run(PipelineName::Generated("taxi-gen".into()))).await.unwrap();
    assert_eq!((found.pipeline.as_deref(), found.models.len()), (Some("taxi"), 1));
    assert_eq!(env.count_calls(CONTEXT), 1, "the likely flavor comes first");
}

#[tokio::test(start_paused = true)]
async fn a_kfp_v2_run_without_a_parent_has_no_pipeline_name() {
    let env = TestEnv::kfp_v2();
    env.server.store().add_model(5, 10, &[1]);
    env.server.store().parents.clear();
    assert_eq!(env.find(&recurring()).await.unwrap().pipeline, None);
}

#[tokio::test(start_paused = true)]
async fn a_compiled_workflow_of_kfp_v2_is_found_by_its_run_id() {
    let env = TestEnv::kfp_v2();
    env.server.store().add_model(5, 10, &[1]);
    assert_eq!(env.ids(&compiled()).await, [5]);
    assert_eq!(env.count_calls(CONTEXT), 2);
}

/// The contexts of the latest execution name the pipeline and the node, so they are requested once.
#[tokio::test(start_paused = true)]
async fn a_recurring_tfx_run_is_named_by_one_call() {
    let env = TestEnv::tfx();
    for id in [5, 6] {
        env.server.store().add_model_with(id, 10, &[1, 2, 3], remove_name);
    }
    let names = [0, 1].map(|index| format!("penguin:penguin-x7k2p:Pusher:pushed_model:{index}"));
    assert_eq!(env.names(&recurring()).await, names);
    assert_eq!(env.count_calls(CONTEXTS_OF), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_requested_only_for_an_unnamed_tfx_model() {
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        store.contexts[2].name = Some("penguin.my-pusher".into());
        store.add_execution_with(11, DURING_MS, &[1, 2], |execution| execution.r#type = Some("my.Uploader".into()));
        store.add_model_with(5, 10, &[1], remove_name);
        store.add_model(6, 11, &[1]);
    }
    assert_eq!(env.names(&compiled()).await, ["penguin:penguin-x7k2p:my-pusher:pushed_model:0", "model 6"]);
    assert_eq!(env.count_calls(CONTEXTS_OF), 1);
}

#[tokio::test(start_paused = true)]
async fn every_page_and_every_event_is_read() {
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        for id in 0..250 {
            store.add_execution(1000 + id, DURING_MS, &[1]);
        }
        for id in (1..=350).rev() {
            store.add_model(id, 1000 + id % 250, &[1]);
        }
    }
    assert_eq!(env.ids(&compiled()).await, (1..=350).collect::<Vec<_>>());
    let calls = env.server.calls();
    let count = |method| calls.iter().filter(|call| **call == method).count();
    assert_eq!((count(ARTIFACTS), count(EXECUTIONS), count(EVENTS)), (4, 3, 4));
}

#[tokio::test(start_paused = true)]
async fn only_output_events_of_the_runs_own_executions_count() {
    use event::Type;
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        let older = store.add_context("pipeline_run", "another run");
        store.add_execution(9, (CREATED - 3600) * 1000, &[older]);
        store.add_execution(8, (CREATED - 3600) * 1000, &[1]);
        store.add_model(1, 9, &[1, older]);
        store.add_event(1, 10, Type::Input);
        store.add_model(2, 8, &[1]);
        store.add_model(3, 10, &[1]);
        // A cached execution has an old artifact as its output.
        store.add_model(4, 9, &[1, older]);
        store.add_event(4, 10, Type::Output);
        store.add_model(5, 9, &[1]);
        store.add_event(5, 10, Type::DeclaredOutput);
    }
    let found = env.find(&compiled()).await.unwrap();
    assert_eq!(found.models.iter().map(number).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(found.foreign_executions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_with_only_older_executions_has_no_models() {
    let env = TestEnv::tfx();
    env.server.store().executions.clear();
    env.server.store().add_execution(10, (CREATED - 301) * 1000, &[1]);
    env.server.store().add_model(5, 10, &[1]);
    let expected = RunModels { foreign_executions: 1, ..RunModels::default() };
    assert_eq!(env.find(&compiled()).await, Ok(Arc::new(expected)));
}

/// An absent context is requested in all flavors at every lookup.
#[tokio::test(start_paused = true)]
async fn an_absent_context_is_no_answer_and_is_not_cached() {
    let env = TestEnv::new();
    for _ in 0..2 {
        assert_eq!(env.find(&compiled()).await, Err(LookupError::NoContext));
        assert_eq!(env.server.calls(), [CONTEXT; 3]);
    }
    let v1_only = Workflow { run_id: None, ..recurring() };
    assert_eq!(env.find(&v1_only).await, Err(LookupError::NoContext));
    assert_eq!(env.server.calls(), [CONTEXT; 2]);
    env.server.inject(CONTEXT, Fault::Status(tonic::Code::NotFound));
    assert_eq!(env.find(&compiled()).await, Err(LookupError::NoContext), "its type may not exist yet");
    env.assert_counted("mlmd_lookups_total{outcome=\"no_context\"} 4");
    // The run's records appear.
    env.server.clear_faults();
    let context = env.server.store().add_context("pipeline_run", "penguin-x7k2p");
    assert_eq!(env.find(&compiled()).await, Err(LookupError::NoContext), "it has no execution yet");
    env.server.store().add_execution(10, CREATED * 1000, &[context]);
    assert!(env.find(&compiled()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_models_of_a_foreign_context_are_not_read() {
    let env = TestEnv::kfp_v2();
    env.server.store().add_model(5, 10, &[1]);
    env.server.store().contexts[0].custom_properties.insert("namespace".into(), text("team-b"));
    let foreign = Err(LookupError::ForeignContext { namespace: "team-b".into() });
    assert_eq!(env.find(&recurring()).await, foreign);
    assert_eq!(env.server.calls(), [CONTEXT]);
    env.assert_counted("mlmd_lookups_total{outcome=\"foreign_context\"} 1");
    env.server.store().contexts[0].custom_properties.insert("namespace".into(), text("team-a"));
    assert_eq!(env.ids(&recurring()).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn ids_of_types_are_requested_once_where_names_are_missing() {
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        store.artifact_types.extend([("PushedModel".into(), 20), ("Examples".into(), 21)]);
        for (id, type_id) in [(5, 20), (6, 21)] {
            store.add_model_with(id, 10, &[1], |artifact| (artifact.r#type, artifact.type_id) = (None, Some(type_id)));
        }
    }
    assert_eq!(env.ids(&compiled()).await, [5]);
    assert_eq!(env.count_calls(TYPE), 3, "the three default types");
    assert_eq!(env.ids(&compiled()).await, [5]);
    assert_eq!(env.count_calls(TYPE), 2, "the two that the store lacks: it may create them");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_marked_for_deletion_is_ignored() {
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        for (id, state) in [(5, artifact::State::MarkedForDeletion), (6, artifact::State::Live)] {
            store.add_model_with(id, 10, &[1], |artifact| artifact.state = Some(state as i32));
        }
    }
    assert_eq!(env.ids(&compiled()).await, [6]);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_looked_up_once() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    let run = compiled();
    let first = env.find(&run).await;
    assert!(first.is_ok());
    for _ in 1..50 {
        assert_eq!(env.find(&run).await, first);
    }
    assert_eq!(env.server.calls().len(), 4);
    env.assert_counted("mlmd_cache_hits_total 49");
    env.assert_counted("mlmd_lookups_total{outcome=\"found\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_run_is_looked_up_again() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    assert_eq!(env.find(&compiled()).await.unwrap().models.len(), 1);
    env.server.store().add_model(6, 10, &[1]);
    assert_eq!(env.find(&compiled()).await.unwrap().models.len(), 1);
    env.mlmd.forget(compiled().uid);
    assert_eq!(env.find(&compiled()).await.unwrap().models.len(), 2);
}

/// The answer to a lookup that was in flight at the restart is not returned for the restarted run.
#[tokio::test(start_paused = true)]
async fn a_lookup_in_flight_at_a_restart_is_not_cached() {
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    env.server.inject(EVENTS, Fault::Delay(Duration::from_secs(1)));
    let run = compiled();
    let restart = async {
        env.server.until_called(EVENTS).await;
        env.mlmd.forget(run.uid);
        env.server.store().add_model(6, 10, &[1]);
    };
    let (before, ()) = tokio::join!(env.find(&run), restart);
    assert_eq!(before.unwrap().models.len(), 1);
    assert_eq!(env.find(&run).await.unwrap().models.len(), 2);
}
