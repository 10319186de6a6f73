//! The Services that lead to the server, and whether a url names one of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    k8s::{Cluster, ClusterError},
    tools::lint::{Target, target},
};

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Its name in DNS, `name.namespace`.
    pub(super) host: String,
    /// Its ports that lead to the server's gRPC port.
    pub(super) ports: Vec<u16>,
}

/// The relation of a url to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Points {
    /// It leads to the server.
    Here,
    /// It names a Service of the server, without a port that leads to gRPC.
    WrongPort,
    /// It leads elsewhere.
    Elsewhere,
}

/// Returns the Services that select one of these Pods.
pub(super) async fn of(cluster: &Cluster, pods: &[Value]) -> Result<Vec<Service>, ClusterError> {
    let namespaces: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["metadata"]["namespace"].as_str()).collect();
    let mut found = Vec::new();
    for namespace in namespaces {
        let services = cluster.list(&format!("/api/v1/namespaces/{namespace}/services"), &[]).await?;
        let selecting = services.iter().filter_map(|service| {
            let pod = pods.iter().find(|pod| pod["metadata"]["namespace"] == namespace && selects(service, pod))?;
            let name = service["metadata"]["name"].as_str()?;
            Some(Service { host: format!("{name}.{namespace}"), ports: grpc_ports(service, pod) })
        });
        found.extend(selecting);
    }
    Ok(found)
}

fn selects(service: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let selector = service["spec"]["selector"].as_object();
    selector.is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value))
}

/// The ports of a Service that lead to the Pod's port `grpc`, or to 50051 if none has this name.
fn grpc_ports(service: &Value, pod: &Value) -> Vec<u16> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let ports: BTreeMap<String, u64> = list(&pod["spec"]["containers"])
        .iter()
        .flat_map(|container| list(&container["ports"]))
        .filter_map(|port| Some((port["name"].as_str()?.to_owned(), port["containerPort"].as_u64()?)))
        .collect();
    let grpc = ports.get("grpc").copied().unwrap_or(50051);
    let leads = |port: &Value| match &port["targetPort"] {
        Value::String(name) => ports.get(name).copied() == Some(grpc) || name == "grpc",
        Value::Null => port["port"].as_u64() == Some(grpc),
        number => number.as_u64() == Some(grpc),
    };
    let number = |port: &Value| port["port"].as_u64().and_then(|port| port.try_into().ok());
    list(&service["spec"]["ports"]).iter().filter(|port| leads(port)).filter_map(number).collect()
}

/// Returns where the url of an EventSource in `namespace` leads.
pub(super) fn points(url: &str, namespace: &str, services: &[Service], given: &[String]) -> Points {
    let url = match target(url) {
        Ok(Some(url)) => url,
        Ok(None) => return Points::Elsewhere,
        // Without a port, or with a scheme: meant for the server all the same, if it names its Service.
        Err(_) => {
            let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
            let host = rest.split([':', '/']).next().unwrap_or_default();
            let meant = services.iter().any(|service| service.host == canonical(host, Some(namespace)));
            return if meant { Points::WrongPort } else { Points::Elsewhere };
        }
    };
    let is_given = |service: &String| match target(service) {
        Ok(Some(service)) => same(&service, &url, namespace),
        _ => false,
    };
    if given.iter().any(is_given) {
        return Points::Here;
    }
    let host = canonical(&url.host, Some(namespace));
    match services.iter().find(|service| service.host == host) {
        Some(service) if service.ports.contains(&url.port) => Points::Here,
        Some(_) => Points::WrongPort,
        None => Points::Elsewhere,
    }
}

fn same(service: &Target, url: &Target, namespace: &str) -> bool {
    let is_equal = service.host.eq_ignore_ascii_case(&url.host)
        || canonical(&service.host, None) == canonical(&url.host, Some(namespace));
    is_equal && service.port == url.port
}

/// The name of a Service as `name.namespace`, from any form that a resolver in a Pod of `namespace` knows. Other hosts stay.
fn canonical(host: &str, namespace: Option<&str>) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let parts: Vec<&str> = host.split('.').collect();
    match (&parts[..], namespace) {
        ([name], Some(namespace)) if !name.starts_with('[') => format!("{name}.{namespace}"),
        ([name, namespace, "svc", ..], _) => format!("{name}.{namespace}"),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_leads_to_the_grpc_port_of_its_pods() {
        let pod = json!({
            "metadata": {"labels": {"app": "server", "version": "1"}},
            "spec": {"containers": [{"ports": [{"name": "grpc", "containerPort": 50052}, {"name": "admin", "containerPort": 8080}]}]},
        });
        let service = |selector: Value, ports: Value| json!({"spec": {"selector": selector, "ports": ports}});
        let ports = json!([
            {"port": 50051, "targetPort": "grpc"}, {"port": 1, "targetPort": 50052}, {"port": 50052},
            {"port": 8080, "targetPort": "admin"},
        ]);
        let found = service(json!({"app": "server"}), ports);
        assert!(selects(&found, &pod));
        assert_eq!(grpc_ports(&found, &pod), [50051, 1, 50052]);
        assert!(!selects(&service(json!({"app": "other"}), json!([])), &pod));
        assert!(!selects(&service(json!({}), json!([])), &pod), "a Service without a selector");
    }

    #[test]
    fn a_url_points_here_in_every_form_of_the_services_name() {
        let services = [Service { host: "server.ns".to_owned(), ports: vec![50051] }];
        let of = |url: &str| points(url, "ns", &services, &["127.0.0.1:7".to_owned(), "other.x.svc:1".to_owned()]);
        for url in [
            "server.ns:50051",
            "server.ns.svc:50051",
            "Server.ns.svc.cluster.local.:50051",
            "server:50051",
            "dns:///server.ns.svc:50051",
            "127.0.0.1:7",
            "other.x:1",
        ] {
            assert_eq!(of(url), Points::Here, "{url}");
        }
        for url in ["server.ns:8080", "server.ns", "http://server.ns.svc:50051/"] {
            assert_eq!(of(url), Points::WrongPort, "{url}");
        }
        for url in ["server.other:50051", "server.ns.example.com:50051", "other", "unix:/x", "127.0.0.1:8"] {
            assert_eq!(of(url), Points::Elsewhere, "{url}");
        }
        assert_eq!(points("server:50051", "other", &services, &[]), Points::Elsewhere);
    }
}
