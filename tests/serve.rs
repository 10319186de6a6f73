//! The program as its users start it: what it says, when it is ready, how it ends.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{path::Path, process::Command, time::Duration};

use futures::StreamExt as _;
use model_update_eventsource::{eventsource::Subscriber, model::workflow::MARK_PREFIX};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use test_support::{Cluster, Line, NewWorkflow, Peers, SHUTDOWN, SOON, ServerProcess, Task, plain_kubeconfig};

/// A URL under which nobody answers: port 9 is `discard`, and below those that are given out.
const NOWHERE: &str = "http://127.0.0.1:9";

fn config(namespace: &str) -> String {
    format!("kfpNamespace: {namespace}")
}

/// A run that has succeeded, and its model.
async fn succeeded(cluster: &Cluster, writer: &test_support::Writer, namespace: &str, name: &str) {
    let workflows = cluster.workflows(namespace).await;
    workflows.create(NewWorkflow::tfx_v1(name, "penguin")).await;
    writer.tfx_run("penguin", name).await.task(Task::pusher("gs://root/1")).await;
    workflows.set_phase(name, "Succeeded").await;
}

fn kubeconfig_of_nobody(folder: &Path) -> std::path::PathBuf {
    plain_kubeconfig(folder, NOWHERE)
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_is_announced_and_marked_and_a_sigterm_ends_the_program_with_status_0() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let store = peers.metadata_store().await;
    let namespace = cluster.namespace("team").await;
    let server = ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &[]).listening().await;
    server.ready().await;
    let mut subscriber = peers.grpc_go_client(server.listen, &config(&namespace)).start();
    succeeded(&cluster, &store.writer().await, &namespace, "run-x").await;
    let payload: Value = serde_json::from_str(&subscriber.payload(SOON).await).unwrap();
    assert_eq!(payload["pipelineName"], "penguin");

    // The stream ends when what it has handed off is confirmed, and not before the mark is written.
    server.stop().await;
    let end = subscriber.next(SOON).await;
    assert!(matches!(&end, Some(Line::Status { code, .. }) if code == "Unavailable"), "{end:?}");
    let marks = cluster.workflows(&namespace).await.annotations("run-x", MARK_PREFIX).await;
    assert_eq!(marks.keys().map(String::as_str).collect::<Vec<_>>(), [format!("{MARK_PREFIX}model-update")]);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_subscriber_that_does_not_read_holds_a_shutdown_up_for_ten_seconds_at_most() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let store = peers.metadata_store().await;
    let namespace = cluster.namespace("team").await;
    let mut server = ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &[]).listening().await;
    let mut subscriber = peers.grpc_go_client(server.listen, &config(&namespace)).start();
    assert_eq!(subscriber.next(SOON).await, Some(Line::Open(true)));
    subscriber.pause();
    succeeded(&cluster, &store.writer().await, &namespace, "run-x").await;
    server.handed_off(&namespace).await;

    // It is in the shutdown now, and says so; nothing but the frozen subscriber keeps it there.
    server.process.terminate();
    server.not_ready("shutdown: the server is shutting down").await;
    assert_eq!(server.process.exited(SHUTDOWN).await.code(), Some(0));
    assert!(cluster.workflows(&namespace).await.annotations("run-x", MARK_PREFIX).await.is_empty());
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_second_signal_aborts_the_shutdown() {
    let peers = Peers::find().await;
    let cluster = peers.cluster().await;
    let store = peers.metadata_store().await;
    let namespace = cluster.namespace("team").await;
    let mut server = ServerProcess::start(&cluster.admin_kubeconfig_file(), &store.url(), &[]).listening().await;
    let mut subscriber = peers.grpc_go_client(server.listen, &config(&namespace)).start();
    assert_eq!(subscriber.next(SOON).await, Some(Line::Open(true)));
    subscriber.pause();
    succeeded(&cluster, &store.writer().await, &namespace, "run-x").await;
    server.handed_off(&namespace).await;

    server.process.terminate();
    server.process.logged("shutting down, a second signal aborts").await;
    server.process.terminate();
    assert_eq!(server.process.exited(Duration::from_secs(2)).await.code(), Some(1));
    assert!(server.process.log().contains("SIGTERM aborted the shutdown"));
}

#[tokio::test]
async fn without_an_api_server_it_lives_is_not_ready_says_why_and_holds_subscribers() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&kubeconfig_of_nobody(folder.path()), NOWHERE, &[]).listening().await;
    assert_eq!(server.get("/livez").await.unwrap(), "ok\n");
    server.not_ready("watch of all namespaces: the first list of Workflows is not complete: ").await;
    let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.unwrap();
    let mut events = subscriber.subscribe("model-update", &config("team")).await.unwrap();
    server.stop().await;
    let end = events.next().await.unwrap().unwrap_err().to_string();
    assert_eq!(end, "Unavailable: the server is shutting down");
}

#[tokio::test]
async fn the_command_line_the_log_and_the_metrics_name_the_same_version_and_revision() {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("GIT_REVISION"));
    let said = Command::new(env!("CARGO_BIN_EXE_model-update-eventsource")).arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said, format!("model-update-eventsource {version} ({revision})\n"));

    let folder = tempfile::tempdir().unwrap();
    let program = ServerProcess::start(&kubeconfig_of_nobody(folder.path()), NOWHERE, &[]);
    let line = program.logged("serving").await;
    assert_eq!((&line["version"], &line["revision"]), (&json!(version), &json!(revision)));
    let server = program.listening().await;
    let metrics = server.get("/metrics").await.unwrap();
    let info = metrics.lines().find(|line| line.starts_with("modelupdate_build_info{")).unwrap();
    for label in [format!("version=\"{version}\""), format!("revision=\"{revision}\"")] {
        assert!(info.contains(&label), "{info}");
    }
    server.stop().await;
}

#[tokio::test]
async fn each_listed_namespace_has_a_watch_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig_of_nobody(folder.path());
    let server = ServerProcess::start(&kubeconfig, NOWHERE, &["--namespaces=team-a,team-b"]).listening().await;
    let refusal = server.get("/readyz").await.unwrap_err();
    for namespace in ["team-a", "team-b"] {
        assert!(refusal.contains(&format!("watch of namespace {namespace}: ")), "{refusal}");
    }
    let page = server.get("/").await.unwrap();
    assert!(page.contains("<th>namespaces</th><td>team-a, team-b</td>"), "{page}");
    server.stop().await;
}

#[tokio::test]
async fn it_may_open_as_many_files_as_the_system_allows() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&kubeconfig_of_nobody(folder.path()), NOWHERE, &[]).listening().await;
    let metrics = server.get("/metrics").await.unwrap();
    let most: f64 = metrics.lines().find_map(|line| line.strip_prefix("process_max_fds ")).unwrap().parse().unwrap();
    let allowed = getrlimit(Resource::Nofile).maximum.map_or(f64::INFINITY, |limit| limit as f64);
    assert!(most >= allowed, "{most} of {allowed}");
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_work_ends_it_at_once_with_status_1_and_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = format!("--admin-listen={}", taken.local_addr().unwrap());
    let kubeconfig = kubeconfig_of_nobody(folder.path());
    let absent = folder.path().join("absent");
    for (kubeconfig, more, way_out) in [
        (&kubeconfig, &[&*listen][..], "choose another address with --admin-listen"),
        (&absent, &[], "set KUBECONFIG to a kubeconfig"),
    ] {
        let mut program = ServerProcess::start(kubeconfig, NOWHERE, more);
        assert_eq!(program.exited(SOON).await.code(), Some(1));
        let line: Value = serde_json::from_str(&program.log()).unwrap();
        assert!(line["error"].as_str().unwrap().contains(way_out), "{line}");
    }
}
