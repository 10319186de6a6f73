//! A check of an installation, and of what it depends on: the cluster, the sources of models, Argo Events, and the
//! EventSources and Sensors of the namespaces that it serves.
//!
//! A check that cannot be made for a missing right is a warning that names the right. Only what keeps events from
//! arriving is an error.

mod argo_events;
mod cause;
mod kubeflow_api;
mod kubernetes;
mod metadata;
mod network;
mod rights;
mod server;
mod services;
mod subscriptions;
mod tls;
mod workflows;

use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{ARGO, sources::SourceOptions};
use crate::{
    access::Mode,
    eventsource::TlsFiles,
    k8s::{Cluster, ClusterError, ClusterOptions},
};

/// Concurrent requests about the namespaces of a check.
const CONCURRENT: usize = 8;
/// The time limit of all requests about the namespaces of a check: enough for some hundred namespaces on a slow API
/// server.
const ALL_NAMESPACES: Duration = Duration::from_secs(60);

/// The scope of the checks, and the addresses that they use.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster and the rights.
    pub cluster: ClusterOptions,
    /// Before an install: the rights to install, and the dependencies.
    pub pre: bool,
    /// The only namespace with EventSources and runs. `None`: all.
    pub namespace: Option<String>,
    /// The namespaces that the server serves. Empty: as its Pod says, else all.
    pub namespaces: Vec<String>,
    /// The namespace of the server, for an install.
    pub install_namespace: String,
    /// Access control of the server.
    pub auth: Mode,
    /// The server writes Kubernetes Events.
    pub kubernetes_events: bool,
    /// Addresses that EventSources have for the server, in addition to its Services.
    pub services: Vec<String>,
    /// The longest outage after which no event may be missing.
    pub outage: Duration,
    /// The files of the server's TLS.
    pub tls: Option<TlsFiles>,
    /// The selector of runs.
    pub selector: String,
    /// The sources of models.
    pub sources: SourceOptions,
    /// The URL of the server's admin port. `None`: a ready Pod.
    pub admin: Option<String>,
    /// The namespaces in which the user says that the server is.
    pub server_namespaces: Vec<String>,
    /// The URL to which traces are exported.
    pub otlp: Option<String>,
}

/// The outcome of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Success,
    /// Something to look at, or not checked.
    Warning,
    /// Events do not arrive, or will not.
    Error,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The condition.
    pub description: String,
    /// Its outcome.
    pub result: Outcome,
    /// The mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Checks of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Category {
    /// The subject.
    pub category_name: &'static str,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

/// All checks, in the form of `linkerd check -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// There is no error.
    pub success: bool,
    /// The checks.
    pub categories: Vec<Category>,
}

/// The document about each subject: a runbook, which the program contains, or a page and its heading.
const DOCUMENTS: [(&str, &str); 11] = [
    ("kubernetes-api", "`model-update-eventsource runbook ModelUpdateWatchDown`"),
    ("server", "`model-update-eventsource runbook ModelUpdateEventsourceDown`"),
    ("server-rights", "`model-update-eventsource runbook ModelUpdateWatchDown`"),
    ("pre-install-rights", "helm/README.md#install"),
    ("argo-workflows", "`model-update-eventsource runbook ModelUpdateRunsLost`"),
    ("argo-events", "`model-update-eventsource runbook ModelUpdateSubscriberGone`"),
    ("event-sources", "docs/tools.md#rules"),
    ("ml-metadata", "`model-update-eventsource runbook ModelUpdateLookupsFailing`"),
    ("kubeflow-api", "`model-update-eventsource runbook ModelUpdateLookupsFailing`"),
    ("traces", "docs/tracing.md#enable-tracing"),
    ("tls", "docs/security.md#tls"),
];

impl Category {
    fn new(category_name: &'static str) -> Self {
        Self { category_name, checks: Vec::new() }
    }

    fn push(&mut self, description: impl Into<String>, result: Outcome, problem: Option<(String, String)>) {
        let (error, hint) = problem.unzip();
        let document = DOCUMENTS.iter().find(|(category, _)| *category == self.category_name);
        let see = document.map(|(_, document)| format!("see {document}")).unwrap_or_default();
        let parts =
            |hint: String| [hint.trim_end_matches('.').to_owned(), see].into_iter().filter(|text| !text.is_empty());
        let hint = hint.map(|hint| parts(hint).collect::<Vec<_>>().join("; ")).filter(|hint| !hint.is_empty());
        self.checks.push(Check { description: description.into(), result, hint, error });
    }

    /// Adds a check that holds.
    fn ok(&mut self, description: impl Into<String>) {
        self.push(description, Outcome::Success, None);
    }

    /// Adds a check that fails, with the problem and the mend.
    fn fail(&mut self, description: impl Into<String>, error: impl Into<String>, hint: impl Into<String>) {
        self.push(description, Outcome::Error, Some((error.into(), hint.into())));
    }

    /// Adds a check to look at, with the problem and the mend.
    fn warn(&mut self, description: impl Into<String>, error: impl Into<String>, hint: impl Into<String>) {
        self.push(description, Outcome::Warning, Some((error.into(), hint.into())));
    }

    /// Adds a check that could not be made, because of this answer of the cluster.
    fn unknown(&mut self, description: impl Into<String>, error: &ClusterError) {
        let hint = match error {
            ClusterError::Forbidden { .. } => {
                "not checked: grant this right to the account that runs the check, or use --as"
            }
            _ => "not checked: repeat the check when the API server answers",
        };
        self.warn(description, error.to_string(), hint);
    }

    /// Adds one warning for all requests without an answer within [`ALL_NAMESPACES`].
    fn unanswered(&mut self, number: usize, description: impl Into<String>) {
        if number > 0 {
            let error = format!("{number} without an answer within {} s", ALL_NAMESPACES.as_secs());
            let hint =
                "not checked: choose one namespace with -n, or repeat the check when the API server answers faster";
            self.warn(description, error, hint);
        }
    }
}

/// Makes requests, [`CONCURRENT`] at a time. Returns their answers in order, and `None` for each one without an answer
/// within [`ALL_NAMESPACES`].
async fn answers<F: Future>(requests: impl IntoIterator<Item = F>) -> Vec<Option<F::Output>> {
    let deadline = Instant::now() + ALL_NAMESPACES;
    let answer = async |request| {
        // A request that is polled after the deadline would be sent nevertheless.
        if Instant::now() < deadline { timeout_at(deadline, request).await.ok() } else { None }
    };
    stream::iter(requests).map(answer).buffered(CONCURRENT).collect().await
}

impl Report {
    fn of(categories: Vec<Category>) -> Self {
        let categories: Vec<_> = categories.into_iter().filter(|category| !category.checks.is_empty()).collect();
        let failed = |check: &Check| check.result == Outcome::Error;
        let success = !categories.iter().flat_map(|category| &category.checks).any(failed);
        Self { success, categories }
    }

    /// The checks with this outcome, with their category.
    pub fn with(&self, outcome: Outcome) -> impl Iterator<Item = (&'static str, &Check)> {
        let checks = |category: &'_ Category| category.category_name;
        self.categories
            .iter()
            .flat_map(move |category| category.checks.iter().map(move |check| (checks(category), check)))
            .filter(move |(_, check)| check.result == outcome)
    }
}

/// Makes all checks once.
pub async fn run(options: &Options) -> Report {
    let mut categories = Vec::new();
    let (api, cluster) = kubernetes::check(options).await;
    categories.push(api);
    let mut flags = None;
    if let Some(cluster) = &cluster {
        let server = server::find(cluster, &options.server_namespaces).await;
        if options.pre {
            categories.push(rights::to_install(cluster, options).await);
        } else {
            categories.push(server::check(cluster, options, &server).await);
            categories.push(rights::of_server(cluster, options, &server).await);
        }
        let argo = resources(cluster, ARGO).await;
        categories.push(workflows::check(cluster, options, &argo).await);
        categories.push(argo_events::check(cluster, options, &argo).await);
        if !options.pre {
            categories.push(subscriptions::check(cluster, options, &server).await);
            flags = server.has_pods().then_some(server.flags);
        }
    }
    let kubeflow = kubeflow_api::check(cluster.as_ref(), options, flags.as_ref()).await;
    categories.push(kubeflow.category);
    categories.push(metadata::check(cluster.as_ref(), options, kubeflow.knows_tasks).await);
    categories.push(network::otlp(options.otlp.as_deref()).await);
    categories.push(tls::check(options.tls.as_ref()));
    Report::of(categories)
}

/// The path of a resource, in one namespace or in all.
fn path(api: &str, namespace: Option<&str>, resource: &str) -> String {
    match namespace {
        Some(namespace) => format!("{api}/namespaces/{namespace}/{resource}"),
        None => format!("{api}/{resource}"),
    }
}

/// The names of the resources of an API group's version. Empty if there is no such version.
type Resources = Result<Vec<String>, ClusterError>;

async fn resources(cluster: &Cluster, api: &str) -> Resources {
    let Some(found) = cluster.get(api).await? else { return Ok(Vec::new()) };
    let names = found["resources"].as_array().into_iter().flatten().filter_map(|resource| resource["name"].as_str());
    Ok(names.map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests;
