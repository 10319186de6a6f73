//! Installation with Helm, and the program of `helm test`.

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use test_support::{NewWorkflow, RunningServer, SOON, ServerProcess, eventually};

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn helm_installs_upgrades_and_uninstalls_the_chart() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let run = |args: &[&str]| {
        let kubeconfig = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--namespace", NAMESPACE];
        let output = helm(&peers, &[args, &kubeconfig].concat());
        assert!(output.status.success(), "{args:?}: {}", printed(&output));
        printed(&output)
    };
    let name = format!("fullnameOverride={FULLNAME}");
    let notes = run(&["install", RELEASE, "helm", "--create-namespace", "--set", &name]);
    for note in [
        "kfp-operator-model-update-eventsource-server.kfp-operator-system:50051",
        "helm -n kfp-operator-system test model-update-eventsource",
        "Served namespaces: all.",
        "WARNING: every client that reaches the gRPC port may subscribe to any served namespace",
    ] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    let policies = format!("{name},networkPolicy.enabled=true,podDisruptionBudget.enabled=true");
    let admitted = run(&["upgrade", RELEASE, "helm", "--set", &policies]);
    assert!(admitted.contains("WARNING: clients that the NetworkPolicy admits may subscribe"), "{admitted}");
    let restricted = run(&["upgrade", RELEASE, "helm", "--set", &format!("{policies},auth.mode=token")]);
    assert!(!restricted.contains("WARNING"), "{restricted}");
    run(&["uninstall", RELEASE]);
}

/// Helm would delete the objects of the other chart.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_release_of_another_chart_is_not_replaced() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("templates")).unwrap();
    fs::write(folder.path().join("Chart.yaml"), "{apiVersion: v2, name: kfp-operator, version: 1.0.0}").unwrap();
    let operator = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: operator, labels: \
                    {helm.sh/chart: kfp-operator-1.0.0, app.kubernetes.io/instance: kfp-operator}}}";
    fs::write(folder.path().join("templates/operator.yaml"), operator).unwrap();
    let run = |args: &[&str]| {
        let kubeconfig = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--namespace", NAMESPACE];
        helm(&peers, &[args, &kubeconfig].concat())
    };
    let installed = run(&["install", "kfp-operator", folder.path().to_str().unwrap(), "--create-namespace"]);
    assert!(installed.status.success(), "{}", printed(&installed));

    let upgraded = run(&["upgrade", "--install", "kfp-operator", "helm"]);
    let message = printed(&upgraded);
    assert!(!upgraded.status.success(), "{message}");
    for part in [
        "the release kfp-operator in the namespace kfp-operator-system",
        "a release of another chart",
        "install this chart under another release name, with fullnameOverride=kfp-operator-model-update-eventsource",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().await, NAMESPACE);
    accounts.get("operator").await.unwrap();

    let name = format!("fullnameOverride={FULLNAME}");
    let beside = run(&["upgrade", "--install", RELEASE, "helm", "--set", &name]);
    assert!(beside.status.success(), "{}", printed(&beside));
    let again = run(&["upgrade", "--install", RELEASE, "helm", "--set", &name]);
    assert!(again.status.success(), "{}", printed(&again));
}

/// Runs the command of the Pod of `helm test` with this server.
async fn helm_test(peers: &Peers, server: &str) -> Output {
    let objects = rendered(peers, &[]);
    let pod = find_object(&objects, "Pod", &format!("{FULLNAME}-test"));
    let args = pod["spec"]["containers"][0]["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let service = format!("--server=http://{FULLNAME}-server.{NAMESPACE}:50051");
    let args: Vec<_> =
        args.map(|arg| if arg == service { format!("--server={server}") } else { arg.to_owned() }).collect();
    assert!(args.contains(&format!("--server={server}")), "{args:?}");
    let program = env!("CARGO_BIN_EXE_model-update-eventsource");
    tokio::process::Command::new(program).args(args).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn helm_test_succeeds_if_the_server_serves_else_says_why() {
    let peers = peers().await;
    let mut cluster = peers.private_cluster().await;
    let store = peers.metadata_store().await;
    let namespace = cluster.namespace("team").await;
    cluster.workflows(&namespace).await.create(NewWorkflow::tfx_v1("run", "penguin")).await;
    let server: RunningServer =
        ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &[]).listening().await;
    server.ready().await;
    let url = format!("http://{}", server.listen);
    eventually(SOON, "health follows readiness", async || helm_test(&peers, &url).await.status.success()).await;

    // A server without an API server listens and does not serve.
    cluster.kill_api_server();
    let unready: RunningServer =
        ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &[]).listening().await;
    let output = helm_test(&peers, &format!("http://{}", unready.listen)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("is not serving: NOT_SERVING; see its /readyz"), "{}", printed(&output));

    let output = helm_test(&peers, "http://127.0.0.1:9").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("cannot connect to http://127.0.0.1:9"), "{}", printed(&output));
}
