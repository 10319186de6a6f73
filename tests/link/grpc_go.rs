//! A subscriber with grpc-go, the client library of Argo Events.

use std::time::Duration;

use test_support::{GrpcGoClient, Line, Peers, SOON};

use crate::frame_proxy::FrameProxy;
use crate::server::{Server, Session, within};

/// Starts a server, a proxy and a client that cancels its stream after `count` events.
async fn start(count: usize) -> (FrameProxy, GrpcGoClient, Session, Server) {
    let server = Server::start().await;
    let proxy = FrameProxy::start(server.address).await;
    let client = Peers::find().await.grpc_go_client(proxy.address, "").count(count).start();
    let session = server.session().await;
    (proxy, client, session, server)
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn each_event_is_acknowledged() {
    let (proxy, mut client, mut session, _server) = start(1_000).await;
    for sequence in 0..100 {
        let end = session.hand_off(format!("event {sequence}").into_bytes()).await;
        session.acknowledged(end).await.expect("acknowledged");
        assert_eq!(client.payload(SOON).await, format!("event {sequence}"));
    }
    assert_eq!(session.acked(), session.handed_off());
    proxy.check();
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn many_events_are_acknowledged_by_far_fewer_pings() {
    let (proxy, mut client, mut session, _server) = start(5_000).await;
    let reader = tokio::spawn(async move {
        for _ in 0..5_000 {
            client.payload(SOON).await;
        }
    });
    let mut end = 0;
    for _ in 0..5_000 {
        end = session.hand_off_within(256, vec![b'x'; 200]).await;
    }
    // The client cancels the stream after the last event, before or after it acknowledges it.
    let last = session.acknowledged(end).await;
    assert!(last.is_ok() || session.acked() < end);
    within(reader).await.expect("every event is read");
    let pings = proxy.check();
    assert!((1..1_000).contains(&pings), "{pings} PINGs for 5,000 events");
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_frozen_client_acknowledges_nothing_until_it_resumes() {
    let (proxy, mut client, mut session, _server) = start(1_000).await;
    let first = session.hand_off(b"first".to_vec()).await;
    session.acknowledged(first).await.expect("acknowledged");
    assert_eq!(client.payload(SOON).await, "first");

    client.pause();
    // About 80 kB: more than the window of 64 KiB, and far less than the kernel receives and acknowledges for the client.
    let mut last = first;
    for _ in 0..264 {
        last = session.hand_off(vec![b'x'; 300]).await;
    }
    session.unacknowledged_for(Duration::from_millis(700), first).await;
    assert!(client.buffered().is_empty());

    client.resume();
    session.acknowledged(last).await.expect("acknowledged");
    for _ in 0..264 {
        assert_eq!(client.payload(SOON).await.len(), 300);
    }
    proxy.check();
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_client_that_cancels_closes_its_stream() {
    let (_proxy, mut client, mut session, _server) = start(1).await;
    session.hand_off(b"only".to_vec()).await;
    assert_eq!(client.payload(SOON).await, "only");
    session.closed().await;
    assert!(matches!(client.next(SOON).await, Some(Line::Status { .. })));
}

#[tokio::test]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_client_killed_while_frozen_acknowledges_nothing() {
    let (_proxy, mut client, mut session, _server) = start(1_000).await;
    client.pause();
    let end = session.hand_off(vec![b'x'; 300]).await;
    session.unacknowledged_for(Duration::from_millis(200), 0).await;
    client.kill();
    session.acknowledged(end).await.expect_err("the stream is closed");
    assert_eq!(session.acked(), 0);
}
