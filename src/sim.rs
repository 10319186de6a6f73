//! A Kubernetes API server for Workflows and an ML Metadata store in memory, for the demo, benchmarks and tests.
//!
//! ```no_run
//! # use model_update_eventsource::sim::{NewWorkflow, Run, Sim, Task};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = Sim::start().await?;
//! sim.create_workflow("team", NewWorkflow::tfx_v1("run-x", "penguin-pipeline"))?;
//! sim.put_task(&Run::tfx_v1("penguin-pipeline", "run-x"), Task::pusher("gs://models/penguin/1"));
//! sim.set_phase("team", "run-x", "Succeeded")?;
//! # Ok(())
//! # }
//! ```

mod builders;
mod kubernetes;
mod metadata;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError},
};

use axum::{
    http::{StatusCode, Uri},
    serve::ListenerExt as _,
};
use kube::core::Status;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::transport::server::{Server, TcpIncoming};

use self::metadata::{Metadata, MetadataStoreServiceServer};
pub use self::{
    builders::{Model, NewWorkflow, Run, RunContext, Task, TaskEvent, Written, phase_patch},
    kubernetes::Requests,
};

/// A running simulation. Dropping it closes the ports; open connections end with the runtime.
pub struct Sim {
    kubernetes: Arc<kubernetes::Server>,
    metadata: Arc<Metadata>,
    kubernetes_url: Uri,
    metadata_address: SocketAddr,
    _servers: JoinSet<()>,
}

impl Sim {
    /// Starts both servers on free ports of the loopback interface.
    ///
    /// # Errors
    /// No port is available.
    pub async fn start() -> io::Result<Self> {
        let (kubernetes, metadata) = (Arc::<kubernetes::Server>::default(), Arc::<Metadata>::default());
        let kubernetes_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let metadata_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let kubernetes_url = format!("http://{}", kubernetes_listener.local_addr()?);
        let metadata_address = metadata_listener.local_addr()?;
        let mut servers = JoinSet::new();
        let router = kubernetes::router(kubernetes.clone());
        // A failure of either is an error of setting an option, after which the connection is only slower.
        let listener = kubernetes_listener.tap_io(|connection| _ = connection.set_nodelay(true));
        servers.spawn(async { _ = axum::serve(listener, router).await });
        let service = MetadataStoreServiceServer::from_arc(metadata.clone());
        let incoming = TcpIncoming::from(metadata_listener).with_nodelay(Some(true));
        servers.spawn(async { _ = Server::builder().add_service(service).serve_with_incoming(incoming).await });
        Ok(Self {
            kubernetes,
            metadata,
            kubernetes_url: Uri::try_from(kubernetes_url).map_err(io::Error::other)?,
            metadata_address,
            _servers: servers,
        })
    }

    /// Returns the client configuration for the API server.
    pub fn kube_config(&self) -> kube::Config {
        kube::Config::new(self.kubernetes_url.clone())
    }

    /// Returns the URL of ML Metadata.
    pub fn metadata_url(&self) -> String {
        format!("http://{}", self.metadata_address)
    }

    // === Workflows ===

    /// Creates a Workflow. Returns it as stored.
    ///
    /// # Errors
    /// A Workflow of this name exists.
    pub fn create_workflow(&self, namespace: &str, new: NewWorkflow) -> Result<Arc<Value>, Box<Status>> {
        self.kubernetes.change(|objects| objects.create(namespace, new.into_object()))
    }

    /// Sets the phase of a Workflow: `Pending`, `Running`, `Succeeded`, `Failed` or `Error`.
    ///
    /// # Errors
    /// The Workflow does not exist.
    pub fn set_phase(&self, namespace: &str, name: &str, phase: &str) -> Result<Arc<Value>, Box<Status>> {
        self.patch_workflow(namespace, name, &phase_patch(phase))
    }

    /// Applies a merge patch to a Workflow.
    ///
    /// # Errors
    /// The Workflow does not exist, or is not the one that the patch requires.
    pub fn patch_workflow(&self, namespace: &str, name: &str, patch: &Value) -> Result<Arc<Value>, Box<Status>> {
        self.kubernetes.change(|objects| objects.patch(namespace, name, patch))
    }

    /// Returns a Workflow as stored.
    ///
    /// # Errors
    /// The Workflow does not exist.
    pub fn workflow(&self, namespace: &str, name: &str) -> Result<Arc<Value>, Box<Status>> {
        self.kubernetes.objects().get(namespace, name)
    }

    /// Deletes a Workflow.
    ///
    /// # Errors
    /// The Workflow does not exist.
    pub fn delete_workflow(&self, namespace: &str, name: &str) -> Result<(), Box<Status>> {
        self.kubernetes.change(|objects| objects.delete(namespace, name)).map(drop)
    }

    /// Returns the version of the Workflows, which grows with every change.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.kubernetes.version.subscribe()
    }

    /// Returns the number of requests to the API server.
    pub fn requests(&self) -> watch::Receiver<Requests> {
        self.kubernetes.requests.subscribe()
    }

    /// Refuses all patches over HTTP with this status, until it is called with `None`.
    pub fn refuse_patches(&self, status: Option<StatusCode>) {
        *self.kubernetes.patch_refusal.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    // === ML Metadata ===

    /// Writes the contexts of a run, unless they exist. Returns the id of the run's own context.
    pub fn put_run(&self, run: &Run) -> i64 {
        self.metadata.put_run(run)
    }

    /// Writes a task of a run, with the run's contexts, unless they exist.
    pub fn put_task(&self, run: &Run, task: Task) -> Written {
        self.metadata.put_task(run, task)
    }

    /// Removes a run. Unlike the real store, which has no such call, a demo without end needs it.
    pub fn forget_run(&self, run: &Run) {
        self.metadata.forget(run);
    }
}

/// Returns a random UUID, the form of UIDs in Kubernetes and of run ids in Kubeflow.
fn random_uuid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

#[cfg(test)]
mod tests;
