//! Who gets an event, and how often.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_new_subscriber_catches_up_oldest_first() {
    let world = World::start().await;
    for name in ["one", "two", "three"] {
        world.succeeded(name).await;
        // Kubernetes writes creation times in whole seconds.
        let created = std::time::SystemTime::now();
        eventually(CATCH_UP, "the next second", async || {
            created.elapsed().expect("no jump") > Duration::from_millis(1050)
        })
        .await;
    }
    let mut events = world.served.subscribe(&world.config()).await;
    for name in ["one", "two", "three"] {
        assert_eq!(events.next_locations().await, locations(&[name]));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_subscriber_sees_its_own_namespace_only() {
    let world = World::start().await;
    let other = world.cluster.namespace("other").await;
    let mut events = world.served.subscribe(&world.config()).await;
    let mut others = world.served.subscribe(&format!("kfpNamespace: {other}")).await;
    let run = world.writer.tfx_run(PIPELINE, "theirs").await;
    run.task(Task::pusher("gs://root/theirs")).await;
    let theirs = world.cluster.workflows(&other).await;
    theirs.create(NewWorkflow::tfx_v1("theirs", PIPELINE).phase("Succeeded")).await;
    assert_eq!(others.next_locations().await, locations(&["theirs"]));
    world.succeeded("ours").await;
    assert_eq!(events.next_locations().await, locations(&["ours"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_subscriptions_of_a_namespace_each_get_every_event_and_a_mark() {
    let world = World::start().await;
    let mut first = world.served.subscribe_as("deploy", &world.config()).await;
    let mut second = world.served.subscribe_as("evaluate", &world.config()).await;
    world.succeeded("shared").await;
    assert_eq!(first.next_locations().await, locations(&["shared"]));
    assert_eq!(second.next_locations().await, locations(&["shared"]));
    eventually(CATCH_UP, "both marks", async || world.marks("shared").await.len() == 2).await;
    let marks: Vec<_> = world.marks("shared").await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(marks, ["published.pipelines.kubeflow.org/deploy", "published.pipelines.kubeflow.org/evaluate"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn what_is_delivered_does_not_come_again() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("once").await;
    assert_eq!(events.next_locations().await, locations(&["once"]));
    // Kubeflow's second change, an annotation of somebody's, and a reconnect after the mark.
    world.workflows.label("once", "pipeline/persistedFinalState", "true").await;
    world.workflows.annotate("once", "example.com/seen", Some("yes")).await;
    world.marked("once").await;
    drop(events);
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("next").await;
    assert_eq!(events.next_locations().await, locations(&["next"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn what_was_not_confirmed_comes_again() {
    let world = World::start_with(|config| config.confirm_after = Duration::from_secs(3600)).await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("again").await;
    assert_eq!(events.next_locations().await, locations(&["again"]));
    drop(events);
    let mut events = world.served.subscribe(&world.config()).await;
    assert_eq!(events.next_locations().await, locations(&["again"]));
    assert!(world.marks("again").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_removed_mark_and_a_resubmitted_run_are_delivered_again() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("first").await;
    assert_eq!(events.next_locations().await, locations(&["first"]));
    world.marked("first").await;
    let mark = "published.pipelines.kubeflow.org/model-update";
    world.workflows.annotate("first", mark, None).await;
    assert_eq!(events.next_locations().await, locations(&["first"]));
    world.marked("first").await;

    // `argo resubmit` copies annotations: the copy carries a mark that is not its own.
    let (_, foreign) = world.marks("first").await.remove(0);
    world.artifacts("copy").await;
    let copy = NewWorkflow::tfx_v1("copy", PIPELINE).annotation(mark, &foreign).phase("Succeeded");
    let uid = world.workflows.create(copy).await.metadata.uid.expect("a UID");
    assert_eq!(events.next_locations().await, locations(&["copy"]));
    eventually(CATCH_UP, "a mark of its own", async || world.marks("copy").await == [(mark.to_owned(), uid.clone())])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_restarted_run_loses_its_mark_and_is_announced_at_its_next_success() {
    let world = World::start().await;
    let mut events = world.served.subscribe(&world.config()).await;
    world.succeeded("retried").await;
    assert_eq!(events.next_locations().await, locations(&["retried"]));
    world.marked("retried").await;
    world.workflows.set_phase("retried", "Running").await;
    eventually(CATCH_UP, "the mark is removed", async || world.marks("retried").await.is_empty()).await;
    world.workflows.set_phase("retried", "Succeeded").await;
    assert_eq!(events.next_locations().await, locations(&["retried"]));
}
