//! The time from the return of the API server until the first event, on a real kube-apiserver with etcd and a real ML
//! Metadata. In each repetition the API server is killed, stays away, and is started again; a run succeeds as soon as
//! its `/readyz` answers. The baseline is kube's own watcher with its default backoff, which sees the same success.
//!
//! ```sh
//! cargo bench --features peers --bench recovery -- [REPETITIONS] [--json] [--server-binary PATH]
//! ```
//!
//! Prints the median and the longest time. No assertions.

use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::runtime::{
    WatchStreamExt as _,
    watcher::{self, Event, watcher},
};
use test_support::{
    NewWorkflow, PIPELINE, Peers, Task, Workflows,
    bench::{
        Budget, Latencies, Output, Row, ServerBuild,
        arrivals::{Arrival, arrival_of, location_of, subscribe},
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

/// The time limit of every step.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The time for which the API server is away, before the time that it takes to start. The pauses of the server have
/// grown to their maximum then.
const AWAY: Duration = Duration::from_secs(5);

/// Measures the time from the return of the API server until the first event.
#[derive(Parser)]
struct Options {
    /// Restarts of the API server
    #[arg(default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    repetitions: u64,
    #[command(flatten)]
    server: ServerBuild,
    #[command(flatten)]
    output: Output,
}

/// Watches with kube's watcher until the receiver is gone. Its errors are retried after its own pauses.
async fn watch(workflows: Workflows, arrivals: mpsc::UnboundedSender<Arrival>) {
    let config = watcher::Config::default().labels("workflows.argoproj.io/phase=Succeeded");
    let mut events = watcher(workflows.api().clone(), config).default_backoff().boxed();
    loop {
        match events.try_next().await {
            Ok(Some(Event::Apply(workflow) | Event::InitApply(workflow))) => {
                let name = workflow.metadata.name.unwrap_or_default();
                if arrivals.send((name, Instant::now())).is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// Returns the times of the server and of the watcher.
async fn measure(options: &Options) -> anyhow::Result<[Latencies; 2]> {
    let peers = Peers::find().await;
    let mut cluster = peers.private_cluster().await;
    let store = peers.metadata_store().await;
    let writer = store.writer().await;
    let namespace = cluster.namespace("team").await;
    let workflows = cluster.workflows(&namespace).await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let server = options.server.start(&kubeconfig, &store.url(), &[]).listening().await;
    server.ready().await;
    let (sender, mut events) = mpsc::unbounded_channel();
    tokio::spawn(subscribe(&server, "recovery", &format!("kfpNamespace: {namespace}"), sender).await?);
    let (sender, mut watched) = mpsc::unbounded_channel();
    // A client of its own, whose connections the benchmark's requests do not mend.
    tokio::spawn(watch(cluster.workflows(&namespace).await, sender));

    let (mut of_server, mut of_watcher) = (Vec::new(), Vec::new());
    for number in 0..options.repetitions {
        let run = format!("run-{number}");
        workflows.create(NewWorkflow::tfx_v1(&run, PIPELINE).phase("Running")).await;
        writer.tfx_run(PIPELINE, &run).await.task(Task::pusher(&location_of(&run))).await;
        cluster.kill_api_server();
        // A different part of the pauses each time.
        sleep(AWAY + Duration::from_millis(237) * u32::try_from(number % 10)?).await;
        cluster.start_api_server().await;
        let back = Instant::now();
        workflows.set_phase(&run, "Succeeded").await;
        let event = arrival_of(&run, &mut events, TIMEOUT).await?;
        of_server.push(event.saturating_duration_since(back));
        of_watcher.push(arrival_of(&run, &mut watched, TIMEOUT).await?.saturating_duration_since(back));
        ensure!(events.is_empty(), "an event was sent twice");
    }
    server.stop().await;
    Ok([Latencies::new(of_server), Latencies::new(of_watcher)])
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let [server, watcher] = tokio::runtime::Runtime::new()?.block_on(measure(&options))?;
    let row = |name, percent| {
        let what = format!("API server back → first event, {name} of {} over kube's watcher", options.repetitions);
        let row = Row::new(what, server.percentile(percent) / 1e3, "s").over(watcher.percentile(percent) / 1e3);
        row.within(Budget::AtMost(0.5))
    };
    let rows = [row("median", 50), row("longest", 100)];
    options.output.print(&rows);
    Ok(())
}
