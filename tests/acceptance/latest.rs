//! `latestOnly`: one event a pipeline after a pause, and never an older run after a newer one.

use super::*;

const LATEST: &str = "subscription: deployer\nlatestOnly: true";
const SUPERSEDED: &[&str] = &["reason=\"superseded\""];

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// Creates a run of this pipeline that pushed a model and ended this number of minutes ago.
async fn ended(env: &TestEnv, name: &str, pipeline: &str, ago: u64) {
    env.writer.tfx_run(pipeline, name).await.task(Task::pusher(&format!("gs://root/{name}"))).await;
    env.workflows.create(NewWorkflow::tfx_v1(name, pipeline).phase("Succeeded")).await;
    env.workflows.backdate_end(name, minutes(ago)).await;
}

/// Older runs are superseded: marked, counted and logged. Runs that ended in another order than they began count by their
/// end.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn after_a_pause_each_pipelines_newest_run_is_sent() {
    let env = TestEnv::start(Peers::find().await).await;
    ended(&env, "newest", PIPELINE, 10).await;
    for (name, ago) in [("one", 40), ("two", 20)] {
        ended(&env, name, PIPELINE, ago).await;
    }
    ended(&env, "taxi", "taxi", 30).await;
    let server = start_program(&env).await;
    let mut events = subscribe(&env, &server, LATEST).await;
    let mut sent = [event(&mut events).await, event(&mut events).await].map(|event| locations_of(&event)[0].to_owned());
    sent.sort();
    assert_eq!(sent.to_vec(), locations(&["newest", "taxi"]));
    for name in ["one", "two", "newest", "taxi"] {
        env.marked(name, 1).await;
    }
    server.metric_is(SKIPPED, SUPERSEDED, 2.0).await;
    let line = server.logged_for("no event for this run", "deployer").await;
    assert_eq!(line["reason"], "superseded");
    // A user cannot bring an older run back by its mark.
    env.workflows.annotate("two", "published.pipelines.kubeflow.org/deployer", None).await;
    server.metric_is(SKIPPED, SUPERSEDED, 3.0).await;
    env.marked("two", 1).await;
    server.stop().await;

    let server = start_program(&env).await;
    let mut events = subscribe(&env, &server, LATEST).await;
    env.succeed("next").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["next"]));
    assert!(server.metric("modelupdate_mark_patches_total", &[]).await <= 1.0, "nothing else was left to mark");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_newer_run_without_a_model_supersedes_nothing() {
    let env = TestEnv::start(Peers::find().await).await;
    ended(&env, "one", PIPELINE, 30).await;
    let unblessed = Task::new("Pusher").output(Model::unblessed("gs://root/unblessed"));
    env.writer.tfx_run(PIPELINE, "unblessed").await.task(unblessed).await;
    env.workflows.create(NewWorkflow::tfx_v1("unblessed", PIPELINE).phase("Succeeded")).await;
    env.workflows.backdate_end("unblessed", minutes(10)).await;
    let server = start_program(&env).await;
    let mut events = subscribe(&env, &server, LATEST).await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["one"]));
    server.metric_is(SKIPPED, &["reason=\"no_model\""], 1.0).await;
    assert_eq!(server.metric(SKIPPED, SUPERSEDED).await, 0.0);
}

/// The lookup of the older run succeeds only after the newer one was delivered, by a process that has ended. Only ML
/// Metadata knows that both are runs of one pipeline.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn an_older_run_does_not_follow_a_newer_one_after_a_restart() {
    let env = TestEnv::start(Peers::find().await).await;
    for (name, ago) in [("late", 20), ("newer", 10)] {
        env.workflows.create(NewWorkflow::recurring_v1(name).phase("Succeeded")).await;
        env.workflows.backdate_end(name, minutes(ago)).await;
    }
    env.push_model("newer").await;
    let server = start_program(&env).await;
    let mut events = subscribe(&env, &server, LATEST).await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["newer"]));
    env.marked("newer", 1).await;
    server.stop().await;
    assert!(env.marks("late").await.is_empty(), "nothing is known about it");

    env.push_model("late").await;
    let server = start_program(&env).await;
    let mut events = subscribe(&env, &server, LATEST).await;
    env.marked("late", 1).await;
    server.metric_is(SKIPPED, SUPERSEDED, 1.0).await;
    env.succeed("last").await;
    assert_eq!(locations_of(&event(&mut events).await), locations(&["last"]));
}

/// The second replica knows what the first one has delivered only from the marks.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn streams_and_replicas_send_no_older_run() {
    let env = TestEnv::start(Peers::find().await).await;
    ended(&env, "one", PIPELINE, 30).await;
    env.workflows.create(NewWorkflow::tfx_v1("late", PIPELINE).phase("Succeeded")).await;
    env.workflows.backdate_end("late", minutes(20)).await;
    ended(&env, "newest", PIPELINE, 10).await;
    let (first, second) = (start_program(&env).await, start_program(&env).await);
    let mut streams = [subscribe(&env, &first, LATEST).await, subscribe(&env, &first, LATEST).await];
    for events in &mut streams {
        assert_eq!(locations_of(&event(events).await), locations(&["newest"]));
    }
    for name in ["one", "newest"] {
        env.marked(name, 1).await;
    }
    env.succeed("then").await;
    for events in &mut streams {
        assert_eq!(locations_of(&event(events).await), locations(&["then"]));
    }
    env.marked("then", 1).await;

    let mut moved = subscribe(&env, &second, LATEST).await;
    drop(streams);
    first.metric_is("modelupdate_subscribers", &[], 0.0).await;
    env.push_model("late").await;
    env.marked("late", 1).await;
    env.succeed("last").await;
    assert_eq!(locations_of(&event(&mut moved).await), locations(&["last"]));
    for (server, superseded) in [(&first, 1.0), (&second, 1.0)] {
        assert_eq!(
            server.metric(SKIPPED, SUPERSEDED).await,
            superseded,
            "one by the first replica, late by the second"
        );
    }
}
