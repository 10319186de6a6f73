//! Ten thousand runs over fifty namespaces succeed within a minute, before the real program.
//!
//! CI plays a tenth of it at the same rate: 1,000 runs in six seconds. The number of runs is that of
//! `MODEL_UPDATE_BURST`:
//!
//! ```sh
//! MODEL_UPDATE_BURST=10000 tests/run --test faults scale::burst -- --nocapture
//! ```
//!
//! Everything is real, Workflows and models alike; what is written before the burst is written as fast as the neighbours
//! take it. Ages are told from the moment in which the patch of the phase is sent.

use std::{collections::HashMap, env};

use futures::{StreamExt, stream};
use model_update_eventsource::eventsource::{ReceivedEvent, Subscriber};
use test_support::{RunningServer, ServerProcess, eventually, model_location, report};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::*;
use crate::alone;

const NAMESPACES: usize = 50;
/// Ten thousand in a minute.
const PER_SECOND: f64 = 10_000.0 / 60.0;
const IN_CI: usize = 1_000;
/// How many requests to the API server are under way at once.
const AT_ONCE: usize = 16;
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Run {
    workflows: Workflows,
    name: String,
}

fn runs() -> usize {
    env::var("MODEL_UPDATE_BURST").map_or(IN_CI, |runs| runs.parse().expect("MODEL_UPDATE_BURST is a number of runs"))
}

/// The namespaces, and the runs in them, one of which follows another.
async fn prepare(cluster: &SharedCluster, writer: &Writer, count: usize) -> (Vec<String>, Vec<Run>) {
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
    let begun = Instant::now();
    let models: Vec<_> = runs.iter().map(|run| (run.name.clone(), at(&run.name))).collect();
    writer.tfx_runs(PIPELINE, &models).await;
    let written = begun.elapsed();
    let create = |run: &Run| {
        let (workflows, new) = (run.workflows.clone(), NewWorkflow::tfx_v1(&run.name, PIPELINE).phase("Running"));
        async move { drop(workflows.create(new).await) }
    };
    stream::iter(runs.iter().map(create)).buffer_unordered(AT_ONCE).collect::<()>().await;
    report(format!(
        "{count} runs written to ML Metadata in {written:.1?}, {count} Workflows created in {:.1?}",
        begun.elapsed() - written
    ));
    (namespaces, runs)
}

/// Lets the runs succeed, so many a second. Tells when the patch of each was sent.
async fn succeed(runs: Vec<Run>) -> HashMap<String, Instant> {
    let begun = Instant::now();
    let succeed = |(number, run): (usize, Run)| async move {
        tokio::time::sleep_until(begun + Duration::from_secs_f64(number as f64 / PER_SECOND)).await;
        let sent = Instant::now();
        run.workflows.set_phase(&run.name, "Succeeded").await;
        (at(&run.name), sent)
    };
    let sent = stream::iter(runs.into_iter().enumerate().map(succeed)).buffer_unordered(4 * AT_ONCE).collect().await;
    report(format!("all of them succeeded within {:.1?}", begun.elapsed()));
    sent
}

/// Subscribes to every namespace; each event comes out with the time at which it came.
async fn subscribe(
    serving: &RunningServer,
    namespaces: &[String],
) -> (JoinSet<()>, mpsc::UnboundedReceiver<(String, Instant)>) {
    let (came, events) = mpsc::unbounded_channel();
    let mut subscribers = JoinSet::new();
    for namespace in namespaces {
        let mut subscriber = Subscriber::connect(format!("http://{}", serving.listen)).await.expect("a connection");
        let config = format!("kfpNamespace: {namespace}");
        let mut stream = Box::pin(subscriber.subscribe("model-update", &config).await.expect("a stream"));
        let came = came.clone();
        subscribers.spawn(async move {
            while let Some(Ok(ReceivedEvent { payload, .. })) = stream.next().await {
                let payload = String::from_utf8(payload).expect("JSON is UTF-8");
                came.send((model_location(&payload), Instant::now())).expect("somebody listens");
            }
        });
    }
    (subscribers, events)
}

/// The value below which this part of the ages is.
fn percentile(ages: &[Duration], part: f64) -> Duration {
    ages[((ages.len() - 1) as f64 * part) as usize]
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_burst_of_runs_over_fifty_namespaces_is_announced_once_each() {
    let peers = Peers::find().await;
    let _alone = alone().await;
    let count = runs();
    let (cluster, store) = (peers.cluster().await, peers.metadata_store().await);
    let (namespaces, runs) = prepare(&cluster, &store.writer().await, count).await;
    let kubeconfig = cluster.admin_kubeconfig_file();
    let serving = ServerProcess::start(&kubeconfig, &store.url(), &["--mark-rate=1000"]).listening().await;
    serving.ready().await;
    let before = memory(&serving).await;
    let (subscribers, mut events) = subscribe(&serving, &namespaces).await;

    let mut tally = Tally::new("a burst of runs");
    runs.iter().for_each(|run| tally.expect("model-update", &at(&run.name)));
    let sending = tokio::spawn(succeed(runs));
    let mut came = Vec::new();
    let mut peak = before;
    while !tally.is_complete() {
        let (location, at) = timeout(SILENCE, events.recv()).await.expect("an event in time").expect("subscribers");
        tally.delivered("model-update", &location);
        came.push((location, at));
        if came.len().is_multiple_of(500) {
            peak = peak.max(memory(&serving).await);
        }
    }
    let sent = sending.await.expect("every patch is taken");
    let mut ages: Vec<_> = came.iter().map(|(location, came)| came.duration_since(sent[location])).collect();
    ages.sort();

    let marked = "modelupdate_marks_pending 0\n";
    eventually(SILENCE, "every mark", async || serving.get("/metrics").await.is_ok_and(|page| page.contains(marked)))
        .await;
    peak = peak.max(memory(&serving).await);
    while let Ok((location, _)) = events.try_recv() {
        tally.delivered("model-update", &location);
    }
    let looking_up = serving.metric("modelupdate_mlmd_lookup_duration_seconds_sum", &[]).await / count as f64;
    report(format!(
        "age at delivery: p50 {:.1?}, p99 {:.1?}, most {:.1?}, of which ML Metadata's answers took {looking_up:.1} s on \
         average; memory of the program: {:.0} MiB before, {:.0} MiB at most",
        percentile(&ages, 0.5),
        percentile(&ages, 0.99),
        percentile(&ages, 1.0),
        before / MIB,
        peak / MIB,
    ));
    drop(subscribers);
    serving.stop().await;
    tally.conclude(0);
}

const MIB: f64 = 1024.0 * 1024.0;

/// The program's resident memory in octets.
async fn memory(serving: &RunningServer) -> f64 {
    serving.metric("process_resident_memory_bytes", &[]).await
}
