//! One measurement: a load for some time, and what the server takes for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent, WatchParams},
};
use model_update_eventsource::{
    eventsource::Subscriber,
    sim::{NewWorkflow, Run, Sim, Task},
};
use test_support::{
    PIPELINE, RunningServer,
    bench::{Latencies, ServerBuild},
    eventually, model_location, plain_kubeconfig,
    process_stats::cpu_time,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// The time for which a run runs. Shorter than the age at which the server looks a run up ahead, so that each lookup is
/// between the success and the event.
const RUNNING: Duration = Duration::from_secs(1);
/// The time before the first run that counts: connections, caches, tables.
const WARM_UP: Duration = Duration::from_secs(3);
/// Connections that are opened concurrently.
const CONCURRENT: usize = 50;
/// The time limit of a start.
const START: Duration = Duration::from_secs(300);
/// The time limit of the last events and marks, after the last success.
const LAST: Duration = Duration::from_secs(120);
/// The time after the last mark in which an event would be a duplicate.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// The longest time of a bare watch. kube allows no more.
const WATCH_SECONDS: u32 = 294;
const MARK_PREFIX: &str = "published.pipelines.kubeflow.org/";
const MIB: f64 = 1024.0 * 1024.0;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Workflows that exist before it, all of them ended.
    pub(crate) workflows: usize,
    /// Subscribers, each in a namespace of its own.
    pub(crate) subscribers: usize,
    /// Runs that succeed in a second.
    pub(crate) rate: f64,
    /// The time for which it lasts.
    pub(crate) duration: Duration,
}

/// The measurements.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Events that count.
    pub(crate) events: usize,
    /// From the success to the event at the subscriber.
    pub(crate) latency: Latencies,
    /// From the success to its event of a bare watch.
    pub(crate) bare: Latencies,
    /// From the event at the subscriber to its mark.
    pub(crate) marks: Latencies,
    /// CPU seconds of the server in a second.
    pub(crate) cores: f64,
    /// Resident memory of the server at its highest, in MiB.
    pub(crate) memory: f64,
    /// Watches that the server has open.
    pub(crate) watches: f64,
    /// Patches of the server for each run.
    pub(crate) patches: f64,
}

impl Figures {
    /// CPU milliseconds of the server for each event.
    pub(crate) fn cpu_milliseconds(&self, load: &Load) -> f64 {
        self.cores * load.duration.as_secs_f64() / self.events as f64 * 1e3
    }
}

/// The begin and the end of a time that counts, as far as they were seen.
type Interval = (Option<Instant>, Option<Instant>);

/// The times of one run.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    succeeded: Option<Instant>,
    watched: Option<Instant>,
    received: Option<Instant>,
    receipts: usize,
    marked: Option<Instant>,
}

/// The times of all runs, by the names of their Workflows.
#[derive(Clone, Debug, Default)]
struct Journal(Arc<Mutex<HashMap<String, Times>>>);

impl Journal {
    fn update(&self, run: &str, update: impl FnOnce(&mut Times)) {
        update(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(run.to_owned()).or_default());
    }

    fn count(&self, which: impl Fn(&Times) -> bool) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|times| which(times)).count()
    }

    fn all(&self) -> HashMap<String, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn namespace(number: usize) -> String {
    format!("team-{number}")
}

fn run_name(number: usize) -> String {
    format!("run-{number}")
}

fn location(run: &str) -> String {
    format!("gs://models/{run}")
}

/// Creates Workflows whose runs have failed, which these subscribers have no interest in.
fn create_ended(sim: &Sim, load: &Load) -> anyhow::Result<()> {
    for number in 0..load.workflows {
        let new = NewWorkflow::tfx_v1(&format!("ended-{number}"), PIPELINE).phase("Failed");
        sim.create_workflow(&namespace(number % load.subscribers), new).context("the simulation accepts a Workflow")?;
    }
    Ok(())
}

/// Subscribes, and writes the receipts of events into the journal. A subscriber's run is removed from ML Metadata with
/// its event: the simulated store searches in all that it has.
async fn subscribe(
    server: &RunningServer,
    sim: &Arc<Sim>,
    load: &Load,
    journal: &Journal,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut tasks = JoinSet::new();
    for begin in (0..load.subscribers).step_by(CONCURRENT) {
        let connect = async |number: usize| {
            let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await?;
            let config = format!("kfpNamespace: {}", namespace(number));
            anyhow::Ok(subscriber.subscribe(&format!("subscriber-{number}"), &config).await?)
        };
        let numbers = begin..load.subscribers.min(begin + CONCURRENT);
        for mut events in try_join_all(numbers.map(connect)).await? {
            let (sim, journal) = (sim.clone(), journal.clone());
            tasks.spawn(async move {
                while let Some(event) = events.next().await.transpose()? {
                    let received = Instant::now();
                    let location = model_location(&String::from_utf8(event.payload)?);
                    let run = location.strip_prefix("gs://models/").context("an event of another run")?;
                    journal.update(run, |times| {
                        times.receipts += 1;
                        times.received.get_or_insert(received);
                    });
                    sim.forget_run(&Run::tfx_v1(PIPELINE, run));
                }
                anyhow::bail!("a stream has ended")
            });
        }
    }
    Ok(tasks)
}

/// Watches the Workflows, and writes their successes and marks into the journal.
async fn bare_watch(config: kube::Config, mut version: String, journal: Journal) -> anyhow::Result<()> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Workflow"));
    let api: Api<DynamicObject> = Api::all_with(Client::try_from(config)?, &resource);
    let parameters = WatchParams::default().labels("pipeline/runid").timeout(WATCH_SECONDS);
    loop {
        let mut events = api.watch_metadata(&parameters, &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            let now = Instant::now();
            let (WatchEvent::Added(workflow) | WatchEvent::Modified(workflow)) = event else { continue };
            let metadata = workflow.metadata;
            version = metadata.resource_version.unwrap_or(version);
            let labels = metadata.labels.unwrap_or_default();
            if labels.get("workflows.argoproj.io/phase").is_some_and(|phase| phase == "Succeeded") {
                let annotations = metadata.annotations.unwrap_or_default();
                let is_marked = annotations.keys().any(|key| key.starts_with(MARK_PREFIX));
                journal.update(&metadata.name.context("a name")?, |times| {
                    times.watched.get_or_insert(now);
                    if is_marked {
                        times.marked.get_or_insert(now);
                    }
                });
            }
        }
    }
}

/// Creates runs, each of which succeeds after [`RUNNING`]. Returns the number of the runs before the first that counts,
/// the CPU time of the server from that one on, and its highest memory.
async fn drive(
    sim: &Sim,
    server: &RunningServer,
    load: &Load,
    journal: &Journal,
) -> anyhow::Result<(usize, Duration, f64)> {
    let of = |time: Duration| (time.as_secs_f64() * load.rate).round() as usize;
    let (lag, uncounted) = (of(RUNNING).max(1), of(WARM_UP));
    let total = uncounted + of(load.duration).max(1);
    let pid = server.process.pid();
    let (begin, mut cpu, mut memory) = (Instant::now(), cpu_time(pid), 0.0_f64);
    for number in 0..total + lag {
        sleep_until(begin + Duration::from_secs_f64(number as f64 / load.rate)).await;
        if number < total {
            let (name, namespace) = (run_name(number), namespace(number % load.subscribers));
            sim.create_workflow(&namespace, NewWorkflow::tfx_v1(&name, PIPELINE).phase("Running"))
                .context("the simulation accepts a Workflow")?;
            sim.put_task(&Run::tfx_v1(PIPELINE, &name), Task::pusher(&location(&name)));
        }
        if let Some(number) = number.checked_sub(lag) {
            if number == uncounted {
                cpu = cpu_time(pid);
            }
            let (name, namespace) = (run_name(number), namespace(number % load.subscribers));
            journal.update(&name, |times| times.succeeded = Some(Instant::now()));
            sim.set_phase(&namespace, &name, "Succeeded").context("the Workflow exists")?;
        }
        if number % of(Duration::from_secs(1)).max(1) == 0 {
            memory = memory.max(server.resident_kib() as f64 * 1024.0 / MIB);
        }
    }
    // Of the last run, too.
    sleep_until(begin + Duration::from_secs_f64((total + lag) as f64 / load.rate)).await;
    Ok((uncounted, cpu_time(pid) - cpu, memory))
}

/// Measures a load.
///
/// # Errors
/// An event was lost or sent twice, or a mark is missing.
pub(crate) async fn measure(build: &ServerBuild, load: &Load) -> anyhow::Result<Figures> {
    let sim = Arc::new(Sim::start().await?);
    create_ended(&sim, load)?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = plain_kubeconfig(folder.path(), &sim.kube_config().cluster_url.to_string());
    let flags = ["--max-streams=10000", "--max-streams-per-peer=10000"];
    let server = build.start(&kubeconfig, &sim.metadata_url(), &flags).listening().await;
    eventually(START, "readiness", async || server.get("/readyz").await).await;

    let journal = Journal::default();
    let version = sim.version().borrow().to_string();
    let bare = tokio::spawn(bare_watch(sim.kube_config(), version, journal.clone()));
    let mut subscribers = subscribe(&server, &sim, load, &journal).await?;
    let patches_before = sim.requests().borrow().patches;
    let (uncounted, cpu, memory) = drive(&sim, &server, load, &journal).await?;

    let deadline = Instant::now() + LAST;
    while journal.count(|times| times.marked.is_none() || times.received.is_none()) > 0 {
        let runs = journal.count(|_| true);
        let (received, marked) =
            (journal.count(|times| times.received.is_some()), journal.count(|times| times.marked.is_some()));
        ensure!(!bare.is_finished(), "the bare watch has ended");
        if let Some(ended) = subscribers.try_join_next() {
            ended??;
        }
        ensure!(Instant::now() < deadline, "of {runs} runs, {received} were received and {marked} are marked");
        sleep(Duration::from_millis(50)).await;
    }
    sleep(AFTERWARDS).await;
    let watches = server.metric("modelupdate_watch_scope_up", &[]).await;
    let runs = journal.all();
    for (name, times) in &runs {
        ensure!(times.receipts == 1, "{name}: {} events", times.receipts);
        ensure!(times.succeeded.is_some(), "{name}: an event of a run that has not succeeded");
    }
    let patches = (sim.requests().borrow().patches - patches_before) as f64 / runs.len() as f64;
    bare.abort();
    subscribers.abort_all();
    server.stop().await;

    let counted: Vec<_> = (uncounted..runs.len()).map(|number| runs[&run_name(number)]).collect();
    let between = |times: &dyn Fn(&Times) -> Interval| {
        let time = |(from, to): Interval| Some(to?.saturating_duration_since(from?));
        Latencies::new(counted.iter().filter_map(|run| time(times(run))).collect())
    };
    Ok(Figures {
        events: counted.len(),
        latency: between(&|times| (times.succeeded, times.received)),
        bare: between(&|times| (times.succeeded, times.watched)),
        marks: between(&|times| (times.received, times.marked)),
        cores: cpu.as_secs_f64() / load.duration.as_secs_f64(),
        memory,
        watches,
        patches,
    })
}
