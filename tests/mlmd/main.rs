//! Lookups in the real ML Metadata, with runs as TFX and Kubeflow Pipelines write them.

mod kinds;
mod large;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model_update_eventsource::{
    delivery::{ArtifactLookup, LookupError},
    mlmd::{LookupMetrics, Mlmd, Options},
    model::{ArtifactTypes, Marks, Phase, PipelineName, RunId, RunModels, Workflow, event},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use test_support::{
    MetadataStore, Model, Peers, StoredRun, Task, Writer,
    ml_metadata::{Artifact, artifact, event::Type, execution::State},
};

/// Age of an execution that is older than its Workflow by more than the tolerance for clock differences.
const LONG_AGO: Duration = Duration::from_secs(24 * 3600);

const RUN_ID: &str = "33333333-0000-4000-8000-000000000000";

/// An empty store, and the adapter under test.
struct Harness {
    store: MetadataStore,
    writer: Writer,
    mlmd: Mlmd,
    registry: Registry,
}

impl Harness {
    async fn start() -> Self {
        let store = Peers::find().await.metadata_store().await;
        let writer = store.writer().await;
        let mut registry = Registry::default();
        let metrics = LookupMetrics::new(&mut registry);
        let mlmd = Mlmd::new(&store.url(), &Options::default(), metrics).expect("a URL");
        Self { store, writer, mlmd, registry }
    }

    async fn find(&self, run: &Workflow) -> Result<Arc<RunModels>, LookupError> {
        self.mlmd.find(run, &Arc::default()).await
    }

    /// Returns the sum of the metrics whose lines contain all of these texts.
    fn metrics(&self, texts: &[&str]) -> f64 {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("the metrics");
        let lines = page.lines().filter(|line| !line.starts_with('#') && texts.iter().all(|text| line.contains(text)));
        lines.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
    }

    /// Returns the locations of the models in the event of this run.
    async fn locations(&self, run: &Workflow) -> Vec<String> {
        self.find(run).await.expect("an answer").models.iter().map(|model| model.uri.to_string()).collect()
    }

    /// Writes the contexts of [`kfp_v2`].
    async fn put_kfp_run(&self) -> StoredRun {
        self.writer.kfp_run("taxi", RUN_ID, "team-a").await
    }
}

/// Asserts the names and the locations of the models in the event of this run.
#[track_caller]
fn assert_models(run: &Workflow, found: &RunModels, expected: &[(&str, &str)]) {
    let pipeline = event::pipeline_name(run, found).unwrap_or("?");
    let models: Vec<_> =
        found.models.iter().map(|model| (model.display_name(pipeline, &run.name), model.uri.to_string())).collect();
    let models: Vec<_> = models.iter().map(|(name, location)| (name.as_str(), location.as_str())).collect();
    assert_eq!(models, expected);
}

/// A Workflow of the namespace `team-a` that was created just now.
fn workflow(name: &str, pipeline: PipelineName, run_id: &str) -> Workflow {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Workflow {
        namespace: "team-a".into(),
        name: name.into(),
        uid: rand::random::<u128>().into(),
        created: i64::try_from(now.as_secs()).expect("a few decades"),
        finished: 0,
        phase: Phase::Succeeded,
        resubmitted: false,
        events_published: false,
        pipeline: pipeline.into(),
        run_id: Some(RunId::new(run_id)),
        trace_id: None,
        marks: Marks::default(),
    }
}

/// A Workflow with the annotations of Kubeflow Pipelines v1's compiler.
fn compiled(name: &str) -> Workflow {
    workflow(name, PipelineName::Spec("penguin".into()), "11111111-0000-4000-8000-000000000000")
}

/// A recurring run of Kubeflow Pipelines v1.
fn recurring(name: &str) -> Workflow {
    workflow(name, PipelineName::Unknown, "22222222-0000-4000-8000-000000000000")
}

/// A Workflow of Kubeflow Pipelines v2.
fn kfp_v2() -> Workflow {
    workflow("taxi-x7k2p", PipelineName::Generated("taxi".into()), RUN_ID)
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_tfx_run_is_found_by_the_name_of_its_workflow() {
    let harness = Harness::start().await;
    let run = harness.writer.tfx_run("penguin", "run-x").await;
    let examples = Model::new("Examples", "examples", "gs://root/examples");
    run.task(Task::new("CsvExampleGen").output(examples)).await;
    let named = Model::pushed("gs://root/1").property("name", "penguin:run-x:Pusher:pushed_model:0");
    run.task(Task::new("Pusher").output(named)).await;
    // Since TFX 1.11 models have no name. Here, one output has two.
    let [second, third] = ["gs://root/2", "gs://root/3"].map(Model::pushed);
    run.task(Task::new("my-pusher").output(second).output(third)).await;
    run.task(Task::new("Pusher.again").output(Model::pushed("gs://root/4").named("its own name"))).await;

    let expected = [
        ("penguin:run-x:Pusher:pushed_model:0", "gs://root/1"),
        ("penguin:run-x:my-pusher:pushed_model:0", "gs://root/2"),
        ("penguin:run-x:my-pusher:pushed_model:1", "gs://root/3"),
        ("its own name", "gs://root/4"),
    ];
    let compiled = compiled("run-x");
    assert_models(&compiled, &harness.find(&compiled).await.expect("models"), &expected);

    // Only ML Metadata contains the name of a recurring run's pipeline.
    let recurring = recurring("run-x");
    let found = harness.find(&recurring).await.expect("models");
    assert_eq!(found.pipeline.as_deref(), Some("penguin"));
    assert_models(&recurring, &found, &expected);
}

/// Two calls while it runs, and one when its Workflow has changed; after its success as many as every lookup makes, in
/// one round trip: none depends on the answer to another. The model appears in between.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_asked_for_ahead_costs_no_further_call() {
    let harness = Harness::start().await;
    let run = harness.writer.tfx_run("penguin", "run-x").await;
    run.task(Task::new("Trainer")).await;
    let succeeded = compiled("run-x");
    let running = Workflow { phase: Phase::Active, ..succeeded.clone() };
    harness.mlmd.look_ahead(&running).await.expect("a context");
    run.task(Task::new("Evaluator")).await;
    harness.mlmd.look_ahead(&running).await.expect("a context");
    assert_eq!(harness.metrics(&["mlmd_calls_total"]), 3.0);
    let model = Model::pushed("gs://root/1").property("name", "penguin:run-x:Pusher:pushed_model:0");
    run.task(Task::new("Pusher").output(model)).await;
    // Its execution is recorded when it begins.
    harness.mlmd.look_ahead(&running).await.expect("a context");
    assert_eq!(harness.locations(&succeeded).await, ["gs://root/1"]);
    assert_eq!(harness.metrics(&["mlmd_calls_total"]), 4.0 + 4.0, "the context, artifacts, executions and events");
    assert_eq!(harness.metrics(&["mlmd_calls_total", "GetEventsByExecutionIDs"]), 1.0);
    assert_eq!(harness.metrics(&["mlmd_calls_total", "GetEventsByArtifactIDs"]), 0.0);
    assert_eq!(harness.metrics(&["mlmd_events_expected_total", "\"used\""]), 1.0);
    assert_eq!(harness.metrics(&["mlmd_contexts_expected_total", "confirmed"]), 1.0);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_kfp_v2_run_is_found_by_its_run_id() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_run().await;
    let by_shim = Model::new("system.Model", "model", "gs://root/shim").property("pushed", 1);
    run.task(Task::new("push").output(by_shim)).await;
    run.task(Task::new("tfx-push").output(Model::new("tfx.PushedModel", "pushed", "gs://root/tfx"))).await;
    run.task(Task::new("train").output(Model::new("system.Model", "model", "gs://root/trained"))).await;

    let workflow = kfp_v2();
    let found = harness.find(&workflow).await.expect("models");
    assert_eq!(found.pipeline.as_deref(), Some("taxi"), "from the context of the pipeline");
    let expected =
        [("taxi:taxi-x7k2p:push:model:0", "gs://root/shim"), ("taxi:taxi-x7k2p:tfx-push:pushed:0", "gs://root/tfx")];
    assert_models(&workflow, &found, &expected);

    // A subscription can ask for models that were not pushed.
    let types = Arc::new(ArtifactTypes::named(["system.Model"]));
    let plain = harness.mlmd.find(&workflow, &types).await.expect("models");
    let locations: Vec<&str> = plain.models.iter().map(|model| &*model.uri).collect();
    assert_eq!(locations, ["gs://root/shim", "gs://root/trained"]);

    // A recurring run of a fixed pipeline version has no generateName.
    let pinned = self::workflow("taxi-x7k2p", PipelineName::Unknown, RUN_ID);
    assert_eq!(harness.find(&pinned).await.expect("models").pipeline.as_deref(), Some("taxi"));
}

/// Models that were not pushed, have no location, or are deleted do not count.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_unpushed_unlocated_or_deleted_model_does_not_count() {
    let harness = Harness::start().await;
    let run = harness.writer.tfx_run("penguin", "run-x").await;
    run.task(Task::new("Pusher").output(Model::unblessed("gs://root/unblessed"))).await;
    run.task(Task::new("Pusher").output(Model::pushed(""))).await;
    let not_pushed = Model::new("PushedModel", "pushed_model", "gs://root/no").property("pushed", "0");
    run.task(Task::new("Pusher").output(not_pushed)).await;
    let written = run.task(Task::pusher("gs://root/deleted")).await;
    assert_eq!(harness.locations(&compiled("run-x")).await, ["gs://root/deleted"]);

    let mut deleted = Artifact {
        id: Some(written.artifacts[0]),
        type_id: Some(harness.writer.artifact_type("PushedModel").await),
        uri: Some("gs://root/deleted".to_owned()),
        ..Artifact::default()
    };
    deleted.set_state(artifact::State::Deleted);
    harness.writer.put_artifacts(vec![deleted]).await;
    assert_eq!(harness.find(&compiled("run-x")).await, Ok(Arc::default()));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_read_model_does_not_count_and_a_cached_model_does() {
    let harness = Harness::start().await;
    let earlier = harness.writer.kfp_run("taxi", "an-earlier-run", "team-a").await;
    let old = earlier.task(Task::new("push").output(Model::new("tfx.PushedModel", "pushed", "gs://root/old"))).await;
    harness.store.backdate(old.execution, LONG_AGO);
    let run = harness.put_kfp_run().await;
    run.task(Task::new("evaluate").input(Model::existing(old.artifacts[0], "model"))).await;
    assert!(harness.locations(&kfp_v2()).await.is_empty(), "although it is attributed to the run");

    let declared = Model::new("tfx.PushedModel", "later", "gs://root/declared");
    run.task(Task::new("declare").event(Type::DeclaredOutput, declared)).await;
    assert!(harness.locations(&kfp_v2()).await.is_empty());

    let cached = Task::new("push").state(State::Cached).output(Model::existing(old.artifacts[0], "pushed"));
    run.task(cached).await;
    assert_eq!(harness.locations(&kfp_v2()).await, ["gs://root/old"]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_imported_model_does_not_count() {
    let harness = Harness::start().await;
    let run = harness.put_kfp_run().await;
    let imported = Model::new("tfx.PushedModel", "artifact", "gs://elsewhere/base");
    run.task(Task::new("importer").executed_as("system.ImporterExecution").output(imported)).await;
    assert!(harness.locations(&kfp_v2()).await.is_empty());
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_page_of_a_large_run_is_read() {
    let harness = Harness::start().await;
    let run = harness.writer.tfx_run("penguin", "run-x").await;
    let location = |index: usize| format!("gs://root/{index}");
    let many = (0..250).fold(Task::new("Pusher"), |task, index| {
        task.output(Model::pushed(&location(index)).named(&format!("model {index}")))
    });
    run.task(many).await;
    for index in 0..120 {
        run.task(Task::new(&format!("task-{index}"))).await;
    }
    run.task(Task::new("Pusher.last").output(Model::pushed(&location(250)).named("the last"))).await;
    assert_eq!(harness.locations(&compiled("run-x")).await, (0..=250).map(location).collect::<Vec<_>>());
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn contexts_and_executions_of_other_runs_are_foreign() {
    let harness = Harness::start().await;
    // A run of another namespace with the same run id.
    let theirs = harness.writer.kfp_run("taxi", RUN_ID, "team-b").await;
    theirs.task(Task::new("push").output(Model::new("tfx.PushedModel", "pushed", "gs://theirs"))).await;
    let foreign = LookupError::ForeignContext { namespace: "team-b".to_owned() };
    assert_eq!(harness.find(&kfp_v2()).await, Err(foreign));

    // An older Workflow of the same name, and thus with the same context.
    let shared = harness.writer.tfx_run("penguin", "run-x").await;
    let old = shared.task(Task::pusher("gs://root/old")).await;
    harness.store.backdate(old.execution, LONG_AGO);
    let only_old = RunModels { foreign_executions: 1, ..RunModels::default() };
    assert_eq!(harness.find(&compiled("run-x")).await, Ok(Arc::new(only_old)));
    shared.task(Task::pusher("gs://root/new")).await;
    let workflow = compiled("run-x");
    let found = harness.find(&workflow).await.expect("models");
    assert_eq!(found.foreign_executions, 1);
    assert_models(&workflow, &found, &[("penguin:run-x:Pusher:pushed_model:0", "gs://root/new")]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_late_context_is_found() {
    let harness = Harness::start().await;
    let (tfx, kfp) = (compiled("run-x"), kfp_v2());
    for run in [&tfx, &kfp] {
        assert_eq!(harness.find(run).await, Err(LookupError::NoContext), "its type does not exist either");
    }
    harness.writer.tfx_run("penguin", "another-run").await;
    assert_eq!(harness.find(&tfx).await, Err(LookupError::NoContext));
    harness.writer.tfx_run("penguin", "run-x").await.task(Task::pusher("gs://root/1")).await;
    let run = harness.put_kfp_run().await;
    run.task(Task::new("push").output(Model::new("tfx.PushedModel", "pushed", "gs://root/2"))).await;
    assert_eq!(harness.locations(&tfx).await, ["gs://root/1"]);
    assert_eq!(harness.locations(&kfp).await, ["gs://root/2"]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_unavailable_or_emptied_store_never_means_no_model() {
    let mut harness = Harness::start().await;
    harness.writer.tfx_run("penguin", "run-x").await.task(Task::pusher("gs://root/1")).await;
    assert_eq!(harness.locations(&compiled("run-x")).await, ["gs://root/1"]);
    harness.store.kill();
    for _ in 0..2 {
        let answer = harness.find(&compiled("run-x")).await;
        assert!(matches!(answer, Err(LookupError::Failed { code: "unavailable", .. })), "{answer:?}");
    }
    harness.store.restart().await;
    assert_eq!(harness.locations(&compiled("run-x")).await, ["gs://root/1"], "at the first attempt");
    harness.store.restart_empty().await;
    assert_eq!(harness.find(&compiled("run-x")).await, Err(LookupError::NoContext));
}
