//! The server is killed at every step of a delivery: fault 6. After a restart nothing is lost. What comes again is what a
//! subscriber had read, and what no mark remembered when the server died: the window that G2 allows, and no more.

use std::collections::BTreeSet;

use test_support::{GrpcGoClient, Line, RunningServer, ServerProcess, Tally, model_location};

use crate::{
    api_proxy::{ApiProxy, Patches},
    scene::{SOON, Scene, run_of, take_all, take_rest},
};

const SUBSCRIPTION: &str = "model-update";

/// The steps within the server, as `src/failpoint.rs` names them, and what is printed.
const STEPS: [(&str, &str); 7] = [
    ("before_lookup", "killed before a lookup"),
    ("after_lookup", "killed with a lookup's answer in hand"),
    ("before_handoff", "killed before a hand-off"),
    ("after_handoff", "killed with an event at the stream, unwritten"),
    ("acknowledged", "killed with a receipt in hand"),
    ("confirmed", "killed before a mark is patched"),
    ("marked", "killed with a patch's answer in hand"),
];

/// Its first life: it dies of a fail point.
async fn dies_at(scene: &Scene, point: &str, pass: usize) -> RunningServer {
    let environment = [format!("MODEL_UPDATE_FAILPOINT={point}:{pass}")];
    scene.program_with(&environment, &scene.cluster.admin_kubeconfig_file(), &[]).await
}

/// Takes events until the stream breaks; returns their locations.
async fn until_broken(client: &mut GrpcGoClient, tally: &mut Tally) -> BTreeSet<String> {
    let mut received = BTreeSet::new();
    loop {
        match client.next(SOON).await {
            Some(Line::Event { payload, .. }) => {
                let location = model_location(&payload);
                tally.delivered(SUBSCRIPTION, &location);
                received.insert(location);
            }
            Some(Line::Open(_)) => {}
            Some(Line::Status { .. }) | None => return received,
        }
    }
}

/// The server has died: another takes its place, and everything comes; again comes only what had been read and was not
/// marked.
async fn resurrected(
    scene: &Scene,
    mut tally: Tally,
    mut dead: RunningServer,
    received: BTreeSet<String>,
    runs: &[String],
) {
    use std::os::unix::process::ExitStatusExt as _;

    let status = dead.process.exited(SOON).await;
    assert_eq!(status.signal(), Some(9), "{status}");
    let mut unmarked = BTreeSet::new();
    for location in received {
        if scene.marks(run_of(&location)).await.is_empty() {
            unmarked.insert(location);
        }
    }
    let next = ServerProcess::start_at(dead.listen, &scene.cluster.admin_kubeconfig_file(), &scene.store_url(), &[]);
    let next = next.listening().await;
    let mut client = scene.subscriber(&next, SUBSCRIPTION).await;
    let before: BTreeSet<_> = tally.delivered_more_than(1).collect();
    assert!(before.is_empty(), "twice before the death: {before:?}");
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    scene.marked(runs, &[SUBSCRIPTION]).await;
    // One more run comes last: whatever else there is would come before it.
    scene.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
    take_all(&mut client, SUBSCRIPTION, &mut tally).await;
    take_rest(&mut client, SUBSCRIPTION, &mut tally);
    for location in tally.delivered_more_than(1) {
        assert!(unmarked.contains(&location), "{location} came again, though it was marked");
    }
    tally.conclude(unmarked.len());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(all(feature = "failpoints", feature = "peers")), ignore = "needs real peers and fail points: tests/run")]
async fn a_server_killed_at_any_step_of_a_delivery_loses_nothing_and_repeats_only_what_was_read_and_unmarked() {
    for (point, fault) in STEPS {
        let scene = Scene::open().await;
        let mut tally = Tally::new(fault);
        let server = dies_at(&scene, point, 1).await;
        let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
        let runs = scene.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
        let received = until_broken(&mut client, &mut tally).await;
        resurrected(&scene, tally, server, received, &runs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(all(feature = "failpoints", feature = "peers")), ignore = "needs real peers and fail points: tests/run")]
async fn a_server_killed_in_the_middle_of_a_burst_loses_nothing_and_repeats_only_what_was_read_and_unmarked() {
    for (point, fault) in STEPS {
        let scene = Scene::open().await;
        let mut tally = Tally::new(format!("{fault}, in a burst"));
        // So that there is a burst: they are all there when the server comes.
        let runs = scene.succeed(&mut tally, &[SUBSCRIPTION], 50).await;
        // Receipts and marks come for several events at a time.
        let pass = if matches!(point, "acknowledged") { 2 } else { 25 };
        let server = dies_at(&scene, point, pass).await;
        let mut client = scene.subscriber_that_may_be_refused(&server, SUBSCRIPTION);
        let received = until_broken(&mut client, &mut tally).await;
        resurrected(&scene, tally, server, received, &runs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_server_killed_while_a_patch_is_under_way_repeats_the_event_unless_the_patch_has_been_applied() {
    for (fate, fault, duplicates) in [
        (Patches::Unanswered, "killed while a patch is on its way", 1),
        (Patches::AppliedUnanswered, "killed while a patch's answer is on its way", 0),
    ] {
        let scene = Scene::open().await;
        let mut tally = Tally::new(fault);
        let proxy = ApiProxy::before(&scene.cluster).await;
        proxy.let_patches(fate);
        let mut server = scene.program_with(&[], &proxy.kubeconfig_file(), &[]).await;
        let mut client = scene.subscriber(&server, SUBSCRIPTION).await;
        let runs = scene.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
        take_all(&mut client, SUBSCRIPTION, &mut tally).await;
        proxy.struck(1, SOON).await;
        assert_eq!(scene.marks(&runs[0]).await.is_empty(), duplicates == 1);
        server.process.kill();

        let next = scene.program(&[]).await;
        let mut client = scene.subscriber(&next, SUBSCRIPTION).await;
        scene.marked(&runs, &[SUBSCRIPTION]).await;
        scene.succeed(&mut tally, &[SUBSCRIPTION], 1).await;
        take_all(&mut client, SUBSCRIPTION, &mut tally).await;
        take_rest(&mut client, SUBSCRIPTION, &mut tally);
        assert_eq!(tally.duplicated(), duplicates, "{fault}");
        tally.conclude(duplicates);
    }
}
