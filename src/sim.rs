//! A small simulation of the outside world, in memory: a Kubernetes API server that knows Workflows, and an ML Metadata
//! store. The demo runs on it, and tests may; it does what these need and no more, and that as the real ones do.
//!
//! ```no_run
//! # use model_update_eventsource::sim::{NewWorkflow, Sim, Task};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = Sim::start().await?;
//! sim.create_workflow("team", NewWorkflow::tfx_v1("run-x", "penguin-pipeline"))?;
//! let run = sim.put_tfx_run("penguin-pipeline", "run-x");
//! sim.put_task(&run, Task::pusher("gs://models/penguin/1"));
//! sim.set_phase("team", "run-x", "Succeeded")?;
//! # Ok(())
//! # }
//! ```

mod connections;
mod kubernetes;
mod metadata;
pub mod play;
mod proto;
mod runs;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::http::{StatusCode, Uri};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{kubernetes::State, metadata::Metadata};
pub use self::{
    kubernetes::{Refusal, Requests},
    runs::{Model, NewWorkflow, Run, Task, Written},
};

/// A running simulation. It ends when this is dropped.
pub struct Sim {
    kubernetes: Arc<State>,
    metadata: Metadata,
    kubernetes_url: Uri,
    metadata_address: SocketAddr,
    stop: DropGuard,
}

/// A Workflow on the simulated API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimWorkflow {
    /// Its name, which the API server may have made.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What its annotations say.
    pub annotations: BTreeMap<String, String>,
}

impl Sim {
    /// Starts both servers on free ports of the loopback interface.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start() -> io::Result<Self> {
        let kubernetes_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let metadata_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let sim = Self {
            kubernetes: Arc::default(),
            metadata: Metadata::default(),
            kubernetes_url: Uri::try_from(format!("http://{}", kubernetes_listener.local_addr()?))
                .map_err(io::Error::other)?,
            metadata_address: metadata_listener.local_addr()?,
            stop: CancellationToken::new().drop_guard(),
        };
        let stop = sim.stop.token().clone();
        let serve_metadata = sim.metadata.clone().serve(metadata_listener);
        let serve_kubernetes = kubernetes::serve(kubernetes_listener, sim.kubernetes.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve_metadata));
        tokio::spawn(stop.run_until_cancelled_owned(serve_kubernetes));
        Ok(sim)
    }

    /// How to reach the API server.
    pub fn kube_config(&self) -> kube::Config {
        kube::Config::new(self.kubernetes_url.clone())
    }

    /// How to reach ML Metadata: `http://127.0.0.1:PORT`.
    pub fn metadata_url(&self) -> String {
        format!("http://{}", self.metadata_address)
    }

    // === Workflows ===

    /// Creates a Workflow.
    ///
    /// # Errors
    /// The API server's refusal: a name that is taken, or is none.
    pub fn create_workflow(&self, namespace: &str, new: NewWorkflow) -> Result<SimWorkflow, Refusal> {
        Ok(SimWorkflow::of(&*self.kubernetes.create(namespace, new.into_object())?))
    }

    /// Changes a Workflow's phase as Argo's controller does, in one update. A phase is one of `Pending`, `Running`,
    /// `Succeeded`, `Failed` and `Error`.
    ///
    /// # Errors
    /// Where there is no such Workflow.
    pub fn set_phase(&self, namespace: &str, name: &str, phase: &str) -> Result<SimWorkflow, Refusal> {
        Ok(SimWorkflow::of(&*self.kubernetes.patch(namespace, name, &runs::phase_patch(phase))?))
    }

    /// Sets a label of a Workflow.
    ///
    /// # Errors
    /// Where there is no such Workflow, or that is no label.
    pub fn label_workflow(&self, namespace: &str, name: &str, key: &str, value: &str) -> Result<SimWorkflow, Refusal> {
        let patch = json!({"metadata": {"labels": {key: value}}});
        Ok(SimWorkflow::of(&*self.kubernetes.patch(namespace, name, &patch)?))
    }

    /// A Workflow as it is now.
    ///
    /// # Errors
    /// Where there is no such Workflow.
    pub fn workflow(&self, namespace: &str, name: &str) -> Result<SimWorkflow, Refusal> {
        Ok(SimWorkflow::of(&*self.kubernetes.get(namespace, name)?))
    }

    /// Deletes a Workflow, as Kubeflow does a day after it finished.
    ///
    /// # Errors
    /// Where there is no such Workflow.
    pub fn delete_workflow(&self, namespace: &str, name: &str) -> Result<(), Refusal> {
        self.kubernetes.delete(namespace, name).map(drop)
    }

    /// The version of the Workflows, which grows with each change of one.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.kubernetes.version()
    }

    /// What has been asked of the API server so far; follows what is asked from now on.
    pub fn requests(&self) -> watch::Receiver<Requests> {
        self.kubernetes.requests()
    }

    // === Faults of the API server ===

    /// Answers every patch through the API with this error from now on; `None` ends it.
    pub fn refuse_patches(&self, status: Option<StatusCode>) {
        self.kubernetes.refuse_patches(status);
    }

    /// Answers nothing and tells watches nothing while it is paused. Connections stay.
    pub fn pause(&self, paused: bool) {
        self.kubernetes.pause(paused);
    }

    /// Forgets old versions: a watch that would go on from one is told 410.
    pub fn compact(&self) {
        self.kubernetes.compact();
    }

    // === ML Metadata ===

    /// Writes the contexts of a run of TFX on Kubeflow Pipelines v1.
    pub fn put_tfx_run(&self, pipeline: &str, workflow: &str) -> Run {
        self.metadata.tfx_run(pipeline, workflow)
    }

    /// Writes the contexts of a run on Kubeflow Pipelines v2.
    pub fn put_kfp_run(&self, pipeline: &str, run_id: &str, namespace: &str) -> Run {
        self.metadata.kfp_run(pipeline, run_id, namespace)
    }

    /// Writes a task of a run, with all that it read and put out.
    pub fn put_task(&self, run: &Run, task: Task) -> Written {
        self.metadata.task(run, task)
    }

    /// Takes a run out of ML Metadata. The real store never forgets; a demo that goes on for ever has to.
    pub fn forget_run(&self, run: &Run) {
        self.metadata.forget(run);
    }
}

/// A new UUID, in its usual form: a UID of Kubernetes, an id of Kubeflow's.
fn random_uuid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().hyphenated().to_string()
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("kubernetes", &self.kubernetes_url)
            .field("metadata", &self.metadata_address)
            .finish_non_exhaustive()
    }
}

impl SimWorkflow {
    fn of(object: &kubernetes::Object) -> Self {
        let annotations = object.metadata()["annotations"].as_object().into_iter().flatten();
        let text =
            |(key, value): (&String, &serde_json::Value)| value.as_str().map(|value| (key.clone(), value.to_owned()));
        Self {
            name: object.text("name").to_owned(),
            uid: object.text("uid").to_owned(),
            annotations: annotations.filter_map(text).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
