//! Subscribers that are there, as far as TCP can tell, and do not read.

use std::time::Duration;

use test_support::{
    RunningServer, Tally, TcpProxy,
    generic::{Event, EventSource, eventing_client::EventingClient},
    model_location, report,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout};
use tonic::{Streaming, transport::Endpoint};

use super::STEADY;
use crate::scene::{SOON, Scene, take_all, take_rest};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_frozen_subscriber_confirms_nothing_and_its_successor_gets_it_all() {
    let scene = Scene::open().await;
    let mut tally = Tally::new("subscriber SIGSTOPped for 5 s, then killed");
    let both = [STEADY, "frozen"];
    let program = scene.program(&[]).await;
    let mut steady = scene.subscriber(&program, STEADY).await;
    let mut frozen = scene.subscriber(&program, "frozen").await;
    let before = scene.succeed(&mut tally, &both, 5).await;
    take_all(&mut frozen, "frozen", &mut tally).await;
    scene.marked(&before, &both).await;

    frozen.pause();
    let mut meanwhile = Vec::new();
    let mut ticks = interval(Duration::from_millis(500));
    while meanwhile.len() < 10 {
        ticks.tick().await;
        meanwhile.extend(scene.succeed(&mut tally, &both, 1).await);
        take_all(&mut steady, STEADY, &mut tally).await;
    }
    scene.marked(&meanwhile, &[STEADY]).await;
    frozen.kill();
    program.logged_for("stream ended", "frozen").await;
    assert!(take_rest(&mut frozen, "frozen", &mut tally).is_empty());

    let mut successor = scene.subscriber(&program, "frozen").await;
    take_all(&mut successor, "frozen", &mut tally).await;
    scene.marked(&[before, meanwhile].concat(), &both).await;
    take_rest(&mut successor, "frozen", &mut tally);
    take_rest(&mut steady, STEADY, &mut tally);
    tally.conclude(0);
}

/// How long the server may take to notice: a PING after 30 s of silence, and 20 s for its acknowledgement.
const NOTICED: Duration = Duration::from_secs(50);

/// Three of them: one for whom nothing is to be sent, one to whom events are on their way, and one whose end of the wire
/// is full, so that the server cannot even write. And a fourth one, which vanished before it had said anything. Argo sends
/// no keepalives: its own end would wait for ever.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_black_holed_subscriber_is_given_up_within_50_s_and_its_successor_need_not_wait_for_that() {
    let scene = Scene::open().await;
    let mut tally = Tally::new("subscriber black-holed");
    let every = [STEADY, "busy", "full"];
    let program = scene.program(&[]).await;
    let mut steady = scene.subscriber(&program, STEADY).await;
    let to = program.listen;
    let wires = [TcpProxy::start(to).await, TcpProxy::start(to).await, TcpProxy::with_small_buffer(to, 4096).await];
    let _vanished = TcpStream::connect(to).await.expect("accepted");
    let client =
        |wire: &TcpProxy, more: &str| scene.peers.grpc_go_client(wire.address, &format!("{}{more}", scene.config()));
    let _idle = client(&wires[0], "\npipelines: [nobodys]").name("idle").start();
    let mut busy = client(&wires[1], "").name("busy").start();
    // Flow control would keep the server from filling the wire.
    let mut full = client(&wires[2], "").name("full").window(16 << 20).start();
    let before = scene.succeed(&mut tally, &every, 3).await;
    take_all(&mut busy, "busy", &mut tally).await;
    take_all(&mut full, "full", &mut tally).await;
    scene.marked(&before, &every).await;

    let since = Instant::now();
    wires.iter().for_each(TcpProxy::pause);
    // More than sockets hold.
    let lost = scene.succeed_with(&mut tally, &every, 12, 400_000).await;
    take_all(&mut steady, STEADY, &mut tally).await;
    let mut successor = scene.subscriber(&program, "busy").await;
    take_all(&mut successor, "busy", &mut tally).await;
    scene.marked(&lost, &[STEADY, "busy"]).await;

    for subscription in ["idle", "busy", "full"] {
        program.logged_for_within(NOTICED + SOON, "stream ended", subscription).await;
        report(format_args!(
            "  {subscription}: its stream was given up {:.1} s after the last octet",
            since.elapsed().as_secs_f64()
        ));
    }
    program.metric_is("modelupdate_subscribers", &[], 2.0).await;
    program.metric_is("modelupdate_connections", &[], 2.0).await;
    for reason in ["silent", "stalled"] {
        program.metric_is("modelupdate_connections_closed_total", &[reason], 1.0).await;
    }
    report(format_args!("  their connections are closed after {:.1} s", since.elapsed().as_secs_f64()));

    let mut full = scene.subscriber(&program, "full").await;
    take_all(&mut full, "full", &mut tally).await;
    scene.marked(&lost, &every).await;
    for (client, subscription) in [(&mut full, "full"), (&mut successor, "busy"), (&mut steady, STEADY)] {
        take_rest(client, subscription, &mut tally);
    }
    tally.conclude(0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn subscribers_that_never_read_are_handed_256_events_each_and_hold_up_nobody() {
    stuck(Tally::new("subscribers never read, small events"), 300, 0, 256, 16 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn subscribers_that_never_read_are_handed_four_mebibytes_and_one_event_more_and_hold_up_nobody() {
    stuck(Tally::new("subscribers never read, large events"), 30, 400_000, 12, 64 * 1024).await;
}

/// So many runs of this size succeed for four subscribers that never read, with windows of 1 and of 64 octets, and for
/// the steady one. To each of the four so many are handed.
async fn stuck(mut tally: Tally, runs: usize, octets: usize, handed_off: usize, memory: u64) {
    let scene = Scene::open().await;
    let stuck = [("one", 1), ("another", 1), ("wider", 64), ("as-wide", 64)];
    let every = [STEADY, "one", "another", "wider", "as-wide"];
    let program = scene.program(&[]).await;
    let mut steady = scene.subscriber(&program, STEADY).await;
    let mut streams = Vec::new();
    for (subscription, window) in stuck {
        streams.push(never_reads(&program, subscription, &scene.config(), window).await);
    }
    let first = scene.succeed(&mut tally, &every, 1).await;
    take_all(&mut steady, STEADY, &mut tally).await;
    scene.marked(&first, &[STEADY]).await;
    let before = program.resident_kib();

    let began = Instant::now();
    let more = scene.succeed_with(&mut tally, &every, runs - 1, octets).await;
    take_all(&mut steady, STEADY, &mut tally).await;
    scene.marked(&more, &[STEADY]).await;
    let sent = runs + stuck.len() * handed_off;
    program.metric_is("modelupdate_events_sent_total", &[&scene.namespace], sent as f64).await;
    let grown = program.resident_kib().saturating_sub(before);
    report(format_args!(
        "  {runs} runs of {octets} octets, to the steady one within {:.1} s; {handed_off} handed to each of 4 that do \
         not read: memory grew by {grown} KiB",
        began.elapsed().as_secs_f64()
    ));
    assert!(grown < memory, "{grown} KiB");

    // One begins to read after all, 64 octets at a time; the others never do.
    let last = streams.pop().filter(|_| octets == 0);
    drop(streams);
    let (gone, goes_on) = stuck.split_at(if last.is_some() { 3 } else { 4 });
    if let (Some(mut stream), [(subscription, _)]) = (last, goes_on) {
        while !tally.has_all_of(subscription) {
            let event = timeout(SOON, stream.message()).await.expect("in time").expect("no error").expect("an event");
            tally.delivered(subscription, &model_location(std::str::from_utf8(&event.payload).expect("text")));
        }
        scene.marked(&first, &[STEADY, subscription]).await;
    }
    for (subscription, _) in gone {
        let mut successor = scene.subscriber(&program, subscription).await;
        take_all(&mut successor, subscription, &mut tally).await;
    }
    take_rest(&mut steady, STEADY, &mut tally);
    tally.conclude(0);
}

/// A stream that nobody reads. Not grpc-go's: that one takes no window below 64 KiB.
async fn never_reads(program: &RunningServer, subscription: &str, config: &str, window: u32) -> Streaming<Event> {
    let endpoint = Endpoint::from_shared(format!("http://{}", program.listen)).expect("a URL");
    let channel = endpoint.initial_stream_window_size(window).connect().await.expect("connected");
    let request = EventSource { name: subscription.to_owned(), config: config.as_bytes().to_vec() };
    EventingClient::new(channel).start_event_source(request).await.expect("taken").into_inner()
}
