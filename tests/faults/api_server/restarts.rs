//! An API server that is killed and restarted on its port.

use std::time::Instant;

use test_support::report;

use super::*;
use crate::exclusive;

const RESTARTS: usize = 5;
/// Limit of the median delay. The budget is 0.5 s; a busy machine needs more.
const MAX_MEDIAN: Duration = Duration::from_secs(4);

/// A run that succeeds right after a restart is delivered within seconds, and a mark whose patch met the outage is
/// written later.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn events_and_marks_resume_after_an_api_server_restart() {
    let _exclusive = exclusive().await;
    let mut env = TestEnv::private().await;
    let mut tally = Tally::new("API server killed and restarted");
    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    let mut names = Vec::new();
    let mut delays = Vec::new();
    for round in 0..RESTARTS {
        let (unmarked, finishing) = (format!("unmarked-{round}"), format!("finishing-{round}"));
        let finishing_location = env.start_run(&mut tally, &finishing).await;
        env.succeed_run(&mut tally, &unmarked).await;
        // The mark is due a second after the hand-off, when there is no API server.
        subscriber.receive(&mut tally).await;
        env.cluster.kill_api_server();
        assert!(server.get("/livez").await.is_ok());
        env.cluster.start_api_server().await;
        let restarted = Instant::now();
        env.workflows.set_phase(&finishing, "Succeeded").await;
        let location = subscriber.receive(&mut tally).await;
        delays.push(restarted.elapsed());
        assert_eq!(location, finishing_location);
        names.extend([unmarked, finishing]);
    }
    env.marked_in_time(&names).await;
    server.ready().await;
    subscriber.receive_buffered(&mut tally);

    delays.sort();
    let median = delays[delays.len() / 2];
    report(format_args!("API server restarted: first event after {delays:.2?}, median {median:.2?}, target 0.5 s"));
    assert!(median < MAX_MEDIAN, "{delays:?}");
    tally.conclude(0);
}
