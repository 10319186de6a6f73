//! Argo Events end to end: the EventSources and Sensors of `examples/`, as users copy them, through Argo Events' own code and
//! a real JetStream bus, with the program before a real API server and ML Metadata. What is asserted is what a Sensor's
//! trigger got or did.
//!
//! The files are taken as they are; an EventSource's `url` is replaced by the address of the test's server, and where a test
//! takes a namespace of its own, that is replaced as the files tell a user to.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod deploying;
mod documented;
mod replaced;
mod teams;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Namespace};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, PostParams},
};
use model_update_eventsource::model::workflow::MARK_PREFIX;
use serde_json::{Value, json};
use test_support::{
    ArgoEvents, JetStream, MetadataStore, NewWorkflow, Peers, RunningServer, SOON, START, ServerProcess,
    ServiceAccount, SharedCluster, Task, Workflows, Writer, eventually, free_port,
};

/// What the examples are about.
const PIPELINE: &str = "penguin-pipeline";
/// What an EventSource says when its stream is there.
const CONNECTED: &str = "connected to eventsource server successfully";
/// Argo Events dials again every five seconds, and may find a connection that is just being made: then once more. The rest
/// is for a busy machine.
const REDIAL: Duration = Duration::from_secs(20);
/// How long an event may take to its trigger on a busy machine.
const CARRIED: Duration = Duration::from_secs(60);

/// An API server, an ML Metadata, and the address at which a server is to be found.
struct World {
    peers: Peers,
    cluster: SharedCluster,
    store: MetadataStore,
    writer: Writer,
    listen: SocketAddr,
}

impl World {
    async fn start() -> Self {
        let peers = Peers::with(&["argo-events", "nats-server"]).await;
        let cluster = peers.cluster().await;
        let store = peers.metadata_store().await;
        let writer = store.writer().await;
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { peers, cluster, store, writer, listen }
    }

    /// The program, with its defaults, at this world's address.
    async fn serve(&self) -> RunningServer {
        let kubeconfig = self.cluster.admin_kubeconfig_file();
        let server = ServerProcess::start_at(self.listen, &kubeconfig, &self.store.url(), &[]).listening().await;
        assert_eq!(server.listen, self.listen);
        server
    }

    async fn create_namespace(&self, name: &str) {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(self.cluster.client().await).create(&PostParams::default(), &namespace).await.unwrap();
    }

    /// A run that pushed a model to `gs://models/<run>` and has not succeeded yet. Run names are unique in a world: TFX knows
    /// no namespaces.
    async fn pushed(&self, namespace: &str, pipeline: &str, run: &str) {
        self.cluster.workflows(namespace).await.create(NewWorkflow::tfx_v1(run, pipeline)).await;
        self.writer.tfx_run(pipeline, run).await.task(Task::pusher(&location(run))).await;
    }

    /// One that has succeeded; returns its Workflow's UID.
    async fn succeeded(&self, namespace: &str, pipeline: &str, run: &str) -> String {
        self.pushed(namespace, pipeline, run).await;
        let workflow = self.cluster.workflows(namespace).await.set_phase(run, "Succeeded").await;
        workflow.metadata.uid.unwrap()
    }

    /// Waits until the run's Workflow says that this subscription has got it.
    async fn marked(&self, namespace: &str, run: &str, subscription: &str) {
        let workflows = self.cluster.workflows(namespace).await;
        let mark = format!("{MARK_PREFIX}{subscription}");
        eventually(SOON, &format!("{mark} on {run}"), async || workflows.annotations(run, &mark).await.len() == 1)
            .await;
    }

    /// Argo Events with these objects, on a bus of its own. The Sensors come first: what is on a bus before a Sensor's first
    /// start, it never hears of.
    async fn argo(&self, event_source: &Value, sensors: &[&Value]) -> Argo {
        let bus = self.peers.jet_stream().await;
        let mut running = Vec::new();
        for sensor in sensors {
            let kubeconfig = self.kubeconfig(sensor).await;
            running.push(self.peers.argo_sensor(&bus, &sensor.to_string(), &kubeconfig));
        }
        for sensor in &mut running {
            sensor.logged(START, &["sensor", "Subscribing to subject"]).await;
        }
        let mut event_source = event_source.clone();
        event_source["spec"]["generic"]["model-update"]["url"] = json!(self.listen.to_string());
        let source = self.peers.argo_events(&bus, Some(&event_source.to_string()), None);
        let mut argo = Argo { source, sensors: running, _bus: bus };
        argo.source.logged(START, &[CONNECTED]).await;
        argo
    }

    /// A Sensor's Pod is its account; an account with no name here has no rights.
    async fn kubeconfig(&self, sensor: &Value) -> PathBuf {
        let (metadata, account) = (&sensor["metadata"], &sensor["spec"]["template"]["serviceAccountName"]);
        match (metadata["namespace"].as_str(), account.as_str()) {
            (Some(namespace), Some(name)) => self.cluster.kubeconfig_file(&self.token(namespace, name).await),
            _ => self.cluster.kubeconfig_file("nobody"),
        }
    }

    async fn token(&self, namespace: &str, name: &str) -> String {
        let account = ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
        self.cluster.token(&account, &[]).await
    }

    /// Applies what is not Argo Events' own: accounts and their rights.
    async fn apply_rights(&self, objects: &[Value]) {
        for object in objects.iter().filter(|object| object["apiVersion"] != "argoproj.io/v1alpha1") {
            self.cluster.apply("examples", object).await.unwrap_or_else(|refusal| panic!("{refusal:?}: {object}"));
        }
    }

    /// KServe's kind, as far as the API server has to know it.
    async fn inference_services(&self, namespace: &str) -> InferenceServices {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({
            "name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        });
        let names = json!({
            "kind": "InferenceService", "listKind": "InferenceServiceList", "plural": "inferenceservices",
            "singular": "inferenceservice",
        });
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "inferenceservices.serving.kserve.io"},
            "spec": {"group": "serving.kserve.io", "scope": "Namespaced", "names": names, "versions": [version]},
        });
        self.cluster.apply("tests", &crd).await.unwrap();
        let services = InferenceServices::new(self.cluster.client().await, namespace);
        eventually(SOON, "InferenceServices are served", async || services.0.list(&Default::default()).await).await;
        services
    }
}

/// The InferenceServices of a namespace.
struct InferenceServices(Api<DynamicObject>);

impl InferenceServices {
    fn new(client: kube::Client, namespace: &str) -> Self {
        let kind = GroupVersionKind::gvk("serving.kserve.io", "v1beta1", "InferenceService");
        Self(Api::namespaced_with(client, namespace, &ApiResource::from_gvk(&kind)))
    }

    async fn create(&self, name: &str) {
        let model = json!({"modelFormat": {"name": "tensorflow"}, "storageUri": "gs://models/before"});
        let service: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"minReplicas": 2, "model": model}},
        }))
        .unwrap();
        self.0.create(&PostParams::default(), &service).await.unwrap();
    }

    /// Waits until it serves this run's model, and that is all that has changed.
    async fn serves(&self, name: &str, run: &str) {
        eventually(CARRIED, &format!("{name} serves the model of {run}"), async || {
            let predictor = self.0.get(name).await.unwrap().data["spec"]["predictor"].clone();
            let model = json!({"modelFormat": {"name": "tensorflow"}, "storageUri": location(run)});
            (predictor == json!({"minReplicas": 2, "model": model})).then_some(()).ok_or(predictor)
        })
        .await;
    }
}

/// Argo Events, running.
struct Argo {
    source: ArgoEvents,
    sensors: Vec<ArgoEvents>,
    _bus: JetStream,
}

impl Argo {
    /// How often the EventSource has connected.
    fn connections(&self) -> usize {
        self.source.log().matches(CONNECTED).count()
    }

    /// How many events the EventSource has read.
    fn events(&self) -> usize {
        self.source.log().matches("received an event from server").count()
    }

    /// Waits until the EventSource has read so many events; more are too many.
    async fn received(&self, events: usize) {
        eventually(CARRIED, &format!("{events} events at the EventSource"), async || {
            let received = self.events();
            assert!(received <= events, "{received} events, not {events}");
            (received == events).then_some(()).ok_or(received)
        })
        .await;
    }

    /// Waits until each Sensor's trigger has done its work so many times.
    async fn triggered(&self, times: usize) {
        for sensor in &self.sensors {
            eventually(CARRIED, &format!("{times} triggers"), async || {
                let done = sensor.log().matches("Successfully processed trigger").count();
                assert!(done <= times, "triggered {done} times, not {times}");
                (done == times).then_some(()).ok_or(done)
            })
            .await;
        }
    }

    /// The payloads that the first Sensor's log trigger has written, decoded.
    fn logged(&self) -> Vec<String> {
        let lines = self.sensors[0].log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let triggered = lines.filter(|line| line["dependencyName"] == "model-update-eventsource");
        triggered.map(|line| decoded(line["msg"].as_str().unwrap())).collect()
    }
}

/// The payload in what Argo Events makes of it without `jsonBody`.
fn decoded(data: &str) -> String {
    let mut data: Value = serde_json::from_str(data).unwrap();
    let body: ByteString = serde_json::from_value(data["body"].take()).unwrap();
    String::from_utf8(body.0).unwrap()
}

fn location(run: &str) -> String {
    format!("gs://models/{run}")
}

/// The names of the Workflows that a Sensor has started, and the values of their parameters.
async fn started(workflows: &Workflows) -> Vec<(String, Vec<Value>)> {
    let all = workflows.api().list(&Default::default()).await.unwrap();
    let started = all.into_iter().filter_map(|workflow| {
        let name = workflow.metadata.name?;
        let parameters = workflow.data["spec"]["arguments"]["parameters"].as_array()?;
        Some((name, parameters.iter().map(|parameter| parameter["value"].clone()).collect()))
    });
    started.collect()
}
