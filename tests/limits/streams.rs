//! Streams and requests of clients that reach the port.

use std::time::Duration;

use futures::{
    StreamExt as _,
    future::{join_all, select_all},
    stream,
};
use model_update_eventsource::{
    eventsource::Subscriber,
    sim::{NewWorkflow, Run, Task},
};
use test_support::{CATCH_UP, SOON, eventually};
use tokio::time::{sleep, timeout};
use tonic::{Code, transport::Endpoint};

use crate::{
    exclusive,
    harness::{Observation, Simulated},
    requests::{Unfinished, open_stream, unread_stream},
};

/// Namespace of the hostile tenant.
const HOSTILE: &str = "hostile";

/// Creates succeeded runs of the hostile tenant whose models have locations of this size.
pub(crate) fn create_runs(env: &Simulated, namespace: &str, count: usize, bytes: usize) {
    for number in 0..count {
        let name = format!("{namespace}-{number:05}");
        let location = format!("gs://{name}/{}", "x".repeat(bytes));
        env.sim.put_task(&Run::tfx_v1(namespace, &name), Task::pusher(&location));
        let workflow = NewWorkflow::tfx_v1(&name, &format!("pipeline-{number}")).phase("Succeeded");
        env.sim.create_workflow(namespace, workflow).expect("a new name");
    }
}

/// Connections with unfinished requests.
const CONNECTIONS: usize = 300;
/// Time between the first requests of two of them.
const RAMP: Duration = Duration::from_millis(10);
/// Time between the end of a request and the next one. This is about memory, not about the rate of requests.
const PAUSE: Duration = Duration::from_secs(1);
/// Duration of the attack with them: more than the time limit of a request.
const UNFINISHED: Duration = Duration::from_secs(12);

/// Requests that stop one byte before their end, of 4 MiB and of the largest size, are refused and harm no other tenant.
#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_end_harm_no_other() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let server = env.server(&[]).await;
    let observation = Observation::start("row 5, unfinished requests", &server, env.tenant()).await;
    let attack = async |number: usize| {
        let bytes = if number.is_multiple_of(3) { 4 << 20 } else { 72_000 };
        sleep(RAMP * u32::try_from(number).expect("few connections")).await;
        loop {
            // The server may close connections that are too many.
            if let Ok(unfinished) = Unfinished::connect(server.listen).await {
                unfinished.send(bytes, 4).await;
            }
            sleep(PAUSE).await;
        }
    };
    let _ended = timeout(UNFINISHED, join_all((0..CONNECTIONS).map(attack))).await;
    for limit in ["request_size", "request_time"] {
        let label = format!("limit=\"{limit}\"");
        assert!(server.metric("modelupdate_limit_hits_total", &[&label]).await > 0.0, "{limit}");
    }
    observation.finish().await.assert_unharmed();
}

/// Streams that never read, each of a subscription of its own.
const UNREAD: usize = 60;
/// Duration of the attack once all memory is held.
const HELD: Duration = Duration::from_secs(3);

/// Streams that never read, with large events, harm no other tenant.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_never_read_harm_no_other() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let server = env.server(&[]).await;
    let observation = Observation::start("row 5, streams that never read", &server, env.tenant()).await;
    let mut streams = Vec::new();
    for number in 0..UNREAD {
        // Several namespaces: each may have half of what is left.
        let namespace = format!("{HOSTILE}-{}", number % 4);
        if number < 4 {
            create_runs(&env, &namespace, 40, 400_000);
        }
        streams.push(unread_stream(server.listen, &format!("s-{number}"), &namespace, 64).await);
    }
    eventually(SOON, "the limit", async || {
        server.metric("modelupdate_limit_hits_total", &["limit=\"unacknowledged_bytes\""]).await > 0.0
    })
    .await;
    sleep(HELD).await;
    observation.finish().await.assert_unharmed();
}

/// Namespaces with streams of many patterns.
const FILTERED: usize = 3;
/// Such streams of each of them.
const FILTERS: usize = 200;
/// Workflows of each of them.
const WORKFLOWS: usize = 1_000;

/// Hundreds of streams with 64 long patterns each harm no other tenant.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_filters_harm_no_other() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let namespaces: Vec<_> = (0..FILTERED).map(|number| format!("filters-{number}")).collect();
    for namespace in &namespaces {
        create_runs(&env, namespace, WORKFLOWS, 0);
    }
    let server = env.server(&[]).await;
    let observation = Observation::start("row 5, hundreds of filters", &server, env.tenant()).await;
    let mut attached = Vec::new();
    for namespace in &namespaces {
        let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.unwrap();
        for number in 0..FILTERS {
            let pattern = |index: usize| format!("\"*e-{number}-{index}{}\"", "?".repeat(200));
            let patterns: Vec<_> = (0..64).map(pattern).collect();
            let config = format!("kfpNamespace: {namespace}\npipelines: [{}]", patterns.join(", "));
            attached.push(subscriber.subscribe(&format!("s-{number}"), &config).await.expect("a stream"));
        }
    }
    // Each of these is compared with all patterns of its namespace.
    for number in 0..20 {
        for namespace in &namespaces {
            let workflow = NewWorkflow::tfx_v1(&format!("later-{number}"), &"e-".repeat(250)).phase("Succeeded");
            env.sim.create_workflow(namespace, workflow).expect("a new name");
        }
        sleep(Duration::from_millis(100)).await;
    }
    observation.finish().await.assert_unharmed();
}

/// Subscription names that are used once.
const NAMES: usize = 2_000;

/// Thousands of subscriptions whose streams end before they confirm an event harm no other tenant.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_short_subscriptions_harm_no_other() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    let server = env.server(&[]).await;
    create_runs(&env, HOSTILE, 50, 0);
    let observation = Observation::start("row 5, short subscriptions", &server, env.tenant()).await;
    stream::iter(0..NAMES)
        .for_each_concurrent(8, async |number| {
            let mut subscriber = Subscriber::connect(format!("http://{}", server.listen)).await.unwrap();
            let config = format!("kfpNamespace: {HOSTILE}");
            // The namespace may have too many streams: the server has not seen the end of the others yet.
            let Ok(mut events) = subscriber.subscribe(&format!("s-{number}"), &config).await else { return };
            drop(timeout(CATCH_UP, events.next()).await.expect("an event in time"));
        })
        .await;
    assert!(server.metric("modelupdate_limit_hits_total", &["limit=\"subscriptions\""]).await > 0.0);
    observation.finish().await.assert_unharmed();
}

/// Runs that ML Metadata does not know.
const PENDING: usize = 1_500;
/// Streams for which each of them is pending: more than the limit, even without the first stream.
const MULTIPLYING: usize = 100;

/// Streams that multiply pending runs harm no other tenant: the youngest of them end with a status that names the limit.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_multiply_pending_runs_harm_no_other() {
    let _exclusive = exclusive().await;
    let env = Simulated::start().await;
    for number in 0..PENDING {
        let workflow = NewWorkflow::tfx_v1(&format!("pending-{number:05}"), HOSTILE).phase("Succeeded");
        env.sim.create_workflow(HOSTILE, workflow).expect("a new name");
    }
    let server = env.server(&[]).await;
    let observation = Observation::start("row 5, streams that multiply pending runs", &server, env.tenant()).await;
    let channel = Endpoint::from_shared(format!("http://{}", server.listen)).expect("a URL").connect().await.unwrap();
    let mut streams = Vec::new();
    for number in 0..MULTIPLYING {
        streams.push(open_stream(channel.clone(), &format!("s-{number}"), HOSTILE).await.expect("a stream"));
    }
    let ends = select_all(streams.iter_mut().map(|stream| Box::pin(stream.message())));
    let (end, ..) = timeout(CATCH_UP, ends).await.expect("an end in time");
    let status = end.expect_err("no event");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().starts_with("too many runs are pending"), "{status:?}");
    assert!(server.metric("modelupdate_limit_hits_total", &["limit=\"pending_runs\""]).await > 0.0);
    observation.finish().await.assert_unharmed();
}
