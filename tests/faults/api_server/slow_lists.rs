//! Lists that take long: in a large cluster, or with a busy API server.

use std::time::Instant;

use test_support::{ApiFault, ApiProxy, Requests, ServerProcess, report};

use super::*;

/// Time until the answer to a list begins. Longer than the silence that ends a watch.
const DELAY: Duration = Duration::from_secs(26);
/// Deadline for readiness.
const READY: Duration = Duration::from_secs(50);

/// One attempt suffices: a server that gives up earlier is never ready.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_list_that_begins_after_26_s_is_completed() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("a list begins after 26 s");
    env.succeed(&mut tally, &[SUBSCRIPTION], 3).await;
    let proxy = ApiProxy::start(&env.cluster, Requests::Reads, Some(ApiFault::Delayed(DELAY))).await;
    let flag = format!("--namespaces={}", env.namespace);
    let server = ServerProcess::start(&proxy.kubeconfig_file(), &env.store_url(), &[&flag]).listening().await;
    let start = Instant::now();
    let mut subscriber = env.unaccepted_subscriber(server.listen, SUBSCRIPTION);
    eventually(READY, "readiness", async || server.get("/readyz").await).await;
    let ready = start.elapsed();
    subscriber.receive_all(&mut tally).await;
    report(format_args!("lists that begin after {DELAY:?}: ready after {ready:.1?}"));
    assert!(ready >= DELAY, "the list was not delayed: {ready:?}");
    assert_eq!(server.metric("modelupdate_watch_errors_total", &[]).await, 0.0);
    assert_eq!(server.metric("modelupdate_watch_lists_total", &[]).await, 1.0);
    tally.conclude(0);
}
