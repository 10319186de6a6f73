//! The program as users start it: log, readiness, exit.

#![allow(clippy::unwrap_used, reason = "in a test this is the message")]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::join_all};
use model_update_eventsource::{eventsource::Subscriber, model::workflow::MARK_PREFIX};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use test_support::{
    GrpcGoClient, Line, PIPELINE, Peers, RunningServer, SHUTDOWN, SOON, ServerProcess, TestEnv, plain_kubeconfig,
    report,
};

/// A URL without a listener: port 9 is `discard`, and lower than every assigned port.
const NO_LISTENER: &str = "http://127.0.0.1:9";

/// Starts the program without an API server and ML Metadata.
fn start_alone(folder: &Path, flags: &[&str]) -> ServerProcess {
    ServerProcess::start(&plain_kubeconfig(folder, NO_LISTENER), NO_LISTENER, flags)
}

/// Starts a server with these environment variables, and a subscriber that stops reading before the server hands off an
/// event.
async fn with_frozen_subscriber(environment: &[String]) -> (TestEnv, RunningServer, GrpcGoClient) {
    let peers = Peers::find().await;
    let env = TestEnv::start(peers).await;
    let server = env.start_server(environment, &[]).await;
    let mut subscriber = peers.grpc_go_client(server.listen, &env.config()).start();
    assert_eq!(subscriber.next(SOON).await, Some(Line::Open(true)));
    subscriber.pause();
    env.succeed("run-x").await;
    server.handed_off(&env.namespace).await;
    (env, server, subscriber)
}

/// SIGTERM ends the program with status 0.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_is_sent_and_marked_before_a_shutdown_ends() {
    let peers = Peers::find().await;
    let env = TestEnv::start(peers).await;
    let server = env.start_server(&[], &[]).await;
    let mut subscriber = peers.grpc_go_client(server.listen, &env.config()).start();
    env.succeed("run-x").await;
    let payload: Value = serde_json::from_str(&subscriber.payload(SOON).await).unwrap();
    assert_eq!(payload["pipelineName"], PIPELINE);

    // The stream ends when its event is confirmed, and the process when the mark is written.
    server.stop().await;
    let end = subscriber.next(SOON).await;
    assert!(matches!(&end, Some(Line::Status { code, .. }) if code == "Unavailable"), "{end:?}");
    assert_eq!(env.marks("run-x").await.into_keys().collect::<Vec<_>>(), [format!("{MARK_PREFIX}model-update")]);
}

/// Its event is confirmed and marked by then, so the next stream receives only what succeeds later.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_stream_ends_at_its_maximum_age_without_duplicates() {
    let peers = Peers::find().await;
    let env = TestEnv::start(peers).await;
    let server = env.start_server(&[], &["--max-connection-age=5s"]).await;
    let mut subscriber = peers.grpc_go_client(server.listen, &env.config()).start();
    env.succeed("run-x").await;
    assert!(subscriber.payload(SOON).await.contains("run-x"));
    let end = subscriber.next(SOON).await;
    let text = "the stream has reached its maximum age (--max-connection-age), nothing was open for it; connect again";
    assert!(
        matches!(&end, Some(Line::Status { code, message }) if code == "Unavailable" && message == text),
        "{end:?}"
    );
    server.metric_is("modelupdate_streams_closed_total", &[r#"reason="max_connection_age""#], 1.0).await;
    assert_eq!(env.marks("run-x").await.len(), 1);

    let mut next = peers.grpc_go_client(server.listen, &env.config()).start();
    assert_eq!(next.next(SOON).await, Some(Line::Open(true)));
    env.succeed("run-y").await;
    let payload = next.payload(SOON).await;
    assert!(payload.contains("run-y"), "{payload}");
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_frozen_subscriber_delays_a_shutdown_by_at_most_10_s() {
    let (env, mut server, _subscriber) = with_frozen_subscriber(&[]).await;
    server.process.terminate();
    server.not_ready("shutdown: the server is shutting down").await;
    assert_eq!(server.process.exited(SHUTDOWN).await.code(), Some(0));
    assert!(env.marks("run-x").await.is_empty());
}

/// The kernel accepts the connections to the collector, and nothing answers. The grace period of kfp-operator's Pods is
/// 10 s.
#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_frozen_subscriber_and_a_silent_collector_delay_by_10_s() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://{}", collector.local_addr().unwrap());
    join_all(["grpc", "http/protobuf"].map(|protocol| {
        let environment = [endpoint.clone(), format!("OTEL_EXPORTER_OTLP_PROTOCOL={protocol}")];
        async move {
            let (_env, mut server, _subscriber) = with_frozen_subscriber(&environment).await;
            let start = Instant::now();
            server.process.terminate();
            assert_eq!(server.process.exited(SHUTDOWN).await.code(), Some(0), "{protocol}");
            report(format_args!(
                "frozen subscriber and silent collector ({protocol}): exit after {:.1?}",
                start.elapsed()
            ));
        }
    }))
    .await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_second_signal_aborts_the_shutdown() {
    let (_env, mut server, _subscriber) = with_frozen_subscriber(&[]).await;
    server.process.terminate();
    server.process.logged("shutting down, a second signal aborts").await;
    server.process.terminate();
    assert_eq!(server.process.exited(Duration::from_secs(2)).await.code(), Some(1));
    assert!(server.process.log().contains("SIGTERM aborted the shutdown"));
}

/// The process is live and not ready, names the reason, and keeps the streams of subscribers open.
#[tokio::test]
async fn a_server_without_an_api_server_is_live_and_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_alone(folder.path(), &[]).listening().await;
    assert_eq!(server.get("/livez").await.unwrap(), "ok\n");
    server.not_ready("watch of all namespaces: the first list of Workflows is not complete: ").await;
    let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.unwrap();
    let mut events = subscriber.subscribe("model-update", "kfpNamespace: team").await.unwrap();
    server.stop().await;
    let end = events.next().await.unwrap().unwrap_err().to_string();
    assert_eq!(end, "Unavailable: the server is shutting down");
}

/// The command line, the log and the metrics have the same version and revision.
#[tokio::test]
async fn version_and_revision_are_the_same_everywhere() {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("GIT_REVISION"));
    let output = Command::new(env!("CARGO_BIN_EXE_model-update-eventsource")).arg("--version").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, format!("model-update-eventsource {version} ({revision})\n"));

    let folder = tempfile::tempdir().unwrap();
    let program = start_alone(folder.path(), &[]);
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
async fn each_listed_namespace_has_its_own_watch() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_alone(folder.path(), &["--namespaces=team-a,team-b"]).listening().await;
    let refusal = server.get("/readyz").await.unwrap_err();
    for namespace in ["team-a", "team-b"] {
        assert!(refusal.contains(&format!("watch of namespace {namespace}: ")), "{refusal}");
    }
    let page = server.get("/").await.unwrap();
    assert!(page.contains("<dt>namespaces</dt><dd>team-a, team-b</dd>"), "{page}");
    server.stop().await;
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_to_the_maximum() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_alone(folder.path(), &[]).listening().await;
    let metrics = server.get("/metrics").await.unwrap();
    let limit: f64 = metrics.lines().find_map(|line| line.strip_prefix("process_max_fds ")).unwrap().parse().unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum.map_or(f64::INFINITY, |limit| limit as f64);
    assert!(limit >= maximum, "{limit} of {maximum}");
    server.stop().await;
}

/// The process ends with status 1.
#[tokio::test]
async fn a_fatal_error_names_the_flag_or_variable_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let used = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin_listen = format!("--admin-listen={}", used.local_addr().unwrap());
    let kubeconfig = plain_kubeconfig(folder.path(), NO_LISTENER);
    let absent = folder.path().join("absent");
    for (kubeconfig, flags, fix) in [
        (&kubeconfig, &[&*admin_listen][..], "choose another address with --admin-listen"),
        (&absent, &[], "set KUBECONFIG to a kubeconfig"),
    ] {
        let mut program = ServerProcess::start(kubeconfig, NO_LISTENER, flags);
        assert_eq!(program.exited(SOON).await.code(), Some(1));
        let line: Value = serde_json::from_str(&program.log()).unwrap();
        assert!(line["error"].as_str().unwrap().contains(fix), "{line}");
    }
}
