//! `check`, against a real API server with Argo's CRDs, and a real ML Metadata.

use std::{path::PathBuf, time::Duration};

use test_support::MetadataStore;
use tokio::net::TcpListener;

use super::{
    harness::{Ran, Tool},
    kubelet::Pod,
    *,
};

const URL: &str = "models.elsewhere:50051";

/// A cluster with Argo Events' CRDs, a store, and a namespace with an EventSource, its Sensor and its EventBus.
struct Site {
    cluster: Cluster,
    store: MetadataStore,
    namespace: String,
}

impl Site {
    async fn start() -> Self {
        let peers = Peers::with(&["argo-events"]).await;
        let cluster = peers.private_cluster().await;
        cluster.install_argo_events(&peers.argo_crds()).await;
        let namespace = cluster.namespace("team").await;
        let site = Self { store: peers.metadata_store().await, cluster, namespace };
        site.apply("EventBus", "default", json!({"nats": {"native": {}}})).await;
        site.event_source(true).await;
        site.apply(
            "Sensor",
            "deploy",
            json!({
                "dependencies": [{
                    "name": "model", "eventSourceName": "models", "eventName": "model-update",
                    "filters": {"data": [{"path": "body.pipelineName", "type": "string", "value": ["^penguin$"]}]},
                }],
                "triggers": [{"template": {"name": "log", "log": {}}}],
            }),
        )
        .await;
        site
    }

    async fn apply(&self, kind: &str, name: &str, spec: Value) {
        let manifest = json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        });
        self.cluster.apply("test", &manifest).await.unwrap();
    }

    async fn event_source(&self, json_body: bool) {
        let config = format!("kfpNamespace: {}", self.namespace);
        let entry = json!({"url": URL, "insecure": true, "jsonBody": json_body, "config": config});
        self.apply("EventSource", "models", json!({"generic": {"model-update": entry}})).await;
    }

    fn kubeconfig(&self) -> PathBuf {
        self.cluster.admin_kubeconfig_file()
    }

    /// Runs the command with the store and the url of the EventSource.
    async fn check(&self, arguments: &[&str]) -> Ran {
        let store = self.store.url();
        let arguments = [&["check", "--metadata-store", &store, "--service", URL], arguments].concat();
        Tool::new(&self.kubeconfig(), &arguments).run().await
    }

    /// The outcome of each check, as `category: description`.
    async fn outcomes(&self, arguments: &[&str]) -> (i32, Vec<(String, Value)>) {
        let ran = self.check(&[&["-o", "json"], arguments].concat()).await;
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        assert_eq!(report["success"], ran.code == 0, "{report}");
        let mut outcomes = Vec::new();
        for category in report["categories"].as_array().unwrap() {
            for check in category["checks"].as_array().unwrap() {
                let name = |value: &Value| value.as_str().unwrap().to_owned();
                outcomes.push((
                    format!("{}: {}", name(&category["categoryName"]), name(&check["description"])),
                    check.clone(),
                ));
            }
        }
        (ran.code, outcomes)
    }
}

/// The check whose name contains this.
fn find<'a>(outcomes: &'a [(String, Value)], name: &str) -> &'a Value {
    let found = outcomes.iter().find(|(found, _)| found.contains(name));
    &found.unwrap_or_else(|| panic!("no {name} in {outcomes:#?}")).1
}

/// Asserts that a check has this outcome, and an error with these words.
fn assert_outcome(outcomes: &[(String, Value)], name: &str, result: &str, words: &str) {
    let check = find(outcomes, name);
    let error = check["error"].as_str().unwrap_or_default();
    assert!(check["result"] == result && error.contains(words), "{name}: expected {result} {words}, found {check:#}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn check_finds_what_keeps_events_from_arriving() {
    let mut site = Site::start().await;
    let (code, outcomes) = site.outcomes(&["--auth", "token", "--kubernetes-events"]).await;
    assert_eq!(code, 0, "{outcomes:#?}");
    for name in [
        "kubernetes-api: is running a supported version",
        "server-rights: this account can patch workflows.argoproj.io in all namespaces",
        "server-rights: this account can create tokenreviews",
        "server-rights: this account can create events.events.k8s.io",
        "argo-workflows: the cluster has Workflows",
        "argo-workflows: Workflows exist longer",
        "argo-events: the cluster has EventSources",
        "event-sources: EventSources point to the server (1)",
        "event-sources: they, and the Sensors that depend on them (1)",
        "event-sources: their EventBuses exist",
        "ml-metadata: ML Metadata answers",
    ] {
        assert_outcome(&outcomes, name, "success", "");
    }
    // There is no Pod.
    assert_outcome(&outcomes, "server: the server has Pods", "warning", "no Pod with the label");
    let text = site.check(&[]).await;
    assert!(text.code == 0 && text.stdout.ends_with("\nStatus check results are √\n"), "{text:?}");
    let short = site.check(&["-o", "short", "-n", &site.namespace]).await;
    assert!(!short.stdout.contains("kubernetes-api") && short.stdout.contains("server\n------\n‼ "), "{short:?}");
    assert_eq!(site.check(&["--pre"]).await.code, 0);

    site.event_source(false).await;
    let failed = site.check(&["--wait", "1s", "-o", "short"]).await;
    assert!(failed.code == 1 && failed.stdout.ends_with("Status check results are ×\n"), "{failed:?}");
    let mended = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        site.event_source(true).await;
    };
    let (waited, ()) = tokio::join!(site.check(&["--wait", "45s"]), mended);
    assert_eq!(waited.code, 0, "{waited:?}");

    // An account with no rights at all.
    let account = site.cluster.service_account(&site.namespace, "powerless").await;
    let (code, outcomes) = site.outcomes(&["--as", &account.user()]).await;
    assert_eq!(code, 1);
    assert_outcome(&outcomes, "can watch workflows.argoproj.io", "error", "the right to watch");
    assert_outcome(&outcomes, "event-sources: can list sensors", "warning", "cannot list resource \"sensors\"");
    assert_outcome(&outcomes, "server: the server has Pods", "warning", "cannot list resource \"pods\"");
    let (_, outcomes) = site.outcomes(&["--as", &account.user(), "--pre"]).await;
    assert_outcome(&outcomes, "can create deployments.apps", "error", "create deployments.apps");
    assert_outcome(&outcomes, "can create clusterroles", "error", "in all namespaces");

    // What the tenant may get wrong.
    site.event_source(false).await;
    site.apply(
        "EventSource",
        "other",
        json!({"eventBusName": "none", "generic": {"model-update": {
            "url": URL, "config": format!("kfpNamespace: {}", site.namespace),
        }}}),
    )
    .await;
    let (code, outcomes) = site.outcomes(&[]).await;
    assert_eq!(code, 1);
    let sensor = format!("Sensor {}/deploy is correct", site.namespace);
    assert_outcome(&outcomes, &sensor, "error", "write `jsonBody: true`");
    assert_outcome(
        &outcomes,
        &format!("EventSource {}/other is correct", site.namespace),
        "error",
        "insecure is missing",
    );
    assert_outcome(&outcomes, &format!("the EventBus {}/none exists", site.namespace), "error", "does not start");

    // ML Metadata fails in different ways.
    let page = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = page.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(page, axum::Router::new()).await });
    let (_, outcomes) = site.outcomes(&["--metadata-store", &address]).await;
    assert_eq!(find(&outcomes, "ml-metadata")["result"], "error");
    site.store.kill();
    let (_, outcomes) = site.outcomes(&[]).await;
    let hint = find(&outcomes, "ml-metadata")["hint"].as_str().unwrap();
    assert!(hint.contains("nothing listens there"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn check_finds_the_server_by_its_pod_and_service() {
    let site = Site::start().await;
    let ready = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ready.local_addr().unwrap();
    let router = axum::Router::new().route("/readyz", axum::routing::get(async || "ok"));
    tokio::spawn(async move { axum::serve(ready, router).await });
    let labels = json!({"app.kubernetes.io/name": "model-update-eventsource"});
    let ports = vec![("admin", 8080, address), ("grpc", 50051, address)];
    Pod { namespace: &site.namespace, name: "server-0", labels: labels.clone(), ports }.start(&site.cluster).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "models", "namespace": site.namespace},
        "spec": {"selector": labels, "ports": [
            {"name": "grpc", "port": 50051, "targetPort": "grpc"}, {"name": "admin", "port": 8080, "targetPort": "admin"},
        ]},
    });
    site.cluster.apply("test", &service).await.unwrap();
    // The server's own account, which the administrator impersonates.
    let account = site.cluster.service_account(&site.namespace, "default").await;
    let (_, outcomes) = site.outcomes(&[]).await;
    assert_outcome(&outcomes, "server: the server is ready", "warning", "a team may have created");
    let there = ["--server-namespace", &site.namespace];
    let (_, outcomes) = site.outcomes(&there).await;
    assert_outcome(&outcomes, &format!("{} can patch workflows", account.user()), "error", "the right to patch");
    site.cluster.grant(&account, None, vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])]).await;
    let entry = |url: String| json!({"url": url, "insecure": true, "config": "kfpNamespace: team\nremember: false"});
    let other = json!({"generic": {
        "right": entry(format!("models.{}.svc:50051", site.namespace)),
        "wrong": entry("models:8080".to_owned()),
        "elsewhere": {"url": "other:50051"},
    }});
    site.apply("EventSource", "other", other).await;
    let (code, outcomes) = site.outcomes(&there).await;
    assert_eq!(code, 1, "{outcomes:#?}");
    assert_outcome(&outcomes, "server: the server has Pods (1)", "success", "");
    assert_outcome(&outcomes, "server: the server is ready", "success", "");
    assert_outcome(&outcomes, &format!("{} can patch workflows", account.user()), "success", "");
    assert_outcome(&outcomes, "event-sources: EventSources point to the server (2)", "success", "");
    let wrong = outcomes.iter().filter(|(_, check)| check["result"] == "error").count();
    assert_eq!(wrong, 1, "{outcomes:#?}");
    assert_outcome(
        &outcomes,
        &format!("EventSource {}/other is correct", site.namespace),
        "error",
        "models:8080 has a port",
    );
}
