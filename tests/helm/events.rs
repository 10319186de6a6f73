//! Kubernetes Events on Workflows, with the rights of the chart's account.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use model_update_eventsource::{
    delivery::{Notice, NoticeSink as _},
    k8s::{self, EventRecorder, KubernetesMetrics},
    model::{SubscriptionName, Uid},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use test_support::{
    CATCH_UP, Cluster, MetadataStore, Model, NewWorkflow, RunningServer, SOON, ServerProcess, ServiceAccount, Task,
    Workflows, eventually,
};

use super::{
    applied::{apply, create_namespaces},
    *,
};

/// A cluster with the chart, and a namespace.
struct Env {
    peers: Peers,
    cluster: Cluster,
    store: MetadataStore,
    team: String,
    workflows: Workflows,
}

impl Env {
    async fn start(values: &[&str]) -> Self {
        let peers = peers().await;
        let cluster = peers.private_cluster().await;
        create_namespaces(&cluster, &[NAMESPACE]).await;
        apply(&cluster, &rendered(&peers, values)).await;
        let team = cluster.namespace("team").await;
        let workflows = cluster.workflows(&team).await;
        let store = peers.metadata_store().await;
        Self { peers, cluster, store, team, workflows }
    }

    /// Returns a kubeconfig of the chart's account.
    async fn kubeconfig(&self) -> PathBuf {
        let account = ServiceAccount { namespace: NAMESPACE.to_owned(), name: FULLNAME.to_owned() };
        self.cluster.kubeconfig_file(&self.cluster.token(&account, &[]).await)
    }

    /// Starts the program with the account of the chart and Kubernetes Events.
    async fn server(&self) -> RunningServer {
        let kubeconfig = self.kubeconfig().await;
        let flags = ["--kubernetes-events"];
        let environment = ["POD_NAME=replica-1".to_owned()];
        let process = ServerProcess::start_with_env(&environment, &kubeconfig, &self.store.url(), &flags);
        let server = process.listening().await;
        server.ready().await;
        server
    }

    /// Creates a succeeded run of a pipeline. Returns the UID of its Workflow.
    async fn succeed(&self, name: &str, pipeline: &str) -> String {
        self.workflows.create(NewWorkflow::tfx_v1(name, pipeline).phase("Succeeded")).await.uid().unwrap()
    }

    /// Creates a succeeded run with a model.
    async fn succeed_with_model(&self, name: &str, pipeline: &str) -> String {
        let writer = self.store.writer().await;
        writer.tfx_run(pipeline, name).await.task(Task::pusher(&format!("gs://root/{name}"))).await;
        self.succeed(name, pipeline).await
    }

    /// Waits for an Event with this reason, by the query of `kubectl describe`.
    async fn event(&self, run: &str, uid: &str, reason: &str) -> Event {
        let events = Api::<Event>::namespaced(self.cluster.client().await, &self.team);
        let selector = format!(
            "involvedObject.kind=Workflow,involvedObject.name={run},involvedObject.namespace={},involvedObject.uid={uid}",
            self.team
        );
        eventually(CATCH_UP, &format!("an Event {reason} of {run}"), async || {
            let mut found = events.list(&ListParams::default().fields(&selector)).await.unwrap().items;
            let position = found.iter().position(|event| event.reason.as_deref() == Some(reason));
            position.map(|position| found.swap_remove(position)).ok_or(found)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_owner_of_a_run_sees_what_became_of_its_event() {
    let env = Env::start(&["--set", "kubernetesEvents.enabled=true"]).await;
    let server = env.server().await;
    let config = format!("kfpNamespace: {}\nsubscription: deploy\npipelines: [penguin, big]", env.team);
    let mut client = env.peers.grpc_go_client(server.listen, &config).start();
    server.logged_for("stream attached", "deploy").await;

    let delivered = env.succeed_with_model("delivered", "penguin").await;
    assert!(client.payload(SOON).await.contains("gs://root/delivered"));
    let writer = env.store.writer().await;
    writer.tfx_run("penguin", "modelless").await.task(Task::new("Trainer")).await;
    let modelless = env.succeed("modelless", "penguin").await;
    let filtered = env.succeed_with_model("filtered", "iris").await;
    let pushed = |part| Model::pushed(&format!("gs://root/{part}/{}", "x".repeat(16 << 10)));
    let many = (0..40).fold(Task::new("Pusher"), |task, part| task.output(pushed(part)));
    writer.tfx_run("big", "large").await.task(many).await;
    let large = env.succeed("large", "big").await;
    let run_id = uuid::Uuid::from_u128(rand::random()).to_string();
    writer.kfp_run("taxi", &run_id, "other-team").await.task(Task::new("train")).await;
    let foreign = env.workflows.create(NewWorkflow::kfp_v2("taxi", &run_id).phase("Succeeded")).await;
    let (foreign, foreign_uid) = (foreign.name_any(), foreign.uid().unwrap());

    for (run, uid, reason, kind, words) in [
        ("delivered", &delivered, "Delivered", "Normal", "delivered to the subscription deploy"),
        ("modelless", &modelless, "NoModel", "Normal", "no event for the subscription deploy: the run produced no"),
        (
            "filtered",
            &filtered,
            "Filtered",
            "Normal",
            "every attached subscription (1) exclude the run, those of deploy",
        ),
        (&*foreign, &foreign_uid, "ForeignContext", "Warning", "belongs to another namespace"),
        ("large", &large, "TooLarge", "Warning", "the run's record is too large to be read"),
    ] {
        let event = env.event(run, uid, reason).await;
        let message = event.message.unwrap();
        let is_plain = ["gs://", "other-team"].iter().all(|secret| !message.contains(secret));
        assert!(message.contains(words) && is_plain, "{message}");
        assert_eq!(event.type_.as_deref(), Some(kind), "{run}");
        assert_eq!(event.reporting_component.as_deref(), Some("model-update-eventsource"));
        assert_eq!(event.reporting_instance.as_deref(), Some("replica-1"));
    }
    server.metric_is("modelupdate_kubernetes_events_total", &["outcome=\"created\""], 5.0).await;
    server.stop().await;

    // The server has forgotten what it has reported; the API server has not.
    let server = env.server().await;
    let _client = env.peers.grpc_go_client(server.listen, &config).start();
    server.metric_is("modelupdate_kubernetes_events_total", &["outcome=\"exists\""], 3.0).await;
    assert_eq!(server.metric("modelupdate_kubernetes_events_total", &["outcome=\"created\""]).await, 0.0);
}

/// The notices that a server sends only after minutes: the API server accepts their Events, once for all replicas.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn replicas_create_an_event_once() {
    let env = Env::start(&["--set", "kubernetesEvents.enabled=true"]).await;
    let uid = env.succeed("run", "penguin").await;
    let config = Kubeconfig::read_from(env.kubeconfig().await).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    for replica in ["replica-1", "replica-2"] {
        let mut registry = Registry::default();
        let client = k8s::Client::new(config.clone(), KubernetesMetrics::new(&mut registry)).unwrap();
        let recorder = EventRecorder::new(client, Some(replica.to_owned()));
        let running = tokio::spawn(recorder.clone().run());
        for (reason, subscription) in
            [("no_context", None), ("foreign_execution", None), ("marks_full", Some("deploy"))]
        {
            recorder.notify(Notice {
                namespace: (&*env.team).into(),
                workflow: "run".into(),
                uid: Uid::parse(&uid).unwrap(),
                finished: 7,
                subscription: subscription.map(|name| SubscriptionName::new(name).unwrap()),
                reason,
                is_warning: true,
                text: format!("the text of {reason}"),
            });
        }
        let outcome = if replica == "replica-1" { "created" } else { "exists" };
        let line = format!("kubernetes_events_total{{outcome=\"{outcome}\"}} 3");
        eventually(SOON, &line, async || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            if text.contains(&line) { Ok(()) } else { Err(text) }
        })
        .await;
        running.abort();
    }
    for (reason, word) in
        [("NoContext", "no_context"), ("ForeignExecution", "foreign_execution"), ("MarksFull", "marks_full")]
    {
        let event = env.event("run", &uid, reason).await;
        assert_eq!(event.message.unwrap(), format!("the text of {word}"));
        assert_eq!(event.reporting_instance.as_deref(), Some("replica-1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn without_the_right_events_are_delivered_and_it_is_logged_once() {
    let env = Env::start(&[]).await;
    let server = env.server().await;
    let config = format!("kfpNamespace: {}\nsubscription: deploy", env.team);
    let mut client = env.peers.grpc_go_client(server.listen, &config).start();
    for run in ["one", "two", "three"] {
        env.succeed_with_model(run, "penguin").await;
        assert!(client.payload(SOON).await.contains(&format!("gs://root/{run}")));
    }
    server.metric_is("modelupdate_kubernetes_events_total", &["outcome=\"refused\""], 3.0).await;
    server.metric_is("modelupdate_events_confirmed_total", &[], 3.0).await;
    let line = server.process.logged("cannot create a Kubernetes Event").await;
    assert!(line["hint"].as_str().unwrap().contains("kubernetesEvents.enabled=true"), "{line}");
    assert_eq!(server.process.log().matches("cannot create a Kubernetes Event").count(), 1);
}

/// The chart adds the right, and the variable, only where Kubernetes Events are wanted.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_right_to_create_events_is_opt_in() {
    let peers = peers().await;
    for (values, wanted) in [(vec![], false), (vec!["--values", "helm/ci/events-values.yaml"], true)] {
        let objects = rendered(&peers, &values);
        let roles = objects.iter().filter(|object| ["Role", "ClusterRole"].map(Value::from).contains(&object["kind"]));
        let rules: BTreeMap<_, _> =
            roles.map(|role| (role["metadata"]["namespace"].to_string(), &role["rules"])).collect();
        assert_eq!(rules.len(), if wanted { 2 } else { 1 }, "{rules:?}");
        let right = serde_json::json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]});
        assert!(rules.values().all(|rules| rules.as_array().unwrap().contains(&right) == wanted), "{rules:?}");
    }
}
