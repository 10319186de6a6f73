//! The real neighbours, for tests: etcd with kube-apiserver, ML Metadata, a subscriber with grpc-go, and on demand
//! Argo Events, NATS JetStream and Jaeger. A test binary says `mod peers;` and
//!
//! ```ignore
//! #[tokio::test]
//! async fn something_true() {
//!     let Some(peers) = Peers::find().await else { return };
//!     let cluster = peers.cluster().await;                   // one API server for all tests of this binary
//!     let namespace = cluster.namespace("team").await;       // so: a namespace of its own for each test
//!     let workflows = cluster.workflows(&namespace).await;
//!     let run = workflows.create(NewWorkflow::tfx_v1("run-x", "penguin-pipeline")).await;
//!     let store = peers.metadata_store().await;              // its own, cheap
//!     let writer = store.writer().await;
//!     writer.tfx_run("penguin-pipeline", "run-x").await.task(Task::pusher("gs://root/1")).await;
//!     workflows.set_phase("run-x", "Succeeded").await;
//!     let client = cluster.client().await;                   // kube::Client as cluster administrator
//! }
//! ```
//!
//! What is here:
//!
//! | what | where | how to play faults with it |
//! |---|---|---|
//! | [`Cluster`] | [`Peers::cluster`] (shared), [`Peers::private_cluster`] | [`Cluster::kill_api_server`], [`Cluster::start_api_server`], [`Cluster::pause_api_server`], [`Cluster::compact_etcd`], [`Cluster::revoke`] |
//! | [`Workflows`], [`NewWorkflow`] | [`Cluster::workflows`] | |
//! | [`ServiceAccount`], rights and tokens | [`Cluster::service_account`], [`Cluster::grant`], [`Cluster::token`] | |
//! | YAML from files, applied | [`manifests`], [`Cluster::apply`] | |
//! | [`MetadataStore`] | [`Peers::metadata_store`] | [`MetadataStore::kill`], [`MetadataStore::restart_same_port`], [`MetadataStore::pause`], [`MetadataStore::backdate`] |
//! | [`Writer`]: ML Metadata's own API, and whole runs | [`MetadataStore::writer`] | |
//! | [`GrpcGoClient`] | [`Peers::grpc_go_client`] | [`GrpcGoClient::pause`], [`GrpcGoClient::kill`] |
//! | [`JetStream`], [`ArgoEvents`] | [`Peers::with`], then [`Peers::jet_stream`], [`Peers::argo_events`], [`Peers::argo_sensor`] | [`JetStream::kill`], [`ArgoEvents::pause`] |
//! | [`Jaeger`] | [`Peers::with`], then [`Peers::jaeger`] | [`Jaeger::kill`] |
//!
//! Every process ends with the test that holds it, and a test binary that is killed takes all of them along (see
//! [`process`]). Each writes a log; the tail of it is printed when a test fails. Nothing sleeps: waiting is
//! [`eventually`], on a condition, with a deadline.
//!
//! `tests/peers/build` builds the programs once, into a cache outside the tree; the first time takes about six minutes.
//! With `MODEL_UPDATE_PEERS=off` in the environment, the tests that need them say that they are skipped.
#![allow(dead_code, unused_imports, reason = "every test binary compiles this module and uses a part of it")]
#![allow(unreachable_pub, reason = "the module is written as a library of the tests")]

mod access;
mod argo_events;
mod cluster;
mod eventually;
mod grpc_go;
mod jaeger;
mod manifests;
mod metadata_store;
mod metadata_writer;
pub mod plain_http;
pub mod ports;
pub mod process;
mod runs;
mod workflow;

use std::{collections::BTreeMap, env, io::Write as _, path::PathBuf, process::Stdio, time::Duration};

pub use access::{Grant, ServiceAccount, rule};
pub use argo_events::{ArgoEvents, JetStream};
pub use cluster::{Cluster, SharedCluster};
pub use eventually::eventually;
pub use grpc_go::{GrpcGoClient, Line};
pub use jaeger::Jaeger;
pub use manifests::manifests;
pub use metadata_store::MetadataStore;
pub use metadata_writer::{Pair, Properties, Writer, int, proto, text};
pub use plain_http::{get, post_json};
pub use runs::{Model, Run, Task};
pub use workflow::{NewWorkflow, PHASE_LABEL, Workflows};

/// How long one neighbour may take to come up on a busy machine.
pub const START: Duration = Duration::from_secs(120);

/// How long what neighbours tell each other may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A cold build of everything takes ten minutes on two cores; a registry may be slow.
const BUILD: Duration = Duration::from_secs(45 * 60);

/// What every test gets without asking.
const DEFAULT: [&str; 4] = ["etcd", "kube-apiserver", "mlmd", "grpc-client"];

/// The programs of the neighbours, built.
#[derive(Clone, Debug)]
pub struct Peers {
    programs: BTreeMap<String, PathBuf>,
}

impl Peers {
    /// The usual neighbours, or `None` where the environment says `MODEL_UPDATE_PEERS=off`: the test then returns.
    ///
    /// # Panics
    /// If they cannot be built. Only the environment's explicit word skips a test.
    pub async fn find() -> Option<&'static Self> {
        static FOUND: tokio::sync::OnceCell<Option<Peers>> = tokio::sync::OnceCell::const_new();
        let found = FOUND.get_or_init(|| Self::build(&DEFAULT)).await.as_ref();
        if found.is_none() {
            skipped();
        }
        found
    }

    /// The neighbours of these names (`tests/peers/build --list`), for tests that need more than the usual ones.
    ///
    /// # Panics
    /// As [`Peers::find`].
    pub async fn with(names: &[&str]) -> Option<Self> {
        let built = Self::build(names).await;
        if built.is_none() {
            skipped();
        }
        built
    }

    async fn build(names: &[&str]) -> Option<Self> {
        if env::var("MODEL_UPDATE_PEERS").is_ok_and(|word| word == "off") {
            return None;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/build");
        let mut build = tokio::process::Command::new(script);
        // Its progress, and what it lacks, go straight to the terminal.
        build.args(names).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let output = tokio::time::timeout(BUILD, build.output())
            .await
            .expect("tests/peers/build took too long")
            .expect("tests/peers/build can be run: it needs python3");
        assert!(output.status.success(), "tests/peers/build failed; it says above what is missing");
        let printed = String::from_utf8(output.stdout).expect("paths in UTF-8");
        let programs = printed
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
            .collect();
        Some(Self { programs })
    }

    /// Where the program of this name is.
    ///
    /// # Panics
    /// If it was not asked for.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.get(name).unwrap_or_else(|| panic!("{name} was not asked for: Peers::with")).clone()
    }
}

/// Says so where a test runner's capture of a passing test's output does not swallow it.
fn skipped() {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let said = writeln!(std::io::stderr(), "skipped: {test}: it needs the real neighbours, and MODEL_UPDATE_PEERS=off");
    said.expect("stderr can be written");
}
