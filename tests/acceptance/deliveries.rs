//! Subscribers that receive an event, and duplicates.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_new_subscriber_catches_up_oldest_first() {
    let (env, server) = start().await;
    for name in ["one", "two", "three"] {
        env.succeed(name).await;
        // Creation times in Kubernetes are in whole seconds.
        let created = std::time::SystemTime::now();
        eventually(CATCH_UP, "the next second", async || {
            created.elapsed().expect("the clock does not go back") > Duration::from_millis(1050)
        })
        .await;
    }
    let mut events = server.subscribe(&env.config()).await;
    for name in ["one", "two", "three"] {
        assert_eq!(events.next_locations().await, locations(&[name]));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_subscriber_receives_only_its_own_namespace() {
    let (env, server) = start().await;
    let other = env.cluster.namespace("other").await;
    let mut events = server.subscribe(&env.config()).await;
    let mut other_events = server.subscribe(&format!("kfpNamespace: {other}")).await;
    env.push_model("theirs").await;
    let workflows = env.cluster.workflows(&other).await;
    workflows.create(NewWorkflow::tfx_v1("theirs", PIPELINE).phase("Succeeded")).await;
    assert_eq!(other_events.next_locations().await, locations(&["theirs"]));
    env.succeed("ours").await;
    assert_eq!(events.next_locations().await, locations(&["ours"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn two_subscriptions_each_receive_every_event_and_a_mark() {
    let (env, server) = start().await;
    let mut first = server.subscribe_as("deploy", &env.config()).await;
    let mut second = server.subscribe_as("evaluate", &env.config()).await;
    env.succeed("shared").await;
    assert_eq!(first.next_locations().await, locations(&["shared"]));
    assert_eq!(second.next_locations().await, locations(&["shared"]));
    env.marked("shared", 2).await;
    let marks: Vec<_> = env.marks("shared").await.into_keys().collect();
    assert_eq!(marks, ["published.pipelines.kubeflow.org/deploy", "published.pipelines.kubeflow.org/evaluate"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_delivered_event_is_not_sent_again() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("once").await;
    assert_eq!(events.next_locations().await, locations(&["once"]));
    // Kubeflow's second change, an unrelated annotation, and a reconnect after the mark.
    env.workflows.label("once", "pipeline/persistedFinalState", "true").await;
    env.workflows.annotate("once", "example.com/seen", Some("yes")).await;
    env.marked("once", 1).await;
    drop(events);
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("next").await;
    assert_eq!(events.next_locations().await, locations(&["next"]));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_unconfirmed_event_is_redelivered() {
    let (env, server) = start_with(|config| config.confirm_after = Duration::from_secs(3600)).await;
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("again").await;
    assert_eq!(events.next_locations().await, locations(&["again"]));
    drop(events);
    let mut events = server.subscribe(&env.config()).await;
    assert_eq!(events.next_locations().await, locations(&["again"]));
    assert!(env.marks("again").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_removed_mark_or_a_resubmission_causes_a_delivery() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("first").await;
    assert_eq!(events.next_locations().await, locations(&["first"]));
    env.marked("first", 1).await;
    env.workflows.annotate("first", MARK, None).await;
    assert_eq!(events.next_locations().await, locations(&["first"]));
    env.marked("first", 1).await;

    // `argo resubmit` copies annotations, so the copy has the mark of another Workflow.
    let foreign = env.marks("first").await.remove(MARK).expect("a mark");
    env.push_model("copy").await;
    let copy = NewWorkflow::tfx_v1("copy", PIPELINE).annotation(MARK, &foreign).phase("Succeeded");
    let uid = env.workflows.create(copy).await.metadata.uid.expect("a UID");
    assert_eq!(events.next_locations().await, locations(&["copy"]));
    let own_mark = [(MARK.to_owned(), uid)].into();
    eventually(CATCH_UP, "a mark of its own", async || env.marks("copy").await == own_mark).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_restarted_run_is_unmarked_and_sent_at_its_next_success() {
    let (env, server) = start().await;
    let mut events = server.subscribe(&env.config()).await;
    env.succeed("retried").await;
    assert_eq!(events.next_locations().await, locations(&["retried"]));
    env.marked("retried", 1).await;
    env.workflows.set_phase("retried", "Running").await;
    env.marked("retried", 0).await;
    env.workflows.set_phase("retried", "Succeeded").await;
    assert_eq!(events.next_locations().await, locations(&["retried"]));
}
