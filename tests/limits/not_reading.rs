//! Streams whose subscriber does not read while others need the memory.

use std::time::{Duration, Instant};

use test_support::{
    CATCH_UP, NewWorkflow, Run, RunningServer, Tally, Task, eventually, generic::Event, model_location, report,
};
use tokio::time::timeout;
use tonic::{Code, Streaming, transport::Endpoint};

use crate::{
    harness::Simulated,
    requests::{open_stream, unread_stream},
    streams::create_runs,
};

const NAMESPACE: &str = "team";
/// Runs with large events: 6 MB.
const RUNS: usize = 15;
/// Size of the location of a model.
const LARGE: usize = 400_000;
/// Streams of other connections that do not read: more than the memory of a namespace.
const UNREAD: usize = 3;
/// Window of a stream in bytes, so that a stream that does not read blocks neither its client nor its connection.
const WINDOW: u32 = 65_535;
/// The longest time until a connection is closed: 60 s without an acknowledgement, a check every second, and a second in
/// which the stream could end with its status.
const CLOSED: Duration = Duration::from_secs(60 + 1 + 1 + 5);

/// A subscriber that does not read loses its connection if others need the memory. A stream that is read on the same
/// connection only has to reconnect, and receives nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_read_is_closed() {
    let env = Simulated::start().await;
    let server = env.server(&[]).await;
    let mut tally = Tally::new("subscribers that do not read, one beside a stream that is read");
    create_runs(&env, NAMESPACE, RUNS, LARGE);

    let endpoint = Endpoint::from_shared(format!("http://{}", server.listen)).expect("a URL");
    let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(16 * WINDOW);
    let shared = endpoint.connect().await.expect("a connection");
    let started = Instant::now();
    let mut reader = open_stream(shared.clone(), "reader", NAMESPACE).await.expect("a stream");
    for _ in 0..RUNS {
        let location = next(&mut reader).await;
        tally.expect("reader", &location);
        tally.delivered("reader", &location);
    }
    server.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    let sleeper = open_stream(shared, "sleeper", NAMESPACE).await.expect("a stream");
    let mut unread = Vec::new();
    for number in 0..UNREAD {
        unread.push(unread_stream(server.listen, &format!("unread-{number}"), NAMESPACE, 1).await);
    }

    let ended = timeout(CLOSED + CATCH_UP, reader.message()).await.expect("the end of the connection in time");
    report(format_args!("limits: the connection was closed after {:.1?}", started.elapsed()));
    assert_ne!(ended.expect_err("it is no event").code(), Code::Ok);
    logged(&server, "closed connection beyond a limit").await;

    // One more event, and none that was confirmed.
    let mut reader = open_stream(endpoint.connect().await.expect("a connection"), "reader", NAMESPACE).await.unwrap();
    env.sim.put_task(&Run::tfx_v1(NAMESPACE, "last"), Task::pusher("gs://last"));
    let last = NewWorkflow::tfx_v1("last", NAMESPACE).phase("Succeeded");
    env.sim.create_workflow(NAMESPACE, last).expect("a new name");
    tally.expect("reader", "gs://last");
    tally.delivered("reader", &next(&mut reader).await);

    // What the closed stream had not confirmed is pending for its successor.
    drop((sleeper, unread));
    let mut successor = open_stream(endpoint.connect().await.unwrap(), "sleeper", NAMESPACE).await.expect("a stream");
    for _ in 0..=RUNS {
        let location = next(&mut successor).await;
        tally.expect("sleeper", &location);
        tally.delivered("sleeper", &location);
    }
    tally.conclude(0);
}

async fn next(stream: &mut Streaming<Event>) -> String {
    let event = timeout(CATCH_UP, stream.message()).await.expect("in time").expect("no error").expect("an event");
    model_location(std::str::from_utf8(&event.payload).expect("UTF-8"))
}

async fn logged(server: &RunningServer, message: &str) {
    eventually(CATCH_UP, message, async || server.process.log().contains(message)).await;
}
