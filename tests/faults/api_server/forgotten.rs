//! What has changed while the watch was away is forgotten: everything is listed anew.

use std::{env, fs, time::Instant};

use futures::{StreamExt as _, stream};
use test_support::report;

use super::*;
use crate::{
    alone,
    scene::{take, take_all, take_rest},
};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_compaction_while_the_watch_is_away_loses_nothing_and_repeats_nothing() {
    let mut site = Site::open().await;
    let mut tally = Tally::new("etcd compacted while the watch is away");
    let program = site.program(&site.cluster.admin_kubeconfig_file()).await;
    let mut client = site.subscriber(&program).await;
    for name in ["delivered", "deleted"] {
        site.succeeded(&mut tally, name).await;
        take(&mut client, SUBSCRIPTION, &mut tally).await;
    }
    site.marked(&["delivered", "deleted"]).await;
    site.pushed(&mut tally, "finished-meanwhile").await;
    let lists = program.metric("modelupdate_watch_lists_total", &[]).await;

    program.process.pause();
    site.workflows.set_phase("finished-meanwhile", "Succeeded").await;
    site.succeeded(&mut tally, "came-meanwhile").await;
    site.workflows.delete("deleted").await;
    site.cluster.compact_etcd().await;
    site.cluster.kill_api_server();
    site.cluster.start_api_server().await;
    program.process.resume();

    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    site.marked(&["delivered", "finished-meanwhile", "came-meanwhile"]).await;
    let again = program.metric("modelupdate_watch_lists_total", &[]).await;
    assert!(again > lists, "it was listed anew: {lists}, {again}");
    assert!(program.metric("modelupdate_watch_errors_total", &["kind=\"expired\""]).await >= 1.0);
    program.metric_is("modelupdate_workflows", &[], 3.0).await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    tally.conclude(0);
}

/// How many Workflows there are; `MODEL_UPDATE_RELISTED` says otherwise.
const WORKFLOWS: usize = 20_000;
/// The design's budget is 300 B a record. Debug builds and the allocator's habits add to it; a second table, or pages
/// that are kept, would be far above.
const OCTETS_EACH: f64 = 1500.0;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_relist_of_twenty_thousand_workflows_takes_no_second_table_and_asks_for_nothing_anew() {
    let _alone = alone().await;
    let mut site = Site::open().await;
    let mut tally = Tally::new("a large list anew");
    let count: usize = env::var("MODEL_UPDATE_RELISTED").map_or(WORKFLOWS, |count| count.parse().unwrap());
    let program = site.program(&site.cluster.admin_kubeconfig_file()).await;
    let mut client = site.subscriber(&program).await;
    site.succeeded(&mut tally, "delivered").await;
    take(&mut client, SUBSCRIPTION, &mut tally).await;
    site.marked(&["delivered"]).await;
    let empty = program.resident_kib();

    let began = Instant::now();
    let other = site.cluster.namespace("crowd").await;
    let crowd = site.cluster.workflows(&other).await;
    stream::iter(0..count)
        .for_each_concurrent(16, |number| {
            let crowd = &crowd;
            async move {
                crowd.create(NewWorkflow::tfx_v1(&format!("run-{number}"), PIPELINE).phase("Failed")).await;
            }
        })
        .await;
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let all = (count + 1) as f64;
    program.metric_is("modelupdate_workflows", &[], all).await;
    let (created, full) = (began.elapsed(), program.resident_kib());

    let lookups = program.metric("modelupdate_lookups_total", &[]).await;
    let lists = program.metric("modelupdate_watch_lists_total", &[]).await;
    forget_peak(&program);
    site.cluster.kill_api_server();
    site.cluster.start_api_server().await;
    let back = Instant::now();
    eventually(SOON, "a list", async || program.metric("modelupdate_watch_lists_total", &[]).await > lists).await;
    let (listed, peak) = (back.elapsed(), peak(&program));
    let settled = program.resident_kib();
    // Nothing has changed, so nobody was woken: no run was looked at again.
    assert_eq!(program.metric("modelupdate_lookups_total", &[]).await, lookups);
    site.succeeded(&mut tally, "after").await;
    take(&mut client, SUBSCRIPTION, &mut tally).await;
    site.marked(&["after"]).await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);

    #[expect(clippy::cast_precision_loss, reason = "few")]
    let each = |kib: u64| kib.saturating_sub(empty) as f64 * 1024.0 / count as f64;
    report(format_args!(
        "{count} Workflows, created in {created:.0?} and listed anew in {listed:.1?}: resident {empty} KiB without, {full} \
         KiB with them ({:.0} B each), {peak} KiB at most during the list ({:.0} B each), {settled} KiB after",
        each(full),
        each(peak),
    ));
    assert!(each(peak) < OCTETS_EACH, "{} B each", each(peak));
    tally.conclude(0);
}

/// Lets the kernel begin a new peak of the resident memory.
fn forget_peak(program: &RunningServer) {
    fs::write(format!("/proc/{}/clear_refs", program.process.pid().as_raw_nonzero()), "5").unwrap();
}

/// The most resident memory since then, in KiB.
fn peak(program: &RunningServer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", program.process.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
