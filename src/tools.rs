//! The logic of commands for people: what they ask of a cluster and of the server, and what follows from the answers.
//!
//! `cli` has the flags of each command and prints its results. Here are no flags, no colors and no questions to the
//! user.
//!
//! - [`check`]: an installation and its dependencies, subject by subject
//! - [`endpoints`]: the addresses of the server and of the sources of models, reached through a port-forward where
//!   needed
//! - [`sources`]: which sources of models are asked
//! - [`admin`]: requests to the server's admin port
//! - [`names`]: subscriptions as people name them
//! - [`known_names`]: names of a cluster, for shell completions
//! - [`explain`]: why a run's event arrived, has not arrived yet, or never will
//! - [`lint`]: problems of EventSources and Sensors, from their manifests
//! - [`report`]: one archive for a bug report
//! - [`runbooks`]: the runbooks of the alerts
//! - [`redeliver`]: which marks have to go for a redelivery, and their removal
//! - [`subscribe`]: the configuration of a stream for a person, and its course over connections

pub mod admin;
pub mod check;
pub mod endpoints;
pub mod explain;
pub mod known_names;
pub mod lint;
pub mod names;
pub mod redeliver;
pub mod report;
pub mod runbooks;
pub mod sources;
pub mod subscribe;

use serde_json::Value;

use crate::{
    k8s::{Cluster, ClusterError},
    model::workflow::RUN_ID_LABEL,
};

/// The label selector of runs, unless the server has another one.
pub const DEFAULT_SELECTOR: &str = RUN_ID_LABEL;

/// The API group of Argo, and its version.
const ARGO: &str = "/apis/argoproj.io/v1alpha1";

/// Returns the objects of one of Argo's resources in all namespaces. Without that right, or if they are too many, they
/// are those of one namespace, and the refusal.
async fn list_widely(
    cluster: &Cluster,
    resource: &str,
    fallback: Option<&str>,
) -> Result<(Vec<Value>, Option<ClusterError>), ClusterError> {
    let refused = match cluster.list(&format!("{ARGO}/{resource}"), &[]).await {
        Err(error) if error.is_unreadable() => error,
        listed => return Ok((listed?, None)),
    };
    let Some(namespace) = fallback else { return Err(refused) };
    match cluster.list(&format!("{ARGO}/namespaces/{namespace}/{resource}"), &[]).await {
        Err(error) if error.is_unreadable() => Err(refused),
        listed => Ok((listed?, Some(refused))),
    }
}
