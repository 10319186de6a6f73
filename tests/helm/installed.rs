//! Helm installs it into a cluster in which nothing starts, and what `helm test` would run is run.

use test_support::{NewWorkflow, RunningServer, SOON, ServerProcess, eventually};

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn helm_installs_upgrades_and_removes_it_and_says_what_to_do_next() {
    let peers = peers().await;
    let cluster = peers.private_cluster().await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let run = |args: &[&str]| {
        let kubeconfig = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--namespace", NAMESPACE];
        let output = helm(&peers, &[args, &kubeconfig].concat());
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        said(&output)
    };
    let notes = run(&["install", RELEASE, "helm", "--create-namespace"]);
    for words in [
        "kfp-operator-model-update-eventsource-server.kfp-operator-system:50051",
        "helm -n kfp-operator-system test kfp-operator",
        "Served namespaces: all.",
        "WARNING: the gRPC port is unauthenticated",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    let closed =
        run(&["upgrade", RELEASE, "helm", "--set", "networkPolicy.enabled=true,podDisruptionBudget.enabled=true"]);
    assert!(!closed.contains("WARNING"), "{closed}");
    run(&["uninstall", RELEASE]);
}

/// What the Pod of `helm test` runs, at this server.
async fn tested(peers: &Peers, server: &str) -> Output {
    let objects = rendered(peers, &[]);
    let pod = find_object(&objects, "Pod", &format!("{FULLNAME}-test"));
    let args = pod["spec"]["containers"][0]["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let dialled = format!("--server=http://{FULLNAME}-server.{NAMESPACE}:50051");
    let args: Vec<_> =
        args.map(|arg| if arg == dialled { format!("--server={server}") } else { arg.to_owned() }).collect();
    assert!(args.contains(&format!("--server={server}")), "{args:?}");
    let program = env!("CARGO_BIN_EXE_model-update-eventsource");
    tokio::process::Command::new(program).args(args).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn helm_test_succeeds_at_a_server_that_serves_and_says_why_elsewhere() {
    let peers = peers().await;
    let mut cluster = peers.private_cluster().await;
    let store = peers.metadata_store().await;
    let namespace = cluster.namespace("team").await;
    cluster.workflows(&namespace).await.create(NewWorkflow::tfx_v1("run", "penguin")).await;
    let server: RunningServer =
        ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &[]).listening().await;
    server.ready().await;
    let url = format!("http://{}", server.listen);
    eventually(SOON, "health follows readiness", async || tested(&peers, &url).await.status.success()).await;

    // One that cannot reach its API server is there and does not serve.
    cluster.kill_api_server();
    let unready: RunningServer =
        ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &[]).listening().await;
    let output = tested(&peers, &format!("http://{}", unready.listen)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("does not serve: NOT_SERVING. Its /readyz says why"), "{}", said(&output));

    let output = tested(&peers, "http://127.0.0.1:9").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("http://127.0.0.1:9 cannot be reached"), "{}", said(&output));
}
