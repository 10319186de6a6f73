//! Killed, and back on the same port.

use std::time::{Duration, Instant};

use test_support::report;

use super::*;
use crate::{
    alone,
    scene::{take, take_rest},
};

/// How often it is killed. The design wants a median of at most 2 s; a busy machine may take longer.
const RESTARTS: usize = 5;
const BOUND: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn runs_that_finish_right_after_the_api_server_is_back_are_announced_soon_and_late_marks_are_written() {
    let _alone = alone().await;
    let mut site = Site::open().await;
    let mut tally = Tally::new("API server killed and back");
    let program = site.program(&site.cluster.admin_kubeconfig_file()).await;
    let mut client = site.subscriber(&program).await;
    let mut names = Vec::new();
    let mut took = Vec::new();
    for round in 0..RESTARTS {
        let (unmarked, finishing) = (format!("unmarked-{round}"), format!("finishing-{round}"));
        site.pushed(&mut tally, &finishing).await;
        site.succeeded(&mut tally, &unmarked).await;
        // Handed off, and to be marked a second later: the API server will not be there.
        take(&mut client, SUBSCRIPTION, &mut tally).await;
        site.cluster.kill_api_server();
        assert!(program.get("/livez").await.is_ok());
        site.cluster.start_api_server().await;
        let back = Instant::now();
        site.workflows.set_phase(&finishing, "Succeeded").await;
        let location = take(&mut client, SUBSCRIPTION, &mut tally).await;
        took.push(back.elapsed());
        assert_eq!(location, format!("gs://root/{finishing}"));
        names.extend([unmarked, finishing]);
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    site.marked(&names).await;
    program.ready().await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);

    took.sort();
    let median = took[took.len() / 2];
    report(format_args!("API server back: first event after {took:.2?}, median {median:.2?}, wanted 2 s"));
    assert!(median < BOUND, "{took:?}");
    tally.conclude(0);
}
