//! `demo`: the whole flow on one machine, without a cluster.
//!
//! Kubernetes and ML Metadata are simulated in memory (see [`crate::sim`]). The server is the real one, and so is the
//! client that prints the events. The steps are described on standard error; the events are on standard output.

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::{
    runtime::Runtime,
    task::JoinError,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{progress::waiting, signals::Signals, start_log_and_traces, values};
use crate::{
    app::{self, Config, shutdown},
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
    model::workflow::MARK_PREFIX,
    sim::{Model, NewWorkflow, Run, Sim, Task},
    telemetry::{Traces, log},
};

/// The subscription of the demo's own client.
const SUBSCRIPTION: &str = "demo";
/// The time limit for an event, and then for its mark.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two steps of a run.
const PAUSE: Duration = Duration::from_millis(400);
/// The limit of simulated runs. Older ones are deleted, so that `--forever` needs no more memory.
const MAX_RUNS: usize = 100;
/// The maximum length of a pipeline's name in a Workflow's, of whose 63 characters a number takes the rest.
const MAX_PREFIX: usize = 42;

/// Runs the whole flow on this machine, without a cluster
///
/// Pipeline runs are simulated: they start, push a model and succeed. The real server sends an event for each of them.
/// The steps are described on standard error. The events are on standard output, one JSON object per line.
///
/// Traces are exported over OTLP if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  # Three runs and their events
  model-update-eventsource demo

  # The events only
  model-update-eventsource demo 2>/dev/null

  # Test a Sensor before a pipeline exists: send events about this model until Ctrl-C,
  # to every EventSource with the configuration `kfpNamespace: demo`
  model-update-eventsource demo --forever --listen 0.0.0.0:50051 --pipeline penguin --location gs://models/penguin/7")]
pub(super) struct Demo {
    /// Number of simulated runs
    #[arg(long, value_name = "N", default_value = "3")]
    runs: NonZeroU64,

    /// Simulate runs until Ctrl-C
    #[arg(long, conflicts_with = "runs")]
    forever: bool,

    /// Address for subscribers, for example a real EventSource
    #[arg(long, value_name = "IP:PORT", value_parser = values::address, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Namespace of the runs
    #[arg(long, value_name = "NAMESPACE", value_parser = values::namespace, default_value = "demo")]
    namespace: Arc<str>,

    /// Name of the pipeline
    #[arg(long, value_name = "NAME", default_value = "penguin-pipeline")]
    pipeline: String,

    /// Location of the pushed model [default: a different one for each run]
    #[arg(long, value_name = "URI")]
    location: Option<String>,

    /// Log level of the server
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: log::Level,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let (traces, _) = start_log_and_traces(log::Format::Text, &self.log_level, &runtime)?;
        let outcome = runtime.block_on(self.serve(traces.clone()));
        traces.flush(shutdown::SPANS);
        runtime.shutdown_background();
        outcome
    }

    /// Runs the server, and beside it the simulated runs until the last one is delivered.
    async fn serve(self, traces: Traces) -> anyhow::Result<()> {
        let mut signals = Signals::new().context("cannot handle signals")?;
        let sim = Sim::start().await.context("cannot start the simulation")?;
        let config = Config {
            listen: self.listen,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metadata_store: sim.metadata_url(),
            kubernetes: Some(sim.kube_config()),
            traces,
            ..Config::default()
        };
        let bound = app::build(config).await?;
        let address = bound.address();
        let stop = CancellationToken::new();
        let mut server = tokio::spawn(bound.run(stop.clone()));
        let shown = tokio::select! {
            shown = self.show(&sim, address) => shown,
            _ = signals.next() => Ok(()),
            ended = &mut server => return stopped(ended),
        };
        stop.cancel();
        tokio::select! {
            ended = &mut server => shown.and(stopped(ended)),
            _ = signals.next() => shown,
        }
    }

    async fn show(&self, sim: &Sim, address: SocketAddr) -> anyhow::Result<()> {
        let config = format!("kfpNamespace: {}", self.namespace);
        let narrator = Narrator { start: Instant::now(), colors: log::has_colors() };
        narrator.line("Kubeflow and Argo are simulated in memory; the server is the real one.")?;
        if self.listen.port() != 0 {
            narrator.line(&format!("EventSources with the configuration `{config}` can connect to {address}."))?;
        }
        narrator.line("")?;
        let mut subscriber = Subscriber::connect(format!("http://{}", local(address))).await?;
        let mut events = subscriber.subscribe(SUBSCRIPTION, &config).await?;
        narrator.step("subscriber", &format!("subscribes with `{config}`"))?;

        let mut earlier = VecDeque::new();
        let mut runs = 0;
        while self.forever || runs < self.runs.get() {
            runs += 1;
            narrator.line("")?;
            earlier.push_back(self.one_run(runs, sim, &narrator, &mut events).await?);
            if earlier.len() > MAX_RUNS
                && let Some((workflow, run)) = earlier.pop_front()
            {
                sim.delete_workflow(&self.namespace, &workflow)?;
                sim.forget_run(&run);
            }
        }
        narrator.line(&format!(
            "\nDone: {runs} runs, {runs} events. Next: `model-update-eventsource serve --help`, or this demo with \
             --forever and --listen for a real EventSource."
        ))
    }

    /// Simulates a run and waits for its event and mark.
    async fn one_run(
        &self,
        number: u64,
        sim: &Sim,
        narrator: &Narrator,
        events: &mut (impl Stream<Item = Result<ReceivedEvent, SubscribeError>> + Unpin),
    ) -> anyhow::Result<(String, Run)> {
        let Self { namespace, pipeline, .. } = self;
        let workflow = format!("{}-{number}", workflow_prefix(pipeline));
        sim.create_workflow(namespace, NewWorkflow::tfx_v1(&workflow, pipeline))?;
        narrator.step("Kubeflow", &format!("submits a run: Workflow {workflow}"))?;

        sleep(PAUSE).await;
        sim.set_phase(namespace, &workflow, "Running")?;
        let run = Run::tfx_v1(pipeline, &workflow);
        sim.put_task(&run, Task::new("Trainer").output(Model::new("Model", "model", "")));
        narrator.step("Argo", "starts the run")?;

        sleep(PAUSE).await;
        let location = self.location.clone();
        let location = location.unwrap_or_else(|| format!("gs://models/{pipeline}/Pusher/pushed_model/{number}"));
        sim.put_task(&run, Task::pusher(&location));
        narrator.step("Pusher", &format!("pushes a model to {location}"))?;

        sleep(PAUSE).await;
        sim.set_phase(namespace, &workflow, "Succeeded")?;
        narrator.step("Argo", "sets the Workflow's phase to Succeeded")?;
        let event = timeout(TIMEOUT, waiting("the event", events.next())).await;
        let event =
            event.with_context(|| format!("no event within {} s after the run succeeded", TIMEOUT.as_secs()))?;
        let Some(event) = event.transpose().context("the stream failed")? else { bail!("the stream ended") };
        narrator.step("subscriber", "receives the event:")?;
        let mut line = event.payload;
        line.push(b'\n');
        io::stdout().write_all(&line).context("cannot write to standard output")?;

        // Kubeflow's last change of the Workflow, which must not cause another event.
        let last = json!({"metadata": {"labels": {"pipeline/persistedFinalState": "true"}}});
        sim.patch_workflow(namespace, &workflow, &last)?;
        let mark = format!("{MARK_PREFIX}{SUBSCRIPTION}");
        let is_marked = |_: &u64| {
            let stored = sim.workflow(namespace, &workflow);
            stored.is_ok_and(|workflow| workflow["metadata"]["annotations"][&mark].is_string())
        };
        let mut version = sim.version();
        let marked = async { version.wait_for(is_marked).await.is_ok() };
        let marked = timeout(TIMEOUT, waiting("the mark", marked)).await;
        marked.with_context(|| format!("the Workflow was not marked within {} s", TIMEOUT.as_secs()))?;
        narrator.step("server", &format!("confirms the delivery and marks the Workflow: {mark}"))?;
        Ok((workflow, run))
    }
}

/// Returns the address at which this machine reaches a server with this listen address. `[::]` listens for IPv4 too, and
/// there are Pods without the address `::1`, but none without 127.0.0.1.
fn local(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// Returns a pipeline's name as the beginning of a Workflow's: lower case, with `-` for other characters.
fn workflow_prefix(pipeline: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = pipeline.chars().map(allowed).take(MAX_PREFIX).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "run".to_owned() } else { name.to_owned() }
}

fn stopped(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended.context("the server panicked")?
}

/// The description of the steps on standard error.
struct Narrator {
    start: Instant,
    colors: bool,
}

impl Narrator {
    fn line(&self, text: &str) -> anyhow::Result<()> {
        writeln!(io::stderr(), "{text}").context("cannot write to standard error")
    }

    fn step(&self, subject: &str, action: &str) -> anyhow::Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        let (bold, plain) = if self.colors { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.line(&format!("{seconds:5.1} s  {bold}{subject:<11}{plain} {action}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_connects_to_a_local_address() {
        for (listen, expected) in [
            ("0.0.0.0:50051", "127.0.0.1:50051"),
            ("[::]:50051", "127.0.0.1:50051"),
            ("[::1]:50051", "[::1]:50051"),
            ("192.0.2.7:50051", "192.0.2.7:50051"),
        ] {
            assert_eq!(local(listen.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn every_pipeline_has_a_valid_workflow_prefix() {
        assert_eq!(workflow_prefix("penguin-pipeline"), "penguin-pipeline");
        assert_eq!(workflow_prefix("Ünder_score 2"), "nder-score-2");
        assert_eq!(workflow_prefix("企鹅"), "run");
        assert!(workflow_prefix(&"x".repeat(300)).len() + 1 + u64::MAX.to_string().len() <= 63);
    }
}
