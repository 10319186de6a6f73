//! A watch that cannot resume: the server lists all Workflows again.

use std::{env, fs, time::Instant};

use futures::{StreamExt as _, stream};
use test_support::{CATCH_UP, RunningServer, report};

use super::*;
use crate::exclusive;

/// A compaction of etcd while the watch is down (410 Gone) loses nothing and causes no duplicate.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_compaction_during_an_outage_loses_and_repeats_nothing() {
    let mut env = TestEnv::private().await;
    let mut tally = Tally::new("etcd compacted while the watch is down");
    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    for name in ["delivered", "deleted"] {
        env.succeed_run(&mut tally, name).await;
        subscriber.receive(&mut tally).await;
    }
    env.marked_in_time(&["delivered", "deleted"]).await;
    env.start_run(&mut tally, "finished-meanwhile").await;
    let lists = server.metric("modelupdate_watch_lists_total", &[]).await;

    server.process.pause();
    env.workflows.set_phase("finished-meanwhile", "Succeeded").await;
    env.succeed_run(&mut tally, "created-meanwhile").await;
    env.workflows.delete("deleted").await;
    env.cluster.compact_etcd().await;
    env.cluster.kill_api_server();
    env.cluster.start_api_server().await;
    server.process.resume();

    subscriber.receive_all(&mut tally).await;
    env.marked_in_time(&["delivered", "finished-meanwhile", "created-meanwhile"]).await;
    let lists_after = server.metric("modelupdate_watch_lists_total", &[]).await;
    assert!(lists_after > lists, "it lists again: {lists}, {lists_after}");
    assert!(server.metric("modelupdate_watch_errors_total", &["kind=\"expired\""]).await >= 1.0);
    server.metric_is("modelupdate_workflows", &[], 3.0).await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// Default number of Workflows; `MODEL_UPDATE_RELISTED` overrides it.
const WORKFLOWS: usize = 20_000;
/// Maximum resident memory for each Workflow. The design's budget is 300 B a record; debug builds and the allocator add
/// to it. A second table, or retained pages of the list, would exceed this by far.
const MAX_BYTES_EACH: f64 = 1500.0;
const CONCURRENT_CREATES: usize = 16;

/// A relist of 20,000 Workflows holds no second copy of them and repeats no lookup.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_relist_holds_no_second_copy_and_repeats_no_lookup() {
    let _exclusive = exclusive().await;
    let mut env = TestEnv::private().await;
    let mut tally = Tally::new("a large relist");
    let count: usize = env::var("MODEL_UPDATE_RELISTED").map_or(WORKFLOWS, |count| count.parse().unwrap());
    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    env.succeed_run(&mut tally, "delivered").await;
    subscriber.receive(&mut tally).await;
    env.marked_in_time(&["delivered"]).await;
    let empty = server.resident_kib();

    let started = Instant::now();
    let others = env.cluster.workflows(&env.cluster.namespace("others").await).await;
    stream::iter(0..count)
        .for_each_concurrent(CONCURRENT_CREATES, |number| {
            let (others, workflow) = (&others, env.workflow(&format!("run-{number}")).phase("Failed"));
            async move { drop(others.create(workflow).await) }
        })
        .await;
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let all = (count + 1) as f64;
    server.metric_is("modelupdate_workflows", &[], all).await;
    let (created, full) = (started.elapsed(), server.resident_kib());

    let lookups = server.metric("modelupdate_mlmd_lookups_total", &[]).await;
    let lists = server.metric("modelupdate_watch_lists_total", &[]).await;
    reset_peak(&server);
    env.cluster.kill_api_server();
    env.cluster.start_api_server().await;
    let restarted = Instant::now();
    eventually(CATCH_UP, "a list", async || server.metric("modelupdate_watch_lists_total", &[]).await > lists).await;
    let (listed, peak) = (restarted.elapsed(), peak_kib(&server));
    let settled = server.resident_kib();
    // Nothing has changed, so no run is looked up again.
    assert!(lookups >= 1.0, "the metric exists");
    assert_eq!(server.metric("modelupdate_mlmd_lookups_total", &[]).await, lookups);
    env.succeed_run(&mut tally, "after").await;
    subscriber.receive(&mut tally).await;
    env.marked_in_time(&["after"]).await;
    subscriber.receive_buffered(&mut tally);

    #[expect(clippy::cast_precision_loss, reason = "few")]
    let bytes_each = |kib: u64| kib.saturating_sub(empty) as f64 * 1024.0 / count as f64;
    report(format_args!(
        "{count} Workflows, created in {created:.0?}, relisted in {listed:.1?}; resident memory: {empty} KiB before, \
         {full} KiB with them ({:.0} B each), peak {peak} KiB during the relist ({:.0} B each), {settled} KiB after",
        bytes_each(full),
        bytes_each(peak),
    ));
    assert!(bytes_each(peak) < MAX_BYTES_EACH, "{} B each", bytes_each(peak));
    tally.conclude(0);
}

/// Makes the kernel record a new peak of the resident memory.
fn reset_peak(server: &RunningServer) {
    fs::write(format!("/proc/{}/clear_refs", server.process.pid().as_raw_nonzero()), "5").unwrap();
}

/// Returns the peak of the resident memory since then, in KiB.
fn peak_kib(server: &RunningServer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
