//! `demo`: the main job on one machine, without a cluster.
//!
//! A namespace is played in memory (see [`crate::sim`]); the server in between is the real one, and so is the client that
//! prints the events. What happens is told on standard error, the events are on standard output.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::{Stream, StreamExt};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    task::JoinError,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{signals::Signals, start_log_and_traces, values};
use crate::{
    app::{self, Config},
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
    model::workflow::MARK_PREFIX,
    sim::{
        Sim,
        play::{Play, Player, Step, What},
    },
    telemetry::{Traces, log},
};

/// The name under which the demo's own client subscribes.
const SUBSCRIBER: &str = "demo";
/// How long an event, and then its mark, may take.
const SOON: Duration = Duration::from_secs(10);
/// How many steps may wait to be told.
const STEPS: usize = 16;

/// Shows the main job on this machine, without a cluster
///
/// A small simulation plays a namespace in which runs start, push a model and succeed. The server that announces them is
/// the real one. The steps are told on standard error; standard output has the events, one JSON object a line.
///
/// Traces are sent by OTLP where OTEL_EXPORTER_OTLP_ENDPOINT (or its variant for traces) is set.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  # Three runs, and their events
  model-update-eventsource demo

  # Only the events
  model-update-eventsource demo 2>/dev/null

  # For trying a Sensor before any pipeline exists: announce this model for ever, to whoever subscribes to it with
  # `kfpNamespace: demo`
  model-update-eventsource demo --forever --listen 0.0.0.0:50051 --pipeline penguin --location gs://models/penguin/7")]
pub(super) struct Demo {
    /// How many runs are played
    #[arg(long, value_name = "N", default_value = "3")]
    runs: NonZeroU64,

    /// Goes on until it is told to stop (Ctrl-C)
    #[arg(long, conflicts_with = "runs")]
    forever: bool,

    /// Where subscribers may connect, a real EventSource among them
    #[arg(long, value_name = "IP:PORT", value_parser = values::address, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// The namespace of the runs
    #[arg(long, value_name = "NAMESPACE", value_parser = values::namespace, default_value = "demo")]
    namespace: Arc<str>,

    /// The pipeline that is announced
    #[arg(long, value_name = "NAME", default_value = "penguin-pipeline")]
    pipeline: String,

    /// The model's location that is announced [default: one of its own for each run]
    #[arg(long, value_name = "URI")]
    location: Option<String>,

    /// What the server logs meanwhile
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: log::Level,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let runtime = Runtime::new().context("cannot start the runtime")?;
        let traces = start_log_and_traces(log::Format::Text, &self.log_level, &runtime)?;
        let outcome = runtime.block_on(self.play(traces.clone()));
        traces.flush(crate::app::shutdown::SPANS);
        runtime.shutdown_background();
        outcome
    }

    async fn play(self, traces: Traces) -> anyhow::Result<()> {
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
        let shutdown = CancellationToken::new();
        let mut server = tokio::spawn(bound.run(shutdown.clone()));
        let shown = tokio::select! {
            shown = self.show(&sim, address) => shown,
            _ = signals.next() => Ok(()),
            ended = &mut server => return stopped(ended),
        };
        shutdown.cancel();
        tokio::select! {
            ended = &mut server => shown.and(stopped(ended)),
            _ = signals.next() => shown,
        }
    }

    /// Plays the runs, and tells of them until the last one is delivered.
    async fn show(&self, sim: &Sim, address: SocketAddr) -> anyhow::Result<()> {
        let config = format!("kfpNamespace: {}", self.namespace);
        let tale = Tale { began: Instant::now(), colours: log::has_colours() };
        tale.say("A cluster is played in memory; the server in the middle is the real one.")?;
        if self.listen.port() != 0 {
            tale.say(&format!("An EventSource with the configuration `{config}` may dial {address}, too."))?;
        }
        tale.say("")?;
        let mut subscriber = Subscriber::connect(format!("http://{}", own(address))).await?;
        let mut events = subscriber.subscribe(SUBSCRIBER, &config).await?;
        tale.tell("subscriber", &format!("subscribes with `{config}`"))?;

        let (steps_in, mut steps) = mpsc::channel(STEPS);
        let play = Play {
            namespace: self.namespace.to_string(),
            pipeline: self.pipeline.clone(),
            location: self.location.clone(),
            ..Play::default()
        };
        let mut player = Player::new(sim, play, steps_in);
        let mut played = 0;
        while self.forever || played < self.runs.get() {
            played += 1;
            tale.say("")?;
            let workflow = tale.one_run(&mut player, &mut steps, &mut events).await?;
            tale.until_marked(sim, &self.namespace, &workflow).await?;
        }
        tale.say(&format!(
            "\nThat was it: {played} runs, {played} events. Next: `model-update-eventsource serve --help`, or this demo \
             with --forever and --listen for an EventSource of your own."
        ))
    }
}

/// Where this machine reaches a server that listens there.
fn own(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn stopped(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended.context("the server panicked")?
}

/// Tells what happens, as it happens.
struct Tale {
    began: Instant,
    colours: bool,
}

impl Tale {
    fn say(&self, text: &str) -> anyhow::Result<()> {
        writeln!(io::stderr(), "{text}").context("cannot write to standard error")
    }

    fn tell(&self, who: &str, what: &str) -> anyhow::Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        let (bold, plain) = if self.colours { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.say(&format!("{seconds:5.1} s  {bold}{who:<11}{plain} {what}"))
    }

    fn step(&self, step: &Step) -> anyhow::Result<()> {
        let Step { workflow, .. } = step;
        match &step.what {
            What::Submitted => self.tell("Kubeflow", &format!("submits a run: the Workflow {workflow}")),
            What::Running => self.tell("Argo", "runs it"),
            What::Pushed { location } => self.tell("Pusher", &format!("pushes a model to {location}")),
            What::Succeeded => self.tell("Argo", "sets the Workflow's phase to Succeeded"),
            // One more change of the Workflow, which must not lead to one more event.
            What::Finalized => Ok(()),
        }
    }

    /// One run, from its submission to its event. Returns the name of its Workflow.
    async fn one_run(
        &self,
        player: &mut Player<'_>,
        steps: &mut mpsc::Receiver<Step>,
        events: &mut (impl Stream<Item = Result<ReceivedEvent, SubscribeError>> + Unpin),
    ) -> anyhow::Result<String> {
        let mut playing = std::pin::pin!(player.run());
        let (mut played, mut received, mut workflow) = (false, false, String::new());
        // From the success on there is a deadline.
        let mut deadline = None;
        while !played || !received {
            let overdue = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(step) = steps.recv() => {
                    workflow.clone_from(&step.workflow);
                    if step.what == What::Succeeded {
                        deadline = Some(tokio::time::Instant::now() + SOON);
                    }
                    self.step(&step)?;
                }
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        received = true;
                        self.tell("subscriber", "gets the event:")?;
                        let mut line = event.payload;
                        line.push(b'\n');
                        io::stdout().write_all(&line).context("cannot write to standard output")?;
                    }
                    Some(Err(error)) => return Err(error).context("the stream ended"),
                    None => bail!("the stream ended"),
                },
                outcome = &mut playing, if !played => {
                    outcome.context("the simulation refused a step")?;
                    played = true;
                }
                () = overdue => bail!("no event within {} s after the run succeeded", SOON.as_secs()),
            }
        }
        Ok(workflow)
    }

    /// Waits until the delivery is remembered on the Workflow.
    async fn until_marked(&self, sim: &Sim, namespace: &str, workflow: &str) -> anyhow::Result<()> {
        let mark = format!("{MARK_PREFIX}{SUBSCRIBER}");
        let mut version = sim.version();
        let marked = async {
            loop {
                let is_marked = sim.workflow(namespace, workflow).is_ok_and(|it| it.annotations.contains_key(&mark));
                if is_marked || version.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(SOON, marked).await.context("the delivery was not marked on the Workflow in time")?;
        self.tell("this server", &format!("has the proof that it was read, and marks the Workflow: {mark}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_dials_the_address_that_it_listens_on() {
        for (listens, dialled) in [
            ("0.0.0.0:50051", "127.0.0.1:50051"),
            ("[::]:50051", "[::1]:50051"),
            ("[::1]:50051", "[::1]:50051"),
            ("192.0.2.7:50051", "192.0.2.7:50051"),
        ] {
            assert_eq!(own(listens.parse().unwrap()).to_string(), dialled);
        }
    }
}
