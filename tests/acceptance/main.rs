//! Deliveries to subscribers with real peers: Workflows on an API server, models in ML Metadata, events over gRPC.
//!
//! No test waits in order to show that an event is absent: a later run must be sent, and its event is the next.

mod deliveries;
mod events;
mod server;

use std::time::Duration;

use model_update_eventsource::{app::Config, model::workflow::RUN_ID_LABEL};
use test_support::{CATCH_UP, Model, NewWorkflow, PIPELINE, Peers, Task, TestEnv, TestServer, eventually, rule};

const MARK: &str = "published.pipelines.kubeflow.org/model-update";

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
