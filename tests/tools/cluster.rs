//! The connection of commands: kubeconfigs, impersonation, credential plugins, and port-forwards.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use model_update_eventsource::{
    k8s::{Cluster as Connection, ClusterError, ClusterOptions, Right},
    tools::endpoints::{self, EndpointError, ServerPort},
};
use test_support::{ServiceAccount, plain_http};

use super::{kubelet::Pod, *};

async fn connect(kubeconfig: PathBuf, account: Option<&ServiceAccount>) -> Connection {
    let options = ClusterOptions {
        kubeconfig: Some(kubeconfig),
        user: account.map(|account| format!("system:serviceaccount:{}:{}", account.namespace, account.name)),
        ..ClusterOptions::default()
    };
    Connection::connect(&options).await.expect("a usable kubeconfig")
}

async fn admin(cluster: &Cluster) -> Connection {
    connect(cluster.admin_kubeconfig_file(), None).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn rights_are_those_of_the_impersonated_user() {
    let cluster = Peers::find().await.cluster().await;
    let namespace = cluster.namespace("rights").await;
    let account = cluster.service_account(&namespace, "reader").await;
    cluster.grant(&account, Some(&namespace), vec![rule("argoproj.io", "workflows", &["get"])]).await;
    let reader = connect(cluster.admin_kubeconfig_file(), Some(&account)).await;
    for (verb, expected) in [("get", true), ("patch", false)] {
        let right = Right::workflows(verb, Some(&namespace));
        assert_eq!(reader.allowed(&right).await, Ok(expected), "{right}");
    }
    assert_eq!(reader.workflow(&namespace, "none").await, Ok(None));
    let error = reader.workflows(Default::default()).await.unwrap_err();
    assert!(error.is_forbidden() && error.to_string().contains("cannot list resource"), "{error}");
    assert!(admin(&cluster).await.get("/version").await.unwrap().is_some());
}

/// As `gcloud`, `aws` and others provide them.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_credential_plugin_of_the_kubeconfig_is_run() {
    let cluster = Peers::find().await.cluster().await;
    let path = cluster.admin_kubeconfig_file();
    let mut kubeconfig: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let token = kubeconfig["users"][0]["user"]["token"].take();
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("credentials");
    let version = "client.authentication.k8s.io/v1";
    let credential = json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}});
    fs::write(&plugin, format!("#!/bin/sh\nprintf %s '{credential}'\n")).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let exec = json!({"apiVersion": version, "command": plugin, "interactiveMode": "Never"});
    kubeconfig["users"][0]["user"] = json!({"exec": exec});
    fs::write(&path, kubeconfig.to_string()).unwrap();
    assert!(connect(path, None).await.list("/api/v1/nodes", &[]).await.is_ok());
}

/// Through the API server, which passes the stream on to the kubelet of the Pod's node.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_server_is_found_and_reached_through_its_pod() {
    // The label of the server's Pods is one for the whole cluster.
    let cluster = Peers::find().await.private_cluster().await;
    let connection = admin(&cluster).await;
    let none = endpoints::server(&connection, ServerPort::Admin, &[]).await.unwrap_err();
    assert!(matches!(none, EndpointError::NoPod { .. }) && none.to_string().contains("--admin HOST:PORT"), "{none}");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = "x".repeat(300 * 1024);
    let answer = page.clone();
    let router = axum::Router::new().route("/page", axum::routing::get(async || answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let namespace = cluster.namespace("server").await;
    let labels = json!({"app.kubernetes.io/name": "model-update-eventsource"});
    // Nothing is behind the port for subscribers.
    let ports = vec![("admin", 8888, address)];
    Pod { namespace: &namespace, name: "server-0", labels, ports }.start(&cluster).await;

    // A tenant with the right to create Pods may give them the label.
    let untrusted = endpoints::server(&connection, ServerPort::Admin, &[]).await.unwrap_err();
    let named = format!("({namespace}/server-0)");
    assert!(
        untrusted.to_string().contains(&named) && untrusted.to_string().contains("--server-namespace"),
        "{untrusted}"
    );
    let there = [namespace.clone()];
    let endpoint = endpoints::server(&connection, ServerPort::Admin, &there).await.unwrap();
    for _ in 0..2 {
        assert_eq!(plain_http::get(&format!("{}/page", endpoint.url)).await.unwrap(), page);
    }
    assert!(endpoint.describe().contains("server-0, port 8888"), "{}", endpoint.describe());
    let silent = endpoints::server(&connection, ServerPort::Grpc, &there).await.unwrap();
    plain_http::get(&silent.url).await.unwrap_err();
    let forward = silent.forward.expect("a port-forward");
    eventually(CATCH_UP, "the reason", async || {
        let reason = forward.last_error().unwrap_or_default();
        if reason.contains("nothing listens on port 50051") { Ok(()) } else { Err(reason) }
    })
    .await;

    let account = cluster.service_account(&namespace, "reader").await;
    cluster.grant(&account, None, vec![rule("", "pods", &["list"])]).await;
    let reader = connect(cluster.admin_kubeconfig_file(), Some(&account)).await;
    let error = endpoints::server(&reader, ServerPort::Admin, &there).await.unwrap_err();
    let EndpointError::Cluster { error: ClusterError::Forbidden { message }, .. } = error else { panic!("{error}") };
    assert!(message.contains("pods/portforward"), "{message}");
}
