//! A burst: runs in fifty namespaces succeed at a rate of 10,000 a minute.
//!
//! By default 1,000 runs succeed within six seconds. `MODEL_UPDATE_BURST` sets the number of runs:
//!
//! ```sh
//! MODEL_UPDATE_BURST=10000 tests/run --test faults scale::burst -- --nocapture
//! ```
//!
//! Workflows and models are written before the burst, as fast as the peers accept them. The age of an event starts when
//! the patch of the phase is sent.

use std::{collections::HashMap, env, time::Duration};

use futures::{StreamExt, stream};
use model_update_eventsource::eventsource::{ReceivedEvent, Subscriber};
use test_support::{
    NewWorkflow, Peers, RunningServer, ServerProcess, SharedCluster, Tally, Workflows, Writer, eventually,
    model_location, report,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    exclusive,
    in_process::PIPELINE,
    test_env::{SUBSCRIPTION, location_of},
};

const NAMESPACES: usize = 50;
/// Runs that succeed each second: 10,000 a minute.
const RATE: f64 = 10_000.0 / 60.0;
/// Default number of runs.
const RUNS: usize = 1_000;
/// Concurrent creations of Workflows.
const CONCURRENT_CREATES: usize = 16;
/// Concurrent patches of phases.
const CONCURRENT_PATCHES: usize = 64;
/// Deadline for the next event and for the marks.
const DEADLINE: Duration = Duration::from_secs(120);
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Debug)]
struct Run {
    workflows: Workflows,
    name: String,
}

/// An event's model location, with its time of arrival.
type Arrival = (String, Instant);

/// Creates running runs with models, evenly distributed over namespaces. Returns the namespaces and the runs.
async fn create_runs(cluster: &SharedCluster, writer: &Writer, count: usize) -> (Vec<String>, Vec<Run>) {
    let client = cluster.client().await;
    let mut namespaces = Vec::new();
    for _ in 0..NAMESPACES {
        namespaces.push(cluster.namespace("burst").await);
    }
    let runs: Vec<_> = (0..count)
        .map(|number| Run {
            workflows: Workflows::new(client.clone(), &namespaces[number % NAMESPACES]),
            name: format!("run-{number}"),
        })
        .collect();
    let started = Instant::now();
    let models: Vec<_> = runs.iter().map(|run| (run.name.clone(), location_of(&run.name))).collect();
    writer.tfx_runs(PIPELINE, &models).await;
    let written = started.elapsed();
    let create = |run: &Run| {
        let (workflows, new) = (run.workflows.clone(), NewWorkflow::tfx_v1(&run.name, PIPELINE).phase("Running"));
        async move { drop(workflows.create(new).await) }
    };
    stream::iter(runs.iter().map(create)).buffer_unordered(CONCURRENT_CREATES).collect::<()>().await;
    report(format!(
        "{count} runs written to ML Metadata in {written:.1?}, {count} Workflows created in {:.1?}",
        started.elapsed() - written
    ));
    (namespaces, runs)
}

/// Sets the phase of each run to Succeeded, at [`RATE`]. Returns when each patch was sent, by location.
async fn succeed(runs: Vec<Run>) -> HashMap<String, Instant> {
    let started = Instant::now();
    let succeed = |(number, run): (usize, Run)| async move {
        tokio::time::sleep_until(started + Duration::from_secs_f64(number as f64 / RATE)).await;
        let sent = Instant::now();
        run.workflows.set_phase(&run.name, "Succeeded").await;
        (location_of(&run.name), sent)
    };
    let runs = stream::iter(runs.into_iter().enumerate());
    let sent = runs.map(succeed).buffer_unordered(CONCURRENT_PATCHES).collect().await;
    report(format!("all runs succeeded within {:.1?}", started.elapsed()));
    sent
}

/// Subscribes to every namespace. The tasks forward the events to the receiver.
async fn subscribe(server: &RunningServer, namespaces: &[String]) -> (JoinSet<()>, mpsc::UnboundedReceiver<Arrival>) {
    let (sender, arrivals) = mpsc::unbounded_channel();
    let mut subscribers = JoinSet::new();
    for namespace in namespaces {
        let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.expect("a connection");
        let config = format!("kfpNamespace: {namespace}");
        let mut stream = Box::pin(subscriber.subscribe(SUBSCRIPTION, &config).await.expect("a stream"));
        let sender = sender.clone();
        subscribers.spawn(async move {
            while let Some(Ok(ReceivedEvent { payload, .. })) = stream.next().await {
                let payload = String::from_utf8(payload).expect("JSON is UTF-8");
                sender.send((model_location(&payload), Instant::now())).expect("the test still receives");
            }
        });
    }
    (subscribers, arrivals)
}

/// Returns the age that this fraction of the sorted ages does not exceed.
fn percentile(ages: &[Duration], fraction: f64) -> Duration {
    ages[((ages.len() - 1) as f64 * fraction) as usize]
}

/// Returns the resident memory of a server in bytes.
async fn memory(server: &RunningServer) -> f64 {
    server.metric("process_resident_memory_bytes", &[]).await
}

/// A burst over fifty namespaces is delivered once.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_burst_over_fifty_namespaces_is_delivered_once() {
    let peers = Peers::find().await;
    let _exclusive = exclusive().await;
    let count: usize = env::var("MODEL_UPDATE_BURST")
        .map_or(RUNS, |runs| runs.parse().expect("MODEL_UPDATE_BURST is a number of runs"));
    let (cluster, store) = (peers.cluster().await, peers.metadata_store().await);
    let (namespaces, runs) = create_runs(&cluster, &store.writer().await, count).await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let server = ServerProcess::start(&kubeconfig, &store.url(), &["--mark-rate=1000"]).listening().await;
    server.ready().await;
    let before = memory(&server).await;
    let (subscribers, mut arrivals) = subscribe(&server, &namespaces).await;

    let mut tally = Tally::new("a burst of runs");
    runs.iter().for_each(|run| tally.expect(SUBSCRIPTION, &location_of(&run.name)));
    let succeeding = tokio::spawn(succeed(runs));
    let mut received = Vec::new();
    let mut peak = before;
    while !tally.is_complete() {
        let arrival = timeout(DEADLINE, arrivals.recv()).await.expect("an event in time").expect("subscribers");
        tally.delivered(SUBSCRIPTION, &arrival.0);
        received.push(arrival);
        if received.len().is_multiple_of(500) {
            peak = peak.max(memory(&server).await);
        }
    }
    let sent = succeeding.await.expect("every patch is accepted");
    let mut ages: Vec<_> = received.iter().map(|(location, at)| at.duration_since(sent[location])).collect();
    ages.sort();

    let marked = "modelupdate_marks_pending 0\n";
    eventually(DEADLINE, "every mark", async || server.get("/metrics").await.is_ok_and(|page| page.contains(marked)))
        .await;
    peak = peak.max(memory(&server).await);
    while let Ok((location, _)) = arrivals.try_recv() {
        tally.delivered(SUBSCRIPTION, &location);
    }
    let lookup = server.metric("modelupdate_mlmd_lookup_duration_seconds_sum", &[]).await / count as f64;
    report(format_args!(
        "age at delivery: p50 {:.1?}, p99 {:.1?}, maximum {:.1?}, with a mean lookup duration of {lookup:.1} s; \
         resident memory of the server: {:.0} MiB before, peak {:.0} MiB",
        percentile(&ages, 0.5),
        percentile(&ages, 0.99),
        percentile(&ages, 1.0),
        before / MIB,
        peak / MIB,
    ));
    drop(subscribers);
    server.stop().await;
    tally.conclude(0);
}
