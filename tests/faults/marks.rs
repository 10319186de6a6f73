//! Patches are refused, and Workflows change under a delivery: fault 7. Whatever becomes of a mark, its event comes once,
//! other runs flow on meanwhile, and the mark is written when it can be.
//!
//! Restarted and resubmitted runs are shown in `tests/acceptance/deliveries.rs`.

use std::time::Duration;

use futures::future::join_all;
use model_update_eventsource::model::workflow::MARK_PREFIX;
use test_support::{Model, NewWorkflow, Tally, Task, eventually, model_location, rule};

use crate::{
    api_proxy::{ApiProxy, Patches},
    scene::{SOON, Scene, run_of, take, take_all, take_rest},
};

const SUBSCRIPTION: &str = "model-update";
/// A patch without an answer is given up after 10 s, and one that was refused comes again after 10 s at most.
const AGAIN: Duration = Duration::from_secs(60);

/// What patches are answered, as what the server counts that, and what is printed.
const ANSWERS: [(Patches, &str, &str); 7] = [
    (Patches::Refused(403), "refused", "patches answered with 403"),
    (Patches::Refused(409), "conflict", "patches answered with 409"),
    (Patches::Refused(422), "refused", "patches answered with 422"),
    (Patches::Refused(429), "transient", "patches answered with 429"),
    (Patches::Refused(500), "transient", "patches answered with 500"),
    (Patches::Unanswered, "transient", "patches never answered"),
    (Patches::AppliedUnanswered, "transient", "patches applied and never answered"),
];

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn whatever_patches_are_answered_each_event_comes_once_and_the_marks_are_written_at_last() {
    join_all(ANSWERS.map(|(fate, counted, fault)| marks_fare(fate, counted, fault))).await;
}

async fn marks_fare(fate: Patches, counted: &str, fault: &'static str) {
    let scene = Scene::open().await;
    let mut tally = Tally::new(fault);
    let proxy = ApiProxy::before(&scene.cluster).await;
    proxy.let_patches(fate);
    let server = scene.program_with(&[], &proxy.kubeconfig_file(), &[]).await;
    let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
    let mut runs = scene.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    proxy.struck(1, SOON).await;

    // The next stream gets what is new, and nothing that is delivered and only not marked; and it gets it at once.
    drop(client);
    let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
    let more = scene.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    assert_eq!(run_of(&take(&mut client, SUBSCRIPTION, &mut tally).await), more[0], "{fault}");
    runs.extend(more);
    proxy.struck(2, AGAIN).await;
    let outcome = format!("outcome=\"{counted}\"");
    eventually(AGAIN, &format!("{fault}: {outcome}"), async || {
        server.metric("modelupdate_mark_patches_total", &[&outcome]).await >= 1.0
    })
    .await;

    proxy.let_patches(Patches::Pass);
    scene.marked_within(AGAIN, &runs, &[SUBSCRIPTION]).await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    tally.conclude(0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn without_the_right_to_patch_events_come_and_are_marked_once_it_is_given() {
    let scene = Scene::open().await;
    let mut tally = Tally::new("no right to patch");
    let account = scene.cluster.service_account(&scene.namespace, "reader").await;
    let reads = rule("argoproj.io", "workflows", &["list", "watch"]);
    scene.cluster.grant(&account, Some(&scene.namespace), vec![reads]).await;
    let token = scene.cluster.token(&account, &[]).await;
    let server = scene.program_with(&[], &scene.cluster.kubeconfig_file(&token), &[]).await;
    let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
    let runs = scene.succeed(&mut tally, &[SUBSCRIPTION], 3).await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    server.metric_is("modelupdate_marks_pending", &[], 3.0).await;
    eventually(SOON, "three refusals", async || {
        server.metric("modelupdate_mark_patches_total", &["outcome=\"refused\""]).await >= 3.0
    })
    .await;
    let patches = rule("argoproj.io", "workflows", &["patch"]);
    scene.cluster.grant(&account, Some(&scene.namespace), vec![patches]).await;
    scene.marked_within(AGAIN, &runs, &[SUBSCRIPTION]).await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    tally.conclude(0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_workflow_without_room_for_a_mark_is_announced_once_and_holds_up_no_other() {
    let scene = Scene::open().await;
    let mut tally = Tally::new("annotations are full");
    let server = scene.program(&[]).await;
    let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
    // Kubernetes lets all annotations have 256 KiB together, keys included; a mark takes some eighty octets.
    let name = format!("{}-full", scene.namespace);
    let full = NewWorkflow::named(&name).run_id(&uuid::Uuid::from_u128(rand::random()).to_string());
    let key = "example.com/large";
    let full = full.annotation(key, &"x".repeat(256 * 1024 - key.len()));
    let full_location = format!("gs://root/{name}");
    tally.expect(SUBSCRIPTION, &full_location);
    scene.model(&name, &full_location).await;
    scene.workflows.create(full.phase("Succeeded")).await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    eventually(SOON, "the API server's refusal", async || {
        server.metric("modelupdate_mark_patches_total", &["outcome=\"refused\""]).await >= 1.0
    })
    .await;
    let others = scene.succeed(&mut tally, &[SUBSCRIPTION], 3).await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    scene.marked(&others, &[SUBSCRIPTION]).await;
    assert!(scene.marks(&name).await.is_empty());
    scene.workflows.annotate(&name, key, None).await;
    scene.marked_within(AGAIN, &[name], &[SUBSCRIPTION]).await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    tally.conclude(0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_workflow_deleted_while_its_event_is_pending_is_announced_all_the_same() {
    let scene = Scene::open().await;
    let mut tally = Tally::new("deleted while pending");
    let server = scene.program(&[]).await;
    let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
    // Pending, because ML Metadata does not know it yet.
    let name = format!("{}-deleted", scene.namespace);
    scene.workflows.create(NewWorkflow::tfx_v1(&name, &scene.namespace).phase("Succeeded")).await;
    eventually(SOON, "a first question", async || {
        server.metric("modelupdate_lookup_retries_total", &["reason=\"no_context\""]).await >= 1.0
    })
    .await;
    scene.workflows.delete(&name).await;
    server.metric_is("modelupdate_workflows", &[], 0.0).await;
    let location = format!("gs://root/{name}");
    tally.expect(SUBSCRIPTION, &location);
    scene.model(&name, &location).await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    server.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    server.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    tally.conclude(0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_namesake_of_a_deleted_workflow_gets_neither_its_mark_nor_its_silence() {
    let scene = Scene::open().await;
    let mut tally = Tally::new("deleted and recreated under its name");
    let proxy = ApiProxy::before(&scene.cluster).await;
    proxy.let_patches(Patches::Refused(500));
    let server = scene.program_with(&[], &proxy.kubeconfig_file(), &[]).await;
    let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
    // Of Kubeflow Pipelines v2: its context is named by the run's id, which a namesake does not share.
    let name = format!("{}-namesake", scene.namespace);
    let run = async |id: &str, phase: &str| {
        let location = format!("gs://root/{id}");
        let model = Model::new("system.Model", "model", &location).number("pushed", 1);
        let run = scene.writer.kfp_run(&scene.namespace, id, &scene.namespace).await;
        run.task(Task::new("push").output(model)).await;
        let workflow = NewWorkflow::tfx_v1(&name, &scene.namespace).run_id(id).phase(phase);
        (scene.workflows.create(workflow).await.metadata.uid.unwrap(), location)
    };
    let (_, first) = run(&format!("{}-1", scene.namespace), "Succeeded").await;
    tally.expect(SUBSCRIPTION, &first);
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    proxy.struck(1, SOON).await;

    scene.workflows.delete(&name).await;
    let (uid, second) = run(&format!("{}-2", scene.namespace), "Running").await;
    proxy.let_patches(Patches::Pass);
    // The mark of the first had its turn when nothing is pending any more.
    server.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    assert!(scene.marks(&name).await.is_empty(), "the first one's mark");
    tally.expect(SUBSCRIPTION, &second);
    scene.workflows.set_phase(&name, "Succeeded").await;
    assert_eq!(model_location(&client.payload(SOON).await), second);
    tally.delivered(SUBSCRIPTION, &second);
    let key = format!("{MARK_PREFIX}{SUBSCRIPTION}");
    eventually(SOON, "a mark of its own", async || {
        scene.workflows.annotations(&name, &key).await.get(&key) == Some(&uid)
    })
    .await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    tally.conclude(0);
}
