//! Argo Events end to end: the EventSources and Sensors of `examples/` in Argo Events' own code, a real JetStream bus, and
//! the program with a real API server and ML Metadata. The tests assert the input and the effects of a Sensor's trigger.
//!
//! The files are used unchanged, but for the `url` of an EventSource, which is the address of the test's server, and the
//! namespace, where a test needs one of its own.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

mod alerting;
mod deploying;
mod first_hour;
mod logging;
mod restarts;
mod teams;
mod tokens;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use k8s_openapi::ByteString;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use model_update_eventsource::model::workflow::MARK_PREFIX;
use serde_json::{Value, json};
use test_support::{
    ArgoEvents, JetStream, MetadataStore, Model, NewWorkflow, Peers, RunningServer, SOON, START, ServerProcess,
    ServiceAccount, SharedCluster, Task, Workflows, Writer, eventually, free_port,
};

/// Log message of an EventSource whose stream is open.
const CONNECTED: &str = "connected to eventsource server successfully";

/// Deadline for a reconnect on a busy machine. Argo Events retries every five seconds, and may need two attempts.
const RECONNECT: Duration = Duration::from_secs(20);

/// Deadline for an event to reach its trigger on a busy machine.
const DELIVERY: Duration = Duration::from_secs(60);

/// An API server, an ML Metadata store, and the address of the server.
struct Harness {
    peers: Peers,
    cluster: SharedCluster,
    store: MetadataStore,
    writer: Writer,
    listen: SocketAddr,
}

impl Harness {
    async fn start() -> Self {
        let peers = Peers::with(&["argo-events", "nats-server"]).await;
        let cluster = peers.cluster().await;
        let store = peers.metadata_store().await;
        let writer = store.writer().await;
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { peers, cluster, store, writer, listen }
    }

    /// Starts the program with its defaults.
    async fn serve(&self) -> RunningServer {
        self.serve_with(&[]).await
    }

    /// Starts the program with these flags.
    async fn serve_with(&self, flags: &[&str]) -> RunningServer {
        let kubeconfig = self.cluster.admin_kubeconfig_file();
        let server = ServerProcess::start_at(self.listen, &kubeconfig, &self.store.url(), flags).listening().await;
        assert_eq!(server.listen, self.listen);
        server
    }

    /// Creates a run that has pushed a model to `gs://models/<run>` and has not succeeded yet. Its name must be unique: TFX
    /// has no namespaces in ML Metadata.
    async fn create_run(&self, namespace: &str, pipeline: &str, run: &str) {
        self.cluster.workflows(namespace).await.create(NewWorkflow::tfx_v1(run, pipeline)).await;
        self.push(pipeline, run, "Pusher", &location(run)).await;
    }

    /// Writes a model that a node of a run has pushed.
    async fn push(&self, pipeline: &str, run: &str, node: &str, location: &str) {
        self.writer.tfx_run(pipeline, run).await.task(Task::new(node).output(Model::pushed(location))).await;
    }

    /// Creates a run that has succeeded.
    async fn complete(&self, namespace: &str, pipeline: &str, run: &str) {
        let run = NewWorkflow::tfx_v1(run, pipeline).phase("Succeeded");
        self.cluster.workflows(namespace).await.create(run).await;
    }

    /// Creates a run that pushes a model and then succeeds. Returns the UID of its Workflow.
    async fn succeed(&self, namespace: &str, pipeline: &str, run: &str) -> String {
        self.create_run(namespace, pipeline, run).await;
        let workflow = self.cluster.workflows(namespace).await.set_phase(run, "Succeeded").await;
        workflow.metadata.uid.unwrap()
    }

    /// Waits until the run has the mark of this subscription.
    async fn marked(&self, namespace: &str, run: &str, subscription: &str) {
        let workflows = self.cluster.workflows(namespace).await;
        let mark = format!("{MARK_PREFIX}{subscription}");
        eventually(SOON, &format!("{mark} on {run}"), async || workflows.annotations(run, &mark).await.len() == 1)
            .await;
    }

    /// Starts Argo Events with these objects, on a bus of its own. The Sensors start first: a Sensor does not receive events
    /// that were on the bus before its first start.
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
        let source = self.event_source(&bus, event_source).await;
        Argo { source, sensors: running, bus }
    }

    async fn event_source(&self, bus: &JetStream, event_source: &Value) -> ArgoEvents {
        let event_source = with_url(event_source, self.listen);
        let mut source = self.peers.argo_events(bus, Some(&event_source.to_string()), None);
        source.logged(START, &[CONNECTED]).await;
        source
    }

    /// Replaces the EventSource by another one of the same name.
    async fn replace_event_source(&self, argo: Argo, event_source: &Value) -> Argo {
        let Argo { source, sensors, bus } = argo;
        // Argo Events elects one leader among the Pods of an EventSource.
        drop(source);
        Argo { source: self.event_source(&bus, event_source).await, sensors, bus }
    }

    /// Writes a kubeconfig with the service account of a Sensor. A Sensor without an account has no permissions.
    async fn kubeconfig(&self, sensor: &Value) -> PathBuf {
        let (metadata, account) = (&sensor["metadata"], &sensor["spec"]["template"]["serviceAccountName"]);
        match (metadata["namespace"].as_str(), account.as_str()) {
            (Some(namespace), Some(name)) => self.cluster.kubeconfig_file(&self.token(namespace, name).await),
            _ => self.cluster.kubeconfig_file("no-account"),
        }
    }

    async fn token(&self, namespace: &str, name: &str) -> String {
        let account = ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
        self.cluster.token(&account, &[]).await
    }

    /// Applies the objects that are not of Argo Events: service accounts and their permissions.
    async fn apply_accounts(&self, objects: &[Value]) {
        for object in objects.iter().filter(|object| object["apiVersion"] != "argoproj.io/v1alpha1") {
            self.cluster.apply("examples", object).await.unwrap_or_else(|refusal| panic!("{refusal:?}: {object}"));
        }
    }

    /// Installs KServe's kind `InferenceService`.
    async fn inference_services(&self, namespace: &str) -> InferenceServices {
        self.cluster.install_kind(&InferenceServices::kind()).await;
        InferenceServices::new(self.cluster.client().await, namespace)
    }
}

/// The InferenceServices of a namespace.
struct InferenceServices(Api<DynamicObject>);

impl InferenceServices {
    fn kind() -> ApiResource {
        ApiResource::from_gvk(&GroupVersionKind::gvk("serving.kserve.io", "v1beta1", "InferenceService"))
    }

    fn new(client: kube::Client, namespace: &str) -> Self {
        Self(Api::namespaced_with(client, namespace, &Self::kind()))
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

    /// Waits until the service refers to the model of this run. The other fields must be unchanged.
    async fn serves(&self, name: &str, run: &str) {
        eventually(DELIVERY, &format!("{name} serves the model of {run}"), async || {
            let predictor = self.0.get(name).await.unwrap().data["spec"]["predictor"].clone();
            let model = json!({"modelFormat": {"name": "tensorflow"}, "storageUri": location(run)});
            (predictor == json!({"minReplicas": 2, "model": model})).then_some(()).ok_or(predictor)
        })
        .await;
    }
}

/// Returns an EventSource of this server.
fn with_url(event_source: &Value, server: SocketAddr) -> Value {
    let mut event_source = event_source.clone();
    event_source["spec"]["generic"]["model-update"]["url"] = json!(server.to_string());
    event_source
}

/// A running EventSource with its bus and Sensors.
struct Argo {
    source: ArgoEvents,
    sensors: Vec<ArgoEvents>,
    bus: JetStream,
}

impl Argo {
    /// Number of connections that the EventSource has made.
    fn connections(&self) -> usize {
        self.source.log().matches(CONNECTED).count()
    }

    /// Number of events that the EventSource has read.
    fn events(&self) -> usize {
        self.source.log().matches("received an event from server").count()
    }

    /// Waits until the EventSource has read this number of events.
    ///
    /// # Panics
    /// If it reads more.
    async fn received(&self, events: usize) {
        eventually(DELIVERY, &format!("{events} events at the EventSource"), async || {
            let received = self.events();
            assert!(received <= events, "{received} events, not {events}");
            (received == events).then_some(()).ok_or(received)
        })
        .await;
    }

    /// Waits until the trigger of each Sensor has succeeded this number of times.
    ///
    /// # Panics
    /// If it succeeds more often.
    async fn triggered(&self, times: usize) {
        for sensor in 0..self.sensors.len() {
            self.sensor_triggered(sensor, times).await;
        }
    }

    /// The same for one Sensor.
    async fn sensor_triggered(&self, sensor: usize, times: usize) {
        eventually(DELIVERY, &format!("{times} triggers"), async || {
            let done = self.sensors[sensor].log().matches("Successfully processed trigger").count();
            assert!(done <= times, "triggered {done} times, not {times}");
            (done == times).then_some(()).ok_or(done)
        })
        .await;
    }

    /// Payloads that the log trigger of the first Sensor has written.
    fn logged(&self) -> Vec<String> {
        let lines = self.sensors[0].log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let triggered = lines.filter(|line| line["dependencyName"] == "model-update-eventsource");
        triggered.map(|line| decoded(line["msg"].as_str().unwrap())).collect()
    }
}

/// Decodes the payload: without `jsonBody`, Argo Events encodes it in Base64.
fn decoded(data: &str) -> String {
    let mut data: Value = serde_json::from_str(data).unwrap();
    let body: ByteString = serde_json::from_value(data["body"].take()).unwrap();
    String::from_utf8(body.0).unwrap()
}

fn location(run: &str) -> String {
    format!("gs://models/{run}")
}

/// Returns the Workflows that a Sensor has started: name, and values of the parameters.
async fn started(workflows: &Workflows) -> Vec<(String, Vec<Value>)> {
    let all = workflows.api().list(&Default::default()).await.unwrap();
    let started = all.into_iter().filter_map(|workflow| {
        let name = workflow.metadata.name?;
        let parameters = workflow.data["spec"]["arguments"]["parameters"].as_array()?;
        Some((name, parameters.iter().map(|parameter| parameter["value"].clone()).collect()))
    });
    started.collect()
}
