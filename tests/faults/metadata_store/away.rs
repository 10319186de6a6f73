//! ML Metadata hangs, dies, and comes back: as it was, or empty.

use test_support::{SOON, eventually, model_location, report};
use tokio::time::Instant;

use super::*;

/// Another subscription of ours, which begins late. Gets the run whose models are known already.
async fn subscribe_late(world: &World, known: &str, tally: &mut Tally) -> Events {
    let config = format!("kfpNamespace: {}", world.ours.namespace);
    let mut events = world.served.subscribe_as("late", &config).await;
    tally.expect("late", &at(known));
    tally.delivered("late", &model_location(&events.next_payload().await));
    events
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_store_that_hangs_and_then_dies_loses_no_run_and_keeps_back_none_that_is_known() {
    let peers = Peers::find().await;
    let mut store = peers.metadata_store().await;
    let mut world = World::start(peers, &store, store.url()).await;
    let mut tally = Tally::new("ML Metadata hangs, dies, and comes back");
    world.ours("before", &mut tally).await;
    assert_eq!(world.ours.next(&mut tally).await, at("before"));

    for run in ["while-it-hangs", "theirs-while-it-hangs", "while-it-is-dead", "theirs-while-it-is-dead"] {
        world.artifacts(run).await;
    }
    store.pause();
    world.ours.succeed("while-it-hangs", &mut tally).await;
    world.theirs.succeed("theirs-while-it-hangs", &mut tally).await;
    let pending = async || world.served.metric("modelupdate_runs_pending", &[]).await == 2.0;
    eventually(SOON, "two runs that wait", pending).await;
    let late = subscribe_late(&world, "before", &mut tally).await;
    assert_eq!(world.lookups("failed").await, 0.0, "it only hangs");

    store.kill();
    world.ours.succeed("while-it-is-dead", &mut tally).await;
    world.theirs.succeed("theirs-while-it-is-dead", &mut tally).await;
    eventually(SOON, "repeated lookups", async || world.retries("unavailable").await >= 12.0).await;
    drop(late);

    let begun = Instant::now();
    store.restart().await;
    let back = begun.elapsed();
    for _ in 0..2 {
        world.ours.next(&mut tally).await;
        world.theirs.next(&mut tally).await;
    }
    report(format!("after ML Metadata is back, all is announced within {:?}", begun.elapsed() - back));
    world.writer = store.writer().await;
    world.conclude(tally).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_store_that_comes_back_empty_is_no_proof_that_a_run_has_no_model() {
    let peers = Peers::find().await;
    let mut store = peers.metadata_store().await;
    let mut world = World::start(peers, &store, store.url()).await;
    let mut tally = Tally::new("ML Metadata comes back empty");
    world.ours("known", &mut tally).await;
    assert_eq!(world.ours.next(&mut tally).await, at("known"));
    for run in ["forgotten", "theirs-forgotten"] {
        world.artifacts(run).await;
    }
    store.restart_empty().await;
    world.writer = store.writer().await;

    world.ours.succeed("forgotten", &mut tally).await;
    world.theirs.succeed("theirs-forgotten", &mut tally).await;
    eventually(SOON, "repeated lookups", async || world.retries("no_context").await >= 6.0).await;
    assert_eq!(world.lookups("failed").await, 0.0);

    // What was found out stays true: nothing is taken back, nothing comes again, and who comes late gets it.
    world.ours.workflows.label("known", "pipeline/persistedFinalState", "true").await;
    let late = subscribe_late(&world, "known", &mut tally).await;
    world.ours("new", &mut tally).await;
    world.theirs("theirs-new", &mut tally).await;
    assert_eq!(world.ours.next(&mut tally).await, at("new"));
    assert_eq!(world.theirs.next(&mut tally).await, at("theirs-new"));
    drop(late);

    for run in ["forgotten", "theirs-forgotten"] {
        world.artifacts(run).await;
    }
    assert_eq!(world.ours.next(&mut tally).await, at("forgotten"));
    assert_eq!(world.theirs.next(&mut tally).await, at("theirs-forgotten"));
    world.conclude(tally).await;
}
