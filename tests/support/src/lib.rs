//! Test support, compiled once for all integration tests: real peers of the product, the server under test, TCP and
//! HTTP helpers, and the figures that fault tests print.
//!
//! # Peers
//!
//! etcd with kube-apiserver, ML Metadata, a subscriber with grpc-go, and on demand Argo Events, NATS JetStream, Jaeger
//! and others. `tests/peers/build` builds the programs once, into a cache outside the tree; `tests/run` calls it before
//! the tests start.
//!
//! ```ignore
//! #[tokio::test]
//! #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
//! async fn a_run_is_marked() {
//!     let peers = Peers::find().await;
//!     // A namespace on the API server that all tests of this binary share, and an ML Metadata store.
//!     let env = TestEnv::start(peers).await;
//!     let server = env.start_server(&[], &[]).await;
//!     let mut subscriber = peers.grpc_go_client(server.listen, &env.config()).start();
//!     env.workflows.create(NewWorkflow::tfx_v1("run-x", PIPELINE)).await;
//!     env.writer.tfx_run(PIPELINE, "run-x").await.task(Task::pusher("gs://root/1")).await;
//!     env.workflows.set_phase("run-x", "Succeeded").await;
//!     subscriber.payload(SOON).await;
//!     env.marked("run-x", 1).await;
//! }
//! ```
//!
//! | peer | start | faults |
//! |---|---|---|
//! | [`Cluster`]: etcd and kube-apiserver | [`Peers::cluster`] (shared), [`Peers::private_cluster`] | [`Cluster::kill_api_server`], [`Cluster::start_api_server`], [`Cluster::pause_api_server`], [`Cluster::compact_etcd`], [`Cluster::revoke`] |
//! | [`Workflows`]: [`NewWorkflow`] | [`Cluster::workflows`] | |
//! | [`ServiceAccount`], its permissions and tokens | [`Cluster::service_account`], [`Cluster::grant`], [`Cluster::token`], [`Cluster::bound_token`], [`Cluster::signed_token`] | [`Cluster::delete_account`] |
//! | objects from `kubectl create` commands | [`Cluster::kubectl`] | |
//! | requests to the API server | [`ApiProxy`] | [`ApiFault`] |
//! | objects from YAML files | [`manifests`], [`Cluster::apply`] | |
//! | [`MetadataStore`] | [`Peers::metadata_store`] | [`MetadataStore::kill`], [`MetadataStore::restart`], [`MetadataStore::pause`], [`MetadataStore::backdate`] |
//! | [`Writer`]: [`Run`], [`Task`] and [`Model`] in ML Metadata | [`MetadataStore::writer`] | |
//! | [`KfpServer`]: [`KfpRun`], [`KfpTask`] | [`KfpServer::start`] | [`KfpServer::set_fault`], [`KfpServer::set_has_tasks`] |
//! | [`GrpcGoClient`] | [`Peers::grpc_go_client`] | [`GrpcGoClient::pause`], [`GrpcGoClient::kill`] |
//! | [`Shell`]: documented commands, with kubectl and Helm | [`Peers::with`], then [`Peers::shell`] | |
//! | [`JetStream`], [`ArgoEvents`] | [`Peers::with`], then [`Peers::jet_stream`], [`Peers::argo_events`], [`Peers::argo_sensor`], [`Peers::argo_events_with_secrets`] | |
//! | [`Jaeger`] | [`Peers::with`], then [`Peers::jaeger`] | |
//!
//! # The server under test
//!
//! [`TestServer`] runs in the test's process, [`ServerProcess`] and [`RunningServer`] are the program as users start
//! it.
//!
//! # Benchmarks
//!
//! [`mod@bench`] has their flags and the rows of their report, [`process_stats`] the kernel's figures of a process, and
//! [`callgrind`] the instructions of a program.
//!
//! # Processes and waiting
//!
//! Every process ends with the test that started it, also when the test binary is killed ([`ChildProcess`]). Each
//! writes a log, and a failing test prints its tail. Nothing sleeps for a fixed time: [`eventually()`] polls a
//! condition until a deadline.

mod api_proxy;
pub mod bench;
pub mod callgrind;
mod child_process;
mod eventually;
pub mod examples;
mod kfp_server;
mod metrics;
mod peers;
pub mod plain_http;
mod ports;
pub mod process_stats;
mod server_process;
mod tally;
mod tcp_proxy;
mod test_env;
mod test_server;

pub use api_proxy::{ApiFault, ApiProxy, Requests};
pub use child_process::ChildProcess;
pub use eventually::{CATCH_UP, Outcome, SOON, eventually};
pub use kfp_server::{KfpArtifact, KfpCall, KfpFault, KfpRun, KfpServer, KfpTask, KfpUser, TaskKind, TaskState, Users};
pub use model_update_eventsource::sim::{Model, NewWorkflow, Run, Task, Written};
pub use peers::{
    ArgoEvents, Cluster, Grant, GrpcGoClient, Jaeger, JetStream, KfpOutput, Line, MetadataStore, Peers, Printed, START,
    ServiceAccount, SharedCluster, Shell, StoredRun, Subscribe, Workflows, Writer, can_have_root, code_blocks,
    documented_commands, find_object, kfp_task, manifests, plain_kubeconfig, rule,
};
pub use ports::free_port;
pub use server_process::{RunningServer, SHUTDOWN, ServerProcess};
pub use tally::{Tally, model_location, report};
pub use tcp_proxy::TcpProxy;
pub use test_env::{PIPELINE, TestEnv};
pub use test_server::{Events, TestServer};

/// Argo Events' generic EventSource, both sides.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod generic {
    tonic::include_proto!("generic");
}

/// Kubeflow's own API of runs and tasks.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod kfp_api {
    tonic::include_proto!("kubeflow.pipelines.backend.api.v2beta1");
}

/// Returns a random UUID.
fn random_uuid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// ML Metadata's own API, as far as tests write and check runs with it.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod ml_metadata {
    tonic::include_proto!("ml_metadata");
}
