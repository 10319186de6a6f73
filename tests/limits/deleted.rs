//! Pending runs whose Workflows are deleted.

use futures::StreamExt as _;
use model_update_eventsource::{
    eventsource::Subscriber,
    sim::{NewWorkflow, Run, Task},
};
use test_support::{CATCH_UP, Tally, eventually, model_location};
use tokio::time::timeout;

use crate::{
    exclusive,
    harness::{Observation, Simulated},
    requests::unread_stream,
};

/// Runs of the hostile tenant, unknown to ML Metadata. Of all tenants, 10,000 are kept.
const RUNS: usize = 10_500;
/// Workflows that are created or deleted at once.
const STEP: usize = 500;
/// Pending runs of the other tenant.
const PENDING: usize = 50;
const HOSTILE: &str = "hostile";
const OTHER: &str = "other";

/// A namespace with thousands of runs that ML Metadata does not know, deleted while they are pending, does not evict the
/// pending runs of another.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_runs_of_a_namespace_evict_only_its_own() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let server = env.server(&[]).await;
    let observation = Observation::start("row 8, deleted runs", &server, env.tenant()).await;

    // Pending at a subscriber that does not read, and deleted.
    let mut tally = Tally::new("a namespace deletes thousands of pending runs");
    let unread = unread_stream(server.listen, OTHER, OTHER, 1).await;
    for number in 0..PENDING {
        let name = format!("run-{number}");
        let location = format!("gs://{name}");
        env.sim.put_task(&Run::tfx_v1(OTHER, &name), Task::pusher(&location));
        env.sim.create_workflow(OTHER, NewWorkflow::tfx_v1(&name, OTHER).phase("Succeeded")).expect("a new name");
        tally.expect(OTHER, &location);
    }
    let label = format!("namespace=\"{OTHER}\"");
    server.metric_is("modelupdate_events_sent_total", &[&label], PENDING as f64).await;
    for number in 0..PENDING {
        env.sim.delete_workflow(OTHER, &format!("run-{number}")).expect("it exists");
    }

    let mut hostile = Subscriber::connect(format!("http://{}", server.listen)).await.unwrap();
    let _stream = hostile.subscribe(HOSTILE, &format!("kfpNamespace: {HOSTILE}")).await.expect("a stream");
    // In steps, so that the simulated API server itself does not delay the other tenant.
    let workflows = async || server.metric("modelupdate_workflows", &[]).await;
    for first in (0..RUNS).step_by(STEP) {
        for number in first..first + STEP {
            let workflow = NewWorkflow::tfx_v1(&format!("run-{number}"), HOSTILE).phase("Succeeded");
            env.sim.create_workflow(HOSTILE, workflow).expect("a new name");
        }
        eventually(CATCH_UP, "new Workflows", async || workflows().await >= (first + STEP) as f64).await;
    }
    for first in (0..RUNS).step_by(STEP) {
        for number in first..first + STEP {
            env.sim.delete_workflow(HOSTILE, &format!("run-{number}")).expect("it exists");
        }
        // The other tenant has fewer than a step.
        eventually(CATCH_UP, "deletions", async || workflows().await < (RUNS - first) as f64).await;
    }
    assert!(server.metric("modelupdate_limit_hits_total", &["limit=\"deleted_runs\""]).await > 0.0);

    drop(unread);
    let mut other = Subscriber::connect(format!("http://{}", server.listen)).await.unwrap();
    let mut stream = other.subscribe(OTHER, &format!("kfpNamespace: {OTHER}")).await.expect("a stream");
    while !tally.is_complete() {
        let event = timeout(CATCH_UP, stream.next()).await.expect("in time").expect("an event").expect("no error");
        tally.delivered(OTHER, &model_location(std::str::from_utf8(&event.payload).expect("UTF-8")));
    }
    observation.finish().await.assert_unharmed();
    tally.conclude(0);
}
