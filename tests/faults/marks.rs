//! Failing patches, and Workflows that change during a delivery. Whatever happens to a mark, its event is delivered once,
//! no other run is delayed, and the mark is written as soon as possible.
//!
//! `tests/acceptance/deliveries.rs` covers restarted and resubmitted runs.

use std::time::Duration;

use futures::future::join_all;
use model_update_eventsource::model::workflow::{MARK_PREFIX, RUN_ID_LABEL};
use serde_json::json;
use test_support::{
    ApiFault, ApiProxy, CATCH_UP, Model, NewWorkflow, Requests, RunningServer, Tally, Task, eventually, rule,
};

use crate::test_env::{SUBSCRIPTION, TestEnv, location_of, run_of};

/// Deadline for the retry of a patch: an unanswered patch times out after 10 s, and the pause after a rejection is at
/// most 10 s.
const RETRIED: Duration = Duration::from_secs(60);

/// Label of the patches that the API server has rejected.
const REFUSED: &str = "outcome=\"refused\"";

/// Faults of a patch, with the outcome that the server counts, and the name that is printed.
const PATCH_FAULTS: [(ApiFault, &str, &str); 8] = [
    (ApiFault::Rejected(403), "refused", "patches answered with 403"),
    (ApiFault::ForeignNotFound, "transient", "patches answered with 404 by a proxy"),
    (ApiFault::Rejected(409), "conflict", "patches answered with 409"),
    (ApiFault::Rejected(422), "refused", "patches answered with 422"),
    (ApiFault::Rejected(429), "transient", "patches answered with 429"),
    (ApiFault::Rejected(500), "transient", "patches answered with 500"),
    (ApiFault::Unanswered, "transient", "patches unanswered"),
    (ApiFault::AppliedUnanswered, "transient", "patches applied and unanswered"),
];

/// Whatever the answer to a patch, each event is delivered once, also with a new stream, and the marks are written in
/// the end.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn failing_patches_cause_no_duplicate_and_marks_follow() {
    join_all(PATCH_FAULTS.map(|(fault, outcome, name)| deliver_with_patch_fault(fault, outcome, name))).await;
}

async fn deliver_with_patch_fault(fault: ApiFault, outcome: &str, name: &'static str) {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new(name);
    let proxy = ApiProxy::start(&env.cluster, Requests::Patches, Some(fault)).await;
    let server = env.server_with(&[], &proxy.kubeconfig_file(), &[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    let mut runs = env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    subscriber.receive_all(&mut tally).await;
    proxy.injected(1, CATCH_UP).await;

    // The next stream receives new events at once, and none that is delivered and only lacks its mark.
    drop(subscriber);
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    let more = env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    assert_eq!(run_of(&subscriber.receive(&mut tally).await), more[0], "{name}");
    runs.extend(more);
    proxy.injected(2, RETRIED).await;
    let outcome = format!("outcome=\"{outcome}\"");
    patches_counted(&server, RETRIED, &format!("{name}: {outcome}"), &outcome, 1.0).await;

    proxy.set_fault(None);
    env.marked_within(RETRIED, &runs, &[SUBSCRIPTION]).await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// Without the permission to patch, events are delivered, and marked once it is granted.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn without_permission_to_patch_events_are_still_delivered() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("no permission to patch");
    let account = env.cluster.service_account(&env.namespace, "reader").await;
    let read = rule("argoproj.io", "workflows", &["list", "watch"]);
    env.cluster.grant(&account, Some(&env.namespace), vec![read]).await;
    let token = env.cluster.token(&account, &[]).await;
    let server = env.server_with(&[], &env.cluster.kubeconfig_file(&token), &[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    let runs = env.succeed(&mut tally, &[SUBSCRIPTION], 3).await;
    subscriber.receive_all(&mut tally).await;
    server.metric_is("modelupdate_marks_pending", &[], 3.0).await;
    patches_counted(&server, CATCH_UP, "three rejections", REFUSED, 3.0).await;
    let patch = rule("argoproj.io", "workflows", &["patch"]);
    env.cluster.grant(&account, Some(&env.namespace), vec![patch]).await;
    env.marked_within(RETRIED, &runs, &[SUBSCRIPTION]).await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// A Workflow whose annotations are full is marked with a label, which counts after a restart, too.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_workflow_without_room_for_a_mark_is_delivered_once() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("annotations are full");
    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    // Kubernetes limits the keys and values of all annotations to 256 KiB; a mark has about 80 bytes.
    let name = format!("{}-full", env.namespace);
    let key = "example.com/large";
    let full = NewWorkflow::named(&name)
        .run_id(&uuid::Uuid::from_u128(rand::random()).to_string())
        .annotation(key, &"x".repeat(256 * 1024 - key.len()));
    tally.expect(SUBSCRIPTION, &env.push_model(&name).await);
    env.workflows.create(full.phase("Succeeded")).await;
    subscriber.receive_all(&mut tally).await;
    env.marked(&[&name], &[SUBSCRIPTION]).await;
    assert!(env.workflows.annotations(&name, MARK_PREFIX).await.is_empty(), "the mark is a label");
    subscriber.receive_buffered(&mut tally);
    drop((subscriber, server));

    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    let others = env.succeed(&mut tally, &[SUBSCRIPTION], 3).await;
    subscriber.receive_all(&mut tally).await;
    env.marked(&others, &[SUBSCRIPTION]).await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// A pending event of an attached stream survives the deletion of its Workflow.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_pending_event_survives_the_deletion_of_its_workflow() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("deleted while pending");
    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    // The event is pending because ML Metadata does not have the run yet.
    let name = format!("{}-deleted", env.namespace);
    env.workflows.create(env.workflow(&name).phase("Succeeded")).await;
    eventually(CATCH_UP, "a first lookup", async || {
        server.metric("modelupdate_lookup_retries_total", &["reason=\"no_context\""]).await >= 1.0
    })
    .await;
    env.workflows.delete(&name).await;
    server.metric_is("modelupdate_workflows", &[], 0.0).await;
    tally.expect(SUBSCRIPTION, &env.push_model(&name).await);
    subscriber.receive_all(&mut tally).await;
    server.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    server.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    tally.conclude(0);
}

/// A Workflow that is deleted and created again under its name does not receive the mark of its predecessor, and its own
/// event is delivered.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_recreated_workflow_has_an_event_and_a_mark_of_its_own() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("deleted and recreated under its name");
    let proxy = ApiProxy::start(&env.cluster, Requests::Patches, Some(ApiFault::Rejected(500))).await;
    let server = env.server_with(&[], &proxy.kubeconfig_file(), &[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    // Runs of Kubeflow Pipelines v2: the name of their context is the run's id, which differs.
    let name = format!("{}-recreated", env.namespace);
    let create = async |id: &str, phase: &str| {
        let location = location_of(id);
        let model = Model::new("system.Model", "model", &location).property("pushed", 1);
        let run = env.writer.kfp_run(&env.namespace, id, &env.namespace).await;
        run.task(Task::new("push").output(model)).await;
        let workflow = env.workflow(&name).run_id(id).phase(phase);
        (env.workflows.create(workflow).await.metadata.uid.unwrap(), location)
    };
    let (_, first) = create(&format!("{}-1", env.namespace), "Succeeded").await;
    tally.expect(SUBSCRIPTION, &first);
    subscriber.receive_all(&mut tally).await;
    proxy.injected(1, CATCH_UP).await;

    env.workflows.delete(&name).await;
    let (uid, second) = create(&format!("{}-2", env.namespace), "Running").await;
    proxy.set_fault(None);
    // The patch of the first Workflow was retried once no mark is pending.
    server.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    assert!(env.marks(&name).await.is_empty(), "the mark of the first Workflow");
    tally.expect(SUBSCRIPTION, &second);
    env.workflows.set_phase(&name, "Succeeded").await;
    assert_eq!(subscriber.receive(&mut tally).await, second);
    let key = format!("{MARK_PREFIX}{SUBSCRIPTION}");
    eventually(CATCH_UP, "the mark of the second Workflow", async || {
        env.workflows.annotations(&name, &key).await.get(&key) == Some(&uid)
    })
    .await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// Waits until the server has counted this number of patches with an outcome.
async fn patches_counted(server: &RunningServer, deadline: Duration, what: &str, outcome: &str, patches: f64) {
    eventually(deadline, what, async || server.metric("modelupdate_mark_patches_total", &[outcome]).await >= patches)
        .await;
}

/// A Workflow that leaves the selector while its event is pending, and returns after the delivery.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_run_that_leaves_the_selector_and_returns_is_sent_once() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("left the selector while pending");
    let server = env.server(&[]).await;
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    // The event is pending because ML Metadata does not have the run yet.
    let name = format!("{}-returns", env.namespace);
    env.workflows.create(env.workflow(&name).run_id("the-id").phase("Succeeded")).await;
    eventually(CATCH_UP, "a first lookup", async || {
        server.metric("modelupdate_lookup_retries_total", &["reason=\"no_context\""]).await >= 1.0
    })
    .await;
    env.workflows.merge(&name, &json!({"metadata": {"labels": {RUN_ID_LABEL: null}}})).await;
    server.metric_is("modelupdate_workflows", &[], 0.0).await;
    tally.expect(SUBSCRIPTION, &env.push_model(&name).await);
    subscriber.receive_all(&mut tally).await;
    server.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    assert!(env.marks(&name).await.is_empty(), "the server does not see the Workflow");

    env.workflows.label(&name, RUN_ID_LABEL, "the-id").await;
    env.marked(&[name], &[SUBSCRIPTION]).await;
    drop(subscriber);
    let mut subscriber = env.subscriber(&server, SUBSCRIPTION).await;
    env.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    subscriber.receive_all(&mut tally).await;
    subscriber.receive_buffered(&mut tally);
    tally.conclude(0);
}
