//! The side of ML Metadata against the real one, with runs as TFX and Kubeflow Pipelines write them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model_update_eventsource::{
    delivery::{ArtifactLookup, LookupError},
    mlmd::{LookupMetrics, Mlmd, Options},
    model::{ArtifactTypes, Phase, PipelineName, RunId, RunModels, Workflow, event},
};
use prometheus_client::registry::Registry;
use test_support::{
    MetadataStore, Model, Peers, Run, Task, Writer,
    ml_metadata::{Artifact, artifact, event::Type, execution::State},
};

/// An execution that is older than its Workflow by more than clocks differ.
const LONG_AGO: Duration = Duration::from_secs(24 * 3600);

/// A store of the test's own and the adapter under test before it.
struct Bench {
    store: MetadataStore,
    writer: Writer,
    mlmd: Mlmd,
}

impl Bench {
    async fn start() -> Self {
        let store = Peers::find().await.metadata_store().await;
        let writer = store.writer().await;
        let metrics = LookupMetrics::new(&mut Registry::default());
        let mlmd = Mlmd::new(&store.url(), &Options::default(), metrics).expect("a URL");
        Self { store, writer, mlmd }
    }

    async fn find(&self, run: &Workflow) -> Result<Arc<RunModels>, LookupError> {
        self.mlmd.find(run, &Arc::default()).await
    }

    /// Name and location of what would be announced.
    async fn announced(&self, run: &Workflow) -> Vec<(String, String)> {
        announced(run, &self.find(run).await.expect("an answer"))
    }

    async fn locations(&self, run: &Workflow) -> Vec<String> {
        self.announced(run).await.into_iter().map(|(_, location)| location).collect()
    }
}

fn announced(run: &Workflow, found: &RunModels) -> Vec<(String, String)> {
    let pipeline = event::pipeline_name(run, found).unwrap_or("?");
    found.models.iter().map(|model| (model.display_name(pipeline, &run.name), model.uri.to_string())).collect()
}

/// A Workflow of the namespace `team-a` that was created a moment ago.
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
        pipeline,
        run_id: Some(RunId::new(run_id)),
        trace_id: None,
        marks: Box::default(),
        resource_version: None,
    }
}

/// One that KFP v1 compiled.
fn compiled(name: &str) -> Workflow {
    workflow(name, PipelineName::Spec("penguin".into()), "11111111-0000-4000-8000-000000000000")
}

/// A recurring one of KFP v1.
fn recurring(name: &str) -> Workflow {
    workflow(name, PipelineName::Unknown, "22222222-0000-4000-8000-000000000000")
}

/// One of KFP v2.
fn kfp_v2(run_id: &str) -> Workflow {
    workflow("taxi-x7k2p", PipelineName::Generated("taxi".into()), run_id)
}

const RUN_ID: &str = "33333333-0000-4000-8000-000000000000";

async fn kfp_run(bench: &Bench) -> Run {
    bench.writer.kfp_run("taxi", RUN_ID, "team-a").await
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn tfx_on_kfp_v1_is_found_by_the_name_of_its_workflow() {
    let bench = Bench::start().await;
    let run = bench.writer.tfx_run("penguin", "run-x").await;
    let examples = Model::new("Examples", "examples", "gs://root/examples");
    run.task(Task::new("CsvExampleGen").output(examples)).await;
    let named = Model::pushed("gs://root/1").text("name", "penguin:run-x:Pusher:pushed_model:0");
    run.task(Task::new("Pusher").output(named)).await;
    // Since TFX 1.10: no name, and here two in one output.
    let unnamed = ["gs://root/2", "gs://root/3"].map(Model::pushed);
    let [second, third] = unnamed;
    run.task(Task::new("my-pusher").output(second).output(third)).await;
    run.task(Task::new("Pusher.again").output(Model::pushed("gs://root/4").named("its own name"))).await;

    let expected = [
        ("penguin:run-x:Pusher:pushed_model:0", "gs://root/1"),
        ("penguin:run-x:my-pusher:pushed_model:0", "gs://root/2"),
        ("penguin:run-x:my-pusher:pushed_model:1", "gs://root/3"),
        ("its own name", "gs://root/4"),
    ]
    .map(|(name, location)| (name.to_owned(), location.to_owned()));
    assert_eq!(bench.announced(&compiled("run-x")).await, expected);

    // A recurring run names its pipeline nowhere but here.
    let recurring = recurring("run-x");
    let found = bench.find(&recurring).await.unwrap();
    assert_eq!(found.pipeline.as_deref(), Some("penguin"));
    assert_eq!(announced(&recurring, &found), expected);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn kfp_v2_is_found_by_its_run_id_and_named_by_its_pipelines_context() {
    let bench = Bench::start().await;
    let run = kfp_run(&bench).await;
    let by_shim = Model::new("system.Model", "model", "gs://root/shim").number("pushed", 1);
    run.task(Task::new("push").output(by_shim)).await;
    run.task(Task::new("tfx-push").output(Model::new("tfx.PushedModel", "pushed", "gs://root/tfx"))).await;
    run.task(Task::new("train").output(Model::new("system.Model", "model", "gs://root/trained"))).await;

    let workflow = kfp_v2(RUN_ID);
    let found = bench.find(&workflow).await.unwrap();
    assert_eq!(found.pipeline.as_deref(), Some("taxi"));
    let expected =
        [("taxi:taxi-x7k2p:push:model:0", "gs://root/shim"), ("taxi:taxi-x7k2p:tfx-push:pushed:0", "gs://root/tfx")];
    assert_eq!(announced(&workflow, &found), expected.map(|(name, location)| (name.to_owned(), location.to_owned())));

    // A plain model counts for who asks for it.
    let types = Arc::new(ArtifactTypes::named(["system.Model"]));
    let plain = bench.mlmd.find(&workflow, &types).await.unwrap();
    let locations: Vec<&str> = plain.models.iter().map(|model| &*model.uri).collect();
    assert_eq!(locations, ["gs://root/shim", "gs://root/trained"]);

    // Pinned to a version of its pipeline, a recurring run has no generateName either.
    let pinned = self::workflow("taxi-x7k2p", PipelineName::Unknown, RUN_ID);
    assert_eq!(bench.find(&pinned).await.unwrap().pipeline.as_deref(), Some("taxi"));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn what_was_not_pushed_has_no_place_or_is_gone_is_no_model() {
    let bench = Bench::start().await;
    let run = bench.writer.tfx_run("penguin", "run-x").await;
    run.task(Task::new("Pusher").output(Model::unblessed("gs://root/unblessed"))).await;
    run.task(Task::new("Pusher").output(Model::pushed(""))).await;
    run.task(Task::new("Pusher").output(Model::new("PushedModel", "pushed_model", "gs://root/no").text("pushed", "0")))
        .await;
    let written = run.task(Task::pusher("gs://root/deleted")).await;
    assert_eq!(bench.locations(&compiled("run-x")).await, ["gs://root/deleted"]);

    let mut deleted = Artifact {
        id: Some(written.artifacts[0]),
        type_id: Some(bench.writer.artifact_type("PushedModel").await),
        uri: Some("gs://root/deleted".to_owned()),
        ..Artifact::default()
    };
    deleted.set_state(artifact::State::Deleted);
    bench.writer.artifact(deleted).await;
    assert_eq!(bench.find(&compiled("run-x")).await, Ok(Arc::default()));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_model_that_the_run_only_read_is_not_its_model_and_a_cached_one_is() {
    let bench = Bench::start().await;
    let earlier = bench.writer.kfp_run("taxi", "an-earlier-run", "team-a").await;
    let old = earlier.task(Task::new("push").output(Model::new("tfx.PushedModel", "pushed", "gs://root/old"))).await;
    bench.store.backdate(old.execution, LONG_AGO);
    let run = kfp_run(&bench).await;
    run.task(Task::new("evaluate").input(Model::existing(old.artifacts[0], "model"))).await;
    assert!(bench.locations(&kfp_v2(RUN_ID)).await.is_empty(), "it is attributed to the run all the same");

    let declared = Model::new("tfx.PushedModel", "later", "gs://root/declared");
    run.task(Task::new("declare").event(Type::DeclaredOutput, declared)).await;
    assert!(bench.locations(&kfp_v2(RUN_ID)).await.is_empty());

    let cached = Task::new("push").state(State::Cached).output(Model::existing(old.artifacts[0], "pushed"));
    run.task(cached).await;
    assert_eq!(bench.locations(&kfp_v2(RUN_ID)).await, ["gs://root/old"]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_imported_model_is_not_put_out() {
    let bench = Bench::start().await;
    let run = kfp_run(&bench).await;
    let imported = Model::new("tfx.PushedModel", "artifact", "gs://elsewhere/base");
    run.task(Task::new("importer").executed_as("system.ImporterExecution").output(imported)).await;
    assert!(bench.locations(&kfp_v2(RUN_ID)).await.is_empty());
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn every_page_of_a_large_run_is_read() {
    let bench = Bench::start().await;
    let run = bench.writer.tfx_run("penguin", "run-x").await;
    let location = |place: usize| format!("gs://root/{place}");
    let many = (0..250).fold(Task::new("Pusher"), |task, place| {
        task.output(Model::pushed(&location(place)).named(&format!("model {place}")))
    });
    run.task(many).await;
    for place in 0..120 {
        run.task(Task::new(&format!("task-{place}"))).await;
    }
    run.task(Task::new("Pusher").output(Model::pushed(&location(250)).named("the last"))).await;
    assert_eq!(bench.locations(&compiled("run-x")).await, (0..=250).map(location).collect::<Vec<_>>());
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn what_belongs_to_others_is_told_as_foreign() {
    let bench = Bench::start().await;
    // Another tenant's run with our run's id.
    let theirs = bench.writer.kfp_run("taxi", RUN_ID, "team-b").await;
    theirs.task(Task::new("push").output(Model::new("tfx.PushedModel", "pushed", "gs://theirs"))).await;
    let foreign = LookupError::ForeignContext { namespace: "team-b".to_owned() };
    assert_eq!(bench.find(&kfp_v2(RUN_ID)).await, Err(foreign));

    // An older Workflow of the same name, whose context is ours too.
    let both = bench.writer.tfx_run("penguin", "run-x").await;
    let old = both.task(Task::pusher("gs://root/old")).await;
    bench.store.backdate(old.execution, LONG_AGO);
    let only_old = RunModels { foreign_executions: 1, ..RunModels::default() };
    assert_eq!(bench.find(&compiled("run-x")).await, Ok(Arc::new(only_old)));
    both.task(Task::pusher("gs://root/new")).await;
    let workflow = compiled("run-x");
    let found = bench.find(&workflow).await.unwrap();
    assert_eq!(found.foreign_executions, 1);
    assert_eq!(
        announced(&workflow, &found),
        [("penguin:run-x:Pusher:pushed_model:0".to_owned(), "gs://root/new".to_owned())]
    );
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_context_that_is_not_there_yet_is_found_when_it_comes() {
    let bench = Bench::start().await;
    let (tfx, kfp) = (compiled("run-x"), kfp_v2(RUN_ID));
    for run in [&tfx, &kfp] {
        assert_eq!(bench.find(run).await, Err(LookupError::NoContext), "not even the type is there");
    }
    bench.writer.tfx_run("penguin", "another-run").await;
    assert_eq!(bench.find(&tfx).await, Err(LookupError::NoContext));
    bench.writer.tfx_run("penguin", "run-x").await.task(Task::pusher("gs://root/1")).await;
    kfp_run(&bench).await.task(Task::new("push").output(Model::new("tfx.PushedModel", "pushed", "gs://root/2"))).await;
    assert_eq!(bench.locations(&tfx).await, ["gs://root/1"]);
    assert_eq!(bench.locations(&kfp).await, ["gs://root/2"]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_store_that_is_down_or_comes_back_empty_is_never_read_as_no_model() {
    let mut bench = Bench::start().await;
    bench.writer.tfx_run("penguin", "run-x").await.task(Task::pusher("gs://root/1")).await;
    assert_eq!(bench.locations(&compiled("run-x")).await, ["gs://root/1"]);
    bench.store.kill();
    for _ in 0..2 {
        let answer = bench.find(&compiled("run-x")).await;
        assert!(matches!(answer, Err(LookupError::Failed { code: "unavailable", .. })), "{answer:?}");
    }
    bench.store.restart().await;
    assert_eq!(bench.locations(&compiled("run-x")).await, ["gs://root/1"], "at the first try");
    bench.store.restart_empty().await;
    assert_eq!(bench.find(&compiled("run-x")).await, Err(LookupError::NoContext));
}
