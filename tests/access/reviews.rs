//! A review API that is slow, down, or overloaded.

use std::time::Duration;

use model_update_eventsource::model::workflow::MARK_PREFIX;
use test_support::{ApiFault, ApiProxy, CATCH_UP, Peers, Requests, ServerProcess, TestEnv, rule};
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::subscriber::{next, subscribe};

/// The time that a review may take.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// While reviews fail, the server stays ready and new streams are refused as unavailable. Open streams continue and get
/// events. `src/access/tests.rs` has the ten minutes after which they end.
async fn open_streams_continue(fault: ApiFault) {
    let env = TestEnv::start(Peers::find().await).await;
    let proxy = ApiProxy::start(&env.cluster, Requests::Reviews, None).await;
    let flags = ["--auth=token", "--auth-cache-token=1s", "--auth-cache-allow=1s"];
    let server = ServerProcess::start(&proxy.kubeconfig_file(), &env.store.url(), &flags).listening().await;
    server.ready().await;
    let account = env.cluster.service_account(&env.namespace, "events").await;
    let rules = vec![rule("argoproj.io", "workflows", &["subscribe"])];
    env.cluster.grant(&account, Some(&env.namespace), rules).await;
    let token = env.cluster.token(&account, &[]).await;
    let mut events = subscribe(server.listen, Some(&token), &env.config()).await.unwrap();

    proxy.set_fault(Some(fault));
    // The recheck of the stream, and its repetition.
    proxy.injected(2, CATCH_UP).await;
    let asked = Instant::now();
    let other = env.cluster.token(&account, &[]).await;
    let refusal = subscribe(server.listen, Some(&other), &env.config()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal}");
    assert!(refusal.message().contains("could not be reviewed, try again"), "{refusal}");
    assert!(asked.elapsed() < REVIEW_TIMEOUT + Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(server.get("/readyz").await.is_ok(), "reviews do not affect readiness");
    env.succeed("during").await;
    assert!(next(&mut events).await.contains("gs://root/during"));
    env.marked("during", 1).await;
    assert!(env.marks("during").await.contains_key(&format!("{MARK_PREFIX}model-update.{}", env.namespace)));

    proxy.set_fault(None);
    subscribe(server.listen, Some(&other), &env.config()).await.expect("an error is not remembered");
    let still_open = timeout(Duration::from_secs(2), events.message()).await;
    assert!(still_open.is_err(), "{still_open:?}");
    let errors = server.metric("modelupdate_auth_reviews_total", &["result=\"error\""]).await;
    assert!(errors >= 2.0, "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn open_streams_continue_while_reviews_fail() {
    tokio::join!(
        open_streams_continue(ApiFault::Rejected(429)),
        open_streams_continue(ApiFault::Rejected(503)),
        open_streams_continue(ApiFault::Unanswered),
    );
}
