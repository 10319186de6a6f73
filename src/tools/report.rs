//! A report for a bug: what a maintainer asks for, without payloads, tokens and locations of models.
//!
//! Every part is optional: where something cannot be read, the report says why, and goes on.

mod archive;
mod redact;
mod server;

use std::collections::BTreeSet;

use serde_json::{Value, json};

pub use archive::write;

use super::endpoints;
use crate::{
    k8s::{Cluster, Right},
    telemetry::{REVISION, VERSION},
    text::lines,
};

/// Pods of the server in a report: more replicas are rare, and equal.
const MAX_PODS: usize = 8;
/// Lines, and bytes, of the log of a Pod.
const LOG_LINES: usize = 5000;
const LOG_BYTES: usize = 2 << 20;
/// The ports of the server's container without names.
const ADMIN_PORT: u16 = 8080;
/// Parts of the images of the components whose versions matter.
const COMPONENTS: [&str; 9] = [
    "argoproj/",
    "argo-events",
    "workflow-controller",
    "kubeflow",
    "ml-pipeline",
    "ml_metadata",
    "kfp-",
    "istio/",
    "linkerd/",
];

/// A file of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name of the file.
    pub name: String,
    /// Its content, without secrets.
    pub text: String,
    /// The reason why it is not complete.
    pub problem: Option<String>,
}

/// The files so far.
#[derive(Debug, Default)]
struct Files(Vec<Entry>);

impl Files {
    /// Adds a file, or the reason why it could not be read.
    fn add(&mut self, name: impl Into<String>, found: Result<String, String>) {
        let name = name.into();
        let entry = match found {
            // Logs and pages contain the words of tenants, and people look through the files on a terminal.
            Ok(text) => Entry { name, text: redact::text(&lines(&text)), problem: None },
            Err(problem) => {
                let problem = redact::text(&problem);
                Entry { name, text: format!("not available: {problem}\n"), problem: Some(problem) }
            }
        };
        self.0.push(entry);
    }

    fn json(&mut self, name: &str, found: Result<Value, String>) {
        let text = found.and_then(|value| serde_json::to_string_pretty(&value).map_err(|error| error.to_string()));
        self.add(name, text.map(|text| text + "\n"));
    }
}

/// Collects the report. `admin` is the address of an admin port that the user gives.
pub async fn collect(
    cluster: Result<&Cluster, String>,
    admin: Option<&str>,
    server_namespaces: &[String],
    time: &str,
) -> Vec<Entry> {
    let mut files = Files::default();
    files.json("version.json", Ok(json!({"version": VERSION, "revision": REVISION})));
    if let Some(address) = admin {
        admin_pages(&mut files, "", address).await;
    }
    match cluster {
        Ok(cluster) => of_cluster(&mut files, cluster, admin.is_none(), server_namespaces).await,
        Err(problem) => files.add("cluster.txt", Err(problem)),
    }
    files.0.insert(0, readme(&files.0, time));
    files.0
}

/// The first file: what the report contains.
fn readme(files: &[Entry], time: &str) -> Entry {
    let mut text = format!(
        "A report of model-update-eventsource {VERSION} ({REVISION}), {time}.\n\n\
         It contains no payload, no token and no location of a model. It names namespaces, runs, subscriptions, accounts and\n\
         addresses: look through it before you share it.\n\n"
    );
    for Entry { name, text: content, problem } in files {
        match problem {
            None => text.push_str(&format!("{name}: {} bytes\n", content.len())),
            Some(problem) => text.push_str(&format!("{name}: not available: {problem}\n")),
        }
    }
    Entry { name: "README.txt".to_owned(), text, problem: None }
}

async fn of_cluster(files: &mut Files, cluster: &Cluster, has_admin: bool, server_namespaces: &[String]) {
    files.json("kubernetes.json", got(cluster.get("/version").await));
    files.add("rights.txt", rights(cluster).await);
    files.add("components.txt", components(cluster).await);
    let pods = match endpoints::server_pods(cluster, server_namespaces).await {
        Ok((pods, place)) if pods.is_empty() => {
            return files.add("pods.json", Err(format!("no Pod of the server in {place}")));
        }
        Ok((pods, _)) => pods,
        Err(error) => return files.add("pods.json", Err(error.to_string())),
    };
    files.json("pods.json", Ok(pods.iter().map(pod).collect()));
    files.add("server-account.txt", Ok(server_account(&pods)));
    for pod in pods.iter().take(MAX_PODS) {
        let of = |path: &str| pod["metadata"][path].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (of("namespace"), of("name"));
        logs(files, cluster, pod, &namespace, &name).await;
        if has_admin {
            let prefix = format!("{name}/");
            for port in ports(pod) {
                match cluster.forward(&namespace, &name, port).await {
                    Ok(forward) => {
                        let address = format!("http://{}", forward.address());
                        if port == admin_port(pod) {
                            admin_pages(files, &prefix, &address).await;
                        } else {
                            files.add(format!("{prefix}metrics.txt"), server::page(&address, "/metrics").await);
                        }
                    }
                    Err(error) => files.add(format!("{prefix}port-{port}.txt"), Err(error.to_string())),
                }
            }
        }
    }
}

fn got(found: Result<Option<Value>, crate::k8s::ClusterError>) -> Result<Value, String> {
    found.map_err(|error| error.to_string())?.ok_or_else(|| "not found".to_owned())
}

/// The pages of an admin port. Metrics may have a port of their own.
async fn admin_pages(files: &mut Files, prefix: &str, address: &str) {
    for (path, name) in [("/readyz", "readyz.txt"), ("/livez", "livez.txt"), ("/statusz.json", "statusz.json")] {
        files.add(format!("{prefix}{name}"), server::page(address, path).await);
    }
    let metrics = server::page(address, "/metrics").await;
    if !metrics.as_ref().is_ok_and(|text| text.starts_with("404")) {
        files.add(format!("{prefix}metrics.txt"), metrics);
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["containers"].as_array().into_iter().chain(pod["spec"]["initContainers"].as_array()).flatten()
}

/// The number of a named port of a Pod.
fn port(pod: &Value, name: &str) -> Option<u16> {
    let mut ports = containers(pod).flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports.find(|port| port["name"] == name)?["containerPort"].as_u64()?.try_into().ok()
}

fn admin_port(pod: &Value) -> u16 {
    port(pod, "admin").unwrap_or(ADMIN_PORT)
}

/// The ports with pages: that of the admin port, and that of the metrics, if it is another.
fn ports(pod: &Value) -> Vec<u16> {
    let admin = admin_port(pod);
    let metrics = port(pod, "metrics").filter(|metrics| *metrics != admin);
    std::iter::once(admin).chain(metrics).collect()
}

/// The parts of a Pod that matter, with its flags.
fn pod(pod: &Value) -> Value {
    let containers: Vec<_> = containers(pod).map(container).collect();
    let status = &pod["status"];
    let statuses = status["containerStatuses"].as_array().into_iter().flatten().map(|container| {
        json!({
            "name": container["name"], "ready": container["ready"], "restarts": container["restartCount"],
            "imageID": container["imageID"], "lastState": container["lastState"],
        })
    });
    json!({
        "namespace": pod["metadata"]["namespace"],
        "name": pod["metadata"]["name"],
        "created": pod["metadata"]["creationTimestamp"],
        "labels": pod["metadata"]["labels"],
        "phase": status["phase"],
        "conditions": status["conditions"],
        "statuses": statuses.collect::<Vec<_>>(),
        "containers": containers,
    })
}

fn container(container: &Value) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let args = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let variables = container["env"].as_array().into_iter().flatten().map(|variable| {
        let name = text(&variable["name"]);
        let value = match variable["value"].as_str() {
            Some(value) => Value::from(redact::variable(&name, value)),
            // The places of values, not the values.
            None => variable["valueFrom"].clone(),
        };
        (name, value)
    });
    json!({
        "name": container["name"], "image": container["image"], "resources": container["resources"],
        "args": redact::arguments(args), "env": variables.collect::<serde_json::Map<_, _>>(),
    })
}

async fn logs(files: &mut Files, cluster: &Cluster, pod: &Value, namespace: &str, name: &str) {
    for container in containers(pod).filter_map(|container| container["name"].as_str()) {
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{name}/log?container={container}&tailLines={LOG_LINES}&limitBytes={LOG_BYTES}"
        );
        let log = cluster.text(&path).await.map_err(|error| error.to_string());
        files.add(format!("{name}/log-{container}.txt"), log);
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let has_restarted = |status: &Value| status["name"] == container && status["restartCount"].as_u64() > Some(0);
        if statuses.into_iter().any(has_restarted) {
            let log = cluster.text(&format!("{path}&previous=true")).await.map_err(|error| error.to_string());
            files.add(format!("{name}/log-{container}-previous.txt"), log);
        }
    }
}

/// The rights of the person who runs the command, on which the rest of the report depends.
async fn rights(cluster: &Cluster) -> Result<String, String> {
    let mut rights: Vec<_> = ["get", "list", "watch", "patch"].map(|verb| Right::workflows(verb, None)).into();
    rights.push(Right::new("list", "", "pods", None));
    rights.push(Right { subresource: "log".to_owned(), ..Right::new("get", "", "pods", None) });
    rights.push(Right { subresource: "portforward".to_owned(), ..Right::new("create", "", "pods", None) });
    let mut text = String::from("Of the person who made this report:\n");
    for right in rights {
        let allowed = cluster.allowed(&right).await.map_err(|error| error.to_string())?;
        text.push_str(&format!("{right}: {}\n", if allowed { "yes" } else { "no" }));
    }
    Ok(text)
}

/// The accounts of the server's Pods, and where their rights are shown.
fn server_account(pods: &[Value]) -> String {
    let accounts: BTreeSet<String> = pods.iter().filter_map(endpoints::account).collect();
    let accounts: Vec<String> = accounts.into_iter().collect();
    format!(
        "The server runs as {}.\nIts rights are not those of rights.txt; `check` reviews them. readyz.txt contains \
         the reason why the server is not ready, such as a scope that it may not list.\n",
        accounts.join(", ")
    )
}

/// The images of the components, which contain their versions.
async fn components(cluster: &Cluster) -> Result<String, String> {
    let mut text = String::new();
    for kind in ["deployments", "statefulsets"] {
        let path = format!("/apis/apps/v1/{kind}");
        for object in cluster.list(&path, &[]).await.map_err(|error| error.to_string())? {
            for image in containers(&object["spec"]["template"]).filter_map(|container| container["image"].as_str()) {
                if COMPONENTS.iter().any(|part| image.contains(part)) {
                    let of = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
                    text.push_str(&format!("{} {kind} {}: {image}\n", of("namespace"), of("name")));
                }
            }
        }
    }
    if text.is_empty() {
        text.push_str("no Deployment or StatefulSet of Argo Workflows, Argo Events, Kubeflow, Istio or Linkerd\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_shows_flags_without_secrets() {
        let found = json!({
            "metadata": {"namespace": "ns", "name": "p", "annotations": {"secret": "annotated"}},
            "spec": {"containers": [{
                "name": "server", "image": "i:1", "args": ["serve", "--x-token=hidden"],
                "env": [
                    {"name": "MODEL_UPDATE_AUTH", "value": "token"},
                    {"name": "OTHER", "value": "hidden"},
                    {"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
                "ports": [{"name": "admin", "containerPort": 8090}, {"name": "metrics", "containerPort": 9090}],
            }]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "server", "restartCount": 2}]},
        });
        assert_eq!(ports(&found), [8090, 9090]);
        assert_eq!(ports(&json!({})), [8080]);
        let shown = pod(&found);
        let container = &shown["containers"][0];
        assert_eq!(container["args"], json!(["serve", "--x-token=(removed)"]));
        assert_eq!(container["env"]["MODEL_UPDATE_AUTH"], "token");
        assert_eq!(container["env"]["OTEL_EXPORTER_OTLP_HEADERS"]["secretKeyRef"]["name"], "s");
        assert_eq!(shown["statuses"][0]["restarts"], 2);
        assert!(!shown.to_string().contains("hidden") && !shown.to_string().contains("annotated"), "{shown}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_said() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let files = collect(Err("no kubeconfig".to_owned()), Some(&closed), &[], "now").await;
        let problem = |name: &str| files.iter().find(|file| file.name == name).unwrap().problem.clone();
        assert_eq!(problem("cluster.txt").as_deref(), Some("no kubeconfig"));
        assert!(problem("readyz.txt").is_some() && problem("version.json").is_none());
        let readme = &files[0];
        assert!(
            readme.name == "README.txt" && readme.text.contains("cluster.txt: not available: no kubeconfig"),
            "{readme:?}"
        );
    }
}
