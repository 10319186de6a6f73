//! Deliveries to subscribers with real peers: Workflows on an API server, models in ML Metadata, events over gRPC.
//!
//! No test waits in order to show that an event is absent: a later run must be sent, and its event is the next.

mod deliveries;
mod events;
mod latest;
mod program;
mod runs;
mod server;

use std::time::Duration;

use model_update_eventsource::{app::Config, model::workflow::RUN_ID_LABEL};
use serde_json::Value;
use test_support::{
    CATCH_UP, GrpcGoClient, Line, Model, NewWorkflow, PIPELINE, Peers, RunningServer, ServerProcess, Task, TestEnv,
    TestServer, eventually, rule,
};

const MARK: &str = "published.pipelines.kubeflow.org/model-update";
const FILTERED: &str = "modelupdate_runs_filtered_total";
const SKIPPED: &str = "modelupdate_runs_skipped_total";

/// Starts a server on a [`TestEnv`].
async fn start() -> (TestEnv, TestServer) {
    start_with(|_| {}).await
}

async fn start_with(adjust: impl FnOnce(&mut Config)) -> (TestEnv, TestServer) {
    let env = TestEnv::start(Peers::find().await).await;
    let mut config = Config { confirm_after: Duration::from_millis(200), ..env.server_config().await };
    adjust(&mut config);
    (env, TestServer::start(config).await)
}

/// Returns the locations of the models of these runs.
fn locations(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("gs://root/{name}")).collect()
}

/// Starts the program for a namespace, and a subscriber with these keys in addition to `kfpNamespace`.
async fn serve(keys: &str) -> (TestEnv, RunningServer, GrpcGoClient) {
    let env = TestEnv::start(Peers::find().await).await;
    let server = start_program(&env).await;
    let subscriber = subscribe(&env, &server, keys).await;
    (env, server, subscriber)
}

/// Starts the program for the namespace of this environment.
async fn start_program(env: &TestEnv) -> RunningServer {
    env.start_server(&[], &["--confirm-after=200ms", &format!("--namespaces={}", env.namespace)]).await
}

/// Starts a subscriber with grpc-go, with these keys in addition to `kfpNamespace`, and waits until it is accepted.
async fn subscribe(env: &TestEnv, server: &RunningServer, keys: &str) -> GrpcGoClient {
    let config = format!("{}\n{keys}", env.config());
    let mut client = Peers::find().await.grpc_go_client(server.listen, &config).start();
    assert_eq!(client.next(CATCH_UP).await, Some(Line::Open(true)));
    client
}

/// Returns the next event of a subscriber.
async fn event(client: &mut GrpcGoClient) -> Value {
    serde_json::from_str(&client.payload(CATCH_UP).await).expect("JSON")
}

/// Returns the locations of an event's models.
fn locations_of(event: &Value) -> Vec<&str> {
    let models = event["servingModelArtifacts"].as_array().expect("a list").iter();
    models.map(|model| model["location"].as_str().expect("text")).collect()
}

/// Returns a new run id of Kubeflow Pipelines.
fn run_id() -> String {
    uuid::Uuid::from_u128(rand::random()).to_string()
}
