//! The addresses of the server's ports and of the sources of models, as a command reaches them.
//!
//! An address that the user gives is used as it is. Otherwise a command in a Pod uses the cluster's own addresses, and one
//! on another machine a port-forward of its own, with the user's rights.

use serde_json::Value;

use crate::k8s::{Cluster, ClusterError, Forward};

/// The namespace of Kubeflow.
const KUBEFLOW: &str = "kubeflow";
/// The sources of models, which are Services of Kubeflow.
const METADATA: Service = Service {
    what: "ML Metadata",
    flag: "--metadata-store",
    name: "metadata-grpc-service",
    port: 8080,
    port_name: "grpc-api",
};
const KFP_API: Service =
    Service { what: "Kubeflow's API", flag: "--kfp-api", name: "ml-pipeline", port: 8887, port_name: "grpc" };
/// The label of the server's Pods, as the chart sets it.
pub const SERVER_SELECTOR: &str = "app.kubernetes.io/name=model-update-eventsource";
/// Namespaces of platforms, in which the server is usually installed. Users who may not list the Pods of all namespaces look
/// for it there and in the namespace of their context. Its Pods there hide others, because each team may give this label to
/// a Pod of its own, which would then receive tokens. See [`is_trusted`].
const SERVER_NAMESPACES: [&str; 2] = ["kfp-operator-system", KUBEFLOW];

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
        return Ok(METADATA.in_cluster());
    }
    METADATA.behind(cluster).await?.ok_or_else(|| METADATA.no_pod())
}

/// Returns the address of Kubeflow's API: Kubeflow's Service in a Pod, else a ready Pod behind it. `None`: the cluster has no
/// such Service. A Pod that may not read the Service is given its address all the same, as it may well exist.
///
/// # Errors
/// As [`server`].
pub async fn kfp_api(cluster: &Cluster) -> Result<Option<Endpoint>, EndpointError> {
    if cluster.is_in_pod() {
        let is_absent = matches!(cluster.get(&KFP_API.path()).await, Ok(None));
        return Ok((!is_absent).then(|| KFP_API.in_cluster()));
    }
    KFP_API.behind(cluster).await
}

/// The error of a cluster without Kubeflow's API.
pub fn no_kfp_api() -> EndpointError {
    KFP_API.no_pod()
}

/// A Service of Kubeflow.
#[derive(Clone, Copy, Debug)]
struct Service {
    /// The program behind it.
    what: &'static str,
    /// The flag with which the user gives the address.
    flag: &'static str,
    name: &'static str,
    /// Its gRPC port, by number and name.
    port: u16,
    port_name: &'static str,
}

impl Service {
    fn path(self) -> String {
        format!("/api/v1/namespaces/{KUBEFLOW}/services/{}", self.name)
    }

    fn in_cluster(self) -> Endpoint {
        Endpoint::at(format!("http://{}.{KUBEFLOW}:{}", self.name, self.port))
    }

    fn no_pod(self) -> EndpointError {
        let place = format!("the namespace {KUBEFLOW}, behind the Service {}", self.name);
        EndpointError::NoPod { what: self.what, place, flag: self.flag }
    }

    /// Returns the address of a ready Pod behind it. `None`: there is no such Service.
    async fn behind(self, cluster: &Cluster) -> Result<Option<Endpoint>, EndpointError> {
        let failed = || failed(self.what, self.flag);
        let Some(service) = cluster.get(&self.path()).await.map_err(failed())? else { return Ok(None) };
        let (selector, target) = self.selector_and_port(&service).ok_or_else(|| self.no_pod())?;
        let path = format!("/api/v1/namespaces/{KUBEFLOW}/pods");
        let pods = cluster.list(&path, &[("labelSelector", &selector)]).await.map_err(failed())?;
        let pod = pods.iter().find_map(|pod| PodPort::of(pod, &target, self.port)).ok_or_else(|| self.no_pod())?;
        reach(cluster, pod).await.map_err(failed()).map(Some)
    }

    /// Returns its label selector and the target of its gRPC port, or of its first one if none is known as such.
    fn selector_and_port(self, service: &Value) -> Option<(String, Value)> {
        let spec = &service["spec"];
        let labels = spec["selector"].as_object()?;
        let pairs: Vec<_> =
            labels.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect::<Option<_>>()?;
        let ports = spec["ports"].as_array()?;
        let is_grpc = |port: &&Value| port["port"] == self.port || port["name"] == self.port_name;
        let port = ports.iter().find(is_grpc).or_else(|| ports.first())?;
        let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
        Some((pairs.join(","), target.clone()))
    }
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
pub(super) fn is_trusted(pod: &Value) -> bool {
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

/// The user name of a Pod's service account.
pub(super) fn account(pod: &Value) -> Option<String> {
    let namespace = pod["metadata"]["namespace"].as_str()?;
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
    Some(format!("system:serviceaccount:{namespace}:{name}"))
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
        let expected = ("app=metadata,component=grpc".to_owned(), json!("grpc-api"));
        assert_eq!(METADATA.selector_and_port(&service), Some(expected));
        assert_eq!(METADATA.selector_and_port(&json!({"spec": {"ports": [{"port": 8080}]}})), None);
    }

    /// Kubeflow's API has the port for HTTP first.
    #[test]
    fn the_grpc_port_is_found_among_others() {
        let http = json!({"name": "http", "port": 8888, "targetPort": 8888});
        for grpc in [json!({"port": 8887}), json!({"name": "grpc", "port": 443, "targetPort": 8887})] {
            let service = json!({"spec": {"selector": {"app": "ml-pipeline"}, "ports": [http, grpc]}});
            assert_eq!(KFP_API.selector_and_port(&service), Some(("app=ml-pipeline".to_owned(), json!(8887))));
        }
    }
}
