//! What subscribers are promised, on the real neighbours: Workflows through a real API server, artifacts through ML
//! Metadata's own API, events over gRPC.
//!
//! That something does *not* come is shown without waiting: a run that must come is made after it, and is next.

mod peers;
mod served;

use std::time::Duration;

use model_update_eventsource::app::Config;
use peers::{MetadataStore, Model, NewWorkflow, Peers, SharedCluster, Task, Workflows, Writer, eventually, rule};
use served::{SOON, Served};

const PIPELINE: &str = "penguin-pipeline";

/// A server, a namespace, and what it takes to make runs in it.
struct World {
    cluster: SharedCluster,
    store: MetadataStore,
    writer: Writer,
    served: Served,
    namespace: String,
    workflows: Workflows,
}

impl World {
    async fn start() -> Option<Self> {
        Self::start_with(|_| {}).await
    }

    async fn start_with(adjust: impl FnOnce(&mut Config)) -> Option<Self> {
        let peers = Peers::find().await?;
        let cluster = peers.cluster().await;
        let store = peers.metadata_store().await;
        let mut config = Config {
            metadata_store: store.url(),
            kubernetes: Some(cluster.admin_config().await),
            confirm_after: Duration::from_millis(200),
            ..Config::default()
        };
        adjust(&mut config);
        let served = Served::start(config).await;
        let namespace = cluster.namespace("team").await;
        let workflows = cluster.workflows(&namespace).await;
        let writer = store.writer().await;
        Some(Self { cluster, store, writer, served, namespace, workflows })
    }

    fn config(&self) -> String {
        format!("kfpNamespace: {}", self.namespace)
    }

    /// A TFX run that pushed a model to `gs://root/<name>`, and has not succeeded yet.
    async fn pushed(&self, name: &str) {
        self.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE)).await;
        self.artifacts(name).await;
    }

    async fn artifacts(&self, name: &str) {
        let run = self.writer.tfx_run(PIPELINE, name).await;
        run.task(Task::pusher(&format!("gs://root/{name}"))).await;
    }

    /// One that has succeeded.
    async fn succeeded(&self, name: &str) {
        self.pushed(name).await;
        self.workflows.set_phase(name, "Succeeded").await;
    }

    async fn marks(&self, name: &str) -> Vec<(String, String)> {
        self.workflows.annotations(name, "published.pipelines.kubeflow.org/").await.into_iter().collect()
    }

    async fn marked(&self, name: &str) {
        eventually(SOON, &format!("a mark on {name}"), async || !self.marks(name).await.is_empty()).await;
    }
}

fn locations(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("gs://root/{name}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_succeeded_run_is_announced_byte_for_byte_as_documented_and_marked() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    let run = world.writer.tfx_run(PIPELINE, "run-x").await;
    let model = Model::pushed("gs://root/Pusher/pushed_model/1638")
        .text("name", "penguin-pipeline:run-x:Pusher:pushed_model:0");
    run.task(Task::new("Pusher").output(model)).await;
    world.workflows.create(NewWorkflow::tfx_v1("run-x", PIPELINE)).await;
    world.workflows.set_phase("run-x", "Running").await;
    let workflow = world.workflows.set_phase("run-x", "Succeeded").await;
    assert_eq!(
        events.next().await,
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:run-x:Pusher:pushed_model:0","location":"gs://root/Pusher/pushed_model/1638"}]}"#
    );
    world.marked("run-x").await;
    let uid = workflow.metadata.uid.expect("a UID");
    assert_eq!(world.marks("run-x").await, [("published.pipelines.kubeflow.org/model-update".to_owned(), uid)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscriber_catches_up_oldest_first() {
    let Some(world) = World::start().await else { return };
    for name in ["one", "two", "three"] {
        world.succeeded(name).await;
        // Kubernetes writes creation times in whole seconds.
        let created = std::time::SystemTime::now();
        eventually(SOON, "the next second", async || created.elapsed().expect("no jump") > Duration::from_millis(1050))
            .await;
    }
    let mut events = world.served.subscribe(&world.config()).await;
    for name in ["one", "two", "three"] {
        assert_eq!(events.next_locations().await, locations(&[name]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_created_already_succeeded_is_announced() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.artifacts("born").await;
    world.workflows.create(NewWorkflow::tfx_v1("born", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["born"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_did_not_succeed_are_not_announced() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    for phase in ["Pending", "Running", "Failed", "Error"] {
        let name = phase.to_lowercase();
        world.pushed(&name).await;
        world.workflows.set_phase(&name, phase).await;
    }
    // Not a run of Kubeflow's.
    world.artifacts("foreign").await;
    world.workflows.create(NewWorkflow::named("foreign").phase("Succeeded")).await;
    world.succeeded("good").await;
    assert_eq!(events.next_locations().await, locations(&["good"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_models_that_the_run_itself_pushed_are_announced() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    let old = world.writer.tfx_run(PIPELINE, "older").await.task(Task::pusher("gs://root/older")).await;

    let evaluates = world.writer.tfx_run(PIPELINE, "evaluates").await;
    evaluates.task(Task::new("Evaluator").input(Model::existing(old.artifacts[0], "baseline"))).await;
    let unblessed = world.writer.tfx_run(PIPELINE, "unblessed").await;
    unblessed.task(Task::new("Pusher").output(Model::unblessed("gs://root/unblessed"))).await;
    let nowhere = world.writer.tfx_run(PIPELINE, "nowhere").await;
    nowhere.task(Task::pusher("")).await;
    for name in ["evaluates", "unblessed", "nowhere"] {
        world.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE).phase("Succeeded")).await;
    }
    let reasons = ["reason=\"no_model\""];
    eventually(SOON, "three runs without a model", async || {
        world.served.metric("modelupdate_runs_unannounced_total", &reasons).await == 3.0
    })
    .await;
    world.succeeded("good").await;
    assert_eq!(events.next_locations().await, locations(&["good"]));
    assert!(world.marks("unblessed").await.is_empty(), "a run without a model is never marked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_name_gets_the_one_that_tfx_used_to_write() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("nameless").await;
    assert_eq!(
        events.next().await,
        r#"{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{"name":"penguin-pipeline:nameless:Pusher:pushed_model:0","location":"gs://root/nameless"}]}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_of_a_run_come_in_one_event_in_their_order() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    let run = world.writer.tfx_run(PIPELINE, "many").await;
    run.task(Task::new("Pusher").output(Model::pushed("gs://root/1")).output(Model::pushed("gs://root/2"))).await;
    run.task(Task::new("Pusher.b").output(Model::pushed("gs://root/3").named("own name"))).await;
    world.workflows.create(NewWorkflow::tfx_v1("many", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["1", "2", "3"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recurring_v1_run_is_named_by_ml_metadata() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.artifacts("recurring").await;
    world.workflows.create(NewWorkflow::recurring_v1("recurring")).await;
    world.workflows.set_phase("recurring", "Succeeded").await;
    let payload: serde_json::Value = serde_json::from_str(&events.next().await).expect("JSON");
    assert_eq!(payload["pipelineName"], PIPELINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn kfp_v2_runs_are_announced_for_both_artifact_types_and_a_plain_model_only_on_request() {
    let Some(world) = World::start().await else { return };
    let mut pushed = world.served.subscribe(&world.config()).await;
    let every = format!("{}\nsubscription: every\nartifactTypes: [system.Model]", world.config());
    let mut every = world.served.subscribe(&every).await;
    for (n, model) in [
        Model::new("system.Model", "model", "gs://root/plain"),
        Model::new("tfx.PushedModel", "pushed_model", "gs://root/tfx").number("pushed", 1),
        Model::new("system.Model", "model", "gs://root/system").number("pushed", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let run_id = uuid::Uuid::from_u128(rand::random()).to_string();
        let run = world.writer.kfp_run("taxi", &run_id, &world.namespace).await;
        run.task(Task::new("pusher").output(model)).await;
        let created = world.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id)).await;
        world.workflows.set_phase(&created.metadata.name.expect("a name"), "Succeeded").await;
        if n > 0 {
            let payload: serde_json::Value = serde_json::from_str(&pushed.next().await).expect("JSON");
            assert_eq!(payload["pipelineName"], "taxi");
            assert_eq!(payload["servingModelArtifacts"][0]["location"], ["", "gs://root/tfx", "gs://root/system"][n]);
        }
    }
    assert_eq!(every.next_locations().await, locations(&["plain"]));
    assert_eq!(every.next_locations().await, locations(&["system"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_sees_its_own_namespace_only() {
    let Some(world) = World::start().await else { return };
    let other = world.cluster.namespace("other").await;
    let mut events = world.served.subscribe(&world.config()).await;
    let mut others = world.served.subscribe(&format!("kfpNamespace: {other}")).await;
    let run = world.writer.tfx_run(PIPELINE, "theirs").await;
    run.task(Task::pusher("gs://root/theirs")).await;
    let theirs = world.cluster.workflows(&other).await;
    theirs.create(NewWorkflow::tfx_v1("theirs", PIPELINE).phase("Succeeded")).await;
    assert_eq!(others.next_locations().await, locations(&["theirs"]));
    world.succeeded("ours").await;
    assert_eq!(events.next_locations().await, locations(&["ours"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subscriptions_of_a_namespace_each_get_every_event_and_a_mark() {
    let Some(world) = World::start().await else { return };
    let mut first = world.served.subscribe_as("deploy", &world.config()).await;
    let mut second = world.served.subscribe_as("evaluate", &world.config()).await;
    world.succeeded("shared").await;
    assert_eq!(first.next_locations().await, locations(&["shared"]));
    assert_eq!(second.next_locations().await, locations(&["shared"]));
    eventually(SOON, "both marks", async || world.marks("shared").await.len() == 2).await;
    let marks: Vec<_> = world.marks("shared").await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(marks, ["published.pipelines.kubeflow.org/deploy", "published.pipelines.kubeflow.org/evaluate"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_does_not_come_again() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("once").await;
    assert_eq!(events.next_locations().await, locations(&["once"]));
    // Kubeflow's second change, an annotation of somebody's, and a reconnect after the mark.
    world.workflows.label("once", "pipeline/persistedFinalState", "true").await;
    world.workflows.annotate("once", "example.com/seen", Some("yes")).await;
    world.marked("once").await;
    drop(events);
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("next").await;
    assert_eq!(events.next_locations().await, locations(&["next"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_confirmed_comes_again() {
    let Some(world) = World::start_with(|config| config.confirm_after = Duration::from_secs(3600)).await else {
        return;
    };
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("again").await;
    assert_eq!(events.next_locations().await, locations(&["again"]));
    drop(events);
    let mut events = world.served.subscribe(&world.config()).await;
    assert_eq!(events.next_locations().await, locations(&["again"]));
    assert!(world.marks("again").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_mark_and_a_resubmitted_run_are_delivered_again() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("first").await;
    assert_eq!(events.next_locations().await, locations(&["first"]));
    world.marked("first").await;
    let mark = "published.pipelines.kubeflow.org/model-update";
    world.workflows.annotate("first", mark, None).await;
    assert_eq!(events.next_locations().await, locations(&["first"]));
    world.marked("first").await;

    // `argo resubmit` copies annotations: the copy carries a mark that is not its own.
    let (_, foreign) = world.marks("first").await.remove(0);
    world.artifacts("copy").await;
    let copy = NewWorkflow::tfx_v1("copy", PIPELINE).annotation(mark, &foreign).phase("Succeeded");
    let uid = world.workflows.create(copy).await.metadata.uid.expect("a UID");
    assert_eq!(events.next_locations().await, locations(&["copy"]));
    eventually(SOON, "a mark of its own", async || world.marks("copy").await == [(mark.to_owned(), uid.clone())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_run_loses_its_mark_and_is_announced_at_its_next_success() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("retried").await;
    assert_eq!(events.next_locations().await, locations(&["retried"]));
    world.marked("retried").await;
    world.workflows.set_phase("retried", "Running").await;
    eventually(SOON, "the mark is removed", async || world.marks("retried").await.is_empty()).await;
    world.workflows.set_phase("retried", "Succeeded").await;
    assert_eq!(events.next_locations().await, locations(&["retried"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_context_is_waited_for() {
    let Some(world) = World::start().await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.workflows.create(NewWorkflow::tfx_v1("late", PIPELINE).phase("Succeeded")).await;
    let no_context = ["reason=\"no_context\""];
    eventually(SOON, "asked in vain", async || {
        world.served.metric("modelupdate_lookup_retries_total", &no_context).await >= 1.0
    })
    .await;
    world.artifacts("late").await;
    assert_eq!(events.next_locations().await, locations(&["late"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_extra_fields_are_the_subscriptions_own() {
    let Some(world) = World::start().await else { return };
    let filtered = format!(
        "{}\nsubscription: filtered\npipelines: ['penguin-*']\nmaxAge: 1h\ninclude: [workflowUid, namespace, workflowName, runId, traceparent]",
        world.config()
    );
    let mut events = world.served.subscribe(&filtered).await;
    let taxi = world.writer.tfx_run("taxi", "taxi-run").await;
    taxi.task(Task::pusher("gs://root/taxi")).await;
    world.workflows.create(NewWorkflow::tfx_v1("taxi-run", "taxi").phase("Succeeded")).await;
    world.artifacts("full").await;
    let run_id = "6a1fbb0c-20a5-4a0d-9d8e-5a6f1b1e7b10";
    let created = world.workflows.create(NewWorkflow::tfx_v1("full", PIPELINE).run_id(run_id).phase("Succeeded")).await;
    let uid = created.metadata.uid.expect("a UID");
    let payload = events.next().await;
    let head = format!(
        r#"{{"pipelineName":"penguin-pipeline","servingModelArtifacts":[{{"name":"penguin-pipeline:full:Pusher:pushed_model:0","location":"gs://root/full"}}],"namespace":"{}","workflowName":"full","workflowUid":"{uid}","runId":"{run_id}","traceparent":"00-{}-"#,
        world.namespace,
        uid.replace('-', "")
    );
    assert!(payload.starts_with(&head), "{payload}\n{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_configuration_is_refused_with_its_key_and_the_way_out() {
    let Some(world) = World::start().await else { return };
    for (config, key) in [
        ("", "kfpNamespace"),
        ("subscription: a", "kfpNamespace is missing"),
        ("kfpNamespace: A_B", "kfpNamespace"),
        ("kfpNamespace: a\nkfpNamespaces: b", "did you mean kfpNamespace?"),
        ("kfpNamespace: a\nsubscription: A_B", "subscription"),
        ("kfpNamespace: a\npipelines: []", "pipelines"),
        ("kfpNamespace: a\nartifactTypes: []", "artifactTypes"),
        ("kfpNamespace: a\nmaxAge: soon", "maxAge"),
        ("kfpNamespace: a\ninclude: [everything]", "include"),
        ("kfpNamespace: [", "not valid YAML"),
    ] {
        let Err(error) = world.served.try_subscribe("x", config).await else { panic!("{config:?} was taken") };
        let message = error.to_string();
        assert!(message.starts_with("InvalidArgument: ") && message.contains(key), "{config:?}: {message}");
    }
    assert_eq!(world.served.metric("modelupdate_subscriptions_refused_total", &["InvalidArgument"]).await, 10.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_for_listed_namespaces_watches_and_serves_no_other() {
    let Some(peers) = Peers::find().await else { return };
    let allowed = peers.cluster().await.namespace("allowed").await;
    let Some(world) = World::start_with(|config| config.namespaces = vec![allowed.as_str().into()]).await else {
        return;
    };
    let Err(error) = world.served.try_subscribe("x", &world.config()).await else { panic!("it was taken") };
    assert!(
        error.to_string().starts_with("PermissionDenied: ") && error.to_string().contains("--namespaces"),
        "{error}"
    );
    let mut events = world.served.subscribe(&format!("kfpNamespace: {allowed}")).await;
    world.artifacts("inside").await;
    let workflows = world.cluster.workflows(&allowed).await;
    workflows.create(NewWorkflow::tfx_v1("inside", PIPELINE).phase("Succeeded")).await;
    assert_eq!(events.next_locations().await, locations(&["inside"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_subscribers_share_one_watch() {
    let Some(peers) = Peers::find().await else { return };
    let cluster = peers.private_cluster().await;
    let store = peers.metadata_store().await;
    let config =
        Config { metadata_store: store.url(), kubernetes: Some(cluster.admin_config().await), ..Config::default() };
    let served = Served::start(config).await;
    let writer = store.writer().await;
    let namespace = cluster.namespace("team").await;
    let mut subscribers = Vec::new();
    for n in 0..20 {
        subscribers.push(served.subscribe_as(&format!("s{n}"), &format!("kfpNamespace: {namespace}")).await);
    }
    writer.tfx_run(PIPELINE, "run").await.task(Task::pusher("gs://root/run")).await;
    let workflows = cluster.workflows(&namespace).await;
    workflows.create(NewWorkflow::tfx_v1("run", PIPELINE).phase("Succeeded")).await;
    for events in &mut subscribers {
        assert_eq!(events.next_locations().await, locations(&["run"]));
    }
    assert_eq!(cluster.open_watches("workflows").await, 1);
    let mark = "published.pipelines.kubeflow.org/";
    eventually(SOON, "twenty marks", async || workflows.annotations("run", mark).await.len() == 20).await;
    assert_eq!(served.metric("modelupdate_mlmd_lookups_total", &[]).await, 1.0, "one lookup, however many ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_watch_and_patch_are_all_the_rights_it_needs() {
    let Some(peers) = Peers::find().await else { return };
    let cluster = peers.cluster().await;
    let home = cluster.namespace("home").await;
    let account = cluster.service_account(&home, "server").await;
    let rights = vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])];
    cluster.grant(&account, None, rights).await;
    let token = cluster.token(&account, &[]).await;
    let restricted = cluster.config(&token).await;
    let Some(world) = World::start_with(|config| config.kubernetes = Some(restricted)).await else { return };
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("modest").await;
    assert_eq!(events.next_locations().await, locations(&["modest"]));
    world.marked("modest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_last_confirmation_and_mark_and_ends_streams_as_unavailable() {
    let Some(world) = World::start_with(|config| config.confirm_after = Duration::from_millis(700)).await else {
        return;
    };
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("last").await;
    assert_eq!(events.next_locations().await, locations(&["last"]));
    let World { served, workflows, store, .. } = world;
    let ((), end) = tokio::join!(served.stop(), events.end());
    assert_eq!(end.to_string(), "Unavailable: the server is shutting down");
    let marks = workflows.annotations("last", "published.pipelines.kubeflow.org/").await;
    assert_eq!(marks.len(), 1, "marked before the end");
    drop(store);
}
