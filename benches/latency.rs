//! The latency of an event over the bare path, on a real API server and a real ML Metadata: the time from the moment at
//! which the API server has accepted the success of a run until the event is at the subscriber.
//!
//! ```sh
//! cargo bench --features peers --bench latency -- [RUNS] [--namespaces NUMBER] [--spec-bytes NUMBER] [--json]
//!     [--server-binary PATH]
//! ```
//!
//! The bare path is the least that any program has to do, compiled into this one: a watch of the Workflows' metadata,
//! and the calls that the server makes for a run of TFX: the context, its artifacts beside its executions, their
//! events. It does not ask ahead, as the server does. Runs of the two take turns, each in namespaces of its own, so
//! that both have the same machine and the same peers. Prints p50, p90 and p99 of both, and their ratios, which count:
//! times depend on the machine. With several namespaces, each has a subscriber, and a watch of the bare path. No
//! assertions.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{WatchEvent, WatchParams};
use test_support::{
    Cluster, NewWorkflow, PIPELINE, Peers, TestEnv, Workflows, Writer,
    bench::{
        Budget, Latencies, Output, Row, ServerBuild,
        arrivals::{Arrival, location_of, subscribe},
    },
    ml_metadata::{
        GetArtifactsByContextRequest, GetContextByTypeAndNameRequest, GetEventsByArtifactIDsRequest,
        GetExecutionsByContextRequest,
    },
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

/// The time limit of every step.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pairs of runs before the first that counts: connections, caches, types of ML Metadata.
const WARM_UP: usize = 20;
/// Pairs of runs that are written at once. Lookups accept no execution that is five minutes older than its Workflow.
const BATCH: usize = 260;
/// The time for which they run before the first of them succeeds. The server looks runs up ahead once they are 15
/// seconds old, 20 of them a second.
const RUNNING: Duration = Duration::from_secs(30);
/// The longest time of a watch: the API server's default is shorter than a long measurement. kube allows no more.
const WATCH_SECONDS: u32 = 294;

/// Measures the latency of an event over the bare path.
#[derive(Parser)]
struct Options {
    /// The number of runs of each path
    #[arg(default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// The number of namespaces of each path
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    namespaces: u64,
    /// Bytes of the specification of each Workflow
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    spec_bytes: usize,
    #[command(flatten)]
    server: ServerBuild,
    #[command(flatten)]
    output: Output,
}

/// One of the two paths.
struct Path {
    /// Those of each namespace.
    workflows: Vec<Workflows>,
    /// Begins the names of its runs.
    prefix: &'static str,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    latencies: Vec<Duration>,
}

impl Path {
    fn workflows_of(&self, number: usize) -> &Workflows {
        &self.workflows[number % self.workflows.len()]
    }

    fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// Writes running runs with pushed models.
    async fn create(&self, writer: &Writer, numbers: std::ops::Range<usize>, spec_bytes: usize) {
        let model = |name: String| (name.clone(), location_of(&name));
        let models: Vec<_> = numbers.clone().map(|number| model(self.name(number))).collect();
        writer.tfx_runs(PIPELINE, &models).await;
        for number in numbers {
            let run = NewWorkflow::tfx_v1(&self.name(number), PIPELINE).phase("Running").spec_bytes(spec_bytes);
            self.workflows_of(number).create(run).await;
        }
    }

    /// Lets a run succeed, and waits for its event.
    async fn measure(&mut self, number: usize) -> anyhow::Result<()> {
        let name = self.name(number);
        self.workflows_of(number).set_phase(&name, "Succeeded").await;
        let succeeded = Instant::now();
        let arrival = timeout(TIMEOUT, self.arrivals.recv()).await.context("no event in time")?;
        let (run, arrived) = arrival.context("the path has ended")?;
        ensure!(run == name, "expected {name}, received {run}");
        if number >= WARM_UP {
            // Zero if the event is here before the answer of the API server.
            self.latencies.push(arrived.saturating_duration_since(succeeded));
        }
        Ok(())
    }
}

/// The bare path: a watch, and for each succeeded run the calls of ML Metadata.
async fn bare_path(
    workflows: Workflows,
    writer: Writer,
    arrivals: mpsc::UnboundedSender<Arrival>,
) -> anyhow::Result<()> {
    let parameters = WatchParams::default().labels("pipeline/runid").timeout(WATCH_SECONDS);
    let mut version = "0".to_owned();
    let mut sent = std::collections::HashSet::new();
    loop {
        let mut events = workflows.api().watch_metadata(&parameters, &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            let (WatchEvent::Added(workflow) | WatchEvent::Modified(workflow)) = event else { continue };
            let metadata = workflow.metadata;
            version = metadata.resource_version.unwrap_or(version);
            let phase = metadata.labels.as_ref().and_then(|labels| labels.get("workflows.argoproj.io/phase"));
            let name = metadata.name.context("a name")?;
            if phase.is_some_and(|phase| phase == "Succeeded") && sent.insert(name.clone()) {
                let location = look_up(&writer, name.clone()).await?;
                let arrived = Instant::now();
                ensure!(location == location_of(&name), "{name} has the model {location}");
                arrivals.send((name, arrived))?;
            }
        }
    }
}

/// Returns the location of the model of a run.
async fn look_up(writer: &Writer, run: String) -> anyhow::Result<String> {
    let mut client = writer.client.clone();
    let request = GetContextByTypeAndNameRequest { type_name: Some("pipeline_run".into()), context_name: Some(run) };
    let context = client.get_context_by_type_and_name(request).await?.into_inner().context.context("a context")?;
    let mut other = writer.client.clone();
    let (artifacts, executions) = tokio::try_join!(
        client.get_artifacts_by_context(GetArtifactsByContextRequest { context_id: context.id, options: None }),
        other.get_executions_by_context(GetExecutionsByContextRequest { context_id: context.id, options: None }),
    )?;
    let artifact = artifacts.into_inner().artifacts.pop().context("an artifact")?;
    let request = GetEventsByArtifactIDsRequest { artifact_ids: vec![artifact.id()] };
    let event = client.get_events_by_artifact_i_ds(request).await?.into_inner().events.pop().context("an event")?;
    let executions = executions.into_inner().executions;
    ensure!(executions.iter().any(|execution| execution.id == event.execution_id), "an event of another run");
    artifact.uri.context("a location")
}

/// Returns the times of the server, and those of the bare path.
async fn measure(options: &Options) -> anyhow::Result<[Latencies; 2]> {
    let peers = Peers::find().await;
    let env = TestEnv::start(peers).await;
    let cluster: &Cluster = &env.cluster;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let server = options.server.start(&kubeconfig, &env.store.url(), &[]).listening().await;
    server.ready().await;

    let (sender, arrivals) = mpsc::unbounded_channel();
    let mut workflows = Vec::new();
    for _ in 0..options.namespaces {
        let namespace = cluster.namespace("served").await;
        let config = format!("kfpNamespace: {namespace}");
        tokio::spawn(subscribe(&server, "latency", &config, sender.clone()).await?);
        workflows.push(cluster.workflows(&namespace).await);
    }
    let served = Path { workflows, prefix: "served", arrivals, latencies: Vec::new() };
    let (sender, arrivals) = mpsc::unbounded_channel();
    let mut workflows = Vec::new();
    let mut bare_tasks = JoinSet::new();
    for _ in 0..options.namespaces {
        let of_namespace = cluster.workflows(&cluster.namespace("bare").await).await;
        bare_tasks.spawn(bare_path(of_namespace.clone(), env.store.writer().await, sender.clone()));
        workflows.push(of_namespace);
    }
    let bare = Path { workflows, prefix: "bare", arrivals, latencies: Vec::new() };

    let mut paths = [served, bare];
    let pairs = WARM_UP + usize::try_from(options.runs)?;
    for begin in (0..pairs).step_by(BATCH) {
        let numbers = begin..pairs.min(begin + BATCH);
        for path in &paths {
            path.create(&env.writer, numbers.clone(), options.spec_bytes).await;
        }
        tokio::time::sleep(RUNNING).await;
        for number in numbers {
            // Neither of the two is always the first.
            let first = number % 2;
            for place in [first, 1 - first] {
                let path = &mut paths[place];
                if let Err(error) = path.measure(number).await {
                    let bare_error = bare_tasks.try_join_next().transpose()?.and_then(Result::err);
                    return Err(bare_error.unwrap_or(error).context(format!("run {}-{number}", path.prefix)));
                }
            }
        }
    }
    bare_tasks.abort_all();
    server.stop().await;
    Ok(paths.map(|path| Latencies::new(path.latencies)))
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let [served, bare] = runtime.block_on(measure(&options))?;
    let places = if options.namespaces > 1 { format!(" in {} namespaces", options.namespaces) } else { String::new() };
    let spec =
        if options.spec_bytes > 0 { format!(" with {} KB of spec", options.spec_bytes / 1000) } else { String::new() };
    let row = |percent| {
        let what = format!("success accepted → event, p{percent} of {} runs{places}{spec}", options.runs);
        Row::new(what, served.percentile(percent), "ms").over(bare.percentile(percent))
    };
    options.output.print(&[row(50).within(Budget::Ratio(1.0)), row(90), row(99).within(Budget::Ratio(1.1))]);
    Ok(())
}
