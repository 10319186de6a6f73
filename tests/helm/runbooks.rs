//! The commands of the runbooks, run by kubectl on a real API server. No kubelet runs: the Pods are stored as a
//! controller would create them, and their server is a process on this machine, which the API server's proxy reaches.

use std::{collections::BTreeSet, net::UdpSocket};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use test_support::{
    Cluster, Printed, RunningServer, ServerProcess, ServiceAccount, Shell, documented_commands, plain_http,
};

use super::{
    applied::{apply, create_namespaces},
    *,
};

/// A Pod of the chart, as its ReplicaSet's controller names it.
const POD: &str = "kfp-operator-model-update-eventsource-5d9c8b7f6-x2x4z";
/// The answer of an API server without a kubelet to requests for a Pod's ports. The log of such a Pod is empty.
const NO_KUBELET: &str = "does not have a host assigned";

/// The address of this machine to which the API server's proxy connects: it refuses those of loopback.
fn address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

fn runbooks() -> Vec<(String, String)> {
    let mut pages: Vec<_> = fs::read_dir(file("docs/runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap()))
        .collect();
    pages.sort();
    assert!(pages.len() >= 17, "{pages:?}");
    pages
}

/// Replaces whole words.
fn with_words(text: &str, words: &[(&str, &str)]) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let pieces = text.split_inclusive(|c| !is_part(c)).map(|piece| {
        let word = piece.trim_end_matches(|c| !is_part(c));
        let found = words.iter().find(|(name, _)| *name == word).map_or(word, |(_, value)| value);
        format!("{found}{}", &piece[word.len()..])
    });
    pieces.collect()
}

/// Stores a Pod of this template, running at this address.
async fn store_pod(cluster: &Cluster, name: &str, template: &Value, address: &str) {
    let metadata = json!({"name": name, "namespace": NAMESPACE, "labels": template["metadata"]["labels"]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
    cluster.apply("controller", &pod).await.unwrap();
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    let pods = Api::<Pod>::namespaced(cluster.client().await, NAMESPACE);
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// A server on this address, with the rights of an account.
async fn serve(cluster: &Cluster, account: &ServiceAccount, address: &str) -> RunningServer {
    let kubeconfig = cluster.kubeconfig_file(&cluster.token(account, &[]).await);
    let [admin, metrics] = ["admin", "metrics"].map(|port| format!("--{port}-listen={address}:0"));
    let server = ServerProcess::start(&kubeconfig, "http://127.0.0.1:9", &[&admin, &metrics, "--namespaces=team-a"]);
    server.listening().await
}

/// The port of a log line's field.
fn port(line: &Value, field: &str) -> String {
    line[field].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned()
}

/// The stored cluster of the runbooks: the chart, its Pods, kfp-operator's Pod, and the kinds of others.
async fn start(peers: &Peers, cluster: &Cluster, shell: &Shell, address: &str) -> Vec<Value> {
    create_namespaces(cluster, &[NAMESPACE, "kubeflow", "team-a"]).await;
    shell.install_argo_events(&peers.argo_crds()).await;
    for definition in manifests(include_str!("monitoring-crds.yaml")) {
        cluster.apply("test", &definition).await.unwrap();
    }
    shell.succeeds("kubectl wait --for=condition=Established crd/servicemonitors.monitoring.coreos.com crd/podmonitors.monitoring.coreos.com").await;
    let values = "kubernetesEvents.enabled=true,namespaces={team-a},serviceMonitor.enabled=true,\
                  metadataStoreNetworkPolicy.enabled=true";
    let chart = rendered(peers, &["--set", values]);
    apply(cluster, &chart).await;
    store_pod(cluster, POD, &find_object(&chart, "Deployment", FULLNAME)["spec"]["template"], address).await;
    let operator = manifests(&fs::read_to_string(file("tests/sidecar/operator.yaml")).unwrap());
    let operator = find_object(&operator, "Deployment", "kfp-operator-controller-manager");
    store_pod(cluster, "operator", &operator["spec"]["template"], address).await;
    chart
}

/// Each command is accepted, finds the Pods, and reaches their ports. What `grep` looks for is in the program's messages.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_commands_of_the_runbooks_work() {
    let peers = Peers::with(&["helm", "kubectl", "argo-events"]).await;
    let cluster = peers.private_cluster().await;
    let shell = peers.shell(&cluster.admin_kubeconfig_file(), &["kubectl"]);
    let machine = address();
    let address = machine.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
    start(&peers, &cluster, &shell, &address).await;
    let account = ServiceAccount { namespace: NAMESPACE.to_owned(), name: FULLNAME.to_owned() };
    let server = serve(&cluster, &account, &address).await;
    server.ready().await;
    let line = server.process.logged("serving").await;
    let (admin, metrics) = (port(&line, "admin"), port(&line, "metrics"));
    let words = [("NS", NAMESPACE), ("POD", POD), ("NAMESPACE", "team-a"), ("EVENTSOURCE", "model-updates")];
    let messages = sources();

    let mut ran = BTreeSet::new();
    for (page, text) in runbooks() {
        for documented in documented_commands(&text) {
            // What follows the connection to a port needs a kubelet.
            let documented = documented.split(" & ").next().unwrap();
            let (command, searched) = documented.split_once(" | ").unwrap_or((documented, ""));
            for text in searched.strip_prefix("grep ").into_iter().flat_map(|text| text.split("\\|")) {
                let text = text.trim_matches('\'');
                let is_of_argo = text.starts_with("-i 'failed to");
                assert!(is_of_argo || messages.contains(text), "{page}: no message with {text}");
            }
            // tests/tools runs those of the program.
            let is_of_kubectl = command.starts_with("kubectl ") && !command.starts_with("kubectl modelupdate ");
            if !is_of_kubectl || !ran.insert(command.to_owned()) {
                continue;
            }
            let ports = [("POD:8080", &admin), ("POD:8090", &admin), ("POD:9090", &metrics)];
            let with_ports = ports
                .iter()
                .fold(command.to_owned(), |command, (port, actual)| command.replace(port, &format!("POD:{actual}")));
            let printed = shell.run(&with_words(&with_ports, &words)).await;
            check(&page, command, &printed, machine.is_some());
        }
    }
    assert!(ran.len() >= 20, "{ran:?}");
    check_words(&plain_http::get(&format!("http://{address}:{metrics}/metrics")).await.unwrap());

    // The page that an unready server serves is what the reader needs.
    if machine.is_some() {
        let powerless = cluster.service_account(NAMESPACE, "powerless").await;
        let unready = serve(&cluster, &powerless, &address).await;
        let admin = port(&unready.process.logged("serving").await, "admin");
        unready.not_ready("403").await;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{POD}:{admin}/proxy/conditions");
        let printed = shell.succeeds(&format!("kubectl get --raw {path}")).await;
        assert!(printed.contains("403"), "{printed}");
    }
    server.stop().await;
}

/// Checks the outcome of a command.
fn check(page: &str, command: &str, printed: &Printed, can_proxy: bool) {
    let all = format!("{page}: {command}: {printed:?}");
    if command.contains("port-forward POD") {
        assert!(!printed.is_success && printed.stderr.contains(NO_KUBELET), "{all}");
    } else if command.starts_with("kubectl auth can-i ") {
        // The rights of the chart's account, and those that other values give.
        let expected = if command.contains(" events.") { "yes" } else { "no" };
        assert_eq!(printed.stdout.trim(), expected, "{all}");
    } else if command.contains("/proxy/") && !can_proxy {
        assert!(printed.stderr.contains("address not allowed"), "{all}");
    } else {
        assert!(printed.is_success, "{all}");
        for (part, expected) in [
            ("pods -A -l app.kubernetes.io/name=", POD),
            ("pods -A -l control-plane=", "operator"),
            ("describe pod POD", POD),
            ("/proxy/conditions", "ok"),
            ("/proxy/metrics", "modelupdate_build_info"),
            ("roles,rolebindings", FULLNAME),
            ("servicemonitors,podmonitors", FULLNAME),
            ("get networkpolicies", FULLNAME),
        ] {
            assert!(!command.contains(part) || printed.stdout.contains(expected), "{all}");
        }
    }
    // The labels of ML Metadata's Pods are those of the chart's NetworkPolicy. Kubeflow's API has the label of its Service.
    let values = &manifests(&fs::read_to_string(file("helm/values.yaml")).unwrap())[0];
    let labels = values["metadataStoreNetworkPolicy"]["podLabels"].as_object().unwrap().iter();
    let selector: Vec<_> = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
    let known = [&*selector.join(","), "app=ml-pipeline"];
    let is_known = known.iter().any(|selector| command.ends_with(&format!("-l {selector}")));
    assert!(!command.contains("-n kubeflow get pods") || is_known, "{all}");
}

/// Returns the text of the program.
fn sources() -> String {
    fn read(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, text);
            } else {
                *text += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let mut text = String::new();
    read(&file("src"), &mut text);
    text
}

/// Metrics in the runbooks are served, with their labels, and what is in italics is a panel of the dashboard.
fn check_words(metrics: &str) {
    let dashboard = fs::read_to_string(file("dashboards/operations.json")).unwrap()
        + &fs::read_to_string(file("dashboards/traces.json")).unwrap();
    for (name, text) in runbooks() {
        for word in text.split('`').skip(1).step_by(2) {
            let (metric, labels) = word.split_once('{').unwrap_or((word, ""));
            let is_metric = ["_total", "_seconds", "_bytes", "_context"].iter().any(|end| metric.ends_with(end));
            let is_reason = ["no_context", "metadata_bytes", "unacknowledged_bytes"].contains(&metric);
            if !is_metric || is_reason || metric.starts_with("argo_events_") {
                continue;
            }
            let metric = format!("modelupdate_{}", metric.trim_start_matches("modelupdate_"));
            let labels = labels.trim_end_matches('}');
            let is_served = metrics.lines().any(|line| line.starts_with(&metric) && line.contains(labels));
            assert!(is_served, "{name}: {word} is not in /metrics");
        }
        for title in text.split('*').skip(1).step_by(2).filter(|title| title.starts_with(|c: char| c.is_uppercase())) {
            let is_title = dashboard.contains(&format!("\"title\": \"{title}\""));
            assert!(is_title || text.contains(&format!("**{title}**")), "{name}: no panel *{title}*");
        }
    }
}
