//! Marks of a hostile tenant, and the shutdown while they are pending.

use std::{
    env,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use model_update_eventsource::{
    eventsource::Subscriber,
    model::workflow::MARK_PREFIX,
    sim::{NewWorkflow, Run, Task},
};
use serde_json::json;
use test_support::{CATCH_UP, RunningServer, SHUTDOWN, SOON, eventually, report};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    exclusive,
    harness::{Observation, Simulated, is_marked},
    webhook::Webhook,
};

/// Namespace and subscription of the hostile tenant.
const HOSTILE: &str = "hostile";
/// The run id that all Workflows of the hostile tenant share, so that each lookup is short.
const RUN_ID: &str = "0dd9a2b5-3a2e-4e43-b2d7-4a8c0a0c0001";
/// Default number of runs of the hostile tenant.
const RUNS: usize = 1_500;
/// Its Workflows that run again, with a mark to be removed.
const RESTARTED: usize = 500;

/// Marks that a shutdown writes even on a busy machine.
const MIN_MARKS: usize = 1_200;

/// Returns the number of runs: `MODEL_UPDATE_LIMITS_RUNS` sets it. A debug build takes a minute for 10,000.
fn runs() -> usize {
    env::var("MODEL_UPDATE_LIMITS_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number of runs"))
}

/// Creates the runs of the hostile tenant.
fn create_runs(env: &Simulated, runs: usize) {
    env.sim.put_task(&Run::kfp_v2("penguin", RUN_ID, HOSTILE), Task::pusher("gs://hostile"));
    for number in 0..runs {
        let workflow = NewWorkflow::named(&name(number)).run_id(RUN_ID).phase("Succeeded");
        env.sim.create_workflow(HOSTILE, workflow).expect("a new name");
    }
}

fn name(number: usize) -> String {
    format!("run-{number:05}")
}

/// Subscribes as the hostile tenant, and reads everything. Returns the number of events so far.
async fn read_all(server: &RunningServer) -> (watch::Receiver<usize>, JoinHandle<()>) {
    let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.expect("a connection");
    let config = format!("kfpNamespace: {HOSTILE}");
    let mut stream = subscriber.subscribe(HOSTILE, &config).await.expect("a stream");
    let (sender, count) = watch::channel(0);
    let task = tokio::spawn(async move {
        while let Some(Ok(_)) = stream.next().await {
            sender.send_modify(|count| *count += 1);
        }
    });
    (count, task)
}

/// Patches that hang in one namespace, thousands of its marks, and marks to be removed there, delay neither the events nor
/// the marks of another tenant, nor the shutdown.
#[tokio::test(flavor = "multi_thread")]
async fn hanging_patches_of_a_namespace_delay_nobody() {
    let (_exclusive, runs) = (exclusive().await, runs());
    let env = Simulated::start().await;
    let webhook = Webhook::start(&env, HOSTILE).await;
    let server = env.server_at(&webhook.url(), &env.sim.metadata_url(), &[]).await;
    create_runs(&env, runs);
    let observation = Observation::start("row 7, marks that hang", &server, env.tenant()).await;
    let (received, hostile) = read_all(&server).await;
    for number in 0..RESTARTED {
        let restarted = format!("restarted-{number:03}");
        let workflow = NewWorkflow::named(&restarted).run_id(RUN_ID).phase("Succeeded");
        let created = env.sim.create_workflow(HOSTILE, workflow).expect("a new name");
        let mark =
            json!({"metadata": {"annotations": {format!("{MARK_PREFIX}{HOSTILE}"): created["metadata"]["uid"]}}});
        env.sim.patch_workflow(HOSTILE, &restarted, &mark).expect("it exists");
        env.sim.set_phase(HOSTILE, &restarted, "Running").expect("it exists");
    }
    eventually(
        CATCH_UP * 4,
        "the catch-up",
        async || if *received.borrow() >= runs { Ok(()) } else { Err(*received.borrow()) },
    )
    .await;
    eventually(SOON, "hanging patches", async || webhook.hanging() > 0).await;
    let figures = observation.finish().await;
    let observed = figures.latencies.len();
    // The last ones may have been confirmed a moment ago.
    eventually(Duration::from_secs(5), "the marks of the other tenant", async || {
        let names = (0..=observed).map(|run| format!("observed-{run:05}"));
        let missing: Vec<_> = names.filter(|name| !is_marked(&env, "observed", name, "observed")).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
    figures.assert_unharmed();
    let stopped = Instant::now();
    server.stop().await;
    report(format_args!("  SIGTERM to exit: {:.1?}", stopped.elapsed()));
    hostile.await.expect("the subscriber does not panic");
}

/// A shutdown writes the pending marks without a limit of their rate, as many as it has time for. The next server repeats
/// the others, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_writes_thousands_of_marks() {
    let (_exclusive, runs) = (exclusive().await, runs());
    let env = Simulated::start().await;
    let server = env.server(&["--mark-rate=1"]).await;
    create_runs(&env, runs);
    let (mut received, hostile) = read_all(&server).await;
    timeout(CATCH_UP * 4, received.wait_for(|count| *count == runs)).await.expect("in time").expect("a stream");
    let confirmed = format!("namespace=\"{HOSTILE}\"");
    server.metric_is("modelupdate_events_confirmed_total", &[&confirmed], runs as f64).await;
    let marked = || (0..runs).filter(|number| is_marked(&env, HOSTILE, &name(*number), HOSTILE)).count();
    let (before, stopped) = (marked(), Instant::now());
    server.stop().await;
    hostile.await.expect("the subscriber does not panic");
    let after = marked();
    report(format_args!(
        "limits: row 7, shutdown: {before} of {runs} marks before it, {after} after it, SIGTERM to exit {:.1?}",
        stopped.elapsed()
    ));
    assert!(stopped.elapsed() < SHUTDOWN);
    assert!(after >= before + MIN_MARKS, "only {after} marks");

    let server = env.server(&[]).await;
    let (mut received, _hostile) = read_all(&server).await;
    let repeated = runs - after;
    timeout(CATCH_UP * 4, received.wait_for(|count| *count == repeated)).await.expect("in time").unwrap();
    server.metric_is("modelupdate_runs_pending", &[], 0.0).await;
    assert_eq!(*received.borrow(), repeated);
}
