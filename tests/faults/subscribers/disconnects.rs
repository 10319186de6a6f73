//! Subscribers whose end the server notices at once.

use std::{collections::BTreeSet, env, net::SocketAddr, time::Duration};

use futures::StreamExt as _;
use model_update_eventsource::eventsource;
use test_support::{CATCH_UP, RunningServer, Tally, TcpProxy, model_location, report};
use tokio::time::{Instant, interval, timeout, timeout_at};

use super::STEADY;
use crate::test_env::{Subscriber, TestEnv, run_of};

/// A killed subscriber receives again exactly what it had not confirmed.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_killed_subscriber_receives_unconfirmed_events_again() {
    let env = TestEnv::shared().await;
    let server = env.server(&[]).await;
    let tally = Tally::new("subscriber SIGKILLed");
    check_disconnect(&env, &server, server.listen, tally, async |broken| broken.client.kill()).await;
}

/// A subscriber whose connection is half-closed confirms nothing more, and receives the rest again.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_half_closed_subscriber_receives_unconfirmed_events_again() {
    let env = TestEnv::shared().await;
    let server = env.server(&[]).await;
    let mut proxy = TcpProxy::start(server.listen).await;
    let tally = Tally::new("subscriber's connection half-closed");
    check_disconnect(&env, &server, proxy.address, tally, async |_| {
        proxy.half_close();
        timeout(CATCH_UP, proxy.closed()).await.expect("the server closes its side, too");
    })
    .await;
}

/// Breaks the stream of a subscriber that has confirmed some events and received others, and starts its successor.
async fn check_disconnect(
    env: &TestEnv,
    server: &RunningServer,
    address: SocketAddr,
    mut tally: Tally,
    disconnect: impl AsyncFnOnce(&mut Subscriber),
) {
    let both = [STEADY, "broken"];
    let mut steady = env.subscriber(server, STEADY).await;
    let mut broken = env.subscriber_at(address, "broken").await;
    let confirmed = env.succeed(&mut tally, &both, 10).await;
    broken.receive_all(&mut tally).await;
    env.marked(&confirmed, &both).await;

    let unconfirmed = env.succeed(&mut tally, &both, 20).await;
    let mut received = BTreeSet::new();
    while received.len() < 10 {
        received.insert(broken.receive(&mut tally).await);
    }
    disconnect(&mut broken).await;
    server.logged_for("stream ended", "broken").await;
    server.metric_is("modelupdate_connections", &[], 1.0).await;
    received.extend(broken.receive_buffered(&mut tally));
    server.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    // The allowed duplicates: received and not confirmed when the stream ended.
    let mut duplicates = 0;
    for run in received.iter().map(|location| run_of(location)).filter(|run| unconfirmed.iter().any(|name| name == run))
    {
        duplicates += usize::from(!env.marks(run).await.contains("broken"));
    }

    let mut successor = env.subscriber(server, "broken").await;
    successor.receive_all(&mut tally).await;
    steady.receive_all(&mut tally).await;
    env.marked(&[confirmed, unconfirmed].concat(), &both).await;
    successor.receive_buffered(&mut tally);
    steady.receive_buffered(&mut tally);
    assert_eq!(tally.duplicated(), duplicates, "exactly the received and unconfirmed events are repeated");
    tally.conclude(duplicates);
}

/// Returns how long the subscriber reconnects; `MODEL_UPDATE_RECONNECTING=60s` selects the long form of the test.
fn reconnecting() -> Duration {
    let chosen = env::var("MODEL_UPDATE_RECONNECTING").ok();
    chosen.map_or(Duration::from_secs(9), |text| humantime::parse_duration(&text).expect("a duration, such as 60s"))
}

/// A subscriber that reconnects every 100 ms delays no other, and receives everything in the end.
///
/// It uses the product's own client, which reconnects within one process: with a grpc-go process for each stream the test
/// would measure how fast processes start.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_subscriber_that_reconnects_often_receives_everything() {
    const STREAM: Duration = Duration::from_millis(100);
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("subscriber reconnects every 100 ms");
    // None of its streams lasts long enough for a confirmation.
    let server = env.server(&["--confirm-after=200ms"]).await;
    let mut steady = env.subscriber(&server, STEADY).await;
    let both = [STEADY, "restless"];
    let duration = reconnecting();
    let end = Instant::now() + duration;

    let mut received = Vec::new();
    let reconnect = async {
        let mut memory = None;
        let mut streams = 0;
        while Instant::now() < end {
            let url = format!("http://{}", server.listen);
            let mut client = eventsource::Subscriber::connect(url).await.expect("a connection");
            let mut events = client.subscribe("restless", &env.config()).await.expect("a stream");
            let stream_end = Instant::now() + STREAM;
            while let Ok(event) = timeout_at(stream_end, events.next()).await {
                let event = event.expect("the server does not end the stream").expect("an event");
                received.push(model_location(std::str::from_utf8(&event.payload).expect("UTF-8")));
            }
            streams += 1;
            // The server has warmed up after the first second.
            if streams == 10 {
                memory = Some(server.resident_kib());
            }
        }
        (streams, memory.expect("many streams"))
    };
    let mut runs = Vec::new();
    let succeed = async {
        let mut ticks = interval(duration / 20);
        while runs.len() < 20 {
            ticks.tick().await;
            runs.extend(env.succeed(&mut tally, &both, 1).await);
            // Delivered to the other subscriber meanwhile.
            steady.receive(&mut tally).await;
        }
    };
    let ((streams, memory), ()) = tokio::join!(reconnect, succeed);
    received.iter().for_each(|location| tally.delivered("restless", location));
    let deliveries = received.len();
    server.metric_is("modelupdate_subscribers", &[], 1.0).await;
    server.metric_is("modelupdate_connections", &[], 1.0).await;
    let growth = server.resident_kib().saturating_sub(memory);

    let mut settled = env.subscriber(&server, "restless").await;
    env.marked_within(3 * duration, &runs, &both).await;
    settled.receive_buffered(&mut tally);
    report(format_args!(
        "  {streams} streams in {duration:?}, {deliveries} deliveries of 20 runs to them; memory growth {growth} KiB"
    ));
    assert!(growth < 4 * 1024, "{growth} KiB");
    // A run is delivered on three streams, and then with growing pauses.
    assert!(deliveries <= 20 * 7, "{deliveries}");
    tally.conclude(deliveries);
}
