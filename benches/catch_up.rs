//! The cost of delivery itself: how fast subscribers catch up with succeeded runs if ML Metadata and the API server answer
//! at once. `cargo bench --bench catch_up -- [runs] [subscribers] [--json]` prints events per second, with `--json` as rows
//! of the report. No assertions.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, join_all};
use model_update_eventsource::{
    clock::WallClock,
    delivery::{ArtifactLookup, Attached, DeliveryMetrics, Driver, LookupError, MarkError, MarkPatch, Marker, Options},
    model::{
        Artifact, ArtifactTypes, Phase, PipelineFilter, PipelineName, RunModels, Statuses, Subscription,
        SubscriptionName, Uid, Workflow,
    },
    readiness::Heartbeat,
    store::Store,
};
use prometheus_client::registry::Registry;
use test_support::bench::{Budget, Row, json_lines};
use tokio_util::sync::CancellationToken;

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
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }
}

fn run(number: usize) -> Workflow {
    Workflow {
        namespace: "team".into(),
        name: format!("penguin-pipeline-{number:05}").into(),
        uid: Uid::from(number as u128 + 1),
        created: 1_700_000_000 + number as i64,
        finished: 0,
        resubmitted: false,
        phase: Phase::Succeeded,
        events_published: false,
        pipeline: PipelineName::Spec("penguin-pipeline".into()),
        run_id: None,
        trace_id: None,
        marks: [].into(),
        resource_version: None,
    }
}

fn subscription(number: usize) -> Subscription {
    Subscription {
        namespace: "team".into(),
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

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
async fn measure(runs: usize, subscribers: usize, json: bool) {
    let store = Arc::new(Store::default());
    (0..runs).for_each(|number| store.apply(run(number)));
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
        Driver::new(store, lookup, marker.clone(), Options::default(), WallClock::default(), metrics, heartbeat);
    let drain = CancellationToken::new();
    let task = tokio::spawn(driver.run(drain.clone()));

    let begin = Instant::now();
    let readers =
        (0..subscribers).map(|number| tokio::spawn(read(deliveries.attach(subscription(number), None, None), runs)));
    let times: Vec<_> = join_all(readers).await.into_iter().map(|times| times.expect("a reader")).collect();
    drain.cancel();
    task.await.expect("the task").expect("no panic");

    let first = times.iter().map(|(first, _)| *first - begin).min().unwrap_or_default();
    let last = times.iter().map(|(_, last)| *last - begin).max().unwrap_or_default();
    let events = (runs * subscribers) as f64;
    let patches = marker.0.load(std::sync::atomic::Ordering::Relaxed);
    if json {
        let row = Row::new(
            format!("catch-up of {runs} runs to {subscribers} subscribers"),
            events / last.as_secs_f64(),
            "events/s",
        );
        print!("{}", json_lines(&[row.within(Budget::AtLeast(5_000.0))]));
        return;
    }
    println!(
        "{runs} runs to {subscribers} subscribers: first event after {:.1} ms, all after {:.1} ms, {:.0} events/s, \
         {patches} patches",
        first.as_secs_f64() * 1e3,
        last.as_secs_f64() * 1e3,
        events / last.as_secs_f64(),
    );
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let chosen = numbers.next().map(|runs| vec![(runs, numbers.next().unwrap_or(1))]);
    let cases = chosen.unwrap_or_else(|| vec![(10_000, 1), (10_000, 20), (100_000, 1)]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
    for (runs, subscribers) in cases {
        runtime.block_on(measure(runs, subscribers, json));
    }
}
