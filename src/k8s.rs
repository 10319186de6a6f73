//! The Kubernetes adapter: the watch that fills the store, the patches that write marks, and Kubernetes Events.
//!
//! - `client`: the connection to the API server, with its deadlines
//! - `cluster`: the connection of a command, with the rights of the person who runs it
//! - `object`: the decoder of a Workflow's metadata
//! - `watch`: the reflector's loop
//! - `marker`: patches of marks on Workflows
//! - `events`: Kubernetes Events on Workflows
//! - `selector`: the grammar of label selectors
//! - `metrics`: metrics of all of these

mod client;
mod cluster;
mod events;
#[cfg(test)]
mod fixtures;
mod marker;
mod metrics;
mod object;
mod reviews;
mod selector;
mod watch;

pub use client::{Client, ConnectError};
pub use cluster::{
    Cluster, ClusterError, ClusterOptions, Forward, KubeconfigNames, Right, VersionedWorkflow, WorkflowQuery,
};
pub use events::EventRecorder;
pub use marker::PatchMarker;
pub use metrics::KubernetesMetrics;
pub use reviews::ApiReviewer;
pub use selector::{SelectorError, check_selector};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use watch::fuzzing;
pub use watch::{Watch, Watches};

/// The API group of Workflows.
const GROUP: &str = "argoproj.io";
/// Their API version.
const VERSION: &str = "v1alpha1";
/// Their name in paths and permissions.
const WORKFLOWS: &str = "workflows";

/// Returns the path of the Workflows of one namespace, or of all.
fn workflows_path(namespace: Option<&str>) -> String {
    match namespace {
        None => format!("/apis/{GROUP}/{VERSION}/{WORKFLOWS}"),
        Some(namespace) => format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{WORKFLOWS}"),
    }
}
