//! The server's Pods and its readiness.

use http::StatusCode;
use serde_json::Value;

use super::{
    Category, Options,
    services::{self, Service},
};
use crate::{
    k8s::{Cluster, ClusterError},
    tools::{
        admin::{self, Answer},
        endpoints::{self, Endpoint, EndpointError, ServerPort},
    },
};

/// Characters of an answer in a message.
const MAX_WORDS: usize = 600;

/// Findings about the server.
#[derive(Debug)]
pub(super) struct Server {
    /// The number of its Pods, and the namespaces in which they were looked for.
    pub(super) pods: Result<(usize, String), ClusterError>,
    /// The user name of its service account.
    pub(super) account: Option<String>,
    /// Its flags that need rights.
    pub(super) flags: Flags,
    /// The Services that select its Pods.
    pub(super) services: Vec<Service>,
    /// The reason why some Services could not be read.
    pub(super) unreadable: Option<ClusterError>,
}

/// Flags of the server, as its Pod has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// It reviews tokens and rights.
    pub(super) reviews: bool,
    /// It writes Kubernetes Events.
    pub(super) kubernetes_events: bool,
    /// The namespaces that it serves. Empty for all.
    pub(super) namespaces: Vec<String>,
    /// The address of Kubeflow's API.
    pub(super) kfp_api: Option<String>,
    /// The sources of models.
    pub(super) artifacts: Option<String>,
}

impl Flags {
    fn of(pod: &Value) -> Self {
        let containers = pod["spec"]["containers"].as_array().map_or(&[][..], Vec::as_slice);
        let given = |name: &str| containers.iter().find_map(|container| flag(container, name));
        let value = |name: &str| given(name).unwrap_or_default();
        let namespaces = value("namespaces");
        Self {
            reviews: ["token", "audit"].contains(&value("auth").as_str()),
            kubernetes_events: ["true", "yes", "on", "1"].contains(&value("kubernetes-events").as_str()),
            namespaces: namespaces.split(',').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect(),
            kfp_api: given("kfp-api"),
            artifacts: given("artifacts"),
        }
    }
}

/// The value of a flag in the arguments of a container, or else of its variable. A switch has the value `true`.
fn flag(container: &Value, name: &str) -> Option<String> {
    let list = |key: &str| container[key].as_array().map_or(&[][..], Vec::as_slice);
    let arguments: Vec<&str> = list("args").iter().filter_map(Value::as_str).collect();
    let long = format!("--{name}");
    let given = arguments.iter().enumerate().find_map(|(index, argument)| match argument.strip_prefix(&long)? {
        "" => Some(arguments.get(index + 1).filter(|next| !next.starts_with('-')).copied().unwrap_or("true")),
        rest => rest.strip_prefix('='),
    });
    let variable = format!("MODEL_UPDATE_{}", name.to_uppercase().replace('-', "_"));
    let set = || list("env").iter().find(|set| set["name"] == variable.as_str())?["value"].as_str();
    given.or_else(set).map(ToOwned::to_owned)
}

impl Server {
    /// Returns whether a Pod was found, which has the flags.
    pub(super) fn has_pods(&self) -> bool {
        matches!(self.pods, Ok((1.., _)))
    }
}

/// Finds the server's Pods and Services.
pub(super) async fn find(cluster: &Cluster, named: &[String]) -> Server {
    let (pods, place) = match endpoints::server_pods(cluster, named).await {
        Ok(found) => found,
        Err(error) => {
            let (flags, services) = (Flags::default(), Vec::new());
            return Server { pods: Err(error), account: None, flags, services, unreadable: None };
        }
    };
    let (services, unreadable) = match services::of(cluster, &pods).await {
        Ok(services) => (services, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    // A tenant's Pod may have the server's label.
    let of_server = pods.iter().find(|pod| endpoints::is_trusted(pod)).or(pods.first());
    let account = of_server.and_then(endpoints::account);
    let flags = of_server.map(Flags::of).unwrap_or_default();
    Server { pods: Ok((pods.len(), place)), account, flags, services, unreadable }
}

/// Checks that the server runs and is ready.
pub(super) async fn check(cluster: &Cluster, options: &Options, server: &Server) -> Category {
    let mut category = Category::new("server");
    let description = "the server has Pods";
    match &server.pods {
        Ok((0, place)) if options.admin.is_none() => category.warn(
            description,
            format!("no Pod with the label {} in {place}", endpoints::SERVER_SELECTOR),
            "install the chart; for a server elsewhere give --admin HOST:PORT and --service HOST:PORT",
        ),
        Ok((0, _)) => {}
        Ok((count, _)) => category.ok(format!("{description} ({count})")),
        Err(error) => category.unknown(description, error),
    }
    let endpoint = match &options.admin {
        Some(url) => Ok(Endpoint::at(url.clone())),
        None => endpoints::server(cluster, ServerPort::Admin, &options.server_namespaces).await,
    };
    let description = "the server is ready";
    match endpoint {
        Ok(endpoint) => {
            match admin::get(&endpoint.url, "/readyz", None).await {
                Ok(answer) if answer.status == StatusCode::OK => category.ok(description),
                Ok(Answer { status, text }) => {
                    let lines = text.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("; ");
                    let error =
                        format!("/readyz answers {status}: {}", lines.chars().take(MAX_WORDS).collect::<String>());
                    category.fail(description, error, "mend what it names; it becomes ready by itself");
                }
                Err(error) => {
                    let reason = endpoint.forward.as_ref().and_then(|forward| forward.last_error());
                    let reason = reason.unwrap_or_else(|| error.to_string());
                    let error = format!("{}: {reason}", endpoint.describe());
                    // An address that was given is meant to answer; a port-forward may fail for reasons of its own.
                    if options.admin.is_some() {
                        category.fail(description, error, "check the address; the admin port is 8080 by default");
                    } else {
                        category.warn(description, error, "not checked: give the admin port with --admin HOST:PORT");
                    }
                }
            }
        }
        // Reported above.
        Err(EndpointError::NoPod { .. }) if matches!(server.pods, Ok((0, _))) => {}
        Err(EndpointError::NoPod { .. }) => {
            category.fail(description, "no Pod of the server is ready", "see `kubectl describe pod` and the Pod's log");
        }
        Err(error @ EndpointError::Untrusted { .. }) => {
            category.warn(
                description,
                error.to_string(),
                "not checked: name the namespace of the server with --server-namespace",
            );
        }
        Err(error @ EndpointError::Cluster { .. }) => {
            category.warn(description, error.to_string(), "not checked: grant this right, or give --admin HOST:PORT");
        }
    }
    category
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_are_read_from_the_pod() {
        let pod = |arguments: Value, environment: Value| json!({"spec": {"containers": [{"name": "proxy"}, {"args": arguments, "env": environment}]}});
        let namespaces = vec!["a".to_owned(), "b".to_owned()];
        let (kfp_api, artifacts) = (Some("k:8887".to_owned()), Some("kfp".to_owned()));
        let all = Flags { reviews: true, kubernetes_events: true, namespaces, kfp_api, artifacts };
        let variables = json!([
            {"name": "MODEL_UPDATE_AUTH", "value": "audit"}, {"name": "MODEL_UPDATE_NAMESPACES", "value": "a,b"},
            {"name": "MODEL_UPDATE_KUBERNETES_EVENTS", "value": "true"},
            {"name": "MODEL_UPDATE_KFP_API", "value": "k:8887"}, {"name": "MODEL_UPDATE_ARTIFACTS", "value": "kfp"},
        ]);
        for pod in [
            pod(
                json!([
                    "serve",
                    "--auth=token",
                    "--kubernetes-events",
                    "--namespaces=a,b",
                    "--kfp-api=k:8887",
                    "--artifacts=kfp"
                ]),
                json!([]),
            ),
            pod(
                json!([
                    "serve",
                    "--auth",
                    "token",
                    "--namespaces",
                    "a,b",
                    "--kubernetes-events=true",
                    "--kfp-api",
                    "k:8887",
                    "--artifacts",
                    "kfp"
                ]),
                json!([]),
            ),
            pod(json!(["serve"]), variables),
        ] {
            assert_eq!(Flags::of(&pod), all, "{pod}");
        }
        assert_eq!(Flags::of(&pod(json!(["serve", "--auth=none"]), json!([]))), Flags::default());
    }
}
