//! The cost of delivery itself: how fast subscribers catch up with succeeded runs if ML Metadata and the API server
//! answer at once, and how many instructions one delivery takes.
//!
//! ```sh
//! cargo bench --bench catch_up -- [RUNS] [SUBSCRIBERS] [--json]
//! cargo bench --bench catch_up -- --instructions[=VALGRIND] [--json]
//! ```
//!
//! Everything runs in this process, so the profile of Cargo counts: `bench`, which is optimized. The instructions,
//! which valgrind counts, depend on the compiler and not on the machine. No assertions.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use futures::future::{BoxFuture, join_all};
use model_update_eventsource::{
    clock::WallClock,
    delivery::{
        ArtifactLookup, Attached, DeliveryMetrics, Driver, LookupError, MarkError, MarkPatch, Marker,
        Options as Delivery,
    },
    model::{
        Artifact, ArtifactTypes, Phase, PipelineFilter, PipelineName, RunModels, Statuses, Subscription,
        SubscriptionName, Uid, Workflow,
    },
    readiness::Heartbeat,
    store::Store,
};
use prometheus_client::registry::Registry;
use test_support::{
    bench::{Budget, Output, Row},
    callgrind,
};
use tokio_util::sync::CancellationToken;

/// The numbers of runs of which valgrind counts the instructions: few, and many.
const COUNTED: (usize, usize) = (1_000, 5_000);
/// The budget of instructions for a delivery: what was measured, and a quarter. Raise it only with a reason.
const INSTRUCTIONS: f64 = 127_000.0;

/// The most namespaces that subscribers and runs share evenly. The streams of one namespace may hold 131,072 runs in
/// all, so 100 of them cannot catch up with 10,000 runs each there.
const NAMESPACES: usize = 20;

/// Measures catching up.
#[derive(Parser)]
struct Options {
    /// Runs that have succeeded before the first subscriber connects
    #[arg(default_value_t = 10_000)]
    runs: usize,
    /// Subscribers, each of which receives every run of its namespace
    #[arg(default_value_t = 1)]
    subscribers: usize,
    /// Count the instructions of a delivery instead, with this program [default: valgrind]
    #[arg(long, value_name = "VALGRIND", num_args = 0..=1, require_equals = true, default_missing_value = "valgrind")]
    instructions: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// The times from the first attachment, and the marks.
struct Measured {
    events: usize,
    namespaces: usize,
    first: Duration,
    last: Duration,
    patches: usize,
}

/// A lookup that finds one model for every run, at once.
struct InstantLookup(Arc<RunModels>);

impl ArtifactLookup for InstantLookup {
    fn find<'a>(
        &'a self,
        _: &'a Workflow,
        _: &'a Arc<ArtifactTypes>,
    ) -> BoxFuture<'a, Result<Arc<RunModels>, LookupError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn forget(&self, _: Uid) {}
}

/// A marker that counts patches and accepts them at once.
#[derive(Default)]
struct InstantMarker(AtomicUsize);

impl Marker for InstantMarker {
    fn patch<'a>(&'a self, _: &'a MarkPatch) -> BoxFuture<'a, Result<(), MarkError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }
}

fn run(number: usize, namespace: Arc<str>) -> Workflow {
    Workflow {
        namespace,
        name: format!("penguin-pipeline-{number:05}").into(),
        uid: Uid::from(number as u128 + 1),
        created: 1_700_000_000 + number as i64,
        finished: 0,
        resubmitted: false,
        phase: Phase::Succeeded,
        events_published: false,
        pipeline: PipelineName::Spec("penguin-pipeline".into()).into(),
        run_id: None,
        trace_id: None,
        marks: [].into(),
    }
}

fn subscription(number: usize, namespace: Arc<str>) -> Subscription {
    Subscription {
        namespace,
        name: SubscriptionName::new(&format!("subscriber-{number}")).expect("a DNS label"),
        pipelines: PipelineFilter::matching(["penguin-*"]).expect("a pattern"),
        artifact_types: Arc::default(),
        max_age: None,
        latest_only: false,
        statuses: Statuses::default(),
        unscoped: None,
        remember: true,
        include: [].into_iter().collect(),
    }
}

/// Reads and acknowledges one event per run. Returns the times of the first and the last.
async fn read(mut stream: Attached, runs: usize) -> (Instant, Instant) {
    let mut first = None;
    for _ in 0..runs {
        let handoff = stream.events.recv().await.expect("an open stream");
        first.get_or_insert_with(Instant::now);
        stream.acks.acknowledged(handoff.sequence);
    }
    let last = Instant::now();
    // The time for the confirmations and their marks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    (first.unwrap_or(last), last)
}

async fn measure(runs: usize, subscribers: usize) -> Measured {
    let store = Arc::new(Store::default());
    let spread = subscribers.min(NAMESPACES);
    let namespaces: Vec<Arc<str>> = (0..spread).map(|number| format!("team-{number}").into()).collect();
    let namespace = |number: usize| namespaces[number % spread].clone();
    (0..runs).for_each(|number| store.apply(run(number, namespace(number))));
    let model = Artifact {
        id: 1.into(),
        name: None,
        uri: "gs://root/penguin-pipeline/Pusher/pushed_model/1638".into(),
        node: "Pusher".into(),
        key: "pushed_model".into(),
        index: 0,
    };
    let lookup = Arc::new(InstantLookup(Arc::new(RunModels { models: vec![model], ..RunModels::default() })));
    let marker = Arc::new(InstantMarker::default());
    let (metrics, heartbeat) = (DeliveryMetrics::new(&mut Registry::default()), Heartbeat::default());
    let (deliveries, driver) =
        Driver::new(store, lookup, marker.clone(), Delivery::default(), WallClock::default(), metrics, heartbeat);
    let drain = CancellationToken::new();
    let task = tokio::spawn(driver.run(drain.clone()));

    let begin = Instant::now();
    // The runs of the subscriber's namespace.
    let wanted = |number: usize| (number % spread..runs).step_by(spread).len();
    let readers = (0..subscribers).map(|number| {
        let stream = deliveries.attach(subscription(number, namespace(number)), None, None);
        tokio::spawn(read(stream, wanted(number)))
    });
    let times: Vec<_> = join_all(readers).await.into_iter().map(|times| times.expect("a reader")).collect();
    drain.cancel();
    task.await.expect("the task").expect("no panic");
    Measured {
        events: (0..subscribers).map(wanted).sum(),
        namespaces: spread,
        first: times.iter().map(|(first, _)| *first - begin).min().unwrap_or_default(),
        last: times.iter().map(|(_, last)| *last - begin).max().unwrap_or_default(),
        patches: marker.0.load(Ordering::Relaxed),
    }
}

fn case(runs: usize, subscribers: usize) -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
    let measured = runtime.block_on(measure(runs, subscribers));
    let what = format!(
        "catch-up of {runs} runs in {} namespaces to {subscribers} subscribers: {} events",
        measured.namespaces, measured.events
    );
    let rate = measured.events as f64 / measured.last.as_secs_f64();
    vec![
        Row::new(what.clone(), rate, "events/s").within(Budget::AtLeast(5_000.0)),
        Row::new(format!("{what}; the first"), measured.first.as_secs_f64() * 1e3, "ms"),
        Row::new(format!("{what}; the last"), measured.last.as_secs_f64() * 1e3, "ms"),
        Row::new(format!("{what}; patches of marks"), measured.patches as f64, ""),
    ]
}

/// Counts the instructions of this benchmark with so many runs and one subscriber, by valgrind.
fn instructions(valgrind: &Path, runs: usize) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let profile = folder.path().join("callgrind");
    let output = Command::new(valgrind)
        .args(callgrind::arguments(&profile))
        .arg(std::env::current_exe()?)
        .args([runs.to_string(), "1".to_owned(), "--json".to_owned()])
        .output()
        .with_context(|| format!("{} cannot be started: install valgrind", valgrind.display()))?;
    ensure!(output.status.success(), "valgrind failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(callgrind::total(&profile)? as f64)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut rows = Vec::new();
    if let Some(valgrind) = &options.instructions {
        // The difference leaves out the start of the process.
        let (few, many) = COUNTED;
        let each = (instructions(valgrind, many)? - instructions(valgrind, few)?) / (many - few) as f64;
        rows.push(Row::new("instructions of a delivery", each, "").within(Budget::AtMost(INSTRUCTIONS)));
    } else {
        rows.extend(case(options.runs, options.subscribers));
    }
    options.output.print(&rows);
    Ok(())
}
