//! The test support: faults have their effect, and no process outlives its test.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use test_support::{
    MetadataStore, Peers, SOON, START, Task, eventually,
    ml_metadata::{GetArtifactsByContextRequest, GetExecutionsByContextRequest},
};
use tonic::{Code, Request};

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_killed_store_restarts_on_its_port_with_its_data_or_empty() {
    let peers = Peers::find().await;
    let mut store = peers.metadata_store().await;
    let url = store.url();
    let context = store.writer().await.tfx_run("penguin", "run").await.context;

    store.kill();
    assert!(TcpStream::connect(address(&url)).is_err(), "no listener");
    store.restart().await;
    assert_eq!(store.url(), url);
    assert_eq!(store.writer().await.find_context("pipeline_run", "run").await, Some(context));
    store.restart_empty().await;
    assert_eq!(store.url(), url);
    assert_eq!(store.writer().await.find_context("pipeline_run", "run").await, None);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_paused_store_does_not_respond_until_it_is_resumed() {
    let peers = Peers::find().await;
    let store = peers.metadata_store().await;
    let writer = store.writer().await;
    let run = writer.tfx_run("penguin", "run").await;
    store.pause();
    let mut client = writer.client.clone();
    let mut request = Request::new(GetArtifactsByContextRequest { context_id: Some(run.context), options: None });
    request.set_timeout(Duration::from_millis(300));
    let late = client.get_artifacts_by_context(request).await.expect_err("no response");
    assert_eq!(late.code(), Code::Cancelled, "{late:?}");
    store.resume();
    assert_eq!(run.task(Task::pusher("gs://root/1")).await.artifacts.len(), 1);
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_execution_can_be_backdated() {
    let store = Peers::find().await.metadata_store().await;
    let writer = store.writer().await;
    let run = writer.tfx_run("penguin", "run").await;
    let created = async || {
        let request = GetExecutionsByContextRequest { context_id: Some(run.context), options: None };
        let answer = writer.client.clone().get_executions_by_context(request).await.expect("executions");
        answer.into_inner().executions[0].create_time_since_epoch()
    };
    let written = run.task(Task::pusher("gs://root/1")).await;
    let before = created().await;
    store.backdate(written.execution, Duration::from_secs(600));
    assert_eq!(created().await, before - 600_000);
}

fn address(url: &str) -> SocketAddr {
    url.rsplit_once('/').expect("a URL").1.parse().expect("an address")
}

/// Environment variable of the inner process of a test: the same test, which then is killed or fails.
const INNER: &str = "MODEL_UPDATE_TEST_INNER";

/// Returns a store if this is the inner process.
async fn store_of_the_inner_process() -> Option<MetadataStore> {
    env::var_os(INNER)?;
    Some(Peers::find().await.metadata_store().await)
}

/// Starts a test of this binary in another process.
fn start_inner(test: &str) -> Child {
    Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INNER, "yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this binary can be started")
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_peers_of_a_killed_test_are_killed() {
    if let Some(store) = store_of_the_inner_process().await {
        println!("store at {}", store.url());
        return std::future::pending().await;
    }
    let mut test = start_inner("harness::the_peers_of_a_killed_test_are_killed");
    let stdout = test.stdout.take().expect("a pipe");
    let found = tokio::task::spawn_blocking(|| {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines.filter_map(|line| Some(line.split_once("store at ")?.1.to_owned())).next()
    });
    let url = tokio::time::timeout(START, found).await.expect("in time").expect("no panic").expect("it prints the URL");
    TcpStream::connect(address(&url)).expect("the store listens");

    test.kill().expect("it is a child of this process");
    test.wait().expect("it is a child of this process");
    eventually(SOON, "the store is killed", async || TcpStream::connect(address(&url)).is_err()).await;
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_failing_test_prints_the_logs_of_its_peers() {
    if let Some(store) = store_of_the_inner_process().await {
        panic!("on purpose, with a store at {}", store.url());
    }
    let inner = start_inner("harness::a_failing_test_prints_the_logs_of_its_peers");
    let output = tokio::task::spawn_blocking(|| inner.wait_with_output());
    let output = tokio::time::timeout(START, output).await.expect("in time").expect("no panic").expect("its output");
    assert!(!output.status.success());
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("mlmd") && printed.contains("listening on 127.0.0.1:"), "{printed}");
}
