//! The harness keeps its word: faults are what they are called, and nothing outlives its test.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tonic::Code;

use crate::peers::{Peers, SOON, START, Task, eventually};

#[tokio::test]
async fn a_killed_store_comes_back_on_its_port_with_what_it_knew_or_empty() {
    let Some(peers) = Peers::find().await else { return };
    let mut store = peers.metadata_store().await;
    let url = store.url();
    let context = store.writer().await.tfx_run("penguin", "run").await.context;

    store.kill();
    assert!(TcpStream::connect(address(&url)).is_err(), "nobody listens");
    store.restart_same_port(false).await;
    assert_eq!(store.url(), url);
    assert_eq!(store.writer().await.find_context("pipeline_run", "run").await, Some(context));
    store.restart_same_port(true).await;
    assert_eq!(store.url(), url);
    assert_eq!(store.writer().await.find_context("pipeline_run", "run").await, None);
}

#[tokio::test]
async fn a_paused_store_does_not_answer_until_it_is_resumed() {
    let Some(peers) = Peers::find().await else { return };
    let store = peers.metadata_store().await;
    let writer = store.writer().await;
    let run = writer.tfx_run("penguin", "run").await;
    store.pause();
    let mut client = writer.client.clone();
    let mut request = tonic::Request::new(crate::peers::proto::GetArtifactsByContextRequest {
        context_id: Some(run.context),
        options: None,
    });
    request.set_timeout(Duration::from_millis(300));
    let late = client.get_artifacts_by_context(request).await.expect_err("nobody answers");
    assert_eq!(late.code(), Code::Cancelled, "{late:?}");
    store.resume();
    assert_eq!(run.task(Task::pusher("gs://root/1")).await.artifacts.len(), 1);
}

fn address(url: &str) -> SocketAddr {
    url.rsplit_once('/').expect("a URL").1.parse().expect("an address")
}

/// Set for the ignored tests below; without it they do nothing, also when somebody runs all that is ignored.
const STARTED: &str = "NEIGHBOURS_STARTED_BY_A_TEST";

/// Runs one of the ignored tests below in a process of its own.
fn in_a_process_of_its_own(test: &str) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(STARTED, "yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this binary can be started")
}

#[tokio::test]
#[ignore = "started by a_killed_test_takes_its_neighbours_along"]
async fn waits_for_ever() {
    if std::env::var_os(STARTED).is_none() {
        return;
    }
    let Some(peers) = Peers::find().await else { return };
    let store = peers.metadata_store().await;
    println!("store at {}", store.url());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_test_takes_its_neighbours_along() {
    if Peers::find().await.is_none() {
        return;
    }
    let mut test = in_a_process_of_its_own("harness::waits_for_ever");
    let stdout = test.stdout.take().expect("a pipe");
    let found = tokio::task::spawn_blocking(|| {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines.filter_map(|line| Some(line.split_once("store at ")?.1.to_owned())).next()
    });
    let url = tokio::time::timeout(START, found).await.expect("in time").expect("no panic").expect("it prints the URL");
    TcpStream::connect(address(&url)).expect("the store listens");

    test.kill().expect("it is our child");
    test.wait().expect("it is our child");
    eventually(SOON, "the store is gone", async || TcpStream::connect(address(&url)).is_err()).await;
}

#[tokio::test]
#[ignore = "started by a_failing_test_prints_the_logs"]
async fn fails() {
    if std::env::var_os(STARTED).is_none() {
        return;
    }
    let Some(peers) = Peers::find().await else { return };
    let store = peers.metadata_store().await;
    panic!("on purpose, with a store at {}", store.url());
}

#[tokio::test]
async fn a_failing_test_prints_the_logs() {
    if Peers::find().await.is_none() {
        return;
    }
    let output = tokio::task::spawn_blocking(|| in_a_process_of_its_own("harness::fails").wait_with_output());
    let output = tokio::time::timeout(START, output).await.expect("in time").expect("no panic").expect("its output");
    assert!(!output.status.success());
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("mlmd") && printed.contains("listening on 127.0.0.1:"), "{printed}");
}
