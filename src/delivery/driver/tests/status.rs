//! The status, from the task that delivers.

use super::*;
use crate::model::PipelineFilter;

#[tokio::test(start_paused = true)]
async fn the_status_has_streams_deliveries_and_problems() {
    let harness = Harness::new();
    harness.set("failing", Behavior::Fails);
    let iris = PipelineFilter::matching(["iris"]).unwrap();
    let mut stream = harness.attach(subscription("a"));
    let _other = harness.attach(Subscription { pipelines: iris, ..subscription("b") });
    let _failing = harness.attach(subscription_in("failing", "a"));
    harness.store.apply(Workflow { finished: BEGIN - 5, ..run("one") });
    harness.store.apply(Workflow { namespace: "failing".into(), ..run("two") });
    let handoff = event(&mut stream).await;
    let before = harness.status.current().await.unwrap();
    let streams = before.streams.iter().map(|stream| {
        let subscription = &stream.subscription;
        (&*subscription.namespace, subscription.name.as_str(), stream.pending_runs, stream.filtered.pipelines)
    });
    assert_eq!(streams.collect::<Vec<_>>(), [("team", "a", 1, 0), ("team", "b", 0, 1), ("failing", "a", 1, 0)]);
    assert!(before.streams[0].oldest_pending.is_some() && before.streams[1].oldest_pending.is_none());
    assert!(before.deliveries.is_empty());

    stream.acks.acknowledged(handoff.sequence);
    harness.patched(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = harness.status.current().await.unwrap();
    assert_eq!(after.streams[0].pending_runs, 0);
    let delivery = &after.deliveries[0];
    assert_eq!((&*delivery.workflow, delivery.uid, delivery.at), ("one", uid("one"), BEGIN));
    assert_eq!((delivery.seconds_from_finish, &delivery.subscription), (Some(5), &name("a")));
    let problem = &after.problems[0];
    assert_eq!((&*problem.namespace, &*problem.workflow, problem.reason), ("failing", "two", "unavailable"));
    assert_eq!((after.deliveries.len(), after.problems.len()), (1, 1), "a retry is no other problem");
}
