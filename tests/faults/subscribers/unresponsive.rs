//! Subscribers that keep their connection and do not read.

use std::time::Duration;

use test_support::{
    CATCH_UP, RunningServer, Tally, TcpProxy,
    generic::{Event, EventSource, eventing_client::EventingClient},
    model_location, report,
};
use tokio::{
    net::TcpStream,
    time::{Instant, interval, timeout},
};
use tonic::{Streaming, transport::Endpoint};

use super::STEADY;
use crate::test_env::{Subscriber, TestEnv};

/// A frozen subscriber confirms nothing; its successor receives everything.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_frozen_subscriber_confirms_nothing() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("subscriber SIGSTOPped for 5 s, then killed");
    let both = [STEADY, "frozen"];
    let server = env.server(&[]).await;
    let mut steady = env.subscriber(&server, STEADY).await;
    let mut frozen = env.subscriber(&server, "frozen").await;
    let before = env.succeed(&mut tally, &both, 5).await;
    frozen.receive_all(&mut tally).await;
    env.marked(&before, &both).await;

    frozen.client.pause();
    let mut meanwhile = Vec::new();
    let mut ticks = interval(Duration::from_millis(500));
    while meanwhile.len() < 10 {
        ticks.tick().await;
        meanwhile.extend(env.succeed(&mut tally, &both, 1).await);
        steady.receive_all(&mut tally).await;
    }
    env.marked(&meanwhile, &[STEADY]).await;
    frozen.client.kill();
    server.logged_for("stream ended", "frozen").await;
    assert!(frozen.receive_buffered(&mut tally).is_empty());

    let mut successor = env.subscriber(&server, "frozen").await;
    successor.receive_all(&mut tally).await;
    env.marked(&[before, meanwhile].concat(), &both).await;
    successor.receive_buffered(&mut tally);
    steady.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// Longest time until the server closes a silent connection: a PING after 30 s, and 20 s for its acknowledgement.
const DETECTED: Duration = Duration::from_secs(50);

/// A subscriber behind a black hole is closed within 50 s; its successor does not have to wait for that.
///
/// There are four of them: without events, with events in transit, with a full receive buffer, so that the server cannot
/// write, and one that vanished before it sent a byte. Argo sends no keepalives: its side would wait forever.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_black_holed_subscriber_is_closed_within_50_s() {
    let env = TestEnv::shared().await;
    let mut tally = Tally::new("subscriber black-holed");
    let all = [STEADY, "busy", "full"];
    let server = env.server(&[]).await;
    let mut steady = env.subscriber(&server, STEADY).await;
    let address = server.listen;
    let proxies = [
        TcpProxy::start(address).await,
        TcpProxy::start(address).await,
        TcpProxy::with_small_buffer(address, 4096).await,
    ];
    let _vanished = TcpStream::connect(address).await.expect("a connection");
    let client =
        |proxy: &TcpProxy, more: &str| env.peers.grpc_go_client(proxy.address, &format!("{}{more}", env.config()));
    let _idle = client(&proxies[0], "\npipelines: [no-such-pipeline]").name("idle").start();
    let mut busy = Subscriber::new(client(&proxies[1], "").name("busy").start(), "busy");
    // With a smaller window, flow control would stop the server before the buffers are full.
    let mut full = Subscriber::new(client(&proxies[2], "").name("full").window(16 << 20).start(), "full");
    let before = env.succeed(&mut tally, &all, 3).await;
    busy.receive_all(&mut tally).await;
    full.receive_all(&mut tally).await;
    env.marked(&before, &all).await;

    let paused = Instant::now();
    proxies.iter().for_each(TcpProxy::pause);
    // More than the buffers of the sockets hold.
    let unread = env.succeed_with(&mut tally, &all, 12, 400_000).await;
    steady.receive_all(&mut tally).await;
    let mut successor = env.subscriber(&server, "busy").await;
    successor.receive_all(&mut tally).await;
    env.marked(&unread, &[STEADY, "busy"]).await;

    for subscription in ["idle", "busy", "full"] {
        server.logged_for_within(DETECTED + CATCH_UP, "stream ended", subscription).await;
        report(format_args!(
            "  {subscription}: stream closed {:.1} s after the last byte",
            paused.elapsed().as_secs_f64()
        ));
    }
    server.metric_is("modelupdate_subscribers", &[], 2.0).await;
    server.metric_is("modelupdate_connections", &[], 2.0).await;
    for reason in ["silent", "stalled"] {
        server.metric_is("modelupdate_connections_closed_total", &[reason], 1.0).await;
    }
    report(format_args!("  all connections closed after {:.1} s", paused.elapsed().as_secs_f64()));

    let mut full = env.subscriber(&server, "full").await;
    full.receive_all(&mut tally).await;
    env.marked(&unread, &all).await;
    for subscriber in [&mut full, &mut successor, &mut steady] {
        subscriber.receive_buffered(&mut tally);
    }
    tally.conclude(0);
}

/// Subscribers that never read receive 256 events each and delay no other.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn subscribers_that_never_read_receive_256_events() {
    let case = Unread { runs: 300, bytes: 0, handed_off: 256, max_growth_kib: 16 * 1024 };
    check_unread_streams(Tally::new("subscribers never read, small events"), case).await;
}

/// Subscribers that never read share the memory of their namespace, and delay no other.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn subscribers_that_never_read_share_the_memory() {
    let case = Unread { runs: 30, bytes: 400_000, handed_off: 12, max_growth_kib: 64 * 1024 };
    check_unread_streams(Tally::new("subscribers never read, large events"), case).await;
}

/// Runs for subscribers that never read, and what the server may do for these.
struct Unread {
    runs: usize,
    /// Size of an event.
    bytes: usize,
    /// The highest number of events that the server hands off to each of them. It is reached with small events.
    handed_off: usize,
    max_growth_kib: u64,
}

/// Delivers to the steady subscriber beside four that never read, with flow-control windows of 1 and of 64 bytes.
async fn check_unread_streams(mut tally: Tally, case: Unread) {
    let Unread { runs, bytes, handed_off, max_growth_kib } = case;
    let env = TestEnv::shared().await;
    let unread = [("narrow-1", 1), ("narrow-2", 1), ("wide-1", 64), ("wide-2", 64)];
    let all = [STEADY, "narrow-1", "narrow-2", "wide-1", "wide-2"];
    let server = env.server(&[]).await;
    let mut steady = env.subscriber(&server, STEADY).await;
    let mut streams = Vec::new();
    for (subscription, window) in unread {
        streams.push(unread_stream(&server, subscription, &env.config(), window).await);
    }
    let first = env.succeed(&mut tally, &all, 1).await;
    steady.receive_all(&mut tally).await;
    env.marked(&first, &[STEADY]).await;
    let before = server.resident_kib();

    let started = Instant::now();
    let more = env.succeed_with(&mut tally, &all, runs - 1, bytes).await;
    steady.receive_all(&mut tally).await;
    env.marked(&more, &[STEADY]).await;
    let most = runs + unread.len() * handed_off;
    if bytes == 0 {
        server.metric_is("modelupdate_events_sent_total", &[&env.namespace], most as f64).await;
    }
    let sent = server.metric("modelupdate_events_sent_total", &[&env.namespace]).await;
    assert!(sent <= most as f64, "{sent} of at most {most}");
    let growth = server.resident_kib().saturating_sub(before);
    report(format_args!(
        "  {runs} runs of {bytes} bytes, delivered to the steady subscriber within {:.1} s; {sent} handed off \
         with those to 4 that do not read; memory growth {growth} KiB",
        started.elapsed().as_secs_f64()
    ));
    assert!(growth < max_growth_kib, "{growth} KiB");

    // With small events the last stream is read after all, 64 bytes at a time; the others are dropped unread.
    let last = streams.pop().filter(|_| bytes == 0);
    drop(streams);
    let (dropped, read) = unread.split_at(if last.is_some() { 3 } else { 4 });
    if let (Some(mut stream), [(subscription, _)]) = (last, read) {
        while !tally.has_all_of(subscription) {
            let event =
                timeout(CATCH_UP, stream.message()).await.expect("in time").expect("no error").expect("an event");
            tally.delivered(subscription, &model_location(std::str::from_utf8(&event.payload).expect("UTF-8")));
        }
        env.marked(&first, &[STEADY, subscription]).await;
    }
    for (subscription, _) in dropped {
        let mut successor = env.subscriber(&server, subscription).await;
        successor.receive_all(&mut tally).await;
    }
    steady.receive_buffered(&mut tally);
    tally.conclude(0);
}

/// Opens a stream with this flow-control window. grpc-go allows no window below 64 KiB.
async fn unread_stream(server: &RunningServer, subscription: &str, config: &str, window: u32) -> Streaming<Event> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.listen)).expect("a URL");
    let channel = endpoint.initial_stream_window_size(window).connect().await.expect("a connection");
    let request = EventSource { name: subscription.to_owned(), config: config.as_bytes().to_vec() };
    EventingClient::new(channel).start_event_source(request).await.expect("a stream").into_inner()
}
