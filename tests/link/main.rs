//! Acknowledgements of a link, with tonic's server, real clients and TCP.

mod edge_cases;
mod frame_proxy;
mod grpc_go;
mod proxies;
mod server;
mod throughput;

use std::time::Duration;

use frame_proxy::FrameProxy;
use server::{Client, Server, connect, next, within};

/// Starts a server, a proxy and a client with a connection through it.
async fn start() -> (Server, FrameProxy, Client) {
    let server = Server::start().await;
    let proxy = FrameProxy::start(server.address).await;
    let client = connect(proxy.address).await;
    (server, proxy, client)
}

#[tokio::test]
async fn each_event_of_a_reading_client_is_acknowledged() {
    let (server, proxy, mut client) = start().await;
    let (mut events, mut session) = server.subscribe(&mut client, "one").await;
    for sequence in 0..20 {
        let end = session.hand_off(vec![b'x'; 300]).await;
        assert_eq!(next(&mut events).await.payload.len(), 300, "event {sequence}");
        session.acknowledged(end).await.expect("acknowledged");
    }
    assert_eq!(session.acked(), session.handed_off(), "no byte is acknowledged that was not written");
    proxy.check();
}

#[tokio::test]
async fn many_events_are_acknowledged_by_far_fewer_pings() {
    let (server, proxy, mut client) = start().await;
    let (mut events, mut session) = server.subscribe(&mut client, "many").await;
    let reader = tokio::spawn(async move {
        for _ in 0..10_000 {
            events.message().await.expect("no error").expect("an event");
        }
        events
    });
    let mut end = 0;
    for _ in 0..10_000 {
        end = session.hand_off_within(256, vec![b'x'; 200]).await;
    }
    session.acknowledged(end).await.expect("acknowledged");
    within(reader).await.expect("every event is read");
    let pings = proxy.check();
    assert!((1..2_000).contains(&pings), "{pings} PINGs for 10,000 events");
}

#[tokio::test]
async fn a_client_whose_socket_stalls_acknowledges_after_resuming() {
    let (server, proxy, mut client) = start().await;
    let (mut events, mut session) = server.subscribe(&mut client, "stalled").await;
    let first = session.hand_off(vec![1; 300]).await;
    session.acknowledged(first).await.expect("acknowledged");

    proxy.pause_responses();
    let mut last = first;
    for _ in 0..50 {
        last = session.hand_off(vec![2; 300]).await;
    }
    session.unacknowledged_for(Duration::from_millis(300), first).await;

    proxy.resume();
    session.acknowledged(last).await.expect("acknowledged");
    for _ in 0..51 {
        next(&mut events).await;
    }
    proxy.check();
}

#[tokio::test]
async fn data_held_back_by_flow_control_is_not_acknowledged() {
    let (server, proxy, mut client) = start().await;
    let (mut events, mut session) = server.subscribe(&mut client, "unread").await;
    // tonic's client grants 64 KiB at first, and more only when the application reads the stream. Its HTTP/2 stack reads
    // frames in any case.
    let small = session.hand_off(vec![1; 1_000]).await;
    session.acknowledged(small).await.expect("acknowledged");
    let large = session.hand_off(vec![2; 5_000_000]).await;
    session.unacknowledged_for(Duration::from_millis(300), small).await;
    for _ in 0..2 {
        next(&mut events).await;
    }
    session.acknowledged(large).await.expect("acknowledged");
    proxy.check();
}

#[tokio::test]
async fn a_cancelled_stream_does_not_affect_another() {
    let (server, proxy, mut client) = start().await;
    let (mut events, mut session) = server.subscribe(&mut client, "kept").await;
    let (cancelled_events, mut cancelled) = server.subscribe(&mut client, "cancelled").await;
    assert_ne!(session.stream_id(), cancelled.stream_id());

    proxy.pause_responses();
    let lost = cancelled.hand_off(vec![1; 100]).await;
    let pending = session.hand_off(vec![2; 100]).await;
    drop(cancelled_events);
    // The proxy still forwards the client's RST_STREAM.
    cancelled.acknowledged(lost).await.expect_err("the stream is closed");
    session.unacknowledged_for(Duration::from_millis(100), 0).await;
    proxy.resume();
    session.acknowledged(pending).await.expect("acknowledged");
    next(&mut events).await;
    assert_eq!(cancelled.acked(), 0);
    proxy.check();
}

#[tokio::test]
async fn a_stream_ended_by_the_server_is_acknowledged_then_closed() {
    let (server, proxy, mut client) = start().await;
    let (mut events, mut session) = server.subscribe(&mut client, "ends").await;
    let end = session.hand_off(vec![1; 100]).await;
    session.end();
    session.acknowledged(end).await.expect("acknowledged");
    session.closed().await;
    next(&mut events).await;
    assert!(within(events.message()).await.expect("no error").is_none());
    proxy.check();
}

#[tokio::test]
async fn a_broken_connection_closes_its_streams() {
    let (server, proxy, mut client) = start().await;
    let (_events, mut session) = server.subscribe(&mut client, "breaks").await;
    proxy.pause_responses();
    let end = session.hand_off(vec![1; 100]).await;
    proxy.cut();
    session.acknowledged(end).await.expect_err("the stream is closed");
    assert_eq!(session.acked(), 0);
}
