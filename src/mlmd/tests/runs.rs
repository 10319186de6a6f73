//! Every kind of run, and the number of calls that it costs.

use super::*;
use crate::{
    mlmd::{
        fake::{int, text},
        lookup::WRITER_DELAY,
        proto,
    },
    model::{Phase, RunModels},
};

const DAY_MS: i64 = 24 * 3600 * 1000;

fn remove_name(artifact: &mut proto::Artifact) {
    artifact.custom_properties.remove("name");
}

/// A model as KFP v2 writes it.
fn kfp_model(artifact: &mut proto::Artifact) {
    artifact.custom_properties = [("display_name".to_owned(), text("model")), ("pushed".to_owned(), int(1))].into();
    artifact.r#type = Some("system.Model".to_owned());
}

/// A task of KFP v2.
fn kfp_task(execution: &mut proto::Execution, name: &str, parent: i64) {
    execution.r#type = Some("system.ContainerExecution".to_owned());
    execution.custom_properties =
        [("task_name".to_owned(), text(name)), ("parent_dag_id".to_owned(), int(parent))].into();
}

impl TestEnv {
    /// A run of the SDK of KFP v1, as the metadata-writer records it: context 1, and the execution 10.
    fn kfp_v1() -> Self {
        let env = Self::new();
        {
            let mut store = env.server.store();
            let run = store.add_context("KfpRun", "penguin-x7k2p");
            store.add_execution_with(10, DURING_MS, &[run], |execution| {
                execution.r#type = Some("components.Push model@sha256=0e1f".to_owned());
                execution.properties = [("component_id".to_owned(), text("Push model"))].into();
                execution.custom_properties = [("kfp_pod_name".to_owned(), text("penguin-x7k2p-1"))].into();
            });
        }
        env
    }

    /// Adds an output of the execution 10 to a run of the SDK of KFP v1.
    fn add_kfp_v1_model(&self) {
        self.server.store().add_model_with(5, 10, &[1], |artifact| {
            artifact.r#type = Some("Model".to_owned());
            artifact.uri = Some("minio://mlpipeline/artifacts/model.tgz".to_owned());
            artifact.custom_properties = [("name".to_owned(), text("model"))].into();
        });
    }

    async fn calls(&self, run: &Workflow) -> (Vec<Method>, Arc<RunModels>) {
        self.server.calls();
        let found = self.find_uncached(run).await.unwrap();
        let mut calls = self.server.calls();
        calls.sort_unstable();
        (calls, found)
    }
}

#[tokio::test(start_paused = true)]
async fn the_calls_of_every_kind_of_run() {
    // TFX on KFP v1, and a recurring run of it.
    let env = TestEnv::tfx();
    env.server.store().add_model_with(5, 10, &[1], remove_name);
    assert_eq!(env.calls(&compiled()).await.0, [ARTIFACTS, CONTEXT, CONTEXTS_OF, EVENTS, EXECUTIONS]);
    assert_eq!(env.calls(&recurring()).await.0, [ARTIFACTS, CONTEXT, CONTEXT, CONTEXTS_OF, EVENTS, EXECUTIONS]);
    // The same up to TFX 1.10, and without a model.
    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    assert_eq!(env.calls(&compiled()).await.0, [ARTIFACTS, CONTEXT, EVENTS, EXECUTIONS]);
    assert_eq!(env.calls(&recurring()).await.0, [ARTIFACTS, CONTEXT, CONTEXT, CONTEXTS_OF, EVENTS, EXECUTIONS]);
    assert_eq!(TestEnv::tfx().calls(&compiled()).await.0, [ARTIFACTS, CONTEXT, EXECUTIONS]);
    // KFP v2.
    let env = TestEnv::kfp_v2();
    env.server.store().add_model_with(5, 10, &[1], kfp_model);
    let generated = run(PipelineName::Generated("taxi".into()));
    assert_eq!(env.calls(&generated).await.0, [ARTIFACTS, CONTEXT, EVENTS, EXECUTIONS, PARENTS]);
    assert_eq!(TestEnv::kfp_v2().calls(&generated).await.0, [ARTIFACTS, CONTEXT, EXECUTIONS]);
    // The SDK of KFP v1.
    let env = TestEnv { types: Arc::new(ArtifactTypes::named(["Model"])), ..TestEnv::kfp_v1() };
    env.add_kfp_v1_model();
    let calls = [ARTIFACTS, CONTEXT, CONTEXT, CONTEXT, EVENTS, EXECUTIONS];
    assert_eq!(env.calls(&compiled()).await.0, calls);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_the_sdk_of_kfp_v1_has_models_of_the_wanted_types() {
    let env = TestEnv::kfp_v1();
    env.add_kfp_v1_model();
    assert_eq!(env.find(&compiled()).await, Ok(Arc::default()), "no model of the default types");
    let env = TestEnv { types: Arc::new(ArtifactTypes::named(["Model"])), ..env };
    let found = env.find(&compiled()).await.unwrap();
    assert_eq!(&*found.models[0].uri, "minio://mlpipeline/artifacts/model.tgz");
    assert_eq!(env.names(&compiled()).await, ["model"]);
    assert_eq!(found.pipeline, None);
    assert_eq!(env.find(&recurring()).await.unwrap().pipeline, None, "the store does not know it");
    env.assert_counted("mlmd_lookups_total{outcome=\"no_model\"} 1");
}

/// The metadata-writer records the outputs of a Pod after the Pod has ended, perhaps after the Workflow has.
#[tokio::test(start_paused = true)]
async fn outputs_that_kfp_v1_may_still_record_are_waited_for() {
    let env = TestEnv { types: Arc::new(ArtifactTypes::named(["Model"])), ..TestEnv::kfp_v1() };
    // The clock of the test.
    let now = CREATED + 3600;
    let ended = |seconds_ago| Workflow { finished: now - seconds_ago, ..compiled() };
    assert_eq!(env.find(&ended(0)).await, Err(LookupError::NoContext));
    assert_eq!(env.find(&ended(WRITER_DELAY - 1)).await, Err(LookupError::NoContext));
    assert_eq!(env.find_uncached(&ended(WRITER_DELAY)).await, Ok(Arc::default()));
    assert_eq!(env.find_uncached(&Workflow { finished: 0, ..compiled() }).await, Ok(Arc::default()), "unknown");
    env.add_kfp_v1_model();
    assert_eq!(env.find_uncached(&ended(0)).await.unwrap().models.len(), 1);
    // The other flavors record everything before the run ends.
    let env = TestEnv::tfx();
    assert_eq!(env.find(&ended(0)).await, Ok(Arc::default()));
}

/// KFP's Retry created the deleted Workflow again. What had succeeded was not executed again.
#[tokio::test(start_paused = true)]
async fn a_kfp_v2_run_retried_after_its_deletion_has_its_model() {
    let env = TestEnv::kfp_v2();
    {
        let mut store = env.server.store();
        store.contexts[0].custom_properties.insert("namespace".into(), text("team-a"));
        store.add_execution_with(9, CREATED * 1000 - DAY_MS, &[1], |execution| kfp_task(execution, "push", 1));
        store.add_model_with(5, 9, &[1], kfp_model);
    }
    let found = env.find(&recurring()).await.unwrap();
    assert_eq!((found.models.len(), found.foreign_executions), (1, 0));
    // Without the property, the context may be another run's.
    env.server.store().contexts[0].custom_properties.clear();
    let found = env.find_uncached(&recurring()).await.unwrap();
    assert_eq!((found.models.len(), found.foreign_executions), (0, 1));
}

/// The same on KFP v1, where the store does not contain the namespace of the run: a documented limit, counted by the caller.
#[tokio::test(start_paused = true)]
async fn a_tfx_run_retried_after_its_deletion_has_no_old_model() {
    let env = TestEnv::tfx();
    env.server.store().add_execution(9, CREATED * 1000 - DAY_MS, &[1]);
    env.server.store().add_model(5, 9, &[1]);
    let found = env.find(&compiled()).await.unwrap();
    assert_eq!((found.models.len(), found.foreign_executions), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_resubmitted_run_has_only_the_new_model() {
    let env = TestEnv::kfp_v2();
    {
        let mut store = env.server.store();
        store.contexts[0].custom_properties.insert("namespace".into(), text("team-a"));
        for (id, created_ms) in [(20, (CREATED - 60) * 1000), (21, CREATED * 1000)] {
            store.add_execution_with(id, created_ms, &[1], |execution| kfp_task(execution, &format!("push-{id}"), 1));
            store.add_model_with(id, id, &[1], kfp_model);
        }
    }
    let resubmitted = Workflow { resubmitted: true, ..recurring() };
    assert_eq!(env.ids(&resubmitted).await, [21]);
    assert_eq!(env.find(&resubmitted).await.unwrap().foreign_executions, 1);
    assert_eq!(env.ids(&recurring()).await, [20, 21]);
}

/// The nodes are requested only because two executions of a class have an output.
#[tokio::test(start_paused = true)]
async fn a_tfx_component_that_ran_again_has_its_last_model() {
    let env = TestEnv::tfx();
    {
        let mut store = env.server.store();
        let other_node = store.add_context("node", "penguin.Pusher.eu");
        store.add_execution(11, DURING_MS + 1, &[1, 2, 3]);
        store.add_execution(12, DURING_MS + 2, &[1, 2, other_node]);
        store.add_model(7, 10, &[1]);
        store.add_model(9, 11, &[1]);
        store.add_model(8, 12, &[1]);
    }
    let (calls, found) = env.calls(&compiled()).await;
    assert_eq!(found.models.iter().map(number).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(calls.iter().filter(|call| **call == CONTEXTS_OF).count(), 3);
    // The later execution pushed nothing.
    let pushed_nothing = int(0);
    env.server.store().artifacts.get_mut(&1).unwrap()[1].custom_properties.insert("pushed".into(), pushed_nothing);
    assert_eq!(env.ids(&compiled()).await, [8]);
}

#[tokio::test(start_paused = true)]
async fn the_iterations_of_a_loop_have_different_names() {
    let env = TestEnv::kfp_v2();
    {
        let mut store = env.server.store();
        let mut add_dag = |id, parent, iteration: Option<i64>| {
            store.add_execution_with(id, DURING_MS, &[1], |execution| {
                kfp_task(execution, "for-loop-1", parent);
                execution.r#type = Some("system.DAGExecution".to_owned());
                execution.custom_properties.extend(iteration.map(|index| ("iteration_index".to_owned(), int(index))));
            });
        };
        add_dag(20, 10, None);
        (0..3).for_each(|iteration| add_dag(21 + iteration, 20, Some(iteration)));
        for iteration in 0..3 {
            let execution = 30 + iteration;
            store.add_execution_with(execution, DURING_MS, &[1], |it| kfp_task(it, "push", 21 + iteration));
            store.add_model_with(50 + iteration, execution, &[1], kfp_model);
        }
    }
    let names = [0, 1, 2].map(|iteration| format!("taxi:penguin-x7k2p:push:pushed_model:{iteration}"));
    assert_eq!(env.names(&recurring()).await, names);
}

#[tokio::test(start_paused = true)]
async fn a_pipelines_name_loses_the_prefix_of_its_own_namespace() {
    let env = TestEnv::kfp_v2();
    env.server.store().add_model_with(5, 10, &[1], kfp_model);
    for (context, expected) in [
        ("namespace/team-a/pipeline/penguin", "penguin"),
        ("pipeline/penguin", "penguin"),
        ("namespace/team-b/pipeline/penguin", "namespace/team-b/pipeline/penguin"),
    ] {
        env.server.store().contexts[1].name = Some(context.to_owned());
        assert_eq!(env.find_uncached(&recurring()).await.unwrap().pipeline.as_deref(), Some(expected));
    }
}

/// The event of a failed run contains nothing else. Its later success is looked up on its own.
#[tokio::test(start_paused = true)]
async fn only_the_pipeline_of_a_failed_run_is_looked_up() {
    let failed = |run: Workflow| Workflow { phase: Phase::Failed, ..run };
    let env = TestEnv::kfp_v2();
    env.server.store().add_model_with(5, 10, &[1], kfp_model);
    let (calls, found) = env.calls(&failed(recurring())).await;
    assert_eq!((calls, found.pipeline.as_deref(), found.models.len()), (vec![CONTEXT, PARENTS], Some("taxi"), 0));
    assert_eq!(env.find(&recurring()).await.unwrap().models.len(), 1);
    assert_eq!(env.find(&failed(recurring())).await, Ok(found), "cached");

    let env = TestEnv::tfx();
    env.server.store().add_model(5, 10, &[1]);
    let (calls, found) = env.calls(&failed(recurring())).await;
    assert_eq!(calls, [CONTEXT, CONTEXT, CONTEXTS_OF, EXECUTIONS]);
    assert_eq!((found.pipeline.as_deref(), found.models.len()), (Some("penguin"), 0));
    env.server.store().executions.clear();
    assert_eq!(env.find_uncached(&failed(recurring())).await, Ok(Arc::default()), "it failed before its first task");

    assert_eq!(TestEnv::kfp_v1().find(&failed(recurring())).await, Ok(Arc::default()));
    assert_eq!(TestEnv::new().find(&failed(recurring())).await, Err(LookupError::NoContext));
}
