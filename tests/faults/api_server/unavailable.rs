//! An API server that rejects the server's account, and one that hangs.

use std::time::Instant;

use test_support::{RunningServer, report, rule};

use super::*;

/// Deadline for the end of a watch without permissions: it lasts 15 s, and the next one is rejected.
const REJECTED: Duration = Duration::from_secs(40);
/// Deadline for the loss of readiness, two minutes after the first failure.
const UNREADY: Duration = Duration::from_secs(180);
/// Duration of the hang.
const HANG: Duration = Duration::from_secs(40);
/// Deadline for the detection of a silent connection: 15 to 26 s, and more on a busy machine.
const DETECTED: Duration = Duration::from_secs(35);

/// Withdrawn permissions appear on `/readyz` and in the metrics, and nothing is lost when they are granted again.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn withdrawn_permissions_are_reported_and_lose_nothing() {
    let env = TestEnv::private().await;
    let mut tally = Tally::new("permissions withdrawn and granted again");
    let account = env.cluster.service_account(&env.namespace, "server").await;
    let rules = || vec![rule("argoproj.io", "workflows", &["list", "watch", "patch"])];
    let grant = env.cluster.grant(&account, None, rules()).await;
    let token = env.cluster.token(&account, &[]).await;
    let server = env.server_with(&[], &env.cluster.kubeconfig_file(&token), &[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    env.succeed_run(&mut tally, "before").await;
    subscriber.receive(&mut tally).await;
    env.marked_in_time(&["before"]).await;

    env.cluster.revoke(grant).await;
    let withdrawn = Instant::now();
    // Kubernetes continues a running watch: this run may be delivered now, but not marked.
    env.succeed_run(&mut tally, "meanwhile").await;
    watch_down(&server, REJECTED).await;
    let down = withdrawn.elapsed();
    env.succeed_run(&mut tally, "unseen").await;
    eventually(UNREADY, "not ready because of the permissions", async || match server.get("/readyz").await {
        Err(response) if response.contains("forbidden") => Ok(()),
        other => Err(other),
    })
    .await;
    report(format_args!(
        "permissions withdrawn: watch down after {down:.1?}, unready after {:.0?}",
        withdrawn.elapsed()
    ));
    assert!(server.get("/livez").await.is_ok());

    env.cluster.grant(&account, None, rules()).await;
    subscriber.receive_all(&mut tally).await;
    server.ready().await;
    // The other mark was rejected several times, and its next retry is minutes away; `marks.rs` shows that it is
    // written.
    env.marked_in_time(&["unseen"]).await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// An API server that hangs for 40 s is detected before that, and nothing is lost when it resumes.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_hanging_api_server_is_detected_and_nothing_is_lost() {
    let env = TestEnv::private().await;
    let mut tally = Tally::new("API server hangs for 40 s");
    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    env.start_run(&mut tally, "afterwards").await;
    env.succeed_run(&mut tally, "unmarked").await;
    subscriber.receive(&mut tally).await;

    env.cluster.pause_api_server();
    let paused = Instant::now();
    watch_down(&server, DETECTED).await;
    let detected = paused.elapsed();
    assert!(server.metric("modelupdate_marks_pending", &[]).await >= 1.0);
    tokio::time::sleep_until((paused + HANG).into()).await;
    env.cluster.resume_api_server();
    let resumed = Instant::now();
    env.workflows.set_phase("afterwards", "Succeeded").await;
    subscriber.receive_all(&mut tally).await;
    report(format_args!(
        "API server hangs: detected after {detected:.1?}; first event {:.1?} after it resumed",
        resumed.elapsed()
    ));
    env.marked_in_time(&["unmarked", "afterwards"]).await;
    server.metric_is("modelupdate_watches_up", &[], 1.0).await;
    server.ready().await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// Waits until the watch is down and its errors are counted.
async fn watch_down(server: &RunningServer, deadline: Duration) {
    eventually(deadline, "the watch is down", async || server.metric("modelupdate_watches_up", &[]).await == 0.0).await;
    assert!(server.metric("modelupdate_watch_errors_total", &[]).await >= 1.0);
}
