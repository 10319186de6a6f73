//! What is asked, in which order, and what comes of it.

use futures::future::join_all;
use tokio::sync::Barrier;

use super::*;
use crate::mlmd::{
    fake::{Fault, text},
    proto::{artifact, event},
};

#[tokio::test(start_paused = true)]
async fn a_run_with_a_named_model_takes_three_round_trips_and_four_calls() {
    let bench = Bench::tfx();
    bench.fake.store().model(5, 10, &[1], |_| {});
    // Either of the two would wait for ever if it were asked alone.
    let together = Fault::Together(Arc::new(Barrier::new(2)));
    bench.fake.misbehave(ARTIFACTS, together.clone());
    bench.fake.misbehave(EXECUTIONS, together);
    let found = bench.find(&compiled()).await.unwrap();
    assert_eq!((found.models.len(), &*found.models[0].uri), (1, "gs://models/5"));
    assert_eq!(found.pipeline, None, "the Workflow knows it");
    let mut calls = bench.fake.calls();
    calls[1..3].sort_unstable();
    assert_eq!(calls, [CONTEXT, ARTIFACTS, EXECUTIONS, EVENTS]);
    bench.assert_counted("mlmd_lookups_total{outcome=\"found\"} 1");
    bench.assert_counted("mlmd_calls_total{method=\"GetEventsByArtifactIDs\",code=\"ok\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_run_without_models_takes_two_round_trips_and_is_asked_for_once() {
    let bench = Bench::tfx();
    bench.fake.store().model(5, 10, &[1], |artifact| artifact.r#type = Some("Examples".into()));
    assert!(bench.find(&recurring()).await.unwrap().models.is_empty());
    let mut calls = bench.fake.calls();
    calls[2..].sort_unstable();
    assert_eq!(calls, [CONTEXT, CONTEXT, ARTIFACTS, EXECUTIONS]);
    assert!(bench.find(&recurring()).await.unwrap().models.is_empty());
    assert!(bench.fake.calls().is_empty());
    bench.assert_counted("mlmd_lookups_total{outcome=\"no_model\"} 1");
    bench.assert_counted("mlmd_cache_hits_total 1");
}

#[tokio::test(start_paused = true)]
async fn a_run_of_kfp_v2_takes_its_pipelines_name_from_the_parent_in_the_same_round_trip_as_the_events() {
    let bench = Bench::kfp_v2();
    bench.fake.store().model(5, 10, &[1, 2], |artifact| artifact.r#type = Some("system.Model".into()));
    let together = Fault::Together(Arc::new(Barrier::new(2)));
    bench.fake.misbehave(EVENTS, together.clone());
    bench.fake.misbehave(PARENTS, together);
    let found = bench.find(&run(PipelineName::Generated("taxi-gen".into()))).await.unwrap();
    assert_eq!((found.pipeline.as_deref(), found.models.len()), (Some("taxi"), 1));
    assert_eq!(bench.fake.calls().iter().filter(|call| **call == CONTEXT).count(), 1, "the likely form comes first");
}

#[tokio::test(start_paused = true)]
async fn a_kfp_v2_run_whose_context_has_no_parent_has_no_pipeline_name() {
    let bench = Bench::kfp_v2();
    bench.fake.store().model(5, 10, &[1], |_| {});
    bench.fake.store().parents.clear();
    assert_eq!(bench.find(&recurring()).await.unwrap().pipeline, None);
}

#[tokio::test(start_paused = true)]
async fn a_compiled_workflow_that_is_a_kfp_v2_run_is_found_by_its_run_id() {
    let bench = Bench::kfp_v2();
    bench.fake.store().model(5, 10, &[1], |_| {});
    assert_eq!(bench.ids(&compiled()).await, [5]);
    assert_eq!(bench.fake.calls().iter().filter(|call| **call == CONTEXT).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_recurring_tfx_run_is_named_by_the_contexts_of_an_execution_which_are_asked_for_once() {
    let bench = Bench::tfx();
    for id in [5, 6] {
        bench.fake.store().model(id, 10, &[1, 2, 3], |artifact| {
            artifact.custom_properties.remove("name");
        });
    }
    let name = "penguin:penguin-x7k2p:Pusher:pushed_model:0";
    assert_eq!(bench.names(&recurring()).await, [name, name]);
    assert_eq!(bench.fake.calls().iter().filter(|call| **call == CONTEXTS_OF).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_asked_for_only_where_a_tfx_model_has_no_name() {
    let bench = Bench::tfx();
    {
        let mut store = bench.fake.store();
        store.contexts[2].name = Some("penguin.my-pusher".into());
        store.execution(11, DURING, &[1, 2]);
        store.model(5, 10, &[1], |artifact| {
            artifact.custom_properties.remove("name");
        });
        store.model(6, 11, &[1], |_| {});
    }
    assert_eq!(bench.names(&compiled()).await, ["penguin:penguin-x7k2p:my-pusher:pushed_model:0", "model 6"]);
    assert_eq!(bench.fake.calls().iter().filter(|call| **call == CONTEXTS_OF).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_page_is_read_and_every_event_asked_for() {
    let bench = Bench::tfx();
    {
        let mut store = bench.fake.store();
        for id in 0..250 {
            store.execution(1000 + id, DURING, &[1]);
        }
        for id in (1..=350).rev() {
            store.model(id, 1000 + id % 250, &[1], |_| {});
        }
    }
    assert_eq!(bench.ids(&compiled()).await, (1..=350).collect::<Vec<_>>());
    let calls = bench.fake.calls();
    let count = |method| calls.iter().filter(|call| **call == method).count();
    assert_eq!((count(ARTIFACTS), count(EXECUTIONS), count(EVENTS)), (4, 3, 4));
}

#[tokio::test(start_paused = true)]
async fn only_output_events_of_the_runs_own_executions_count() {
    use event::Type;
    let bench = Bench::tfx();
    {
        let mut store = bench.fake.store();
        let older = store.context("pipeline_run", "another run");
        store.execution(9, (CREATED - 3600) * 1000, &[older]);
        store.execution(8, (CREATED - 3600) * 1000, &[1]);
        store.model(1, 9, &[1, older], |_| {});
        store.event(1, 10, Type::Input);
        store.model(2, 8, &[1], |_| {});
        store.model(3, 10, &[1], |_| {});
        // A cached execution puts an old artifact out again.
        store.model(4, 9, &[1, older], |_| {});
        store.event(4, 10, Type::Output);
        store.model(5, 9, &[1], |_| {});
        store.event(5, 10, Type::DeclaredOutput);
    }
    let found = bench.find(&compiled()).await.unwrap();
    assert_eq!(found.models.iter().map(|model| model.id).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(found.foreign_executions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_all_of_whose_executions_are_older_than_it_has_no_models() {
    let bench = Bench::tfx();
    bench.fake.store().executions.clear();
    bench.fake.store().execution(10, (CREATED - 301) * 1000, &[1]);
    bench.fake.store().model(5, 10, &[1], |_| {});
    let expected = RunModels { foreign_executions: 1, ..RunModels::default() };
    assert_eq!(bench.find(&compiled()).await, Ok(Arc::new(expected)));
}

#[tokio::test(start_paused = true)]
async fn an_absent_context_is_no_answer_and_is_asked_for_in_both_forms_every_time() {
    let bench = Bench::new();
    for _ in 0..2 {
        assert_eq!(bench.find(&compiled()).await, Err(LookupError::NoContext));
        assert_eq!(bench.fake.calls(), [CONTEXT, CONTEXT]);
    }
    let tfx_only = Workflow { run_id: None, ..recurring() };
    assert_eq!(bench.find(&tfx_only).await, Err(LookupError::NoContext));
    assert_eq!(bench.fake.calls(), [CONTEXT]);
    bench.fake.misbehave(CONTEXT, Fault::Status(tonic::Code::NotFound));
    assert_eq!(bench.find(&compiled()).await, Err(LookupError::NoContext), "its type may not exist yet");
    bench.assert_counted("mlmd_lookups_total{outcome=\"no_context\"} 4");
    // The run's writes arrive.
    bench.fake.behave();
    let context = bench.fake.store().context("pipeline_run", "penguin-x7k2p");
    assert_eq!(bench.find(&compiled()).await, Err(LookupError::NoContext), "nothing was executed in it yet");
    bench.fake.store().execution(10, CREATED * 1000, &[context]);
    assert!(bench.find(&compiled()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_context_of_another_namespace_is_reported_and_its_models_are_not_read() {
    let bench = Bench::kfp_v2();
    bench.fake.store().model(5, 10, &[1], |_| {});
    bench.fake.store().contexts[0].custom_properties.insert("namespace".into(), text("team-b"));
    let foreign = Err(LookupError::ForeignContext { namespace: "team-b".into() });
    assert_eq!(bench.find(&recurring()).await, foreign);
    assert_eq!(bench.fake.calls(), [CONTEXT]);
    bench.assert_counted("mlmd_lookups_total{outcome=\"foreign_context\"} 1");
    bench.fake.store().contexts[0].custom_properties.insert("namespace".into(), text("team-a"));
    assert_eq!(bench.ids(&recurring()).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_names_no_types_is_asked_for_their_ids_once() {
    let bench = Bench::tfx();
    {
        let mut store = bench.fake.store();
        store.artifact_types.extend([("PushedModel".into(), 20), ("Examples".into(), 21)]);
        for (id, type_id) in [(5, 20), (6, 21)] {
            store.model(id, 10, &[1], |artifact| (artifact.r#type, artifact.type_id) = (None, Some(type_id)));
        }
    }
    assert_eq!(bench.ids(&compiled()).await, [5]);
    assert_eq!(bench.fake.calls().iter().filter(|call| **call == TYPE).count(), 3, "the three that count by default");
    assert_eq!(bench.ids(&compiled()).await, [5]);
    assert_eq!(
        bench.fake.calls().iter().filter(|call| **call == TYPE).count(),
        2,
        "what the store does not know it may learn"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_or_about_to_be_is_not_announced() {
    let bench = Bench::tfx();
    {
        let mut store = bench.fake.store();
        for (id, state) in [(5, artifact::State::MarkedForDeletion), (6, artifact::State::Live)] {
            store.model(id, 10, &[1], |artifact| artifact.state = Some(state as i32));
        }
    }
    assert_eq!(bench.ids(&compiled()).await, [6]);
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_for_a_run_it_is_looked_up_once() {
    let bench = Bench::tfx();
    bench.fake.store().model(5, 10, &[1], |_| {});
    let run = compiled();
    let answers = join_all((0..50).map(|_| bench.find(&run))).await;
    assert!(answers.iter().all(|answer| answer == &answers[0] && answer.is_ok()));
    assert_eq!(bench.fake.calls().len(), 4);
    bench.assert_counted("mlmd_cache_hits_total 49");
    bench.assert_counted("mlmd_lookups_total{outcome=\"found\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_run_is_looked_up_again() {
    let bench = Bench::tfx();
    bench.fake.store().model(5, 10, &[1], |_| {});
    assert_eq!(bench.find(&compiled()).await.unwrap().models.len(), 1);
    bench.fake.store().model(6, 10, &[1], |_| {});
    assert_eq!(bench.find(&compiled()).await.unwrap().models.len(), 1);
    bench.mlmd.forget(compiled().uid);
    assert_eq!(bench.find(&compiled()).await.unwrap().models.len(), 2);
}
