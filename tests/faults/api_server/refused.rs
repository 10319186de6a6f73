//! Rights are withdrawn and given back, and an API server hangs.

use std::time::{Duration, Instant};

use test_support::{report, rule};

use super::*;
use crate::scene::{take, take_all, take_rest};

/// A watch lasts 15 s, and is then refused.
const REFUSED: Duration = Duration::from_secs(40);
/// Not ready after two minutes of failing.
const UNREADY: Duration = Duration::from_secs(180);
/// How long the API server hangs.
const HANG: Duration = Duration::from_secs(40);
/// crates.md wants silence noticed after 15 to 26 s; a busy machine may add some.
const NOTICED: Duration = Duration::from_secs(35);

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn withdrawn_rights_are_reported_and_nothing_is_lost_when_they_are_given_back() {
    let site = Site::open().await;
    let mut tally = Tally::new("rights withdrawn and given back");
    let account = site.cluster.service_account(&site.namespace, "server").await;
    let rights = || vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])];
    let grant = site.cluster.grant(&account, None, rights()).await;
    let token = site.cluster.token(&account, &[]).await;
    let program = site.program(&site.cluster.kubeconfig_file(&token)).await;
    let mut client = site.subscriber(&program).await;
    site.succeeded(&mut tally, "before").await;
    take(&mut client, SUBSCRIPTION, &mut tally).await;
    site.marked(&["before"]).await;

    site.cluster.revoke(grant).await;
    let withdrawn = Instant::now();
    // A watch that runs goes on, as Kubernetes has it: this one may still come, and cannot be marked.
    site.succeeded(&mut tally, "meanwhile").await;
    eventually(REFUSED, "the watch is down", async || program.metric("modelupdate_watches_up", &[]).await == 0.0).await;
    let down = withdrawn.elapsed();
    assert!(program.metric("modelupdate_watch_errors_total", &[]).await >= 1.0);
    site.succeeded(&mut tally, "unseen").await;
    eventually(UNREADY, "not ready, because of the rights", async || match program.get("/readyz").await {
        Err(refusal) if refusal.contains("forbidden") => Ok(()),
        other => Err(other),
    })
    .await;
    report(format_args!("rights withdrawn: watch down after {down:.1?}, not ready after {:.0?}", withdrawn.elapsed()));
    assert!(program.get("/livez").await.is_ok());

    site.cluster.grant(&account, None, rights()).await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    program.ready().await;
    // The other mark has been refused several times, and waits for minutes by now; `marks.rs` shows that it is written.
    site.marked(&["unseen"]).await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    tally.conclude(0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_api_server_that_hangs_for_forty_seconds_is_noticed_and_nothing_is_lost_when_it_goes_on() {
    let site = Site::open().await;
    let mut tally = Tally::new("API server hangs for 40 s");
    let program = site.program(&site.cluster.admin_kubeconfig_file()).await;
    let mut client = site.subscriber(&program).await;
    site.pushed(&mut tally, "afterwards").await;
    site.succeeded(&mut tally, "unmarked").await;
    take(&mut client, SUBSCRIPTION, &mut tally).await;

    site.cluster.pause_api_server();
    let hangs = Instant::now();
    eventually(NOTICED, "the watch is down", async || program.metric("modelupdate_watches_up", &[]).await == 0.0).await;
    let noticed = hangs.elapsed();
    assert!(program.metric("modelupdate_watch_errors_total", &[]).await >= 1.0);
    assert!(program.metric("modelupdate_marks_pending", &[]).await >= 1.0);
    tokio::time::sleep_until((hangs + HANG).into()).await;
    site.cluster.resume_api_server();
    let back = Instant::now();
    site.workflows.set_phase("afterwards", "Succeeded").await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    report(format_args!(
        "API server hangs: noticed after {noticed:.1?}; goes on: first event after {:.1?}",
        back.elapsed()
    ));
    site.marked(&["unmarked", "afterwards"]).await;
    program.metric_is("modelupdate_watches_up", &[], 1.0).await;
    program.ready().await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    tally.conclude(0);
}
