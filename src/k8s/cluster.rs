//! The connection of a command to a cluster, with the rights of the person who runs it.
//!
//! The server's own connection ([`Client`]) retries forever and reports to logs and metrics. A command asks once, within
//! a time limit, and explains a failure to its user: [`ClusterError`] distinguishes what the user can do about it.

mod config;
mod error;
mod forward;
mod names;
mod workflows;

use std::{fmt, time::Duration};

use http::{Request, header::ACCEPT};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, api::PostParams};
use serde_json::Value;
use tokio::time::timeout;

pub use self::{
    config::ClusterOptions,
    error::ClusterError,
    forward::Forward,
    names::KubeconfigNames,
    workflows::{VersionedWorkflow, WorkflowQuery},
};
use super::{
    Client, GROUP, KubernetesMetrics, PatchMarker, WORKFLOWS,
    client::{Answer, RequestError},
};
use crate::{
    delivery::{MarkError, MarkPatch, Marker},
    telemetry,
};

/// The size of a list page, in objects, as kubectl's.
const PAGE: usize = 500;
/// The limit of one answer, and of all pages of a list of Workflows together. A person has no use for more.
const MAX_BYTES: usize = 256 << 20;
/// The limit of all pages of a list that is kept as it is: small values take many times their text.
const MAX_LIST_BYTES: usize = 64 << 20;

/// A cluster, as a person may use it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    server: String,
    default_namespace: String,
    in_pod: bool,
    timeout: Duration,
    /// The addition to messages about a connection that fails.
    hint: Option<&'static str>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A right in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Right {
    /// The verb, for example `patch`.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource in the plural, for example `workflows`.
    pub resource: String,
    /// The part of the resource, for example `portforward`; empty for the resource itself.
    pub subresource: String,
    /// The namespace. `None`: all namespaces, or a resource without one.
    pub namespace: Option<String>,
    /// The name of the object. `None`: every object.
    pub name: Option<String>,
}

impl Right {
    /// The right to use this verb on Workflows.
    pub fn workflows(verb: &str, namespace: Option<&str>) -> Self {
        Self::new(verb, GROUP, WORKFLOWS, namespace)
    }

    /// The right to use this verb on a resource.
    pub fn new(verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> Self {
        Self {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.map(ToOwned::to_owned),
            ..Self::default()
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in the namespace {namespace:?}"),
            None => f.write_str(" in all namespaces"),
        }
    }
}

impl Cluster {
    /// Prepares the connection. Runs the credential plugin of the kubeconfig, if it has one; nothing else is started and
    /// nothing is sent.
    ///
    /// # Errors
    /// There is no usable configuration.
    pub async fn connect(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let config::Loaded { config, in_pod, hint } = config::load(options).await?;
        let (server, default_namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        // No metric counts them: the command ends soon.
        let metrics = KubernetesMetrics::new(&mut telemetry::registry());
        let client = Client::new(config, metrics).map_err(|error| ClusterError::config(&error))?;
        Ok(Self { client, server, default_namespace, in_pod, timeout: options.request_timeout, hint })
    }

    /// The namespace of the context, or of the Pod.
    pub fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    /// The address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns whether the rights are those of the Pod in which the command runs: then it reaches Services itself.
    pub fn is_in_pod(&self) -> bool {
        self.in_pod
    }

    /// Returns the object, or any other JSON, at this path: `/api/v1/namespaces/team/pods/x`, `/version`. `None` if there
    /// is none (404).
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn get(&self, path: &str) -> Result<Option<Value>, ClusterError> {
        match self.read(path, "application/json", MAX_BYTES).await {
            Ok(text) => self.parse(path, &text).map(Some),
            Err(ClusterError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the text at this path: the log of a Pod.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn text(&self, path: &str) -> Result<String, ClusterError> {
        let text = self.read(path, "text/plain, */*", MAX_LIST_BYTES).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Returns the objects of a list, all pages of it. `query` contains parameters such as `labelSelector`.
    ///
    /// # Errors
    /// See [`ClusterError`]; [`ClusterError::NotFound`] if the cluster does not have this resource.
    pub async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, ClusterError> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut token = String::new();
        loop {
            let text = self.read(&paged(path, query, &token), "application/json", MAX_LIST_BYTES - bytes).await?;
            bytes += text.len();
            let mut page = self.parse(path, &text)?;
            let Value::Array(found) = page["items"].take() else {
                return Err(ClusterError::Malformed { path: path.to_owned(), message: "not a list".to_owned() });
            };
            items.extend(found);
            page["metadata"]["continue"].as_str().unwrap_or_default().clone_into(&mut token);
            if token.is_empty() {
                return Ok(items);
            }
        }
    }

    /// Returns whether the person has a right, as the API server decides it.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn allowed(&self, right: &Right) -> Result<bool, ClusterError> {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let attributes = ResourceAttributes {
            verb: Some(right.verb.clone()),
            group: Some(right.group.clone()),
            resource: Some(right.resource.clone()),
            subresource: some(&right.subresource),
            namespace: right.namespace.clone(),
            name: right.name.clone(),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.kube.clone());
        let post = PostParams::default();
        let answer = self.timed(api.create(&post, &review)).await?.map_err(|error| self.kube_error(&error))?;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }

    /// Writes or removes marks of one Workflow, with the preconditions of the server's own patches.
    ///
    /// # Errors
    /// As for the server's patches; a refusal for a missing right is [`MarkError::Refused`] with the status 403.
    pub async fn patch_marks(&self, patch: &MarkPatch) -> Result<(), MarkError> {
        PatchMarker::new(self.client.clone()).patch(patch).await
    }

    /// Forwards connections to a free port of this machine's loopback address to the port of a Pod, through the API server.
    ///
    /// # Errors
    /// See [`ClusterError`]. The first connection is made at once, so that a missing right shows here.
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forward, ClusterError> {
        Forward::start(self, namespace, pod, port).await
    }

    /// Returns the text of an answer, up to this number of bytes.
    async fn read(&self, path: &str, accept: &str, limit: usize) -> Result<Vec<u8>, ClusterError> {
        let read = async {
            let mut answer = self.send(path, accept).await?;
            let mut text = Vec::new();
            while let Some(chunk) = answer.next().await.map_err(|error| self.request_error(path, error))? {
                if text.len() + chunk.len() > limit {
                    return Err(ClusterError::TooLarge { path: path.to_owned() });
                }
                text.extend_from_slice(&chunk);
            }
            Ok(text)
        };
        self.timed(read).await?
    }

    async fn send(&self, path: &str, accept: &str) -> Result<Answer, ClusterError> {
        let request = Request::get(path).header(ACCEPT, accept).body(Vec::new());
        let request = request.map_err(|error| ClusterError::Malformed {
            path: path.to_owned(),
            message: format!("not a path of the API: {error}"),
        })?;
        self.client.send(request, self.timeout).await.map_err(|error| self.request_error(path, error))
    }

    fn parse(&self, path: &str, text: &[u8]) -> Result<Value, ClusterError> {
        serde_json::from_slice(text)
            .map_err(|error| ClusterError::Malformed { path: path.to_owned(), message: format!("not JSON: {error}") })
    }

    /// Limits the duration of a request.
    async fn timed<T>(&self, request: impl Future<Output = T>) -> Result<T, ClusterError> {
        timeout(self.timeout, request).await.map_err(|_elapsed| {
            let seconds = self.timeout.as_secs_f64();
            self.unreachable(format!("no answer within {seconds} s"))
        })
    }

    fn unreachable(&self, message: String) -> ClusterError {
        let message = match self.hint {
            Some(hint) => format!("{message}; {hint}"),
            None => message,
        };
        ClusterError::Unreachable { server: self.server.clone(), message }
    }

    fn request_error(&self, path: &str, error: RequestError) -> ClusterError {
        match error {
            RequestError::Refused(refusal) => ClusterError::refused(path, refusal.code, refusal.message),
            RequestError::Unanswered(error) => self.kube_error(&error),
            RequestError::Invalid(_) | RequestError::Malformed(_) => {
                ClusterError::Malformed { path: path.to_owned(), message: telemetry::log::chain(&error) }
            }
            RequestError::Interrupted(_) | RequestError::Silent(_) => self.unreachable(telemetry::log::chain(&error)),
        }
    }

    fn kube_error(&self, error: &kube::Error) -> ClusterError {
        match error {
            kube::Error::Api(status) => ClusterError::refused(&self.server, status.code, status.message.clone()),
            kube::Error::Auth(error) => ClusterError::config(error),
            error => self.unreachable(telemetry::log::chain(error)),
        }
    }
}

/// The path of a page of a list.
fn paged(path: &str, query: &[(&str, &str)], token: &str) -> String {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.extend_pairs(query).append_pair("limit", &PAGE.to_string());
    if !token.is_empty() {
        pairs.append_pair("continue", token);
    }
    format!("{path}?{}", pairs.finish())
}

#[cfg(test)]
mod tests;
