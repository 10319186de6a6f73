//! The rate at which a real kube-apiserver with etcd takes marks, and what that does to events, with a real ML
//! Metadata.
//!
//! ```sh
//! cargo bench --features peers --bench marks -- [DELIVERIES] [--json] [--rates NUMBER,...] [--server-binary PATH]
//! ```
//!
//! 1. Bare patches like those of marks, at several concurrencies: what the API server gives.
//! 2. For each `--mark-rate`: subscribers in ten namespaces receive an event for each of their failed runs, which need
//!    no lookup, and the server marks all of them. Meanwhile runs of another namespace succeed one by one. Their
//!    latency, from the request of the success to the event, has a baseline in the success as a bare watch sees it at
//!    the same time.
//!
//! Fails if an event of the other namespace is lost. Linux only.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use model_update_eventsource::eventsource::Subscriber;
use serde_json::json;
use test_support::{
    NewWorkflow, PIPELINE, Peers, RunningServer, TestEnv, Workflows,
    bench::{
        Latencies, Output, Row, ServerBuild,
        arrivals::{Arrival, arrival_of, location_of, subscribe},
    },
    process_stats::cpu_time,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep},
};

/// The time limit of every step.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Namespaces of the deliveries. Four suffice for all of the patches that the server has in flight.
const NAMESPACES: usize = 10;
/// Numbers of bare patches in flight: one, those of a namespace, and those of all namespaces.
const CONCURRENCY: [usize; 4] = [1, 4, 16, 64];
/// Bare patches for each of these.
const BARE: usize = 1_000;
/// Concurrent creations of Workflows.
const CREATIONS: usize = 16;
/// The time for which marks are written at a limited rate, and for which latency without marks is measured.
const WINDOW: Duration = Duration::from_secs(10);
/// The pause between two events of the other namespace.
const PAUSE: Duration = Duration::from_millis(50);
/// Runs of the other namespace for each rate.
const OTHERS: usize = 200;
/// A rate that is no limit.
const UNLIMITED: u32 = 100_000;
const WATCH_SECONDS: u32 = 294;

/// Measures the rate of marks.
#[derive(Parser)]
struct Options {
    /// Deliveries that are marked without a limit
    #[arg(default_value_t = 5_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1_000..))]
    deliveries: usize,
    /// Values of --mark-rate, beside no limit
    #[arg(long, value_delimiter = ',', default_value = "100,200,400", value_parser = clap::value_parser!(u32).range(1..))]
    rates: Vec<u32>,
    #[command(flatten)]
    server: ServerBuild,
    #[command(flatten)]
    output: Output,
}

/// The API server, with failed runs to be marked.
struct Bench<'a> {
    options: &'a Options,
    env: TestEnv,
    /// The namespaces of the deliveries.
    namespaces: Vec<(String, Workflows)>,
}

/// The measurements with one rate.
struct Figures {
    /// Marks in a second.
    rate: f64,
    /// CPU seconds of the API server and etcd in a second.
    cores: f64,
    /// From the request of the success to the event.
    latency: Latencies,
    /// From the same to its event of a bare watch.
    bare: Latencies,
}

impl Bench<'_> {
    async fn start(options: &Options) -> Bench<'_> {
        let env = TestEnv::start(Peers::find().await).await;
        let mut namespaces = Vec::new();
        for _ in 0..NAMESPACES {
            let namespace = env.cluster.namespace("marked").await;
            namespaces.push((namespace.clone(), env.cluster.workflows(&namespace).await));
        }
        let create = |number: usize| {
            let (_, workflows) = &namespaces[number % NAMESPACES];
            let new = NewWorkflow::tfx_v1(&format!("run-{number}"), PIPELINE).phase("Failed");
            async move { drop(workflows.create(new).await) }
        };
        stream::iter((0..options.deliveries).map(create)).buffer_unordered(CREATIONS).collect::<()>().await;
        Bench { options, env, namespaces }
    }

    /// Patches annotations at a concurrency. Returns patches in a second, and their latency.
    async fn bare_patches(&self, concurrency: usize) -> anyhow::Result<(f64, Latencies)> {
        let patch = |number: usize| async move {
            let (_, workflows) = &self.namespaces[number % NAMESPACES];
            let patch = json!({"metadata": {"annotations": {"example.com/bare": concurrency.to_string()}}});
            let start = Instant::now();
            let name = format!("run-{number}");
            workflows.api().patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            anyhow::Ok(start.elapsed())
        };
        let start = Instant::now();
        let times: Vec<_> = stream::iter((0..BARE).map(patch)).buffer_unordered(concurrency).try_collect().await?;
        Ok((BARE as f64 / start.elapsed().as_secs_f64(), Latencies::new(times)))
    }

    /// Measures the other namespace while marks are written at this rate; `None` for no marks.
    async fn measure(&self, rate: Option<u32>) -> anyhow::Result<Figures> {
        let kubeconfig = self.env.cluster.admin_kubeconfig_file();
        let flag = format!("--mark-rate={}", rate.unwrap_or(UNLIMITED));
        let server = self.options.server.start(&kubeconfig, &self.env.store.url(), &[&flag]).listening().await;
        server.ready().await;
        let mut others = Others::start(&self.env, &server, rate.unwrap_or_default()).await?;
        // One at first: connections and caches.
        others.next().await?;
        (others.latency, others.bare) = (Vec::new(), Vec::new());

        let mut subscribers = JoinSet::new();
        let mut expected = 0.0;
        if let Some(rate) = rate {
            let wanted = (WINDOW.as_secs_f64() * f64::from(rate)) as usize;
            let each = self.options.deliveries / NAMESPACES;
            for (namespace, _) in self.namespaces.iter().take(wanted.div_ceil(each)) {
                subscribers.spawn(drain(server.listen.to_string(), format!("marks-{rate}"), namespace.clone()));
                expected += each as f64;
            }
        }
        // Patches of the other namespace count, too. They are few.
        let before = patches(&server).await;
        let cluster = &self.env.cluster;
        let cpu = || cluster.pids().into_iter().map(cpu_time).sum::<Duration>();
        // Marks begin when the first deliveries are confirmed.
        let (mut begin, mut cpu_before) = ((Instant::now(), 0.0), cpu());
        let end = loop {
            let now = (Instant::now(), patches(&server).await - before);
            match rate {
                None if begin.0.elapsed() >= WINDOW => break now,
                Some(_) if now.1 >= expected => break now,
                Some(rate) => {
                    // Behind the burst that a rate allows.
                    let burst = if rate == UNLIMITED { 10.0 } else { f64::from(rate) };
                    if begin.1 < burst {
                        (begin, cpu_before) = (now, cpu());
                    }
                    ensure!(begin.0.elapsed() < TIMEOUT, "{} of {expected} marks are written", now.1);
                }
                None => {}
            }
            others.next().await?;
        };
        let duration = (end.0 - begin.0).as_secs_f64();
        let figures = Figures {
            rate: (end.1 - begin.1) / duration,
            cores: (cpu() - cpu_before).as_secs_f64() / duration,
            latency: Latencies::new(others.latency),
            bare: Latencies::new(others.bare),
        };
        subscribers.abort_all();
        server.stop().await;
        Ok(figures)
    }
}

/// Returns the number of accepted patches of marks.
async fn patches(server: &RunningServer) -> f64 {
    server.metric("modelupdate_mark_patches_total", &["outcome=\"ok\""]).await
}

/// Receives the events of a namespace.
async fn drain(server: String, subscription: String, namespace: String) -> anyhow::Result<()> {
    let mut subscriber = Subscriber::connect(server).await?;
    let config = format!("kfpNamespace: {namespace}\nstatuses: [succeeded, failed]");
    let mut events = subscriber.subscribe(&subscription, &config).await?;
    while events.try_next().await?.is_some() {}
    Ok(())
}

/// Runs of another namespace, which succeed one by one.
struct Others {
    workflows: Workflows,
    prefix: String,
    number: usize,
    events: mpsc::UnboundedReceiver<Arrival>,
    watched: mpsc::UnboundedReceiver<Arrival>,
    latency: Vec<Duration>,
    bare: Vec<Duration>,
    _tasks: JoinSet<anyhow::Result<()>>,
}

impl Others {
    async fn start(env: &TestEnv, server: &RunningServer, rate: u32) -> anyhow::Result<Self> {
        let prefix = format!("other-{rate}");
        let names: Vec<_> = (0..OTHERS).map(|number| format!("{prefix}-{number}")).collect();
        let models: Vec<_> = names.iter().map(|name| (name.clone(), location_of(name))).collect();
        env.writer.tfx_runs(PIPELINE, &models).await;
        for name in &names {
            env.workflows.create(NewWorkflow::tfx_v1(name, PIPELINE).phase("Running")).await;
        }
        let mut tasks = JoinSet::new();
        let (sender, events) = mpsc::unbounded_channel();
        let config = format!("{}\nremember: false", env.config());
        tasks.spawn(subscribe(server, &prefix, &config, sender).await?);
        let (sender, watched) = mpsc::unbounded_channel();
        let workflows = env.workflows.clone();
        tasks.spawn(async move {
            let parameters = WatchParams::default().labels("workflows.argoproj.io/phase=Succeeded");
            let parameters = parameters.timeout(WATCH_SECONDS);
            let mut events = workflows.api().watch_metadata(&parameters, "0").await?.boxed();
            while let Some(event) = events.try_next().await? {
                if let WatchEvent::Added(workflow) = event {
                    sender.send((workflow.metadata.name.context("a name")?, Instant::now()))?;
                }
            }
            Ok(())
        });
        let workflows = env.workflows.clone();
        let (latency, bare) = (Vec::new(), Vec::new());
        Ok(Self { workflows, prefix, number: 0, events, watched, latency, bare, _tasks: tasks })
    }

    /// Lets the next run succeed, and waits for its event.
    async fn next(&mut self) -> anyhow::Result<()> {
        sleep(PAUSE).await;
        if self.number == OTHERS {
            return Ok(());
        }
        let name = format!("{}-{}", self.prefix, self.number);
        self.number += 1;
        let sent = Instant::now();
        self.workflows.set_phase(&name, "Succeeded").await;
        self.latency.push(arrival_of(&name, &mut self.events, TIMEOUT).await?.duration_since(sent));
        self.bare.push(arrival_of(&name, &mut self.watched, TIMEOUT).await?.duration_since(sent));
        Ok(())
    }
}

async fn measure(options: &Options) -> anyhow::Result<Vec<Row>> {
    let bench = Bench::start(options).await;
    let mut rows = Vec::new();
    let mut most = 0.0_f64;
    for concurrency in CONCURRENCY {
        let (rate, latency) = bench.bare_patches(concurrency).await?;
        most = most.max(rate);
        rows.push(Row::new(format!("bare patches, {concurrency} at a time"), rate, "/s"));
        let what = format!("bare patches, {concurrency} at a time: p50 of a patch");
        rows.push(Row::new(what, latency.percentile(50), "ms"));
    }
    let rates = options.rates.iter().copied().chain([UNLIMITED]).map(Some);
    for rate in [None].into_iter().chain(rates) {
        let figures = bench.measure(rate).await.with_context(|| format!("with a rate of {rate:?}"))?;
        let name = match rate {
            None => "no marks".to_owned(),
            Some(UNLIMITED) => "marks without a limit".to_owned(),
            Some(rate) => format!("--mark-rate={rate}"),
        };
        if rate.is_some() {
            rows.push(Row::new(format!("{name}: marks"), figures.rate, "/s").over(most));
        }
        rows.push(Row::new(format!("{name}: CPU of the API server and etcd, of one core"), figures.cores * 100.0, "%"));
        for percent in [50, 99] {
            let what = format!("{name}: another namespace's success → event, p{percent}");
            rows.push(Row::new(what, figures.latency.percentile(percent), "ms").over(figures.bare.percentile(percent)));
        }
    }
    Ok(rows)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let rows = tokio::runtime::Runtime::new()?.block_on(measure(&options))?;
    options.output.print(&rows);
    Ok(())
}
