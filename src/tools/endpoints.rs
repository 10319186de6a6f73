//! The addresses of the server's ports and of ML Metadata, as a command reaches them.
//!
//! An address that the user gives is used as it is. Otherwise a command in a Pod uses the cluster's own addresses, and one
//! on another machine a port-forward of its own, with the user's rights.

use serde_json::Value;

use crate::k8s::{Cluster, ClusterError, Forward};

/// The namespace and the Service of ML Metadata in Kubeflow.
const METADATA_NAMESPACE: &str = "kubeflow";
const METADATA_SERVICE: &str = "metadata-grpc-service";
/// The label of the server's Pods, as the chart sets it.
pub const SERVER_SELECTOR: &str = "app.kubernetes.io/name=model-update-eventsource";
/// Namespaces of platforms, in which the server is usually installed. Users who may not list the Pods of all namespaces look
/// for it there and in the namespace of their context. Its Pods there hide others, because each team may give this label to
/// a Pod of its own, which would then receive tokens. See [`is_trusted`].
const SERVER_NAMESPACES: [&str; 2] = ["kfp-operator-system", METADATA_NAMESPACE];

/// An address, with the port-forward that it needs.
#[derive(Debug)]
pub struct Endpoint {
    /// `http://HOST:PORT`, or what the user has given.
    pub url: String,
    /// The port-forward, which ends when this is dropped.
    pub forward: Option<Forward>,
}

impl Endpoint {
    /// An address that needs no port-forward.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), forward: None }
    }

    /// The address for messages: behind a port-forward, the Pod.
    pub fn describe(&self) -> String {
        match &self.forward {
            Some(forward) => format!("{} ({})", forward.target(), self.url),
            None => self.url.clone(),
        }
    }
}

/// A port of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerPort {
    /// gRPC, for subscribers.
    Grpc,
    /// Health, metrics and the status page.
    Admin,
}

impl ServerPort {
    /// The name of the container's port, and the port without such a name.
    fn port(self) -> (&'static str, u16) {
        match self {
            Self::Grpc => ("grpc", 50051),
            Self::Admin => ("admin", 8080),
        }
    }

    /// The flag with which the user gives the address.
    fn flag(self) -> &'static str {
        match self {
            Self::Grpc => "--server",
            Self::Admin => "--admin",
        }
    }
}

/// The reason why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// There is no Pod.
    #[error("no ready Pod of {what} was found in {place}; give its address with {flag} HOST:PORT")]
    NoPod {
        /// The program.
        what: &'static str,
        /// The namespaces in which it was looked for.
        place: String,
        /// The flag.
        flag: &'static str,
    },
    /// Only Pods have the label that a team may have created.
    #[error(
        "only Pods that a team may have created have the label of the server ({pods}), and would receive your token; if the server is \
         one of them, name its namespace with --server-namespace, or give its address with {flag} HOST:PORT"
    )]
    Untrusted {
        /// The Pods, as `NAMESPACE/NAME`.
        pods: String,
        /// The flag.
        flag: &'static str,
    },
    /// A request failed.
    #[error("cannot find {what}: {error}; or give its address with {flag} HOST:PORT")]
    Cluster {
        /// The program.
        what: &'static str,
        /// The failure.
        error: ClusterError,
        /// The flag.
        flag: &'static str,
    },
}

const SERVER: &str = "the server";
const METADATA: &str = "ML Metadata";
const METADATA_FLAG: &str = "--metadata-store";
/// Pods in a message.
const MAX_NAMED: usize = 10;

/// Returns the address of a port of the server: a ready Pod with the chart's label that no team can have created. `named` are
/// the namespaces in which the person says that the server is.
///
/// # Errors
/// No such Pod is found, or there is no port-forward to it.
pub async fn server(cluster: &Cluster, port: ServerPort, named: &[String]) -> Result<Endpoint, EndpointError> {
    let (name, number) = port.port();
    let (pods, place) = server_pods(cluster, named).await.map_err(failed(SERVER, port.flag()))?;
    // A Pod may use every account of its namespace, so a token of that is none to hide from others there.
    let own = cluster.is_in_pod().then(|| cluster.default_namespace());
    let mut untrusted = Vec::new();
    for pod in &pods {
        let Some(found) = PodPort::of(pod, &Value::from(name), number) else { continue };
        if own == Some(&*found.namespace) || named.contains(&found.namespace) || is_trusted(pod) {
            return reach(cluster, found).await.map_err(failed(SERVER, port.flag()));
        }
        untrusted.push(format!("{}/{}", found.namespace, found.name));
    }
    if untrusted.is_empty() {
        return Err(EndpointError::NoPod { what: SERVER, place, flag: port.flag() });
    }
    untrusted.truncate(MAX_NAMED);
    Err(EndpointError::Untrusted { pods: untrusted.join(", "), flag: port.flag() })
}

/// Returns the address of ML Metadata: Kubeflow's Service in a Pod, else a ready Pod behind it.
///
/// # Errors
/// As [`server`].
pub async fn metadata_store(cluster: &Cluster) -> Result<Endpoint, EndpointError> {
    if cluster.is_in_pod() {
        return Ok(Endpoint::at(format!("http://{METADATA_SERVICE}.{METADATA_NAMESPACE}:8080")));
    }
    let no_pod = || EndpointError::NoPod {
        what: METADATA,
        place: format!("the namespace {METADATA_NAMESPACE}, behind the Service {METADATA_SERVICE}"),
        flag: METADATA_FLAG,
    };
    let path = format!("/api/v1/namespaces/{METADATA_NAMESPACE}");
    let service = cluster.get(&format!("{path}/services/{METADATA_SERVICE}")).await;
    let service = service.map_err(failed(METADATA, METADATA_FLAG))?.ok_or_else(no_pod)?;
    let (selector, target) = selector_and_port(&service).ok_or_else(no_pod)?;
    let pods = cluster.list(&format!("{path}/pods"), &[("labelSelector", &selector)]).await;
    let pods = pods.map_err(failed(METADATA, METADATA_FLAG))?;
    let pod = pods.iter().find_map(|pod| PodPort::of(pod, &target, 8080)).ok_or_else(no_pod)?;
    reach(cluster, pod).await.map_err(failed(METADATA, METADATA_FLAG))
}

fn failed(what: &'static str, flag: &'static str) -> impl Fn(ClusterError) -> EndpointError {
    move |error| EndpointError::Cluster { what, error, flag }
}

fn is_of_platform(namespace: &str) -> bool {
    SERVER_NAMESPACES.contains(&namespace)
}

/// Returns whether only those who run the platform can have created a Pod: it is in one of its namespaces, and part of a
/// workload. A step of a pipeline is a Pod, too, with labels of the pipeline's author, and the runs of a Kubeflow without
/// profiles are in its own namespace.
fn is_trusted(pod: &Value) -> bool {
    let is_workload = |owner: &Value| {
        let kind = (owner["apiVersion"].as_str(), owner["kind"].as_str());
        owner["controller"] == true
            && matches!(kind, (Some("apps/v1"), Some("ReplicaSet" | "StatefulSet" | "DaemonSet")))
    };
    let metadata = &pod["metadata"];
    metadata["namespace"].as_str().is_some_and(is_of_platform)
        && metadata["ownerReferences"].as_array().is_some_and(|owners| owners.iter().any(is_workload))
}

/// Leaves only the Pods in namespaces of platforms, if there are any.
fn preferred(mut pods: Vec<Value>) -> Vec<Value> {
    let is_preferred = |pod: &Value| pod["metadata"]["namespace"].as_str().is_some_and(is_of_platform);
    if pods.iter().any(is_preferred) {
        pods.retain(is_preferred);
    }
    pods
}

/// Returns the server's Pods and the namespaces in which they were looked for: those that are named, else all. Pods in
/// namespaces of platforms hide others.
///
/// # Errors
/// The user may list Pods in none of these namespaces.
pub async fn server_pods(cluster: &Cluster, named: &[String]) -> Result<(Vec<Value>, String), ClusterError> {
    let query = [("labelSelector", SERVER_SELECTOR)];
    if !named.is_empty() {
        let mut pods = Vec::new();
        for namespace in named {
            pods.extend(cluster.list(&format!("/api/v1/namespaces/{namespace}/pods"), &query).await?);
        }
        return Ok((pods, format!("the namespaces {}", named.join(", "))));
    }
    let forbidden = match cluster.list("/api/v1/pods", &query).await {
        Ok(pods) => return Ok((preferred(pods), "all namespaces".to_owned())),
        Err(error) if error.is_forbidden() => error,
        Err(error) => return Err(error),
    };
    let mut namespaces = vec![cluster.default_namespace()];
    namespaces.extend(SERVER_NAMESPACES.into_iter().filter(|name| *name != cluster.default_namespace()));
    let (mut pods, mut listed) = (Vec::new(), Vec::new());
    for namespace in namespaces {
        match cluster.list(&format!("/api/v1/namespaces/{namespace}/pods"), &query).await {
            Ok(found) => {
                pods.extend(found);
                listed.push(namespace);
            }
            Err(error) if error.is_forbidden() => {}
            Err(error) => return Err(error),
        }
    }
    if listed.is_empty() {
        Err(forbidden)
    } else {
        Ok((preferred(pods), format!("the namespaces {}", listed.join(", "))))
    }
}

/// Makes the port of a Pod reachable.
async fn reach(cluster: &Cluster, pod: PodPort) -> Result<Endpoint, ClusterError> {
    if cluster.is_in_pod()
        && let Some(ip) = pod.ip
    {
        return Ok(Endpoint::at(format!("http://{}", std::net::SocketAddr::new(ip, pod.port))));
    }
    let forward = cluster.forward(&pod.namespace, &pod.name, pod.port).await?;
    Ok(Endpoint { url: format!("http://{}", forward.address()), forward: Some(forward) })
}

/// The port of a ready Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodPort {
    namespace: String,
    name: String,
    ip: Option<std::net::IpAddr>,
    port: u16,
}

impl PodPort {
    /// The port of a Pod, if it is ready: a number, or the name of a container's port, else `default`.
    fn of(pod: &Value, port: &Value, default: u16) -> Option<Self> {
        let (metadata, status) = (&pod["metadata"], &pod["status"]);
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let is_ready = list(&status["conditions"]).iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
        if !is_ready || metadata["deletionTimestamp"].is_string() {
            return None;
        }
        let containers = list(&pod["spec"]["containers"]);
        let named = containers.iter().flat_map(|it| list(&it["ports"])).find(|it| it["name"] == *port);
        let number = named.and_then(|it| it["containerPort"].as_u64()).or_else(|| port.as_u64());
        Some(Self {
            namespace: metadata["namespace"].as_str()?.to_owned(),
            name: metadata["name"].as_str()?.to_owned(),
            ip: status["podIP"].as_str().and_then(|ip| ip.parse().ok()),
            port: number.and_then(|number| number.try_into().ok()).unwrap_or(default),
        })
    }
}

/// Returns the label selector of a Service and the target of its first port.
fn selector_and_port(service: &Value) -> Option<(String, Value)> {
    let spec = &service["spec"];
    let labels = spec["selector"].as_object()?;
    let pairs: Vec<_> =
        labels.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect::<Option<_>>()?;
    let port = spec["ports"].get(0)?;
    let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
    Some((pairs.join(","), target.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(ready: &str, port: &Value) -> Value {
        json!({
            "metadata": {"namespace": "kubeflow", "name": "store-1"},
            "spec": {"containers": [{"name": "proxy"}, {"name": "store", "ports": [port]}]},
            "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn the_port_of_a_pod_is_found_by_name_or_number() {
        let named = pod("True", &json!({"name": "grpc-api", "containerPort": 8081}));
        for (target, expected) in [(json!("grpc-api"), 8081), (json!(8082), 8082), (json!("other"), 50051)] {
            assert_eq!(PodPort::of(&named, &target, 50051).unwrap().port, expected, "{target}");
        }
    }

    #[test]
    fn only_ready_pods_count() {
        let port = json!({"name": "grpc", "containerPort": 1});
        assert_eq!(PodPort::of(&pod("False", &port), &json!("grpc"), 1), None);
        let mut ending = pod("True", &port);
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(PodPort::of(&ending, &json!("grpc"), 1), None);
        assert_eq!(PodPort::of(&json!({}), &json!("grpc"), 1), None);
    }

    #[test]
    fn a_pod_of_a_team_does_not_hide_the_server() {
        let of = |namespace: &str| json!({"metadata": {"namespace": namespace}});
        let (team, other, platform) = (of("a-team"), of("other"), of("kfp-operator-system"));
        assert_eq!(preferred(vec![team.clone(), platform.clone()]), [platform]);
        assert_eq!(preferred(vec![team.clone(), other.clone()]), [team, other]);
    }

    #[test]
    fn a_pod_that_a_team_may_have_created_is_not_trusted() {
        let pod = |namespace: &str, version: &str, kind: &str| {
            let owner = json!({"apiVersion": version, "kind": kind, "name": "x", "controller": true});
            json!({"metadata": {"namespace": namespace, "ownerReferences": [owner]}})
        };
        assert!(is_trusted(&pod("kubeflow", "apps/v1", "ReplicaSet")));
        assert!(!is_trusted(&pod("team-a", "apps/v1", "ReplicaSet")), "of a team");
        assert!(!is_trusted(&pod("kubeflow", "argoproj.io/v1alpha1", "Workflow")), "a step of a pipeline");
        assert!(!is_trusted(&json!({"metadata": {"namespace": "kubeflow"}})), "a Pod of its own");
    }

    #[test]
    fn a_service_leads_to_its_pods() {
        let service = json!({"spec": {
            "selector": {"app": "metadata", "component": "grpc"},
            "ports": [{"port": 8080, "targetPort": "grpc-api"}],
        }});
        assert_eq!(selector_and_port(&service), Some(("app=metadata,component=grpc".to_owned(), json!("grpc-api"))));
        assert_eq!(selector_and_port(&json!({"spec": {"ports": [{"port": 8080}]}})), None);
    }
}
