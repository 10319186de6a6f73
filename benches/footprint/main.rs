//! Cost of the real program: memory at the start, with Workflows, after a relist, with idle subscribers, and after an
//! event to each of them, the time to readiness over a bare paged list, and CPU and wake-ups while nothing happens.
//!
//! ```sh
//! cargo bench --bench footprint -- [--json] [--workflows NUMBER,...] [--subscribers NUMBER,...] [--idle SECONDS]
//!     [--server-binary PATH]
//! ```
//!
//! Each Workflow has 10 KB of annotations and 3 KB of managed fields, as Kubeflow and Argo's controller write them. An
//! API server in this process serves them from a template. The baseline of memory is a reflector of kube, which keeps
//! the metadata without managed fields. `--server-binary` measures another build of the program, whose size is printed,
//! too. No assertions. Linux only.

mod api;
mod reflector;

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use futures::{Stream, StreamExt as _, future::try_join_all};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use model_update_eventsource::{
    eventsource::{ReceivedEvent, SubscribeError, Subscriber},
    sim::{NewWorkflow, Run, Sim, Task},
};
use test_support::{
    RunningServer,
    bench::{Budget, Output, Row, ServerBuild},
    eventually, plain_kubeconfig,
    process_stats::{cpu_time, peak_resident_kib, wake_ups},
};
use tokio::time::{Instant, sleep, timeout};

/// The bytes of the annotations of a Workflow, beside its specification's.
const ANNOTATIONS: usize = 10_000;
/// Workflows with much metadata: their number, and the bytes of the annotations of each.
const LARGE: (usize, usize) = (2_000, 47_000);
/// Subscribers beside them.
const SUBSCRIBERS_OF_LARGE: [usize; 2] = [1, 10];
/// Namespaces of Workflows and subscribers.
const NAMESPACES: usize = 1_000;
/// The pipeline of runs whose events are sent.
const PIPELINE: &str = "penguin-pipeline";
/// Connections that are opened concurrently.
const CONCURRENT: usize = 50;
/// Workflows of a page of the bare list: the page size that kubectl and client-go use.
const PAGE: u32 = 500;
/// The time after which memory is read: allocators return memory late.
const SETTLED: Duration = Duration::from_secs(3);
/// The time limit of a start.
const START: Duration = Duration::from_secs(300);
/// The label of Workflows that are runs.
const SELECTOR: &str = "pipeline/runid";
const MIB: f64 = 1024.0 * 1024.0;

/// Measures memory, starts, idle CPU and wake-ups.
#[derive(Parser)]
struct Options {
    /// Numbers of Workflows
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    workflows: Vec<usize>,
    /// Numbers of idle subscribers
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    subscribers: Vec<usize>,
    /// Seconds for which CPU and wake-ups are measured
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Only keep the Workflows of this API server, as the baseline
    #[arg(long, value_name = "URL", hide = true)]
    reflector: Option<String>,
    #[command(flatten)]
    server: ServerBuild,
    #[command(flatten)]
    output: Output,
}

/// A started program, and the times from its start.
struct Started {
    server: RunningServer,
    listening: Duration,
    ready: Duration,
    // The folder of its kubeconfig.
    _folder: tempfile::TempDir,
}

async fn start(build: &ServerBuild, api_server: &str, metadata_store: &str) -> anyhow::Result<Started> {
    let folder = tempfile::tempdir()?;
    let kubeconfig = plain_kubeconfig(folder.path(), api_server);
    let begin = Instant::now();
    let flags = ["--max-streams=10000", "--max-streams-per-peer=10000"];
    let server = build.start(&kubeconfig, metadata_store, &flags).listening().await;
    let listening = begin.elapsed();
    eventually(START, "readiness", async || server.get("/readyz").await).await;
    Ok(Started { server, listening, ready: begin.elapsed(), _folder: folder })
}

/// Waits until allocators have returned memory.
async fn settle() {
    sleep(SETTLED).await;
}

/// The resident memory in bytes, after a while.
async fn settled(server: &RunningServer) -> f64 {
    settle().await;
    server.resident_kib() as f64 * 1024.0
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

type Events = Box<dyn Stream<Item = Result<ReceivedEvent, SubscribeError>> + Send + Unpin>;

async fn subscribe(server: &RunningServer, number: usize) -> anyhow::Result<Events> {
    let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await?;
    // Nothing is pending for it: the runs of the measurement have ended long ago.
    let config = format!("kfpNamespace: {}\nmaxAge: 1h", namespace(number));
    Ok(Box::new(subscriber.subscribe(&format!("subscriber-{number}"), &config).await?))
}

/// Sends an event of about 300 B to each subscriber, a few at a time, and returns once all of them are confirmed and
/// marked.
async fn send_events(sim: &Sim, server: &RunningServer, connected: &mut [Events]) -> anyhow::Result<()> {
    for (part, events) in connected.chunks_mut(CONCURRENT).enumerate() {
        for number in part * CONCURRENT..part * CONCURRENT + events.len() {
            let (namespace, run) = (namespace(number), format!("run-{number}"));
            sim.create_workflow(&namespace, NewWorkflow::tfx_v1(&run, PIPELINE).phase("Running"))
                .context("the simulation accepts a Workflow")?;
            sim.put_task(&Run::tfx_v1(PIPELINE, &run), Task::pusher(&format!("gs://models/{run}")));
            sim.set_phase(&namespace, &run, "Succeeded").context("the Workflow exists")?;
        }
        for events in events {
            timeout(START, events.next()).await.context("no event in time")?.context("a stream has ended")??;
        }
    }
    server.metric_is("modelupdate_events_confirmed_total", &[], connected.len() as f64).await;
    server.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    Ok(())
}

fn workflows_resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Workflow"))
}

/// Lists the metadata of every Workflow in pages, and decodes nothing else: the least that a program has to do before
/// it can watch.
async fn bare_list(api_server: &str) -> anyhow::Result<Duration> {
    let client = Client::try_from(Config::new(api_server.parse()?))?;
    let api: Api<DynamicObject> = Api::all_with(client, &workflows_resource());
    let begin = Instant::now();
    let mut page = ListParams::default().labels(SELECTOR).limit(PAGE);
    loop {
        let list = api.list_metadata(&page).await?;
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(begin.elapsed()),
        }
    }
}

async fn with_workflows(options: &Options, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let (sim, workflows) = (Sim::start().await?, api::Workflows::start(ANNOTATIONS).await?);
    let bytes = workflows.metadata_bytes();
    let mut last: Option<(usize, f64, f64)> = None;
    let mut numbers = options.workflows.clone();
    numbers.sort_unstable();
    let most = numbers.last().copied();
    let limited = |row: Row, number| if number == 100_000 { row.within(Budget::AtMost(60.0)) } else { row };
    for number in numbers {
        workflows.set_number(number);
        let bare = bare_list(&workflows.url).await?;
        let of_reflector = reflector::memory(&workflows.url).await?;
        let started = start(&options.server, &workflows.url, &sim.metadata_url()).await?;
        let memory = settled(&started.server).await;
        let with = format!("memory with {number} Workflows of {bytes} B of metadata");
        rows.push(limited(Row::new(with.clone(), memory / MIB, "MiB").over(of_reflector / MIB), number));
        if most == Some(number) {
            let row = Row::new(format!("start to ready with {number} Workflows"), started.ready.as_secs_f64(), "s");
            rows.push(row.over(bare.as_secs_f64()).within(Budget::Ratio(1.2)));
            if let Some((fewer, before, of_reflector_before)) = last {
                let each = |growth: f64| growth / (number - fewer) as f64;
                let row = Row::new("memory of a record", each(memory - before), "B");
                let row = row.over(each(of_reflector - of_reflector_before));
                rows.push(row.within(Budget::AtMost(260.0)));
            }
            timeout(START, workflows.relist()).await.context("the server did not list again")?;
            let memory = settled(&started.server).await;
            rows.push(limited(Row::new(format!("{with}, after a relist"), memory / MIB, "MiB"), number));
            let highest = peak_resident_kib(started.server.process.pid()) as f64 * 1024.0;
            rows.push(limited(Row::new(format!("{with}, the peak of start and relist"), highest / MIB, "MiB"), number));
        }
        last = Some((number, memory, of_reflector));
        started.server.stop().await;
    }
    Ok(())
}

/// Workflows with much metadata, and a few subscribers.
async fn with_large_workflows(options: &Options, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let (number, annotations) = LARGE;
    let (sim, workflows) = (Sim::start().await?, api::Workflows::start(annotations).await?);
    workflows.set_number(number);
    let of_reflector = reflector::memory(&workflows.url).await?;
    let started = start(&options.server, &workflows.url, &sim.metadata_url()).await?;
    let mut connected = Vec::new();
    for subscribers in SUBSCRIBERS_OF_LARGE {
        while connected.len() < subscribers {
            connected.push(subscribe(&started.server, connected.len()).await?);
        }
        let what = format!(
            "memory with {number} Workflows of {} B of metadata and {subscribers} subscribers",
            workflows.metadata_bytes()
        );
        rows.push(Row::new(what, settled(&started.server).await / MIB, "MiB").over(of_reflector / MIB));
    }
    drop(connected);
    started.server.stop().await;
    Ok(())
}

async fn with_subscribers(options: &Options, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let sim = Sim::start().await?;
    let api_server = sim.kube_config().cluster_url.to_string();
    let started = start(&options.server, &api_server, &sim.metadata_url()).await?;
    let server = &started.server;
    rows.push(Row::new("start to listening", started.listening.as_secs_f64() * 1e3, "ms"));
    let before = settled(server).await;
    rows.push(Row::new("memory at the start", before / MIB, "MiB"));
    let mut connected = Vec::new();
    let mut numbers = options.subscribers.clone();
    numbers.sort_unstable();
    let most = numbers.last().copied();
    for number in numbers {
        while connected.len() < number {
            let next = connected.len()..number.min(connected.len() + CONCURRENT);
            connected.extend(try_join_all(next.map(|number| subscribe(server, number))).await?);
        }
        let each = (settled(server).await - before) / number as f64 / 1024.0;
        let row = Row::new(format!("memory of each of {number} idle subscribers"), each, "KiB");
        // The first ones pay for threads, tables and caches.
        rows.push(if most == Some(number) { row.within(Budget::AtMost(32.0)) } else { row });
    }
    let pid = server.process.pid();
    let used = cpu_time(pid);
    let woken = wake_ups(pid, Duration::from_secs(options.idle)).await as f64 / options.idle as f64 * 60.0;
    let busy = (cpu_time(pid) - used).as_secs_f64() / options.idle as f64;
    let row = Row::new(format!("CPU with {} idle subscribers, of one core", connected.len()), busy * 100.0, "%");
    rows.push(row.within(Budget::AtMost(1.0)));
    rows.push(Row::new(format!("wake-ups with {} idle subscribers", connected.len()), woken, "a minute"));
    let watches = server.metric("modelupdate_watch_scope_up", &[]).await;
    rows.push(
        Row::new(format!("watches for {} subscribers", connected.len()), watches, "").within(Budget::AtMost(1.0)),
    );
    send_events(&sim, server, &mut connected).await?;
    let each = (settled(server).await - before) / connected.len() as f64 / 1024.0;
    let what = format!("memory of each of {} subscribers after an event, its run included", connected.len());
    rows.push(Row::new(what, each, "KiB"));
    drop(connected);
    started.server.stop().await;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(api_server) = &options.reflector {
        return runtime.block_on(reflector::run(api_server));
    }
    let size = std::fs::metadata(options.server.path())?.len() as f64;
    let mut rows = vec![Row::new("size of the program", size / MIB, "MiB").within(Budget::AtMost(20.0))];
    runtime.block_on(async {
        with_subscribers(&options, &mut rows).await?;
        with_workflows(&options, &mut rows).await?;
        with_large_workflows(&options, &mut rows).await
    })?;
    options.output.print(&rows);
    Ok(())
}
